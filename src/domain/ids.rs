//! Identifiers. A notification's id is derived from its meaning, so that the
//! same meaning always meets the same claim row.

use std::fmt;

use uuid::Uuid;

use super::notification::{Channel, Purpose};

/// Name space of every id that this system derives (UUIDv5, RFC 9562 §5.5).
const NAMESPACE: Uuid = Uuid::from_u128(0x6f0c_4a52_5a0e_5d0b_9b1e_3f61_7d52_c0aa);

/// UUIDv5 over length-prefixed parts, so that ("ab","c") and ("a","bc") differ.
fn derive(kind: &str, parts: &[&[u8]]) -> Uuid {
    let mut name = Vec::with_capacity(64);
    for part in std::iter::once(&kind.as_bytes()).chain(parts) {
        name.extend_from_slice(&(part.len() as u64).to_be_bytes());
        name.extend_from_slice(part);
    }
    Uuid::new_v5(&NAMESPACE, &name)
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

uuid_id! {
    /// One message to one recipient about one thing.
    NotificationId
}
uuid_id! {
    /// One attempt chain of a notification on one channel.
    DeliveryId
}
uuid_id! {
    /// One message to many.
    BatchId
}
uuid_id! {
    /// The patient or a proxy.
    RecipientId
}

/// The portal's identifier of a patient: opaque, 1 to 64 characters of
/// `A-Z a-z 0-9 . _ : -`. It is a record key, so it must not be a name or a number
/// that means something outside the portal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PatientId(String);

impl PatientId {
    /// Longest identifier, in characters.
    pub const MAX_CHARS: usize = 64;

    /// Checks and wraps an identifier; `None` when it is empty, too long or has
    /// other characters than [`PatientId`] allows.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        is_opaque(text).then(|| Self(text.to_owned()))
    }

    /// The identifier as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// True for 1 to 64 characters of `A-Z a-z 0-9 . _ : -`: the form of every
/// identifier that comes from outside.
#[must_use]
pub fn is_opaque(text: &str) -> bool {
    (1..=PatientId::MAX_CHARS).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
}

impl DeliveryId {
    /// The delivery that a Message-ID of ours names: `<delivery>.<group>@<domain>`,
    /// with or without angle brackets. A receipt can be matched by it even when the
    /// sender died before it recorded the id.
    #[must_use]
    pub fn in_message_id(text: &str) -> Option<Self> {
        let text = text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or(text);
        let (local, _) = text.split_once('@')?;
        let (id, group) = local.split_once('.')?;
        let is_ours = id.len() == 36 && !group.is_empty() && group.bytes().all(|b| b.is_ascii_digit());
        is_ours.then(|| Uuid::parse_str(id).ok()).flatten().map(Self)
    }
}

impl RecipientId {
    /// The recipient whose identifier in the portal is `external_id`.
    #[must_use]
    pub fn from_external(external_id: &str) -> Self {
        Self(derive("recipient", &[external_id.as_bytes()]))
    }

    /// A device of this recipient, by its token. It does not lead back to the token,
    /// which is as good as random.
    #[must_use]
    pub fn device(self, token: &str) -> Uuid {
        derive("device", &[self.0.as_bytes(), token.as_bytes()])
    }
}

impl NotificationId {
    /// A test result: one notification a result, version, recipient and purpose.
    #[must_use]
    pub fn for_result(result_id: &str, version: i32, recipient: RecipientId) -> Self {
        Self(derive(
            "result",
            &[
                result_id.as_bytes(),
                &version.to_be_bytes(),
                recipient.0.as_bytes(),
                Purpose::TestResult.as_str().as_bytes(),
            ],
        ))
    }

    /// A request: one notification a caller and idempotency key.
    #[must_use]
    pub fn for_request(caller: &str, idempotency_key: &str) -> Self {
        Self(derive("request", &[caller.as_bytes(), idempotency_key.as_bytes()]))
    }

    /// A reminder: one notification an appointment, schedule (it grows when the start
    /// changes), offset before the start, and recipient (`None`: the patient).
    #[must_use]
    pub fn for_reminder(appointment_id: &str, schedule: i32, offset_s: i32, recipient: Option<&str>) -> Self {
        Self::for_request(REMINDER_CALLER, &reminder_key(appointment_id, schedule, offset_s, recipient))
    }

    /// A notice: one notification an appointment, version that is told of, and
    /// recipient (`None`: the patient).
    #[must_use]
    pub fn for_notice(appointment_id: &str, version: i64, recipient: Option<&str>) -> Self {
        Self::for_request(NOTICE_CALLER, &notice_key(appointment_id, version, recipient))
    }

    /// A message of a batch: one notification a batch, patient and recipient (`None`:
    /// the patient).
    #[must_use]
    pub fn for_batch(caller: &str, batch: BatchId, patient_id: &str, recipient: Option<&str>) -> Self {
        Self::for_request(caller, &batch.key(patient_id, recipient))
    }

    /// What a caller says of this notification, in a word: the same said again is the
    /// same update.
    #[must_use]
    pub fn update_id(self, caller: &str, word: &str) -> String {
        derive("update", &[caller.as_bytes(), self.0.as_bytes(), word.as_bytes()]).to_string()
    }
}

/// Who asks for reminders: [`NotificationRequested::caller`](super::NotificationRequested::caller).
pub const REMINDER_CALLER: &str = "cron";
/// Who asks for notices of appointments; the same for every backend that changes
/// them, so that two which tell of the same change tell it once.
pub const NOTICE_CALLER: &str = "appointments";
/// Who asks for digests of unread results.
pub const DIGEST_CALLER: &str = "digest";
/// Callers that are this service itself. Nobody else may have such a name: the
/// idempotency keys of these can be worked out, so that it could take their
/// notifications' ids before them.
pub const OWN_CALLERS: [&str; 3] = [REMINDER_CALLER, NOTICE_CALLER, DIGEST_CALLER];

/// True for the name of a caller that is this service itself: one of [`OWN_CALLERS`].
#[must_use]
pub fn is_own_caller(name: &str) -> bool {
    OWN_CALLERS.contains(&name)
}

/// The idempotency key of a reminder's request; see [`NotificationId::for_reminder`].
#[must_use]
pub fn reminder_key(appointment_id: &str, schedule: i32, offset_s: i32, recipient: Option<&str>) -> String {
    let numbers = [schedule.to_be_bytes(), offset_s.to_be_bytes()];
    let recipient = recipient.unwrap_or_default().as_bytes();
    derive("reminder", &[appointment_id.as_bytes(), &numbers[0], &numbers[1], recipient]).to_string()
}

/// The idempotency key of a notice's request; see [`NotificationId::for_notice`].
#[must_use]
pub fn notice_key(appointment_id: &str, version: i64, recipient: Option<&str>) -> String {
    let recipient = recipient.unwrap_or_default().as_bytes();
    derive("notice", &[appointment_id.as_bytes(), &version.to_be_bytes(), recipient]).to_string()
}

/// The idempotency key of a digest's request: one a tick (by the time it was due, in
/// microseconds) and recipient.
#[must_use]
pub fn digest_key(due_at_us: i64, recipient: &str) -> String {
    derive("digest", &[&due_at_us.to_be_bytes(), recipient.as_bytes()]).to_string()
}

impl BatchId {
    /// The batch of a caller and key.
    #[must_use]
    pub fn for_key(caller: &str, idempotency_key: &str) -> Self {
        Self(derive("batch", &[caller.as_bytes(), idempotency_key.as_bytes()]))
    }

    /// The idempotency key of a recipient's request; see [`NotificationId::for_batch`].
    #[must_use]
    pub fn key(self, patient_id: &str, recipient: Option<&str>) -> String {
        let recipient = recipient.unwrap_or_default().as_bytes();
        derive("batch_row", &[self.0.as_bytes(), patient_id.as_bytes(), recipient]).to_string()
    }
}

impl DeliveryId {
    /// The delivery of a notification on a channel.
    #[must_use]
    pub fn for_channel(notification: NotificationId, channel: Channel) -> Self {
        Self(derive("delivery", &[notification.0.as_bytes(), channel.as_str().as_bytes()]))
    }

    /// Eleven URL-safe characters (64 bits of the id) that stand in the link of
    /// a message, so that a provider's log can be searched for it.
    #[must_use]
    pub fn short_code(self) -> String {
        const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        let (mut rest, _) = self.0.as_u64_pair();
        let mut code = [b'0'; 11];
        for slot in code.iter_mut().rev() {
            *slot = DIGITS[(rest % 62) as usize];
            rest /= 62;
        }
        code.iter().map(|&b| char::from(b)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_meaning_gives_the_same_id_and_another_meaning_another() {
        let recipient = RecipientId::from_external("rcp-1");
        let first = NotificationId::for_result("res-1", 1, recipient);
        assert_eq!(first, NotificationId::for_result("res-1", 1, recipient));
        assert_ne!(first, NotificationId::for_result("res-1", 2, recipient));
        assert_ne!(first, NotificationId::for_result("res-11", 1, recipient));
        assert_ne!(first, NotificationId::for_request("res-1", "1"));
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(NotificationId::for_request("ab", "c"), NotificationId::for_request("a", "bc"));
    }

    #[test]
    fn an_update_is_told_apart_by_caller_notification_and_word() {
        let id = NotificationId::for_request("portal", "key-1");
        let first = id.update_id("portal", "read");
        assert!(is_opaque(&first));
        assert_eq!(first, id.update_id("portal", "read"));
        assert_ne!(first, id.update_id("portal", "seen"));
        assert_ne!(first, id.update_id("app", "read"));
        assert_ne!(first, NotificationId::for_request("portal", "key-2").update_id("portal", "read"));
    }

    #[test]
    fn a_reminder_is_told_apart_by_appointment_schedule_offset_and_recipient() {
        let first = NotificationId::for_reminder("apt-1", 1, 7200, None);
        assert_eq!(first, NotificationId::for_reminder("apt-1", 1, 7200, None));
        assert_eq!(
            first,
            NotificationId::for_request("cron", &reminder_key("apt-1", 1, 7200, None)),
            "the consumer derives it from caller and key"
        );
        assert!(is_opaque(&reminder_key(&"a".repeat(64), i32::MAX, i32::MAX, Some(&"r".repeat(64)))));
        for other in [
            NotificationId::for_reminder("apt-2", 1, 7200, None),
            NotificationId::for_reminder("apt-1", 2, 7200, None),
            NotificationId::for_reminder("apt-1", 1, 86_400, None),
            NotificationId::for_reminder("apt-1", 1, 7200, Some("rcp-1")),
            NotificationId::for_notice("apt-1", 1, None),
        ] {
            assert_ne!(first, other);
        }
        assert_ne!(
            NotificationId::for_notice("apt-1", 1, None),
            NotificationId::for_notice("apt-1", 2, None)
        );
    }

    #[test]
    fn a_recipient_is_once_in_a_batch() {
        let batch = BatchId::for_key("portal", "flu-2026");
        let first = NotificationId::for_batch("portal", batch, "pat-1", None);
        assert_eq!(first, NotificationId::for_request("portal", &batch.key("pat-1", None)));
        let other = BatchId::for_key("portal", "flu-2027");
        for id in [
            NotificationId::for_batch("portal", batch, "pat-2", None),
            NotificationId::for_batch("portal", batch, "pat-1", Some("rcp-1")),
            NotificationId::for_batch("portal", other, "pat-1", None),
        ] {
            assert_ne!(first, id);
        }
        assert_ne!(batch, BatchId::for_key("app", "flu-2026"));
    }

    #[test]
    fn a_short_code_is_eleven_url_safe_characters() {
        let delivery = DeliveryId::for_channel(NotificationId(Uuid::from_u128(7)), Channel::Sms);
        let code = delivery.short_code();
        assert_eq!(code.len(), 11);
        assert!(code.bytes().all(|b| b.is_ascii_alphanumeric()));
    }

    #[test]
    fn a_message_id_of_ours_names_its_delivery() {
        let id = DeliveryId(Uuid::from_u128(7));
        assert_eq!(DeliveryId::in_message_id(&format!("{id}.2@portal.example.org")), Some(id));
        assert_eq!(DeliveryId::in_message_id(&format!("<{id}.1@portal.example.org>")), Some(id));
        for other in [format!("{id}@portal.example.org"), format!("{id}.x@y"), "SM1".into(), "a.1@b".into()] {
            assert_eq!(DeliveryId::in_message_id(&other), None, "{other}");
        }
    }

    #[test]
    fn patient_ids_are_checked() {
        assert!(PatientId::parse("pat-000001").is_some());
        assert!(PatientId::parse("").is_none());
        assert!(PatientId::parse("Jane Doe").is_none());
        assert!(PatientId::parse(&"x".repeat(65)).is_none());
    }
}

//! The keys that this process has taken over lately: the same key with another payload
//! is refused before anything is published. Bounded; what falls out of it is found by
//! the claim, and stands in the notification's reasons.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, DefaultHasher, Hash as _, Hasher as _, RandomState};

use parking_lot::Mutex;

use crate::api::error::ApiError;
use crate::domain::{NotificationId, NotificationRequested, request_fingerprint};

/// Fields of a request as callers know them, in the order of [`Print::parts`].
const FIELDS: [&str; 9] = [
    "patient_id",
    "recipient_id",
    "purpose",
    "urgency",
    "channels",
    "strategy",
    "send_at",
    "expires_at",
    "variables",
];

/// What a request asks for, without its words.
#[derive(Debug, Clone, Copy)]
pub(super) struct Print {
    /// Decides whether two requests are the same.
    whole: [u8; 32],
    /// Tell which fields differ. Words and times stand for themselves, what a patient could
    /// be known by is hashed with a key of this process.
    parts: [u32; FIELDS.len()],
}

/// See the module.
#[derive(Debug)]
pub(super) struct Recent {
    hasher: RandomState,
    keys_max: usize,
    keys: Mutex<Keys>,
}

#[derive(Debug, Default)]
struct Keys {
    prints: HashMap<NotificationId, Print>,
    /// Oldest first.
    order: VecDeque<NotificationId>,
}

impl Recent {
    /// Remembers at most so many keys; 0: none.
    pub(super) fn new(keys_max: usize) -> Self {
        Self { hasher: RandomState::new(), keys_max, keys: Mutex::default() }
    }

    pub(super) fn print(&self, request: &NotificationRequested) -> Print {
        // Half of the hash is enough to name a field.
        let hash = |text: &dyn Fn(&mut DefaultHasher)| {
            let mut hasher = self.hasher.build_hasher();
            text(&mut hasher);
            hasher.finish() as u32
        };
        let millis = |time: Option<jiff::Timestamp>| time.map_or(0, |time| fold(time.as_millisecond()));
        let variables = request.variables.expose();
        Print {
            whole: request_fingerprint(request),
            parts: [
                hash(&|hasher| request.patient_id.hash(hasher)),
                request.recipient.as_ref().map_or(0, |recipient| hash(&|hasher| recipient.hash(hasher))),
                request.purpose as u32,
                request.urgency as u32,
                request.channels.iter().fold(0, |all, &channel| (all << 4) | (channel as u32 + 1)),
                request.strategy as u32,
                millis(request.send_at),
                millis(request.expires_at),
                if variables.is_empty() { 0 } else { hash(&|hasher| variables.hash(hasher)) },
            ],
        }
    }

    /// Is the key free, or taken by the same request?
    ///
    /// # Errors
    /// [`ApiError::Exists`] when it is taken by another one.
    pub(super) fn check(&self, id: NotificationId, print: &Print) -> Result<(), ApiError> {
        let first = self.keys.lock().prints.get(&id).copied();
        let Some(first) = first.filter(|first| first.whole != print.whole) else { return Ok(()) };
        let differs: Vec<&str> = (FIELDS.iter().zip(first.parts.iter().zip(&print.parts)))
            .filter_map(|(field, (first, now))| (first != now).then_some(*field))
            .collect();
        let differs = differs.join(",");
        Err(ApiError::Exists {
            reason: "IDEMPOTENCY_KEY_REUSED",
            message: format!(
                "this idempotency key was used for another request ({differs} differ); the first one stands, and \
                 this one is not sent: use a key of its own for it"
            ),
            metadata: vec![("notification_id", id.to_string()), ("differs", differs)],
        })
    }

    /// The brokers have acknowledged it. The first one stays.
    pub(super) fn remember(&self, id: NotificationId, print: Print) {
        let mut keys = self.keys.lock();
        if self.keys_max == 0 || keys.prints.contains_key(&id) {
            return;
        }
        if keys.order.len() >= self.keys_max
            && let Some(oldest) = keys.order.pop_front()
        {
            keys.prints.remove(&oldest);
        }
        keys.prints.insert(id, print);
        keys.order.push_back(id);
    }
}

/// Both halves of a time in one: times that differ by less than 49 days differ here.
const fn fold(millis: i64) -> u32 {
    (millis as u32) ^ ((millis >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::domain::{PatientId, Purpose, Redacted, Strategy, Urgency};

    fn request(variable: &str) -> NotificationRequested {
        NotificationRequested {
            caller: "portal".to_owned(),
            idempotency_key: "key-1".to_owned(),
            patient_id: PatientId::parse("pat-1").unwrap(),
            recipient: None,
            purpose: Purpose::General,
            urgency: Urgency::Normal,
            channels: Vec::new(),
            strategy: Strategy::InOrder,
            send_at: None,
            expires_at: None,
            variables: Redacted::new(vec![("v".to_owned(), variable.to_owned())]),
            requested_at: Timestamp::now(),
        }
    }

    fn id(key: &str) -> NotificationId {
        NotificationId::for_request("portal", key)
    }

    #[test]
    fn another_payload_is_refused_with_what_differs_and_never_its_value() {
        let recent = Recent::new(2);
        let first = recent.print(&request("CANARY-1"));
        recent.check(id("key-1"), &first).unwrap();
        recent.remember(id("key-1"), first);
        recent.check(id("key-1"), &recent.print(&request("CANARY-1"))).unwrap();
        let mut other = request("CANARY-2");
        other.urgency = Urgency::High;
        let refused = recent.check(id("key-1"), &recent.print(&other)).unwrap_err();
        assert!(!format!("{refused:?}").contains("CANARY"));
        let ApiError::Exists { reason, metadata, .. } = refused else { panic!("{refused}") };
        assert_eq!(reason, "IDEMPOTENCY_KEY_REUSED");
        let differs = ("differs", "urgency,variables".to_owned());
        assert_eq!(metadata, [("notification_id", id("key-1").to_string()), differs]);
    }

    #[test]
    fn it_is_bounded_and_the_first_stays() {
        let recent = Recent::new(2);
        let (first, second) = (recent.print(&request("1")), recent.print(&request("2")));
        recent.remember(id("key-1"), first);
        recent.remember(id("key-1"), second);
        assert!(recent.check(id("key-1"), &second).is_err());
        recent.remember(id("key-2"), first);
        recent.remember(id("key-3"), first);
        assert!(recent.check(id("key-1"), &second).is_ok(), "it has fallen out");
        assert!(recent.check(id("key-2"), &second).is_err());
        let keys = recent.keys.lock();
        assert_eq!((keys.prints.len(), keys.order.len()), (2, 2));
    }
}

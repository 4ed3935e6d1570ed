//! Requests that differ in a few fields: what they have in common is encoded once.
//!
//! A batch is millions of requests of one caller, purpose and expiry. Their values in
//! Avro's binary form are the fields one after the other, so a request is put together
//! of the parts that all have and of its own. A test holds it against the general way.

use crate::domain::{NotificationRequested, PatientId};

use super::binary::{length, long, optional, text};
use super::{EncodeError, Encoder};
use crate::topic::names::Topic;

/// Requests to one topic that have all in common but what [`Alike::encode`] takes.
#[derive(Clone)]
pub struct Alike {
    /// Magic byte, schema id and caller.
    head: Vec<u8>,
    /// From the purpose to the expiry.
    middle: Vec<u8>,
    /// When they are asked for.
    tail: Vec<u8>,
}

impl Alike {
    /// Of requests like `common`, whose key, patient, recipient and variables do not count.
    ///
    /// # Errors
    /// As [`Encoder::notification`].
    pub async fn new(
        encoder: &Encoder,
        topic: &Topic,
        common: &NotificationRequested,
    ) -> Result<Self, EncodeError> {
        let bare = NotificationRequested {
            idempotency_key: String::new(),
            recipient: None,
            variables: Vec::new().into(),
            ..common.clone()
        };
        let whole = encoder.notification(topic, &bare).await?;
        let mut own = Vec::new();
        text(&mut own, "");
        text(&mut own, bare.patient_id.as_str());
        optional(&mut own, None);
        let mut head = whole[..WIRE_HEAD_BYTES].to_vec();
        text(&mut head, &bare.caller);
        let mut tail = Vec::new();
        long(&mut tail, bare.requested_at.as_millisecond());
        // The map of variables, which is empty here, is a single byte before the tail.
        let end = whole.len().checked_sub(tail.len() + 1);
        let middle = end.and_then(|end| whole.get(head.len() + own.len()..end));
        let middle = middle.ok_or(EncodeError::Unencodable { record: "NotificationRequested" })?.to_vec();
        Ok(Self { head, middle, tail })
    }

    /// The value of one of them.
    #[must_use]
    pub fn encode(
        &self,
        idempotency_key: &str,
        patient_id: &PatientId,
        recipient: Option<&str>,
        variables: &[(&str, &str)],
    ) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&self.head);
        text(&mut bytes, idempotency_key);
        text(&mut bytes, patient_id.as_str());
        optional(&mut bytes, recipient);
        bytes.extend_from_slice(&self.middle);
        if !variables.is_empty() {
            length(&mut bytes, variables.len());
            for (name, value) in variables {
                text(&mut bytes, name);
                text(&mut bytes, value);
            }
        }
        length(&mut bytes, 0);
        bytes.extend_from_slice(&self.tail);
        bytes
    }
}

/// Magic byte and schema id.
const WIRE_HEAD_BYTES: usize = 5;

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;
    use crate::config::Config;
    use crate::domain::{Channel, Purpose, Redacted, Strategy, Urgency};
    use crate::topic::names::NOTIFICATIONS_BULK;

    fn encoder() -> Encoder {
        let config = Config::from_defaults();
        let encoder = Encoder::new(&config.registry, "").unwrap();
        let place = super::super::names::ALL.iter().position(|one| one.name == NOTIFICATIONS_BULK.name);
        encoder.ids[place.unwrap()].set(7).unwrap();
        encoder
    }

    fn request(
        key: &str,
        recipient: Option<&str>,
        variables: Vec<(String, String)>,
    ) -> NotificationRequested {
        NotificationRequested {
            caller: "portal".to_owned(),
            idempotency_key: key.to_owned(),
            patient_id: PatientId::parse("pat-1").unwrap(),
            recipient: recipient.map(str::to_owned),
            purpose: Purpose::Campaign,
            urgency: Urgency::Bulk,
            channels: vec![Channel::Email, Channel::Sms],
            strategy: Strategy::InOrder,
            send_at: None,
            expires_at: Some(Timestamp::from_second(1_800_000_000).unwrap()),
            variables: Redacted::new(variables),
            requested_at: Timestamp::from_millisecond(1_790_000_000_123).unwrap(),
        }
    }

    fn block<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_is_what_the_general_way_gives(
            key in ".{0,200}",
            recipient in proptest::option::of("[a-z0-9-]{1,64}"),
            // One at most: the general way writes several in any order.
            variable in proptest::option::of(("[a-z_]{1,64}", ".{0,500}")),
        ) {
            let (encoder, variables) = (encoder(), Vec::from_iter(variable));
            let event = request(&key, recipient.as_deref(), variables.clone());
            let expected = block(encoder.notification(&NOTIFICATIONS_BULK, &event)).unwrap();
            let other = request("another", Some("rcp"), vec![("a".to_owned(), "b".to_owned())]);
            let other = NotificationRequested { patient_id: PatientId::parse("pat-22").unwrap(), ..other };
            let alike = block(Alike::new(&encoder, &NOTIFICATIONS_BULK, &other)).unwrap();
            let pairs: Vec<(&str, &str)> =
                variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            prop_assert_eq!(alike.encode(&key, &event.patient_id, recipient.as_deref(), &pairs), expected);
        }
    }
}

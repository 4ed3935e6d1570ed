//! What a record asks for, as 32 bytes. The same meaning with another fingerprint
//! is another request under a key that is taken.
//!
//! Fingerprints are kept in the database for as long as their notifications and are
//! compared with those of later versions: what goes into them must not change.

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;

use super::event::{Event, NotificationRequested, ResultUrgency, TestResultPublished};

/// SHA-256 of what an event asks for, without the time of asking.
#[must_use]
pub fn fingerprint(event: &Event) -> [u8; 32] {
    match event {
        Event::TestResult(result) => of_result(result).finish(),
        Event::Notification(request) => request_fingerprint(request),
    }
}

/// The same of a request that is not an event yet.
#[must_use]
pub fn request_fingerprint(request: &NotificationRequested) -> [u8; 32] {
    of_request(request).finish()
}

fn of_result(result: &TestResultPublished) -> Parts {
    let urgency = match result.urgency {
        ResultUrgency::Normal => "normal",
        ResultUrgency::Abnormal => "abnormal",
        ResultUrgency::Critical => "critical",
    };
    let mut parts = Parts::of("result");
    parts.text(&result.result_id);
    parts.number(result.version.into());
    parts.text(result.patient_id.as_str());
    parts.text(urgency);
    parts.number(result.available_at.as_millisecond());
    parts
}

fn of_request(request: &NotificationRequested) -> Parts {
    let mut parts = Parts::of("request");
    parts.text(request.patient_id.as_str());
    parts.list(request.recipient.iter().map(String::as_str));
    parts.text(request.purpose.as_str());
    parts.text(request.urgency.as_str());
    parts.list(request.channels.iter().map(|channel| channel.as_str()));
    parts.text(request.strategy.as_str());
    parts.time(request.send_at);
    parts.time(request.expires_at);
    let mut variables: Vec<&(String, String)> = request.variables.expose().iter().collect();
    variables.sort_unstable();
    parts.list(variables.iter().map(|(name, _)| name.as_str()));
    parts.list(variables.iter().map(|(_, value)| value.as_str()));
    parts
}

/// What most requests have, in parts.
const USUAL_BYTES: usize = 512;

/// Parts one after the other, each with its length in front, so that none can pass
/// for a piece of its neighbour.
/// Gathered first: a digest of one piece costs half of one of many small ones.
struct Parts(Vec<u8>);

impl Parts {
    fn of(kind: &str) -> Self {
        let mut parts = Self(Vec::with_capacity(USUAL_BYTES));
        parts.text(kind);
        parts
    }

    fn text(&mut self, text: &str) {
        self.0.extend_from_slice(&(text.len() as u64).to_be_bytes());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn number(&mut self, number: i64) {
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    /// The record has milliseconds.
    fn time(&mut self, time: Option<Timestamp>) {
        self.number(time.is_some().into());
        self.number(time.map_or(0, Timestamp::as_millisecond));
    }

    fn list<'a>(&mut self, texts: impl Iterator<Item = &'a str> + Clone) {
        self.0.extend_from_slice(&(texts.clone().count() as u64).to_be_bytes());
        texts.for_each(|text| self.text(text));
    }

    fn finish(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(digest(&SHA256, &self.0).as_ref());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Channel, PatientId, Purpose, Redacted, Strategy, Urgency};

    fn request() -> NotificationRequested {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        NotificationRequested {
            caller: "portal".to_owned(),
            idempotency_key: "key-1".to_owned(),
            patient_id: PatientId::parse("pat-1").unwrap(),
            recipient: Some("rcp-1".to_owned()),
            purpose: Purpose::AppointmentReminder,
            urgency: Urgency::Normal,
            channels: vec![Channel::Sms, Channel::Email],
            strategy: Strategy::InOrder,
            send_at: Timestamp::from_millisecond(1_795_600_000_000).ok(),
            expires_at: None,
            variables: Redacted::new(vec![pair("a", "1"), pair("b", "2")]),
            requested_at: Timestamp::UNIX_EPOCH,
        }
    }

    fn hex(event: Event) -> String {
        fingerprint(&event).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn of(change: impl FnOnce(&mut NotificationRequested)) -> String {
        let mut changed = request();
        change(&mut changed);
        hex(Event::Notification(changed))
    }

    #[test]
    fn it_stays_what_it_was() {
        // Rows of earlier versions have these: a change would make every repeat of
        // an older record look like a conflict.
        assert_eq!(of(|_| {}), "2778e76daa3030ce4ce1a0a38b60801233f2885204a9e0f5b2b6ba3679d3b405");
        let result = TestResultPublished {
            result_id: "res-1".to_owned(),
            version: 2,
            patient_id: PatientId::parse("pat-1").unwrap(),
            facility_id: "fac-1".to_owned(),
            category: Redacted::new("laboratory".to_owned()),
            urgency: ResultUrgency::Abnormal,
            released_at: Timestamp::UNIX_EPOCH,
            available_at: Timestamp::from_millisecond(1_795_600_000_000).unwrap(),
        };
        assert_eq!(
            hex(Event::TestResult(result)),
            "642a9350df880e89959f7364d2876b51900fe71ac1d616debdd71007477295c5"
        );
    }

    #[test]
    fn when_it_was_asked_and_in_which_order_variables_came_is_no_difference() {
        let reordered = of(|request| {
            request.requested_at = Timestamp::MAX;
            let turned = request.variables.expose().iter().rev().cloned().collect();
            request.variables = Redacted::new(turned);
        });
        assert_eq!(of(|_| {}), reordered);
    }

    #[test]
    fn whatever_else_is_asked_for_is_a_difference() {
        let pairs = |pairs: &[(&str, &str)]| {
            let owned = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            Redacted::new(owned.collect::<Vec<_>>())
        };
        let all = [
            of(|_| {}),
            of(|request| request.patient_id = PatientId::parse("pat-2").unwrap()),
            of(|request| request.recipient = None),
            of(|request| request.purpose = Purpose::General),
            of(|request| request.urgency = Urgency::High),
            of(|request| request.channels.reverse()),
            of(|request| request.channels.truncate(1)),
            of(|request| request.strategy = Strategy::AllAtOnce),
            of(|request| request.send_at = None),
            of(|request| {
                request.expires_at = request.send_at;
                request.send_at = None;
            }),
            of(|request| request.variables = pairs(&[("a", "12"), ("b", "")])),
            of(|request| request.variables = pairs(&[("a", "2"), ("b", "1")])),
            of(|request| request.variables = Redacted::default()),
        ];
        let distinct: std::collections::HashSet<&String> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}

//! `Send`: from a request to the event that says the same.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::api::convert::{purpose_from, strategy_from, urgency_from};
use crate::api::error::ApiError;
use crate::api::proto;
use crate::api::validate::{EARLIEST, Violations};
use crate::domain::{NotificationRequested, Redacted, Strategy, Urgency};

/// How far ahead a message may expire: beyond any schedule (`plan.schedule_max_ms`).
const EXPIRES_AT_MAX: SignedDuration = SignedDuration::from_hours(732 * 24);
// Bounds of the record on the topic (`avro/pat.notifications.v1.avsc`): a request
// that we take over must not become a dead letter there.
const VARIABLES_MAX: usize = 20;
const VARIABLE_NAME_MAX_BYTES: usize = 64;
const VARIABLE_VALUE_MAX_CHARS: usize = 500;

/// Checks a request and turns it into the event that says the same.
pub(super) fn requested(
    message: proto::NotificationServiceSendRequest,
    caller: String,
    now: Timestamp,
    schedule_max: SignedDuration,
) -> Result<NotificationRequested, ApiError> {
    let mut faults = Violations::default();
    faults.opaque("idempotency_key", &message.idempotency_key);
    let patient_id = faults.patient_id("patient_id", &message.patient_id);
    if let Some(recipient) = &message.recipient_id {
        faults.opaque("recipient_id", recipient);
    }
    let purpose = faults.required_word("purpose", message.purpose, purpose_from);
    let urgency = faults.word("urgency", message.urgency, urgency_from).unwrap_or(Urgency::Normal);
    let strategy = faults.word("strategy", message.strategy, strategy_from).unwrap_or(Strategy::InOrder);
    let channels = faults.channels("channels", &message.channels);
    let send_at = faults.timestamp("send_at", message.send_at);
    let expires_at = faults.timestamp("expires_at", message.expires_at);
    check_times(send_at, expires_at, now, schedule_max, &mut faults);
    check_variables(&message.variables, &mut faults);
    faults.finish()?;
    let (Some(patient_id), Some(purpose)) = (patient_id, purpose) else {
        return Err(ApiError::invalid("patient_id", "cannot be used together with this purpose"));
    };
    Ok(NotificationRequested {
        caller,
        idempotency_key: message.idempotency_key,
        patient_id,
        recipient: message.recipient_id,
        purpose,
        urgency,
        channels,
        strategy,
        // Past is at once. It is passed on all the same: a repeat of this call, later,
        // must be the same request.
        send_at: send_at.filter(|&send_at| send_at >= EARLIEST),
        expires_at,
        variables: Redacted::new(message.variables.into_iter().collect()),
        requested_at: now,
    })
}

fn check_times(
    send_at: Option<Timestamp>,
    expires_at: Option<Timestamp>,
    now: Timestamp,
    schedule_max: SignedDuration,
    faults: &mut Violations,
) {
    if send_at.is_some_and(|send_at| send_at.duration_since(now) > schedule_max) {
        faults.add("send_at", format!("must be at most {} hours ahead", schedule_max.as_hours()));
    }
    if let Some(expires_at) = expires_at {
        let near = expires_at.duration_since(now) <= EXPIRES_AT_MAX;
        faults.require(near, "expires_at", "must be at most 732 days ahead");
        // The record on the topic has milliseconds, and must have an end after its begin.
        let is_after = |time: Timestamp| expires_at.as_millisecond() > time.as_millisecond();
        faults.require(is_after(now), "expires_at", "must be in the future");
        let after = send_at.is_none_or(is_after);
        faults.require(after, "expires_at", "must be later than send_at");
    }
}

/// Descriptions name neither names nor values: a caller may have mixed them up.
fn check_variables(variables: &BTreeMap<String, String>, faults: &mut Violations) {
    faults.require(variables.len() <= VARIABLES_MAX, "variables", "has more than 20 entries");
    let name_ok = |name: &String| {
        name.len() <= VARIABLE_NAME_MAX_BYTES
            && name.starts_with(|c: char| c.is_ascii_lowercase())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    faults.require(
        variables.keys().all(name_ok),
        "variables",
        "has a name that is not 1 to 64 characters of a-z 0-9 _, beginning with a letter",
    );
    let short = |value: &String| value.chars().count() <= VARIABLE_VALUE_MAX_CHARS;
    faults.require(variables.values().all(short), "variables", "has a value of more than 500 characters");
    let plain = |value: &String| value.chars().all(|c| c == '\n' || !c.is_control());
    faults.require(variables.values().all(plain), "variables", "has a value with a control character");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::convert::timestamp_to;
    use crate::domain::{Channel, Purpose};

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn message() -> proto::NotificationServiceSendRequest {
        proto::NotificationServiceSendRequest {
            idempotency_key: "key-1".into(),
            patient_id: "pat-1".into(),
            purpose: proto::Purpose::General.into(),
            ..Default::default()
        }
    }

    fn check(message: proto::NotificationServiceSendRequest) -> Result<NotificationRequested, Vec<String>> {
        let year = SignedDuration::from_hours(366 * 24);
        requested(message, "local".into(), now(), year).map_err(|error| match error {
            ApiError::Invalid(faults) => faults.into_iter().map(|fault| fault.field).collect(),
            other => panic!("{other}"),
        })
    }

    fn days(days: i64) -> Option<prost_types::Timestamp> {
        Some(timestamp_to(now() + SignedDuration::from_hours(24 * days)))
    }

    #[test]
    fn the_least_request_is_normal_and_at_once() {
        let event = check(message()).unwrap();
        assert_eq!((event.purpose, event.urgency), (Purpose::General, Urgency::Normal));
        assert_eq!((event.send_at, event.expires_at, event.recipient), (None, None, None));
        assert_eq!(event.strategy, Strategy::InOrder);
        assert!(event.channels.is_empty() && event.variables.expose().is_empty());
        assert_eq!(event.requested_at, now());
    }

    #[test]
    fn a_full_request_comes_through_whole() {
        let event = check(proto::NotificationServiceSendRequest {
            recipient_id: Some("rcp-1".into()),
            urgency: proto::Urgency::Bulk.into(),
            channels: vec![proto::Channel::Push.into(), proto::Channel::Sms.into()],
            send_at: days(1),
            expires_at: days(2),
            strategy: proto::Strategy::AllAtOnce.into(),
            variables: [("clinic".to_owned(), "line\nline".to_owned())].into(),
            ..message()
        })
        .unwrap();
        assert_eq!(event.channels, [Channel::Push, Channel::Sms]);
        assert_eq!((event.urgency, event.strategy), (Urgency::Bulk, Strategy::AllAtOnce));
        assert_eq!(event.recipient.as_deref(), Some("rcp-1"));
        assert_eq!(event.variables.expose()[0].0, "clinic");
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let faults = check(proto::NotificationServiceSendRequest {
            idempotency_key: "has space".into(),
            patient_id: String::new(),
            recipient_id: Some("Jane Doe".into()),
            purpose: 0,
            urgency: 99,
            strategy: 99,
            channels: vec![0, 1, 1],
            send_at: days(367),
            expires_at: days(-1),
            variables: [("Bad-Name".to_owned(), "\u{7}".to_owned())].into(),
        })
        .unwrap_err();
        assert_eq!(
            faults,
            [
                "idempotency_key",
                "patient_id",
                "recipient_id",
                "purpose",
                "urgency",
                "strategy",
                "channels[0]",
                "channels[2]",
                "send_at",
                "expires_at",
                "expires_at",
                "variables",
                "variables",
            ]
        );
    }

    #[test]
    fn what_is_taken_over_fits_the_record_on_the_topic() {
        let past = check(proto::NotificationServiceSendRequest { send_at: days(-20_000), ..message() });
        assert_eq!(past.unwrap().send_at, None, "long past is at once");
        let late = check(proto::NotificationServiceSendRequest { send_at: days(-1), ..message() });
        let late = late.unwrap().send_at.map(timestamp_to);
        assert_eq!(late, days(-1), "a repeat after its time is the same request");
        let soon = Some(timestamp_to(now() + SignedDuration::from_micros(900)));
        let faults = check(proto::NotificationServiceSendRequest { expires_at: soon, ..message() });
        assert_eq!(faults.unwrap_err(), ["expires_at"], "the same millisecond");
    }

    #[test]
    fn bounds_of_variables_hold() {
        let with = |variables| check(proto::NotificationServiceSendRequest { variables, ..message() });
        let many = |n: usize| (0..n).map(|i| (format!("v{i}"), String::new())).collect();
        assert!(with(many(20)).is_ok());
        assert!(with(many(21)).is_err());
        assert!(with([("v".to_owned(), "ü".repeat(500))].into()).is_ok());
        assert!(with([("v".to_owned(), "x".repeat(501))].into()).is_err());
        assert!(with([(String::new(), String::new())].into()).is_err());
    }
}

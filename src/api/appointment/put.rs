//! `Put`: from a request to the appointment that it wants.

use jiff::{SignedDuration, Timestamp};

use crate::api::convert::appointment_status_from;
use crate::api::error::ApiError;
use crate::api::proto;
use crate::api::validate::{EARLIEST, Violations};
use crate::domain::appointment::Wanted;

const RECIPIENTS_MAX: usize = 7;
const LOCATION_MAX_CHARS: usize = 60;
const OFFSETS_MAX: usize = 10;
const OFFSET_MIN_S: i64 = 60;
const OFFSET_MAX_S: i64 = 90 * 86_400;
/// How far ahead an appointment may start.
const AHEAD_MAX: SignedDuration = SignedDuration::from_hours(1830 * 24);

/// Checks a request. `default_offsets_s`: reminders where it does not say it.
pub(super) fn wanted(
    message: proto::AppointmentServicePutRequest,
    default_offsets_s: &[i32],
    now: Timestamp,
) -> Result<Wanted, ApiError> {
    let mut faults = Violations::default();
    faults.opaque("appointment_id", &message.appointment_id);
    let patient_id = faults.patient_id("patient_id", &message.patient_id);
    let recipients = recipients(message.recipient_ids, &mut faults);
    faults.require(message.starts_at.is_some(), "starts_at", "is required");
    let starts_at = faults.timestamp("starts_at", message.starts_at).map(to_micros);
    if let Some(starts_at) = starts_at {
        let bounded = starts_at >= EARLIEST && starts_at.duration_since(now) <= AHEAD_MAX;
        faults.require(bounded, "starts_at", "must be after the year 1999 and at most 1830 days ahead");
    }
    let time_zone = faults.time_zone("time_zone", &message.time_zone);
    faults.line("location", &message.location, LOCATION_MAX_CHARS);
    let status = faults.word("status", message.status, appointment_status_from);
    let offsets_s = if message.no_reminders {
        let none = message.reminder_offsets.is_empty();
        faults.require(none, "no_reminders", "cannot be said together with reminder_offsets");
        Vec::new()
    } else {
        offsets(&message.reminder_offsets, default_offsets_s, &mut faults)
    };
    let source_updated_at = faults.timestamp("source_updated_at", message.source_updated_at).map(to_micros);
    faults.past("source_updated_at", source_updated_at, now);
    let version = message.expected_version.is_none_or(|version| version >= 0);
    faults.require(version, "expected_version", "must not be negative");
    faults.finish()?;
    let (Some(patient_id), Some(starts_at)) = (patient_id, starts_at) else {
        return Err(ApiError::invalid("patient_id", "cannot be used together with this start"));
    };
    let location = message.location.trim();
    Ok(Wanted {
        id: message.appointment_id,
        patient_id,
        recipients,
        starts_at,
        time_zone,
        location: (!location.is_empty()).then(|| location.to_owned().into()),
        status,
        offsets_s,
        source_updated_at,
        expected_version: message.expected_version,
    })
}

/// What the database keeps of a time.
fn to_micros(time: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(time.as_microsecond()).unwrap_or(time)
}

fn recipients(ids: Vec<String>, faults: &mut Violations) -> Vec<String> {
    faults.require(ids.len() <= RECIPIENTS_MAX, "recipient_ids", "has more than 7 entries");
    let mut checked: Vec<String> = Vec::new();
    for (index, id) in ids.into_iter().enumerate().take(RECIPIENTS_MAX) {
        let field = format!("recipient_ids[{index}]");
        faults.opaque(&field, &id);
        faults.require(!checked.contains(&id), &field, "names a recipient a second time");
        checked.push(id);
    }
    checked
}

/// Longest first.
fn offsets(asked: &[prost_types::Duration], default_s: &[i32], faults: &mut Violations) -> Vec<i32> {
    faults.require(asked.len() <= OFFSETS_MAX, "reminder_offsets", "has more than 10 entries");
    let mut offsets_s: Vec<i32> = Vec::new();
    for (index, offset) in asked.iter().enumerate().take(OFFSETS_MAX) {
        let field = format!("reminder_offsets[{index}]");
        let whole = offset.nanos == 0 && (OFFSET_MIN_S..=OFFSET_MAX_S).contains(&offset.seconds);
        match i32::try_from(offset.seconds).ok().filter(|_| whole) {
            None => faults.add(&field, "must be 1 minute to 90 days, in whole seconds"),
            Some(seconds) => {
                faults.require(!offsets_s.contains(&seconds), &field, "stands there a second time");
                offsets_s.push(seconds);
            }
        }
    }
    if asked.is_empty() {
        offsets_s.extend_from_slice(default_s);
    }
    offsets_s.sort_unstable_by(|a, b| b.cmp(a));
    offsets_s
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::convert::timestamp_to;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn message() -> proto::AppointmentServicePutRequest {
        proto::AppointmentServicePutRequest {
            appointment_id: "apt-1".into(),
            patient_id: "pat-1".into(),
            starts_at: Some(timestamp_to(now() + SignedDuration::from_nanos(1_500))),
            time_zone: "europe/vienna".into(),
            ..Default::default()
        }
    }

    fn hours(hours: i64) -> prost_types::Duration {
        prost_types::Duration { seconds: hours * 3600, nanos: 0 }
    }

    fn fields(message: proto::AppointmentServicePutRequest) -> Vec<String> {
        match wanted(message, &[7200], now()) {
            Err(ApiError::Invalid(faults)) => faults.into_iter().map(|fault| fault.field).collect(),
            Err(other) => panic!("{other}"),
            Ok(_) => Vec::new(),
        }
    }

    #[test]
    fn the_least_request_gets_the_defaults() {
        let wanted = wanted(message(), &[7200, 259_200, 86_400], now()).unwrap();
        assert_eq!(wanted.offsets_s, [259_200, 86_400, 7200]);
        assert_eq!((wanted.time_zone.as_str(), &wanted.location), ("Europe/Vienna", &None));
        assert_eq!(wanted.starts_at, now() + SignedDuration::from_micros(1), "as the database keeps it");
    }

    #[test]
    fn offsets_are_sorted_and_can_be_none() {
        let some =
            proto::AppointmentServicePutRequest { reminder_offsets: vec![hours(1), hours(48)], ..message() };
        assert_eq!(wanted(some, &[7200], now()).unwrap().offsets_s, [172_800, 3600]);
        let none = proto::AppointmentServicePutRequest { no_reminders: true, ..message() };
        assert_eq!(wanted(none, &[7200], now()).unwrap().offsets_s, [0; 0]);
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let bad = proto::AppointmentServicePutRequest {
            appointment_id: String::new(),
            patient_id: "Jane Doe".into(),
            recipient_ids: vec!["rcp-1".into(), "rcp-1".into()],
            starts_at: None,
            time_zone: "Mars/Olympus".into(),
            location: "x".repeat(61),
            status: 9,
            reminder_offsets: vec![hours(1), hours(1), hours(0), hours(24 * 91)],
            source_updated_at: Some(timestamp_to(now() + SignedDuration::from_hours(1))),
            expected_version: Some(-1),
            ..Default::default()
        };
        assert_eq!(
            fields(bad),
            [
                "appointment_id",
                "patient_id",
                "recipient_ids[1]",
                "starts_at",
                "time_zone",
                "location",
                "status",
                "reminder_offsets[1]",
                "reminder_offsets[2]",
                "reminder_offsets[3]",
                "source_updated_at",
                "expected_version",
            ]
        );
        let both = proto::AppointmentServicePutRequest {
            no_reminders: true,
            reminder_offsets: vec![hours(1)],
            ..message()
        };
        assert_eq!(fields(both), ["no_reminders"]);
        let far = Some(timestamp_to(now() + SignedDuration::from_hours(1831 * 24)));
        assert_eq!(
            fields(proto::AppointmentServicePutRequest { starts_at: far, ..message() }),
            ["starts_at"]
        );
    }
}

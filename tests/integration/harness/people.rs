//! Recipients and results that tests are made of.

use jiff::civil::time;
use jiff::{SignedDuration, Timestamp};
use patient_notify::domain::{
    Channel, NotificationRequested, PatientId, Purpose, QuietHours, Redacted, Relation, ResultUrgency,
    Strategy, TestResultPublished, Urgency,
};
use patient_notify::record::recipients::{ContactPointUpsert, RecipientUpsert};
use patient_notify::topic::sample::{SampleOptions, sample_patient, sample_results};

/// The n-th patient.
pub fn patient(number: u64) -> PatientId {
    sample_patient(number)
}

/// The n-th patient as a recipient: text message first, then e-mail, then push;
/// never quiet.
pub fn recipient(number: u64) -> RecipientUpsert {
    RecipientUpsert {
        external_id: patient(number).as_str().to_owned(),
        patients: vec![(patient(number), Relation::Patient)],
        display_name: Some(Redacted::new(format!("Patient {number}"))),
        locale: None,
        time_zone: None,
        quiet_hours: Some(QuietHours { start: time(0, 0, 0, 0), end: time(0, 0, 0, 0) }),
        channel_order: vec![Channel::Sms, Channel::Email, Channel::Push],
        contact_points: vec![
            contact(Channel::Sms, format!("+1555{number:07}")),
            contact(Channel::Email, format!("patient-{number:06}@example.org")),
            contact(Channel::Push, format!("device-{number:06}")),
        ],
        consents: Vec::new(),
    }
}

/// The n-th patient, who can be reached by text message alone.
pub fn sms_only(number: u64) -> RecipientUpsert {
    let mut only = recipient(number);
    only.channel_order = vec![Channel::Sms];
    only.contact_points.retain(|point| point.channel == Channel::Sms);
    only
}

/// The n-th patient, who can be reached by this channel alone.
pub fn only(channel: Channel, number: u64) -> RecipientUpsert {
    let mut only = recipient(number);
    only.channel_order = vec![channel];
    only.contact_points.retain(|point| point.channel == channel);
    only
}

/// A verified address.
pub fn contact(channel: Channel, address: String) -> ContactPointUpsert {
    ContactPointUpsert { channel, address: Redacted::new(address), verified_at: Some(Timestamp::now()) }
}

/// A result of a patient, released a moment ago and visible at once.
pub fn result(number: u64, result_id: &str) -> TestResultPublished {
    let released_at = Timestamp::now() - SignedDuration::from_secs(1);
    TestResultPublished {
        result_id: result_id.to_owned(),
        version: 1,
        patient_id: patient(number),
        facility_id: "fac-01".to_owned(),
        category: Redacted::new("laboratory".to_owned()),
        urgency: ResultUrgency::Normal,
        released_at,
        available_at: released_at,
    }
}

/// A request for a general message to a patient, by the patient's own order, at once.
pub fn request(number: u64, key: &str) -> NotificationRequested {
    NotificationRequested {
        caller: "test".to_owned(),
        idempotency_key: key.to_owned(),
        patient_id: patient(number),
        recipient: None,
        purpose: Purpose::General,
        urgency: Urgency::Normal,
        channels: Vec::new(),
        strategy: Strategy::InOrder,
        send_at: None,
        expires_at: None,
        variables: Redacted::default(),
        requested_at: Timestamp::now(),
    }
}

/// Results of patients 1 to `patients`, at random; none is critical or embargoed.
pub fn results(seed: u64, count: u64, patients: u64) -> Vec<TestResultPublished> {
    let options =
        SampleOptions { critical_percent: 0, ..SampleOptions::new(seed, count, patients, Timestamp::now()) };
    sample_results(options).collect()
}

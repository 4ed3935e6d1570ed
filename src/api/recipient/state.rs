//! A recipient's whole state, as `Upsert` brings it.

use jiff::Timestamp;

use super::fields::{check_text, consent, locale, quiet_hours, time_zone};
use crate::api::convert::{channel_from, relation_from};
use crate::api::error::ApiError;
use crate::api::proto;
use crate::api::validate::Violations;
use crate::domain::{PatientId, Relation};
use crate::record::recipients::{
    CONTACT_POINTS_MAX, ConsentUpsert, ContactPointUpsert, LINKS_MAX, RecipientUpsert,
};

const CONSENTS_MAX: usize = 64;
const DISPLAY_NAME_MAX_CHARS: usize = 200;

/// Checks a request and turns it into the state that the database is to have.
pub(super) fn state(
    message: proto::RecipientServiceUpsertRequest,
    now: Timestamp,
) -> Result<RecipientUpsert, ApiError> {
    let mut faults = Violations::default();
    faults.opaque("recipient_id", &message.recipient_id);
    let patients = patients(&message.patients, &mut faults);
    check_text("display_name", &message.display_name, DISPLAY_NAME_MAX_CHARS, &mut faults);
    let locale = locale("locale", &message.locale, &mut faults);
    let time_zone = time_zone("time_zone", &message.time_zone, &mut faults);
    let quiet_hours = quiet_hours("quiet_hours", message.quiet_hours.as_ref(), &mut faults);
    let channel_order = faults.channels("channel_order", &message.channel_order);
    let contact_points = contact_points(message.contact_points, now, &mut faults);
    let consents = consents(message.consents, now, &mut faults);
    faults.finish()?;
    Ok(RecipientUpsert {
        external_id: message.recipient_id,
        patients,
        display_name: Some(message.display_name).filter(|name| !name.is_empty()).map(Into::into),
        locale,
        time_zone,
        quiet_hours,
        channel_order,
        contact_points,
        consents,
    })
}

fn patients(links: &[proto::PatientLink], faults: &mut Violations) -> Vec<(PatientId, Relation)> {
    faults.require(links.len() <= LINKS_MAX, "patients", "has more than 64 entries");
    let mut checked: Vec<(PatientId, Relation)> = Vec::new();
    for (index, link) in links.iter().enumerate().take(LINKS_MAX) {
        let field = format!("patients[{index}].patient_id");
        let patient = faults.patient_id(&field, &link.patient_id);
        let relation =
            faults.required_word(&format!("patients[{index}].relation"), link.relation, relation_from);
        if let (Some(patient), Some(relation)) = (patient, relation) {
            let new = checked.iter().all(|(named, _)| *named != patient);
            faults.require(new, &field, "names a patient a second time");
            checked.push((patient, relation));
        }
    }
    checked
}

fn contact_points(
    points: Vec<proto::ContactPoint>,
    now: Timestamp,
    faults: &mut Violations,
) -> Vec<ContactPointUpsert> {
    faults.require(points.len() <= CONTACT_POINTS_MAX, "contact_points", "has more than 32 entries");
    let mut checked: Vec<ContactPointUpsert> = Vec::new();
    for (index, point) in points.into_iter().enumerate().take(CONTACT_POINTS_MAX) {
        let field = |name: &str| format!("contact_points[{index}].{name}");
        let verified_at = faults.timestamp(&field("verified_at"), point.verified_at);
        faults.past(&field("verified_at"), verified_at, now);
        let Some(channel) = faults.required_word(&field("channel"), point.channel, channel_from) else {
            continue;
        };
        faults.address(&field("address"), channel, &point.address);
        let address = point.address.into();
        let new = checked.iter().all(|named| (named.channel, &named.address) != (channel, &address));
        faults.require(new, &field("address"), "names an address a second time");
        checked.push(ContactPointUpsert { channel, address, verified_at });
    }
    checked
}

fn consents(entries: Vec<proto::Consent>, now: Timestamp, faults: &mut Violations) -> Vec<ConsentUpsert> {
    faults.require(entries.len() <= CONSENTS_MAX, "consents", "has more than 64 entries");
    let mut checked: Vec<ConsentUpsert> = Vec::new();
    for (index, entry) in entries.into_iter().enumerate().take(CONSENTS_MAX) {
        let field = format!("consents[{index}]");
        if let Some(entry) = consent(&field, entry, now, faults) {
            let named = |one: &ConsentUpsert| (one.channel, one.purpose) == (entry.channel, entry.purpose);
            let new = !checked.iter().any(named);
            faults.require(new, &format!("{field}.purpose"), "names a channel and purpose a second time");
            checked.push(entry);
        }
    }
    checked
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::api::convert::timestamp_to;
    use crate::domain::{Channel, Purpose};

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn message() -> proto::RecipientServiceUpsertRequest {
        let earlier = Some(timestamp_to(now() - SignedDuration::from_hours(1)));
        proto::RecipientServiceUpsertRequest {
            recipient_id: "rcp-1".into(),
            patients: vec![proto::PatientLink {
                patient_id: "pat-1".into(),
                relation: proto::Relation::Patient.into(),
            }],
            display_name: "Jane".into(),
            locale: "PT-br".into(),
            time_zone: "europe/vienna".into(),
            quiet_hours: Some(proto::QuietHours { start: "22:00".into(), end: "07:30".into() }),
            channel_order: vec![proto::Channel::Email.into()],
            contact_points: vec![proto::ContactPoint {
                channel: proto::Channel::Sms.into(),
                address: "+15550100001".into(),
                verified_at: earlier,
            }],
            consents: vec![proto::Consent {
                channel: proto::Channel::Sms.into(),
                purpose: proto::Purpose::Campaign.into(),
                granted: true,
                given_at: earlier,
                recorded_by: "portal".into(),
                how: "settings page".into(),
            }],
        }
    }

    fn faults(message: proto::RecipientServiceUpsertRequest) -> Vec<String> {
        match state(message, now()) {
            Err(ApiError::Invalid(faults)) => faults.into_iter().map(|fault| fault.field).collect(),
            Err(other) => panic!("{other}"),
            Ok(_) => vec![],
        }
    }

    #[test]
    fn a_full_state_comes_through_in_canonical_spelling() {
        let entry = state(message(), now()).unwrap();
        assert_eq!(entry.locale.as_deref(), Some("pt-BR"));
        assert_eq!(entry.time_zone.as_deref(), Some("Europe/Vienna"));
        assert_eq!(entry.channel_order, [Channel::Email]);
        assert_eq!(entry.contact_points[0].channel, Channel::Sms);
        assert_eq!((entry.consents[0].purpose, entry.consents[0].granted), (Purpose::Campaign, true));
    }

    #[test]
    fn the_least_state_is_an_identifier() {
        let least =
            proto::RecipientServiceUpsertRequest { recipient_id: "rcp-1".into(), ..Default::default() };
        let entry = state(least, now()).unwrap();
        assert_eq!(
            (entry.display_name, entry.locale, entry.time_zone, entry.quiet_hours),
            (None, None, None, None)
        );
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let mut bad = message();
        bad.recipient_id = "Jane Doe".into();
        bad.patients[0].relation = 0;
        bad.display_name = "x".repeat(201);
        bad.locale = "not a tag".into();
        bad.time_zone = "Mars/Olympus".into();
        bad.quiet_hours = Some(proto::QuietHours { start: "9pm".into(), end: "07:30".into() });
        bad.contact_points[0].address = "0150".into();
        bad.consents[0].given_at = None;
        bad.consents[0].how = String::new();
        assert_eq!(
            faults(bad),
            [
                "recipient_id",
                "patients[0].relation",
                "display_name",
                "locale",
                "time_zone",
                "quiet_hours.start",
                "contact_points[0].address",
                "consents[0].given_at",
                "consents[0].how",
            ]
        );
    }

    #[test]
    fn what_only_the_ledger_enters_is_not_said_by_a_caller() {
        for word in crate::record::recipients::LEDGER_WORDS {
            let mut bad = message();
            bad.consents[0].how = word.to_owned();
            assert_eq!(faults(bad), ["consents[0].how"], "{word}");
        }
    }

    #[test]
    fn nothing_may_be_named_twice_or_lie_in_the_future() {
        let mut bad = message();
        bad.patients.push(bad.patients[0].clone());
        bad.contact_points.push(bad.contact_points[0].clone());
        bad.consents.push(bad.consents[0].clone());
        let later = Some(timestamp_to(now() + SignedDuration::from_hours(1)));
        bad.contact_points[0].verified_at = later;
        bad.consents[0].given_at = later;
        assert_eq!(
            faults(bad),
            [
                "patients[1].patient_id",
                "contact_points[0].verified_at",
                "contact_points[1].address",
                "consents[0].given_at",
                "consents[1].purpose",
            ]
        );
    }

    #[test]
    fn underscores_and_undetermined_languages_are_no_locale() {
        for bad in ["en_US", "und", "e", "english-language"] {
            let message = proto::RecipientServiceUpsertRequest { locale: bad.into(), ..message() };
            assert_eq!(faults(message), ["locale"], "{bad}");
        }
    }
}

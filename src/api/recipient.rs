//! `RecipientService`.

use deadpool_postgres::Pool;
use icu_locale_core::LanguageIdentifier;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use tonic::{Request, Response, Status};

use super::convert::{
    channel_from, channel_to, minute_from, purpose_from, purpose_to, quiet_hours_to, relation_from,
    relation_to, timestamp_to,
};
use super::error::ApiError;
use super::mask::masked;
use super::proto;
use super::validate::Violations;
use crate::domain::{PatientId, QuietHours, RecipientId, Relation};
use crate::record::read::{self, RecipientView};
use crate::record::recipients::{ConsentUpsert, ContactPointUpsert, RecipientUpsert, Upserted, upsert_many};

const PATIENTS_MAX: usize = 64;
const CONTACT_POINTS_MAX: usize = 32;
const CONSENTS_MAX: usize = 64;
const DISPLAY_NAME_MAX_CHARS: usize = 200;
const HOW_MAX_CHARS: usize = 200;

/// Keeps recipients as the portal knows them.
#[derive(Debug)]
pub struct Recipients {
    /// To the database.
    pub pool: Pool,
}

#[tonic::async_trait]
impl proto::recipient_service_server::RecipientService for Recipients {
    async fn upsert(
        &self,
        request: Request<proto::RecipientServiceUpsertRequest>,
    ) -> Result<Response<proto::RecipientServiceUpsertResponse>, Status> {
        let entry = state(request.into_inner(), Timestamp::now())?;
        let outcomes = upsert_many(&self.pool, std::slice::from_ref(&entry))
            .await
            .map_err(ApiError::from)?;
        let created = match outcomes.first() {
            Some(Upserted::Created) => true,
            Some(Upserted::Updated) | None => false,
            Some(Upserted::Erased) => return Err(ApiError::RecipientErased.into()),
        };
        Ok(Response::new(proto::RecipientServiceUpsertResponse { created }))
    }

    async fn get(
        &self,
        request: Request<proto::RecipientServiceGetRequest>,
    ) -> Result<Response<proto::RecipientServiceGetResponse>, Status> {
        let external_id = request.into_inner().recipient_id;
        let mut faults = Violations::default();
        faults.opaque("recipient_id", &external_id);
        faults.finish()?;
        let view = read::recipient(&self.pool, RecipientId::from_external(&external_id))
            .await
            .map_err(ApiError::from)?
            .ok_or(ApiError::NotFound("recipient"))?;
        Ok(Response::new(proto::RecipientServiceGetResponse {
            recipient: Some(shown(view)),
        }))
    }
}

/// Checks a request and turns it into the state that the database is to have.
fn state(message: proto::RecipientServiceUpsertRequest, now: Timestamp) -> Result<RecipientUpsert, ApiError> {
    let mut faults = Violations::default();
    faults.opaque("recipient_id", &message.recipient_id);
    let patients = patients(&message.patients, &mut faults);
    check_text(
        "display_name",
        &message.display_name,
        DISPLAY_NAME_MAX_CHARS,
        &mut faults,
    );
    let locale = locale(&message.locale, &mut faults);
    let time_zone = time_zone(&message.time_zone, &mut faults);
    let quiet_hours = message
        .quiet_hours
        .and_then(|quiet| quiet_hours(&quiet, &mut faults));
    let channel_order = faults.channels("channel_order", &message.channel_order);
    let contact_points = contact_points(message.contact_points, now, &mut faults);
    let consents = consents(message.consents, now, &mut faults);
    faults.finish()?;
    Ok(RecipientUpsert {
        external_id: message.recipient_id,
        patients,
        display_name: Some(message.display_name)
            .filter(|name| !name.is_empty())
            .map(Into::into),
        locale,
        time_zone,
        quiet_hours,
        channel_order,
        contact_points,
        consents,
    })
}

fn patients(links: &[proto::PatientLink], faults: &mut Violations) -> Vec<(PatientId, Relation)> {
    faults.require(
        links.len() <= PATIENTS_MAX,
        "patients",
        "has more than 64 entries",
    );
    let mut checked: Vec<(PatientId, Relation)> = Vec::new();
    for (index, link) in links.iter().enumerate().take(PATIENTS_MAX) {
        let field = format!("patients[{index}].patient_id");
        let patient = faults.patient_id(&field, &link.patient_id);
        let relation = faults.required_word(
            &format!("patients[{index}].relation"),
            link.relation,
            relation_from,
        );
        if let (Some(patient), Some(relation)) = (patient, relation) {
            let new = checked.iter().all(|(named, _)| *named != patient);
            faults.require(new, &field, "names a patient a second time");
            checked.push((patient, relation));
        }
    }
    checked
}

/// A BCP 47 tag in its canonical spelling.
fn locale(tag: &str, faults: &mut Violations) -> Option<String> {
    if tag.is_empty() {
        return None;
    }
    // The parser takes underscores too; the contract does not.
    let parsed = LanguageIdentifier::try_from_str(tag)
        .ok()
        .filter(|_| !tag.contains('_'));
    let known = parsed.filter(|parsed| !parsed.language.is_unknown());
    faults.require(
        known.is_some(),
        "locale",
        "must be a BCP 47 language tag, for example pt-BR",
    );
    known.map(|parsed| parsed.to_string())
}

/// An IANA zone in its canonical spelling.
fn time_zone(name: &str, faults: &mut Violations) -> Option<String> {
    if name.is_empty() {
        return None;
    }
    let zone = TimeZone::get(name).ok();
    let known = zone
        .as_ref()
        .filter(|zone| !zone.is_unknown())
        .and_then(TimeZone::iana_name);
    faults.require(
        known.is_some(),
        "time_zone",
        "must be an IANA time zone, for example Europe/Vienna",
    );
    known.map(str::to_owned)
}

fn quiet_hours(quiet: &proto::QuietHours, faults: &mut Violations) -> Option<QuietHours> {
    let (start, end) = (minute_from(&quiet.start), minute_from(&quiet.end));
    faults.require(
        start.is_some(),
        "quiet_hours.start",
        "must be HH:MM, 00:00 to 23:59",
    );
    faults.require(end.is_some(), "quiet_hours.end", "must be HH:MM, 00:00 to 23:59");
    start.zip(end).map(|(start, end)| QuietHours { start, end })
}

fn contact_points(
    points: Vec<proto::ContactPoint>,
    now: Timestamp,
    faults: &mut Violations,
) -> Vec<ContactPointUpsert> {
    faults.require(
        points.len() <= CONTACT_POINTS_MAX,
        "contact_points",
        "has more than 32 entries",
    );
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
        let new = checked
            .iter()
            .all(|named| (named.channel, &named.address) != (channel, &address));
        faults.require(new, &field("address"), "names an address a second time");
        checked.push(ContactPointUpsert {
            channel,
            address,
            verified_at,
        });
    }
    checked
}

fn consents(entries: Vec<proto::Consent>, now: Timestamp, faults: &mut Violations) -> Vec<ConsentUpsert> {
    faults.require(
        entries.len() <= CONSENTS_MAX,
        "consents",
        "has more than 64 entries",
    );
    let mut checked: Vec<ConsentUpsert> = Vec::new();
    for (index, entry) in entries.into_iter().enumerate().take(CONSENTS_MAX) {
        let field = |name: &str| format!("consents[{index}].{name}");
        let channel = faults.required_word(&field("channel"), entry.channel, channel_from);
        let purpose = faults.required_word(&field("purpose"), entry.purpose, purpose_from);
        faults.require(entry.given_at.is_some(), &field("given_at"), "is required");
        let given_at = faults.timestamp(&field("given_at"), entry.given_at);
        faults.past(&field("given_at"), given_at, now);
        faults.opaque(&field("recorded_by"), &entry.recorded_by);
        faults.require(!entry.how.is_empty(), &field("how"), "is required");
        check_text(&field("how"), &entry.how, HOW_MAX_CHARS, faults);
        if let (Some(channel), Some(purpose), Some(given_at)) = (channel, purpose, given_at) {
            let new = checked
                .iter()
                .all(|named| (named.channel, named.purpose) != (channel, purpose));
            faults.require(
                new,
                &field("purpose"),
                "names a channel and purpose a second time",
            );
            checked.push(ConsentUpsert {
                channel,
                purpose,
                granted: entry.granted,
                given_at,
                recorded_by: entry.recorded_by,
                how: entry.how,
            });
        }
    }
    checked
}

fn check_text(field: &str, text: &str, max_chars: usize, faults: &mut Violations) {
    faults.require(
        text.chars().count() <= max_chars,
        field,
        &format!("has more than {max_chars} characters"),
    );
    faults.require(
        !text.chars().any(char::is_control),
        field,
        "has a control character",
    );
}

fn shown(view: RecipientView) -> proto::Recipient {
    proto::Recipient {
        recipient_id: view.external_id,
        patients: view
            .patients
            .into_iter()
            .map(|(patient, relation)| proto::PatientLink {
                patient_id: patient.as_str().to_owned(),
                relation: relation_to(relation).into(),
            })
            .collect(),
        locale: view.locale.unwrap_or_default(),
        time_zone: view.time_zone.unwrap_or_default(),
        quiet_hours: view.quiet_hours.map(quiet_hours_to),
        channel_order: view
            .channel_order
            .into_iter()
            .map(|channel| channel_to(channel).into())
            .collect(),
        contact_points: view
            .contact_points
            .into_iter()
            .map(|point| proto::MaskedContactPoint {
                channel: channel_to(point.channel).into(),
                masked_address: masked(point.channel, &point.address),
                verified_at: point.verified_at.map(timestamp_to),
                retired_at: point.retired_at.map(timestamp_to),
                retired_reason: point.retired_why.unwrap_or_default(),
            })
            .collect(),
        consents: view
            .consents
            .into_iter()
            .map(|consent| proto::Consent {
                channel: channel_to(consent.channel).into(),
                purpose: purpose_to(consent.purpose).into(),
                granted: consent.granted,
                given_at: Some(timestamp_to(consent.given_at)),
                recorded_by: consent.recorded_by,
                how: consent.how,
            })
            .collect(),
        erased: view.erased,
        created_at: Some(timestamp_to(view.created_at)),
        updated_at: Some(timestamp_to(view.updated_at)),
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;
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
            quiet_hours: Some(proto::QuietHours {
                start: "22:00".into(),
                end: "07:30".into(),
            }),
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
        assert_eq!(
            (entry.consents[0].purpose, entry.consents[0].granted),
            (Purpose::Campaign, true)
        );
    }

    #[test]
    fn the_least_state_is_an_identifier() {
        let least = proto::RecipientServiceUpsertRequest {
            recipient_id: "rcp-1".into(),
            ..Default::default()
        };
        let entry = state(least, now()).unwrap();
        assert_eq!(
            (
                entry.display_name,
                entry.locale,
                entry.time_zone,
                entry.quiet_hours
            ),
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
        bad.quiet_hours = Some(proto::QuietHours {
            start: "9pm".into(),
            end: "07:30".into(),
        });
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
            let message = proto::RecipientServiceUpsertRequest {
                locale: bad.into(),
                ..message()
            };
            assert_eq!(faults(message), ["locale"], "{bad}");
        }
    }
}

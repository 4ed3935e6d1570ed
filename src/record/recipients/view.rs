//! A recipient as it stands, and the parts that other answers have too.

use deadpool_postgres::Pool;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::preferences::{self, PreferencesView};
use super::{Touch, unknown_word, word};
use crate::domain::{Access, Channel, PatientId, Purpose, Redacted, Relation};
use crate::record::cases::query;
use crate::record::error::RecordError;

/// Parts of a recipient (links, contact points) that one answer has, at most.
const PARTS_MAX: i64 = 1000;

/// A recipient as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct RecipientView {
    /// The portal's identifier.
    pub external_id: String,
    /// Patients of whom the recipient hears.
    pub links: Vec<AccessView>,
    /// What the recipient prefers.
    pub preferences: PreferencesView,
    /// In use first, then retired ones.
    pub contact_points: Vec<ContactPointView>,
    /// The consents in force.
    pub consents: Vec<ConsentView>,
    /// Contents and addresses are gone.
    pub erased: bool,
    /// Creation.
    pub created_at: Timestamp,
    /// Last change of the recipient's own fields.
    pub updated_at: Timestamp,
}

/// An address, used or retired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactPointView {
    /// Its channel.
    pub channel: Channel,
    /// The address; show it masked only.
    pub address: Redacted<String>,
    /// `None`: never written to.
    pub verified_at: Option<Timestamp>,
    /// `None`: in use.
    pub retired_at: Option<Timestamp>,
    /// Why it was retired.
    pub retired_why: Option<String>,
    /// Who attested that it is the recipient's, and how.
    pub attested: Option<(String, String)>,
}

/// A consent in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsentView {
    /// By which channel.
    pub channel: Channel,
    /// To what.
    pub purpose: Purpose,
    /// Agreed, or refused.
    pub granted: bool,
    /// When the recipient said so.
    pub given_at: Timestamp,
    /// Who recorded it.
    pub recorded_by: String,
    /// How it was given.
    pub how: String,
}

/// Who hears of whom, and within which limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessView {
    /// The portal's identifier of the recipient.
    pub recipient: String,
    /// The patient.
    pub patient_id: PatientId,
    /// What the recipient is to the patient.
    pub relation: Relation,
    /// Limits; a patient has none.
    pub access: Access,
    /// Who recorded the grant.
    pub granted_by: Option<String>,
}

const RECIPIENT: &str = "
SELECT external_id, locale, time_zone, quiet_hours_start, quiet_hours_end, channel_order,
       erased_at IS NOT NULL AS erased, created_at, updated_at
FROM recipient WHERE recipient_id = $1";

/// What an [`AccessView`] is made of.
macro_rules! access_columns {
    () => {
        "SELECT r.external_id, v.patient_id, v.relation, v.valid_from, v.valid_until, v.purposes, v.granted_at,
                v.granted_by, v.granted_by_patient, a.of_age_at
           FROM visibility v JOIN recipient r USING (recipient_id) LEFT JOIN coming_of_age a USING (patient_id)"
    };
}
pub(super) use access_columns;

const LINKS: &str =
    concat!(access_columns!(), " WHERE v.recipient_id = $1 ORDER BY v.relation, v.patient_id LIMIT $2");

const POINTS: &str = "
SELECT channel, address, verified_at, retired_at, retired_why, verified_by, verified_how FROM contact_point
WHERE recipient_id = $1 ORDER BY retired_at IS NOT NULL, retired_at DESC, position, channel, address LIMIT $2";

const CONSENTS: &str = "
SELECT DISTINCT ON (channel, purpose) channel, purpose, granted, recorded_at, recorded_by, how
FROM consent WHERE recipient_id = $1 ORDER BY channel, purpose, consent_id DESC";

/// A recipient; `None` when there is none. That somebody looked is written down.
///
/// # Errors
/// `Unavailable` when the database is away.
pub async fn recipient(pool: &Pool, touch: Touch<'_>) -> Result<Option<RecipientView>, RecordError> {
    let mut client = pool.get().await?;
    let at = RecordError::at("read_recipient");
    let id = touch.id().0;
    // One snapshot for all parts.
    let snapshot = client
        .build_transaction()
        .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
        .start()
        .await
        .map_err(&at)?;
    let rows = query(&snapshot, "read_recipient", RECIPIENT, &[&id]).await?;
    let Some(row) = rows.first() else {
        return Ok(None);
    };
    let links = query(&snapshot, "read_links", LINKS, &[&id, &PARTS_MAX]).await?;
    let points = query(&snapshot, "read_contact_points", POINTS, &[&id, &PARTS_MAX]).await?;
    let consents = query(&snapshot, "read_consents", CONSENTS, &[&id]).await?;
    touch.audit(&snapshot, "RecipientService/Get", None).await?;
    snapshot.commit().await.map_err(&at)?;
    Ok(Some(RecipientView {
        external_id: row.try_get("external_id")?,
        links: links.iter().map(access_view).collect::<Result<_, _>>()?,
        preferences: preferences::view(row)?,
        contact_points: points.iter().map(contact_point_view).collect::<Result<_, _>>()?,
        consents: consents.iter().map(consent_view).collect::<Result<_, _>>()?,
        erased: row.try_get("erased")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
    }))
}

/// A row of [`access_columns`].
pub(super) fn access_view(row: &Row) -> Result<AccessView, RecordError> {
    let purposes: Option<Vec<&str>> = row.try_get("purposes")?;
    Ok(AccessView {
        recipient: row.try_get("external_id")?,
        patient_id: PatientId::parse(row.try_get("patient_id")?).ok_or_else(|| unknown_word("patient_id"))?,
        relation: word(row, "relation", Relation::parse)?,
        access: Access {
            valid_from: row.try_get("valid_from")?,
            valid_until: row.try_get("valid_until")?,
            purposes: purposes
                .unwrap_or_default()
                .into_iter()
                .map(|text| Purpose::parse(text).ok_or_else(|| unknown_word("purposes")))
                .collect::<Result<_, _>>()?,
            granted_at: row.try_get("granted_at")?,
            granted_by_patient: row.try_get("granted_by_patient")?,
            of_age_at: row.try_get("of_age_at")?,
        },
        granted_by: row.try_get("granted_by")?,
    })
}

pub(super) fn contact_point_view(row: &Row) -> Result<ContactPointView, RecordError> {
    let by: Option<String> = row.try_get("verified_by")?;
    Ok(ContactPointView {
        channel: word(row, "channel", Channel::parse)?,
        address: Redacted::new(row.try_get("address")?),
        verified_at: row.try_get("verified_at")?,
        retired_at: row.try_get("retired_at")?,
        retired_why: row.try_get("retired_why")?,
        attested: by.zip(row.try_get("verified_how")?),
    })
}

pub(super) fn consent_view(row: &Row) -> Result<ConsentView, RecordError> {
    Ok(ConsentView {
        channel: word(row, "channel", Channel::parse)?,
        purpose: word(row, "purpose", Purpose::parse)?,
        granted: row.try_get("granted")?,
        given_at: row.try_get("recorded_at")?,
        recorded_by: row.try_get("recorded_by")?,
        how: row.try_get("how")?,
    })
}

//! What a plan needs to know about recipients, for a whole batch at once.
//!
//! A link that is not in force is read like any other: the plan says why it hears
//! nothing.

use std::collections::HashMap;
use std::time::Instant;

use jiff::civil::Time;
use tokio_postgres::Row;
use uuid::Uuid;

use super::error::RecordError;
use super::store::Store;
use crate::domain::{
    Access, Channel, ContactPoint, PatientId, Purpose, QuietHours, Recipient, RecipientId, Redacted, Relation,
};
use crate::metrics;

/// Everything but the entry point; joined to either a patient or a recipient.
/// Channel and address, and channel, purpose and decision, travel as one text
/// each: neither a channel nor a purpose has a blank.
macro_rules! facts_columns {
    () => {
        "v.relation, v.valid_from, v.valid_until, v.purposes, v.granted_at, v.granted_by_patient,
         (SELECT a.of_age_at FROM coming_of_age a WHERE a.patient_id = v.patient_id) AS of_age_at,
         r.recipient_id, r.external_id, r.locale, r.time_zone, r.quiet_hours_start, r.quiet_hours_end,
         r.channel_order, r.erased_at IS NOT NULL AS erased,
         (SELECT array_agg(c.channel || ' ' || c.address ORDER BY c.position)
            FROM contact_point c
           WHERE c.recipient_id = r.recipient_id AND c.verified_at IS NOT NULL AND c.retired_at IS NULL
         ) AS contact_points,
         (SELECT array_agg(newest.entry)
            FROM (SELECT DISTINCT ON (k.channel, k.purpose)
                         k.channel || ' ' || k.purpose || ' ' || k.granted AS entry
                    FROM consent k
                   WHERE k.recipient_id = r.recipient_id
                   ORDER BY k.channel, k.purpose, k.consent_id DESC) newest
         ) AS consents"
    };
}

const BY_PATIENT: &str = concat!(
    "SELECT wanted.patient_id, ",
    facts_columns!(),
    " FROM unnest($1::text[]) AS wanted (patient_id)
      JOIN visibility v ON v.patient_id = wanted.patient_id
      JOIN recipient r ON r.recipient_id = v.recipient_id
     ORDER BY wanted.patient_id, v.relation, r.recipient_id"
);

const BY_RECIPIENT: &str = concat!(
    "SELECT wanted.patient_id, ",
    facts_columns!(),
    " FROM unnest($1::uuid[], $2::text[]) AS wanted (recipient_id, patient_id)
      JOIN recipient r ON r.recipient_id = wanted.recipient_id
      LEFT JOIN visibility v ON v.patient_id = wanted.patient_id AND v.recipient_id = wanted.recipient_id"
);

impl Store {
    /// The recipients of each of these patients, patients before proxies.
    /// Patients that nobody is known for are absent.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn recipients_of(
        &self,
        patients: &[&PatientId],
    ) -> Result<HashMap<PatientId, Vec<Recipient>>, RecordError> {
        let begun = Instant::now();
        let client = self.client().await?;
        let statement = client.prepare_cached(BY_PATIENT).await.map_err(RecordError::at("facts"))?;
        let names: Vec<&str> = patients.iter().map(|patient| patient.as_str()).collect();
        let rows = client.query(&statement, &[&names]).await.map_err(RecordError::at("facts"))?;
        metrics::statement("facts", rows.len(), begun.elapsed());
        let mut found: HashMap<PatientId, Vec<Recipient>> = HashMap::with_capacity(patients.len());
        for row in &rows {
            found.entry(patient(row)?).or_default().push(recipient(row)?);
        }
        Ok(found)
    }

    /// These recipients, each as one of this patient's; those that are not there are
    /// absent. Who is not linked to the patient has no access.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn recipients(
        &self,
        wanted: &[(RecipientId, PatientId)],
    ) -> Result<HashMap<(RecipientId, PatientId), Recipient>, RecordError> {
        let begun = Instant::now();
        let client = self.client().await?;
        let statement = client.prepare_cached(BY_RECIPIENT).await.map_err(RecordError::at("facts_by_id"))?;
        let ids: Vec<Uuid> = wanted.iter().map(|(id, _)| id.0).collect();
        let patients: Vec<&str> = wanted.iter().map(|(_, patient)| patient.as_str()).collect();
        let rows =
            client.query(&statement, &[&ids, &patients]).await.map_err(RecordError::at("facts_by_id"))?;
        metrics::statement("facts_by_id", rows.len(), begun.elapsed());
        rows.iter()
            .map(|row| {
                let one = recipient(row)?;
                Ok(((one.id, patient(row)?), one))
            })
            .collect()
    }
}

fn unknown_word(column: &'static str) -> RecordError {
    RecordError::bug(format!("{column} holds a word that this version does not know"))
}

fn patient(row: &Row) -> Result<PatientId, RecordError> {
    PatientId::parse(row.try_get("patient_id")?)
        .ok_or_else(|| RecordError::bug("visibility.patient_id is not an opaque identifier"))
}

/// `None`: there is no link.
fn access(row: &Row) -> Result<Option<Access>, RecordError> {
    let Some(granted_by_patient) = row.try_get("granted_by_patient")? else { return Ok(None) };
    Ok(Some(Access {
        valid_from: row.try_get("valid_from")?,
        valid_until: row.try_get("valid_until")?,
        purposes: row
            .try_get::<_, Option<Vec<&str>>>("purposes")?
            .unwrap_or_default()
            .into_iter()
            .map(|word| Purpose::parse(word).ok_or_else(|| unknown_word("visibility.purposes")))
            .collect::<Result<_, _>>()?,
        granted_at: row.try_get("granted_at")?,
        granted_by_patient,
        of_age_at: row.try_get("of_age_at")?,
    }))
}

fn recipient(row: &Row) -> Result<Recipient, RecordError> {
    let quiet_hours = match (
        row.try_get::<_, Option<Time>>("quiet_hours_start")?,
        row.try_get::<_, Option<Time>>("quiet_hours_end")?,
    ) {
        (Some(start), Some(end)) => Some(QuietHours { start, end }),
        _ => None,
    };
    // Without a link nothing is heard, whatever the relation was.
    let relation = row.try_get::<_, Option<&str>>("relation")?.unwrap_or(Relation::Proxy.as_str());
    let order: Vec<&str> = row.try_get("channel_order")?;
    let points: Option<Vec<&str>> = row.try_get("contact_points")?;
    let consents: Option<Vec<&str>> = row.try_get("consents")?;
    Ok(Recipient {
        id: RecipientId(row.try_get("recipient_id")?),
        external_id: row.try_get("external_id")?,
        relation: Relation::parse(relation).ok_or_else(|| unknown_word("visibility.relation"))?,
        access: access(row)?,
        locale: row.try_get("locale")?,
        time_zone: row.try_get("time_zone")?,
        quiet_hours,
        channel_order: order
            .into_iter()
            .map(|word| Channel::parse(word).ok_or_else(|| unknown_word("recipient.channel_order")))
            .collect::<Result<_, _>>()?,
        contact_points: points
            .unwrap_or_default()
            .into_iter()
            .map(|text| contact_point(text).ok_or_else(|| unknown_word("contact_point.channel")))
            .collect::<Result<_, _>>()?,
        consents: consents
            .unwrap_or_default()
            .into_iter()
            .map(|text| consent(text).ok_or_else(|| unknown_word("consent.purpose")))
            .collect::<Result<_, _>>()?,
        erased: row.try_get("erased")?,
    })
}

fn contact_point(text: &str) -> Option<ContactPoint> {
    let (channel, address) = text.split_once(' ')?;
    Some(ContactPoint { channel: Channel::parse(channel)?, address: Redacted::new(address.to_owned()) })
}

fn consent(text: &str) -> Option<(Channel, Purpose, bool)> {
    let mut words = text.split(' ');
    let channel = Channel::parse(words.next()?)?;
    let purpose = Purpose::parse(words.next()?)?;
    Some((channel, purpose, words.next()? == "true"))
}

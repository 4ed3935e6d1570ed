//! Who else hears of a patient: access that is granted to proxies and taken back, and
//! when the patient comes of age.

use deadpool_postgres::{Pool, Transaction};
use jiff::Timestamp;

use super::view::{AccessView, access_columns, access_view};
use super::{ChangeError, LINKS_MAX, Touch, commit, one_more, word};
use crate::domain::{PatientId, Purpose, Relation};
use crate::record::audit::{self, AuditEntry};
use crate::record::cases::query;
use crate::record::error::RecordError;

/// What a proxy may hear. Checked by the caller (`api`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Of whom.
    pub patient_id: PatientId,
    /// Nothing before this time; `None`: from now on.
    pub valid_from: Option<Timestamp>,
    /// Nothing from this time on; `None`: without an end.
    pub valid_until: Option<Timestamp>,
    /// These only; empty: everything.
    pub purposes: Vec<Purpose>,
    /// The patient granted it, and nobody in the patient's stead.
    pub by_patient: bool,
    /// Who recorded it, opaque.
    pub granted_by: String,
}

/// Changes of one patient's links follow one another.
const LOCK_PATIENT: &str = "SELECT pg_advisory_xact_lock(hashtextextended($1, 7))";

const LINK: &str = "
SELECT (SELECT relation FROM visibility WHERE patient_id = $1 AND recipient_id = $2) AS relation,
       (SELECT count(*) FROM visibility WHERE patient_id = $1 AND relation = 'proxy') AS of_patient,
       (SELECT count(*) FROM visibility WHERE recipient_id = $2) AS of_recipient,
       EXISTS (SELECT FROM coming_of_age WHERE patient_id = $1 AND of_age_at <= now()) AS of_age";

const GRANT: &str = "
INSERT INTO visibility AS v (patient_id, recipient_id, relation, valid_from, valid_until, purposes, granted_at,
                             granted_by, granted_by_patient)
VALUES ($1, $2, 'proxy', $3, $4, $5, now(), $6, $7)
ON CONFLICT (patient_id, recipient_id) DO UPDATE
   SET valid_from = excluded.valid_from, valid_until = excluded.valid_until, purposes = excluded.purposes,
       granted_at = excluded.granted_at, granted_by = excluded.granted_by,
       granted_by_patient = excluded.granted_by_patient";

const ONE: &str = concat!(access_columns!(), " WHERE v.patient_id = $1 AND v.recipient_id = $2");

/// Lets a recipient hear of a patient as a proxy; what was granted before is replaced.
///
/// # Errors
/// As [`ChangeError`] tells; then nothing is written.
pub async fn grant_proxy(pool: &Pool, touch: Touch<'_>, grant: &Grant) -> Result<AccessView, ChangeError> {
    let mut client = pool.get().await.map_err(RecordError::from)?;
    let tx = touch.begin(&mut client).await?;
    let (id, patient) = (touch.id().0, grant.patient_id.as_str());
    query(&tx, "patient_lock", LOCK_PATIENT, &[&patient]).await?;
    let before = link(&tx, touch, &grant.patient_id).await?;
    if before.relation == Some(Relation::Patient) {
        return Err(ChangeError::LinkIsPatient);
    }
    if before.of_age && !grant.by_patient {
        return Err(ChangeError::PatientOfAge);
    }
    if before.relation.is_none() && before.is_full {
        return Err(ChangeError::TooManyLinks);
    }
    let purposes: Option<Vec<&str>> = Some(grant.purposes.iter().map(|purpose| purpose.as_str()).collect())
        .filter(|all: &Vec<_>| !all.is_empty());
    query(
        &tx,
        "proxy_grant",
        GRANT,
        &[
            &patient,
            &id,
            &grant.valid_from,
            &grant.valid_until,
            &purposes,
            &grant.granted_by,
            &grant.by_patient,
        ],
    )
    .await?;
    let rows = query(&tx, "proxy_granted", ONE, &[&patient, &id]).await?;
    let view = rows.first().ok_or(ChangeError::Unknown).and_then(|row| Ok(access_view(row)?))?;
    let detail = format!("patient {patient}");
    touch.audit(&tx, "RecipientService/GrantProxy", Some(&detail)).await?;
    commit(tx).await?;
    Ok(view)
}

/// How a recipient and a patient stood.
struct Link {
    relation: Option<Relation>,
    is_full: bool,
    of_age: bool,
}

async fn link(tx: &Transaction<'_>, touch: Touch<'_>, patient: &PatientId) -> Result<Link, RecordError> {
    let row = query(tx, "proxy_link", LINK, &[&patient.as_str(), &touch.id().0]).await?;
    let row = row.first().ok_or_else(|| RecordError::bug("a select without a row"))?;
    let relation: Option<&str> = row.try_get("relation")?;
    let most = i64::try_from(LINKS_MAX).unwrap_or(i64::MAX);
    Ok(Link {
        relation: relation.map(|_| word(row, "relation", Relation::parse)).transpose()?,
        is_full: row.try_get::<_, i64>("of_patient")? >= most
            || row.try_get::<_, i64>("of_recipient")? >= most,
        of_age: row.try_get("of_age")?,
    })
}

const REVOKE: &str = "
DELETE FROM visibility WHERE patient_id = $1 AND recipient_id = $2 AND relation = 'proxy' RETURNING relation";

/// A proxy hears no more of a patient; what waits is not sent. False when there was
/// no such link.
///
/// # Errors
/// As [`ChangeError`] tells; then nothing is written.
pub async fn revoke_proxy(pool: &Pool, touch: Touch<'_>, patient: &PatientId) -> Result<bool, ChangeError> {
    let mut client = pool.get().await.map_err(RecordError::from)?;
    let tx = touch.begin(&mut client).await?;
    let before = link(&tx, touch, patient).await?;
    if before.relation == Some(Relation::Patient) {
        return Err(ChangeError::LinkIsPatient);
    }
    let rows = query(&tx, "proxy_revoke", REVOKE, &[&patient.as_str(), &touch.id().0]).await?;
    let detail = format!("patient {}", patient.as_str());
    touch.audit(&tx, "RecipientService/RevokeProxy", Some(&detail)).await?;
    commit(tx).await?;
    Ok(!rows.is_empty())
}

const SET_OF_AGE: &str = "
INSERT INTO coming_of_age (patient_id, of_age_at) VALUES ($1, $2)
ON CONFLICT (patient_id) DO UPDATE SET of_age_at = excluded.of_age_at";

const UNSET_OF_AGE: &str = "DELETE FROM coming_of_age WHERE patient_id = $1";

/// Sets when a patient comes of age; `None`: long ago, or it does not matter.
///
/// # Errors
/// As [`RecordError`] tells; then nothing is written.
pub async fn set_coming_of_age(
    pool: &Pool,
    caller: &str,
    patient: &PatientId,
    of_age_at: Option<Timestamp>,
) -> Result<(), RecordError> {
    let mut client = pool.get().await?;
    let tx = client.transaction().await.map_err(RecordError::at("coming_of_age"))?;
    let patient = patient.as_str();
    query(&tx, "patient_lock", LOCK_PATIENT, &[&patient]).await?;
    match of_age_at {
        Some(at) => query(&tx, "coming_of_age", SET_OF_AGE, &[&patient, &at]).await?,
        None => query(&tx, "coming_of_age", UNSET_OF_AGE, &[&patient]).await?,
    };
    let entry = AuditEntry {
        caller,
        action: "RecipientService/SetComingOfAge",
        subject_kind: "patient",
        subject: patient,
        detail: Some(if of_age_at.is_some() { "set" } else { "unset" }),
    };
    audit::append(&tx, &entry).await?;
    commit(tx).await
}

/// Some of those who hear of a patient, in the order of their identifiers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatientPage {
    /// At most as many as were asked for.
    pub links: Vec<AccessView>,
    /// Go on after this recipient; `None`: that was all.
    pub next_after: Option<String>,
    /// When the patient comes or came of age.
    pub of_age_at: Option<Timestamp>,
}

const BY_PATIENT: &str = concat!(
    access_columns!(),
    " WHERE v.patient_id = $1 AND r.external_id > $2 ORDER BY r.external_id LIMIT $3"
);

const OF_AGE: &str = "SELECT of_age_at FROM coming_of_age WHERE patient_id = $1";

/// Who is linked to a patient, in force or not. Nobody: an empty page.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn list_by_patient(
    pool: &Pool,
    patient: &PatientId,
    after: &str,
    page_size: usize,
) -> Result<PatientPage, RecordError> {
    let mut client = pool.get().await?;
    let tx = client.transaction().await.map_err(RecordError::at("links_of_patient"))?;
    let patient = patient.as_str();
    let rows = query(&tx, "links_of_patient", BY_PATIENT, &[&patient, &after, &one_more(page_size)]).await?;
    let of_age = query(&tx, "links_of_patient_age", OF_AGE, &[&patient]).await?;
    commit(tx).await?;
    let mut links = rows.iter().map(access_view).collect::<Result<Vec<_>, _>>()?;
    let more = links.len() > page_size;
    links.truncate(page_size);
    let next_after = links.last().filter(|_| more).map(|last| last.recipient.clone());
    let of_age_at = of_age.first().map(|row| row.try_get("of_age_at")).transpose()?;
    Ok(PatientPage { links, next_after, of_age_at })
}

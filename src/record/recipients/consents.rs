//! The consent ledger: append-only, the newest entry of a channel and purpose is in force.

use deadpool_postgres::Pool;
use tokio_postgres::Row;

use super::view::{ConsentView, consent_view};
use super::{ChangeError, Touch, commit, one_more};
use crate::record::cases::query;
use crate::record::error::RecordError;
use crate::record::recipients::ConsentUpsert;

/// Entered when it is newer than what is in force. The same entry again, whose time
/// was cut to ours because the caller's clock runs ahead, is known by its own name.
const ENTER: &str = "
INSERT INTO consent (recipient_id, channel, purpose, granted, recorded_at, recorded_by, how, update_id)
SELECT $1::uuid, $2::text, $3::text, $4::boolean, LEAST($5::timestamptz, now()), $6::text, $7::text, $8::text
 WHERE NOT EXISTS (
       SELECT FROM consent k
        WHERE k.recipient_id = $1 AND k.channel = $2 AND k.purpose = $3 AND k.recorded_at >= LEAST($5, now()))
ON CONFLICT (recorded_by, update_id, recipient_id, channel, purpose) WHERE update_id IS NOT NULL DO NOTHING
RETURNING consent_id";

/// Enters one consent or refusal. False when what is in force is as new, or newer.
///
/// # Errors
/// As [`ChangeError`] tells; then nothing is written.
pub async fn record_consent(
    pool: &Pool,
    touch: Touch<'_>,
    consent: &ConsentUpsert,
) -> Result<bool, ChangeError> {
    let mut client = pool.get().await.map_err(RecordError::from)?;
    let tx = touch.begin(&mut client).await?;
    let ConsentUpsert { channel, purpose, granted, given_at, recorded_by, how } = consent;
    let update_id = format!("given:{}", given_at.as_microsecond());
    let (channel, purpose) = (channel.as_str(), purpose.as_str());
    let entered = query(
        &tx,
        "recipient_record_consent",
        ENTER,
        &[&touch.id().0, &channel, &purpose, granted, given_at, recorded_by, how, &update_id],
    )
    .await?;
    let word = if *granted { "granted" } else { "refused" };
    let detail = format!("{channel} {purpose} {word}");
    touch.audit(&tx, "RecipientService/RecordConsent", Some(&detail)).await?;
    commit(tx).await?;
    Ok(!entered.is_empty())
}

/// One entry of the ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsentLine {
    /// Its place: later entries have greater ones.
    pub consent_id: i64,
    /// What was said.
    pub consent: ConsentView,
    /// Nothing newer was said of this channel and purpose.
    pub in_force: bool,
}

/// A part of the ledger, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsentPage {
    /// At most as many as were asked for.
    pub entries: Vec<ConsentLine>,
    /// Go on before this entry; `None`: that was all.
    pub next_before: Option<i64>,
}

const LIST: &str = "
SELECT k.consent_id, k.channel, k.purpose, k.granted, k.recorded_at, k.recorded_by, k.how,
       NOT EXISTS (SELECT FROM consent n
                    WHERE n.recipient_id = k.recipient_id AND n.channel = k.channel AND n.purpose = k.purpose
                      AND n.consent_id > k.consent_id) AS in_force
  FROM consent k
 WHERE k.recipient_id = $1 AND k.consent_id < $2
 ORDER BY k.consent_id DESC LIMIT $3";

/// The ledger of a recipient, erased or not; entries before `before`, newest first.
///
/// # Errors
/// [`ChangeError::Unknown`], or as [`RecordError`] tells.
pub async fn list_consents(
    pool: &Pool,
    touch: Touch<'_>,
    before: Option<i64>,
    page_size: usize,
) -> Result<ConsentPage, ChangeError> {
    let mut client = pool.get().await.map_err(RecordError::from)?;
    let tx = touch.look(&mut client).await?;
    let before = before.unwrap_or(i64::MAX);
    let rows =
        query(&tx, "recipient_consents", LIST, &[&touch.id().0, &before, &one_more(page_size)]).await?;
    commit(tx).await?;
    let mut entries = rows.iter().map(line).collect::<Result<Vec<_>, RecordError>>()?;
    let more = entries.len() > page_size;
    entries.truncate(page_size);
    let next_before = entries.last().filter(|_| more).map(|last| last.consent_id);
    Ok(ConsentPage { entries, next_before })
}

fn line(row: &Row) -> Result<ConsentLine, RecordError> {
    Ok(ConsentLine {
        consent_id: row.try_get("consent_id")?,
        consent: consent_view(row)?,
        in_force: row.try_get("in_force")?,
    })
}

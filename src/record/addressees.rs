//! Whom news from outside is about: a number's owners, a delivery's recipient. News
//! on the topic names recipients, never addresses.

use std::collections::HashMap;

use deadpool_postgres::{Client, Pool};
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::error::RecordError;
use crate::domain::{Channel, DeliveryId, NotificationId, Purpose, RecipientId, Redacted};

/// Recipients that one number may belong to, at most; the oldest ones.
const OWNERS_MAX: i64 = 1000;

/// To end texts, retired and unverified numbers count too: whoever writes from one means it.
/// To get them again, only a number in force does: a retired one may be a stranger's by now.
const OWNERS: &str = "
SELECT r.external_id FROM contact_point c JOIN recipient r USING (recipient_id)
 WHERE c.channel = 'sms' AND c.address = $1 AND r.erased_at IS NULL
   AND (NOT $3::bool OR (c.retired_at IS NULL AND c.verified_at IS NOT NULL))
 ORDER BY r.created_at, r.recipient_id LIMIT $2";

const ADDRESSEES: &str = "
SELECT d.delivery_id, d.notification_id, n.purpose, r.external_id
  FROM delivery d JOIN notification n USING (notification_id)
  JOIN recipient r ON r.recipient_id = d.recipient_id
 WHERE d.delivery_id = ANY($1)";

/// The newest entry, which is in force.
const STANDING: &str = "
SELECT r.external_id, k.consent_id, k.granted
  FROM recipient r
  LEFT JOIN LATERAL (
       SELECT consent_id, granted FROM consent
        WHERE recipient_id = r.recipient_id AND channel = $2 AND purpose = $3
        ORDER BY consent_id DESC LIMIT 1) k ON true
 WHERE r.recipient_id = $1 AND r.erased_at IS NULL";

/// To whom a delivery goes, and what for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addressee {
    /// Of which notification.
    pub notification_id: NotificationId,
    /// The portal's identifier of its recipient.
    pub recipient: String,
    /// What it is for.
    pub purpose: Purpose,
}

/// What a recipient has last said to a kind of message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The portal's identifier of the recipient.
    pub recipient: String,
    /// The entry that is in force, and whether it is a yes; `None`: nothing was said.
    pub entry: Option<(i64, bool)>,
}

/// The portal's identifiers of those for whom this phone number (E.164) may speak, at most
/// 1,000: with `granted`, a yes, only those whose number is verified and not retired.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn owners_of_number(
    pool: &Pool,
    number: &Redacted<String>,
    granted: bool,
) -> Result<Vec<String>, RecordError> {
    let rows = query(pool, "number_owners", OWNERS, &[number.expose(), &OWNERS_MAX, &granted]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// The addressees of these deliveries; unknown ones are absent.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn addressees(
    pool: &Pool,
    deliveries: &[DeliveryId],
) -> Result<HashMap<DeliveryId, Addressee>, RecordError> {
    let ids: Vec<Uuid> = deliveries.iter().map(|id| id.0).collect();
    let rows = query(pool, "addressees", ADDRESSEES, &[&ids]).await?;
    let addressee = |row: &Row| {
        let purpose: &str = row.try_get("purpose")?;
        let purpose = Purpose::parse(purpose).ok_or_else(|| {
            RecordError::bug("notification.purpose holds a word that this version does not know")
        })?;
        let id = DeliveryId(row.try_get("delivery_id")?);
        let notification_id = NotificationId(row.try_get("notification_id")?);
        Ok((id, Addressee { notification_id, recipient: row.try_get("external_id")?, purpose }))
    };
    rows.iter().map(addressee).collect()
}

/// What is in force for a recipient, channel and purpose; `None` for a recipient who is
/// not known, or was erased.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn standing(
    pool: &Pool,
    recipient_id: RecipientId,
    channel: Channel,
    purpose: Purpose,
) -> Result<Option<Standing>, RecordError> {
    let parameters: [&(dyn ToSql + Sync); 3] = [&recipient_id.0, &channel.as_str(), &purpose.as_str()];
    let rows = query(pool, "consent_standing", STANDING, &parameters).await?;
    let standing = |row: &Row| {
        let entry: (Option<i64>, Option<bool>) = (row.try_get("consent_id")?, row.try_get("granted")?);
        Ok(Standing { recipient: row.try_get("external_id")?, entry: entry.0.zip(entry.1) })
    };
    rows.first().map(standing).transpose()
}

async fn query(
    pool: &Pool,
    name: &'static str,
    text: &str,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, RecordError> {
    let client: Client = pool.get().await.map_err(RecordError::from)?;
    let statement = client.prepare_cached(text).await.map_err(RecordError::at(name))?;
    client.query(&statement, parameters).await.map_err(RecordError::at(name))
}

//! What is kept no longer: contents go, states and the why-log stay.
//!
//! Every statement is bounded, finds its rows in an index, and steps aside where somebody
//! works on a row: it is met on the next tick.

use deadpool_postgres::GenericClient;
use uuid::Uuid;

use super::cases::query;
use super::digest::Place;
use super::error::RecordError;
use super::store::Store;
use crate::domain::{Channel, DeliveryId, NotificationId, Purpose};

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Erased {
    /// Rows that lost their contents, or went.
    pub rows: u64,
    /// Rows that are old enough, and still under way.
    pub kept: u64,
    /// Where to go on; `None`: that was all.
    pub next: Option<Place>,
}

/// Nothing more is sent or tried in these states.
const ENDED: [&str; 7] =
    ["sent", "delivered", "permanent_failure", "technical_failure", "expired", "cancelled", "suppressed"];

const OLD: &str = "
SELECT notification_id, accepted_at, state = ANY($6) AS ended FROM notification
 WHERE purpose = $1 AND NOT contents_erased AND accepted_at < now() - $2::bigint * interval '1 day'
   AND (accepted_at, notification_id) > ($3::timestamptz, $4::uuid)
 ORDER BY accepted_at, notification_id
 LIMIT $5
   FOR UPDATE SKIP LOCKED";

const UNDER_WAY: &str = "
SELECT DISTINCT notification_id FROM delivery WHERE delivery_id = ANY($1) AND due_at IS NOT NULL";

const CLEAR_ADDRESSES: &str =
    "UPDATE delivery SET address = NULL WHERE delivery_id = ANY($1) AND address IS NOT NULL";

const CLEAR: &str =
    "UPDATE notification SET variables = NULL, contents_erased = true WHERE notification_id = ANY($1)";

const OLD_BATCH: &str = "
SELECT batch_id FROM batch
 WHERE ended_at < now() - $1::bigint * interval '1 day' AND contents_erased_at IS NULL
 ORDER BY ended_at LIMIT 1 FOR UPDATE SKIP LOCKED";

const DROP_ROWS: &str = "
DELETE FROM batch_recipient
 WHERE batch_id = $1
   AND row_no IN (SELECT row_no FROM batch_recipient WHERE batch_id = $1 ORDER BY row_no LIMIT $2)";

const CLEAR_BATCH: &str = "UPDATE batch SET variables = '{}', contents_erased_at = now() WHERE batch_id = $1";

const CLEAR_LOCATIONS: &str = "
UPDATE appointment SET location = NULL
 WHERE appointment_id IN (
    SELECT appointment_id FROM appointment
     WHERE location IS NOT NULL AND starts_at < now() - $1::bigint * interval '1 day'
     ORDER BY starts_at LIMIT $2 FOR UPDATE SKIP LOCKED)";

const DROP_REMINDERS: &str = "
DELETE FROM appointment_reminder r
 USING (SELECT appointment_id, schedule, offset_s FROM appointment_reminder
         WHERE look_at IS NULL AND starts_at < now() - $1::bigint * interval '1 day'
         ORDER BY starts_at LIMIT $2 FOR UPDATE SKIP LOCKED) AS old
 WHERE (r.appointment_id, r.schedule, r.offset_s) = (old.appointment_id, old.schedule, old.offset_s)";

impl Store {
    /// Takes variables and addresses of the next `limit` notifications of a purpose away
    /// that were accepted so many days ago and have ended.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn erase_old_contents(
        &self,
        purpose: Purpose,
        days: u32,
        after: Option<Place>,
        limit: i64,
    ) -> Result<Erased, RecordError> {
        let mut client = self.client().await?;
        let tx = client.transaction().await.map_err(RecordError::at("retention_contents"))?;
        let (after_at, after_id) = after.unwrap_or((jiff::Timestamp::UNIX_EPOCH, Uuid::nil()));
        let (days, ended) = (i64::from(days), ENDED.as_slice());
        let rows = query(
            &tx,
            "retention_old",
            OLD,
            &[&purpose.as_str(), &days, &after_at, &after_id, &limit, &ended],
        )
        .await?;
        let mut ids: Vec<Uuid> = Vec::new();
        for row in &rows {
            if row.try_get("ended")? {
                ids.push(row.try_get("notification_id")?);
            }
        }
        let under_way = query(&tx, "retention_under_way", UNDER_WAY, &[&deliveries(&ids)]).await?;
        let under_way: Vec<Uuid> = under_way.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
        ids.retain(|id| !under_way.contains(id));
        query(&tx, "retention_addresses", CLEAR_ADDRESSES, &[&deliveries(&ids)]).await?;
        query(&tx, "retention_variables", CLEAR, &[&ids]).await?;
        tx.commit().await.map_err(RecordError::at("retention_contents"))?;
        let last = rows.last().filter(|_| i64::try_from(rows.len()).unwrap_or(i64::MAX) >= limit);
        let next = last
            .map(|row| Ok::<_, RecordError>((row.try_get("accepted_at")?, row.try_get("notification_id")?)));
        let kept = rows.len().saturating_sub(ids.len()) as u64;
        Ok(Erased { rows: ids.len() as u64, kept, next: next.transpose()? })
    }

    /// Takes at most `limit` rows of the oldest batch away that ended so many days ago,
    /// and with the last ones the values common to all. `None`: there is no such batch.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn erase_old_batch(&self, days: u32, limit: i64) -> Result<Option<u64>, RecordError> {
        let mut client = self.client().await?;
        let at = RecordError::at("retention_batch");
        let tx = client.transaction().await.map_err(&at)?;
        let old = query(&tx, "retention_batch", OLD_BATCH, &[&i64::from(days)]).await?;
        let Some(batch) = old.first() else { return Ok(None) };
        let id: Uuid = batch.try_get(0)?;
        let dropped = execute(&tx, "retention_batch_rows", DROP_ROWS, id, limit).await?;
        if dropped < u64::try_from(limit).unwrap_or(0) {
            query(&tx, "retention_batch_values", CLEAR_BATCH, &[&id]).await?;
        }
        tx.commit().await.map_err(&at)?;
        Ok(Some(dropped))
    }

    /// Takes the places of at most `limit` appointments away that began so many days ago.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn erase_old_locations(&self, days: u32, limit: i64) -> Result<u64, RecordError> {
        self.bounded("retention_locations", CLEAR_LOCATIONS, days, limit).await
    }

    /// Forgets at most `limit` reminders that are over, of appointments that began so
    /// many days ago.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn drop_old_reminders(&self, days: u32, limit: i64) -> Result<u64, RecordError> {
        self.bounded("retention_reminders", DROP_REMINDERS, days, limit).await
    }

    async fn bounded(
        &self,
        name: &'static str,
        statement: &'static str,
        days: u32,
        limit: i64,
    ) -> Result<u64, RecordError> {
        let client = self.client().await?;
        client.execute(statement, &[&i64::from(days), &limit]).await.map_err(RecordError::at(name))
    }
}

async fn execute(
    client: &impl GenericClient,
    name: &'static str,
    statement: &'static str,
    id: Uuid,
    limit: i64,
) -> Result<u64, RecordError> {
    client.execute(statement, &[&id, &limit]).await.map_err(RecordError::at(name))
}

/// Every delivery that these notifications can have: their ids follow.
fn deliveries(ids: &[Uuid]) -> Vec<Uuid> {
    let of = |id: &Uuid| {
        let id = NotificationId(*id);
        Channel::ALL.iter().map(move |channel| DeliveryId::for_channel(id, *channel).0)
    };
    ids.iter().flat_map(of).collect()
}

//! Updates about something that is not known yet.

use std::time::Duration;

use deadpool_postgres::Transaction;
use uuid::Uuid;

use super::cases::query;
use super::error::RecordError;
use super::store::Store;
use super::updates::{Applied, Update};
use crate::domain::{Fact, Redacted};

/// First after a second, then twice as late each time, at most a minute apart, and
/// at the end of its time. After that it is kept for people, and not looked at.
const KEEP: &str = "
INSERT INTO unmatched_update AS u (update_id, kind, notification_id, payload, next_look_at, expires_at)
SELECT update_id, kind, notification_id, payload, now() + interval '1 second',
       now() + $5::bigint * interval '1 millisecond'
  FROM unnest($1::text[], $2::text[], $3::uuid[], $4::bytea[])
       AS i (update_id, kind, notification_id, payload)
ON CONFLICT (update_id) DO UPDATE
   SET looks = u.looks + 1,
       next_look_at = CASE WHEN now() < u.expires_at
           THEN least(now() + least(2 ^ least(u.looks, 6), 60) * interval '1 second', u.expires_at) END
RETURNING update_id, next_look_at IS NULL AS expired";

const FORGET: &str = "DELETE FROM unmatched_update WHERE update_id = ANY($1)";

/// Taken for a while, so that several processes share them.
const DUE: &str = "
UPDATE unmatched_update u
   SET next_look_at = now() + $2::bigint * interval '1 millisecond'
  FROM (SELECT update_id FROM unmatched_update
         WHERE next_look_at <= now() ORDER BY next_look_at LIMIT $1 FOR UPDATE SKIP LOCKED) AS due
 WHERE u.update_id = due.update_id
RETURNING u.payload";

/// Keeps the updates of a batch that matched nothing, forgets those that did.
pub(super) async fn keep(
    tx: &Transaction<'_>,
    updates: &[Update<'_>],
    applied: &mut [Applied],
    expiry: Duration,
) -> Result<(), RecordError> {
    let (mut kept, mut matched) = (Vec::new(), Vec::new());
    for (one, result) in updates.iter().zip(applied.iter()) {
        if *result != Applied::Unmatched {
            matched.push(one.update.update_id.as_str());
        } else if !kept.iter().any(|other: &&Update<'_>| other.update.update_id == one.update.update_id) {
            kept.push(one);
        }
    }
    query(tx, "unmatched_forget", FORGET, &[&matched]).await?;
    if kept.is_empty() {
        return Ok(());
    }
    let ids: Vec<&str> = kept.iter().map(|one| one.update.update_id.as_str()).collect();
    let kinds: Vec<&str> = kept.iter().map(|one| one.update.fact.as_str()).collect();
    let notifications: Vec<Option<Uuid>> = kept.iter().map(|one| cancelled(&one.update.fact)).collect();
    let payloads: Vec<&[u8]> = kept.iter().map(|one| *one.payload.expose()).collect();
    let expiry_ms = i64::try_from(expiry.as_millis()).unwrap_or(i64::MAX);
    let rows =
        query(tx, "unmatched_keep", KEEP, &[&ids, &kinds, &notifications, &payloads, &expiry_ms]).await?;
    for row in rows.iter().filter(|row| row.get::<_, bool>("expired")) {
        let id: &str = row.try_get("update_id")?;
        for (one, result) in updates.iter().zip(applied.iter_mut()) {
            if one.update.update_id == id && *result == Applied::Unmatched {
                *result = Applied::Expired;
            }
        }
    }
    Ok(())
}

/// The claim looks for cancellations by what they cancel.
const fn cancelled(fact: &Fact) -> Option<Uuid> {
    match fact {
        Fact::Cancelled { notification_id } => Some(notification_id.0),
        _ => None,
    }
}

impl Store {
    /// Values of kept updates that are to be looked at again, at most `limit`. They
    /// are given to nobody else for `lease`.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn unmatched_due(
        &self,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<Redacted<Vec<u8>>>, RecordError> {
        let client = self.client().await?;
        let statement = client.prepare_cached(DUE).await.map_err(RecordError::at("unmatched_due"))?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        let rows =
            client.query(&statement, &[&limit, &lease_ms]).await.map_err(RecordError::at("unmatched_due"))?;
        rows.iter().map(|row| Ok(Redacted::new(row.try_get("payload")?))).collect()
    }
}

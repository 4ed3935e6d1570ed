//! Updates about something that is not known yet.

use std::collections::HashSet;
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
///
/// Rows are taken in one order, here and when they are forgotten: two batches with
/// the same updates would block each other otherwise.
const KEEP: &str = "
INSERT INTO unmatched_update AS u (source, update_id, kind, notification_id, caller, payload, next_look_at,
        expires_at)
SELECT source, update_id, kind, notification_id, caller, payload, now() + interval '1 second',
       now() + $6::bigint * interval '1 millisecond'
  FROM unnest($1::text[], $2::text[], $3::text[], $4::uuid[], $5::bytea[], $7::text[])
       AS i (source, update_id, kind, notification_id, payload, caller)
 ORDER BY source, update_id
ON CONFLICT (source, update_id) DO UPDATE
   SET looks = u.looks + 1,
       next_look_at = CASE WHEN now() < u.expires_at
           THEN least(now() + least(2 ^ least(u.looks, 6), 60) * interval '1 second', u.expires_at) END
RETURNING source, update_id, next_look_at IS NULL AS expired";

const FORGET: &str = "
WITH gone AS MATERIALIZED (
    SELECT u.source, u.update_id
      FROM unmatched_update u JOIN unnest($1::text[], $2::text[]) AS i (source, update_id)
        ON u.source = i.source AND u.update_id = i.update_id
     ORDER BY u.source, u.update_id
       FOR UPDATE OF u
)
DELETE FROM unmatched_update u USING gone
 WHERE u.source = gone.source AND u.update_id = gone.update_id";

/// Taken for a while, so that several processes share them. One that comes back
/// unsettled long after its time (its schema was removed) is given up.
const DUE: &str = "
UPDATE unmatched_update u
   SET next_look_at = CASE WHEN now() < u.expires_at + interval '1 hour'
           THEN now() + $2::bigint * interval '1 millisecond' END
  FROM (SELECT source, update_id FROM unmatched_update
         WHERE next_look_at <= now() ORDER BY next_look_at LIMIT $1 FOR UPDATE SKIP LOCKED) AS due
 WHERE u.source = due.source AND u.update_id = due.update_id
RETURNING u.payload";

/// Those that have expired are kept for people for 30 days.
const PRUNE: &str = "
DELETE FROM unmatched_update u
 USING (SELECT source, update_id FROM unmatched_update
         WHERE next_look_at IS NULL AND expires_at < now() - interval '30 days'
         ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED) AS old
 WHERE u.source = old.source AND u.update_id = old.update_id";

/// Keeps the updates of a batch that matched nothing, forgets those that did.
pub(super) async fn keep(
    tx: &Transaction<'_>,
    updates: &[Update<'_>],
    applied: &mut [Applied],
    expiry: Duration,
) -> Result<(), RecordError> {
    let (mut kept, mut matched, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for (one, result) in updates.iter().zip(applied.iter()) {
        if *result != Applied::Unmatched {
            matched.push(key(one));
        } else if seen.insert(key(one)) {
            kept.push(one);
        }
    }
    let (sources, ids): (Vec<&str>, Vec<&str>) = matched.into_iter().unzip();
    query(tx, "unmatched_forget", FORGET, &[&sources, &ids]).await?;
    if kept.is_empty() {
        return Ok(());
    }
    let (sources, ids): (Vec<&str>, Vec<&str>) = kept.iter().map(|one| key(one)).unzip();
    let kinds: Vec<&str> = kept.iter().map(|one| one.update.fact.as_str()).collect();
    let notifications: Vec<Option<Uuid>> = kept.iter().map(|one| cancelled(&one.update.fact)).collect();
    let payloads: Vec<&[u8]> = kept.iter().map(|one| *one.payload.expose()).collect();
    let expiry_ms = i64::try_from(expiry.as_millis()).unwrap_or(i64::MAX);
    let callers: Vec<Option<&str>> = kept.iter().map(|one| only_of(&one.update.fact)).collect();
    let rows = query(
        tx,
        "unmatched_keep",
        KEEP,
        &[&sources, &ids, &kinds, &notifications, &payloads, &expiry_ms, &callers],
    )
    .await?;
    for row in rows.iter().filter(|row| row.get::<_, bool>("expired")) {
        let expired: (&str, &str) = (row.try_get("source")?, row.try_get("update_id")?);
        for (one, result) in updates.iter().zip(applied.iter_mut()) {
            if key(one) == expired && *result == Applied::Unmatched {
                *result = Applied::Expired;
            }
        }
    }
    Ok(())
}

fn key<'a>(one: &Update<'a>) -> (&'a str, &'a str) {
    (&one.update.source, &one.update.update_id)
}

/// The claim looks for cancellations by what they cancel.
const fn cancelled(fact: &Fact) -> Option<Uuid> {
    match fact {
        Fact::Cancelled { notification_id, .. } => Some(notification_id.0),
        _ => None,
    }
}

/// The caller for whose notification alone a cancellation counts.
fn only_of(fact: &Fact) -> Option<&str> {
    match fact {
        Fact::Cancelled { caller, .. } => caller.as_deref(),
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

    /// Forgets updates that have long expired, at most `limit`.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn prune_unmatched(&self, limit: usize) -> Result<u64, RecordError> {
        let client = self.client().await?;
        let statement = client.prepare_cached(PRUNE).await.map_err(RecordError::at("unmatched_prune"))?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        client.execute(&statement, &[&limit]).await.map_err(RecordError::at("unmatched_prune"))
    }
}

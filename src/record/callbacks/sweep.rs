//! Events that have been tried for long enough, and ended ones that are forgotten.

use std::time::Duration;

use super::{OfCaller, millis};
use crate::record::{RecordError, Store};

/// Events that were parked.
pub type Parked = Vec<OfCaller>;

/// One that was tried for its whole time. Only one that nothing is before: what follows
/// of its notification is due for the first time then.
const PARK_OVERDUE: &str = "
WITH old AS MATERIALIZED (
    SELECT c.notification_id, c.sequence FROM callback_event c
     WHERE c.state = 'pending' AND c.first_due_at <= now() - $1::bigint * interval '1 millisecond'
       AND (c.owner IS NULL OR c.due_at <= now())
       AND NOT EXISTS (
           SELECT FROM callback_event b
            WHERE b.notification_id = c.notification_id AND b.sequence < c.sequence AND b.state = 'pending')
     ORDER BY c.first_due_at LIMIT $2
       FOR UPDATE OF c SKIP LOCKED
), parked AS (
    UPDATE callback_event c SET state = 'parked', owner = NULL, ended_at = now()
      FROM old WHERE c.notification_id = old.notification_id AND c.sequence = old.sequence
    RETURNING c.caller
), next AS (
    UPDATE callback_event n SET first_due_at = now(), due_at = least(n.due_at, now())
      FROM old
     WHERE n.notification_id = old.notification_id AND n.sequence > old.sequence
       AND n.state = 'pending' AND n.owner IS NULL
)
SELECT caller, count(*) AS events FROM parked GROUP BY caller";

/// All that is pending for an end that wants nothing any more.
const PARK_DISABLED: &str = "
WITH gone AS MATERIALIZED (
    SELECT c.notification_id, c.sequence
      FROM callback_endpoint e
      JOIN callback_event c ON c.caller = e.caller AND c.state = 'pending'
     WHERE e.disabled_at IS NOT NULL AND (c.owner IS NULL OR c.due_at <= now())
     LIMIT $1
       FOR UPDATE OF c SKIP LOCKED
), parked AS (
    UPDATE callback_event c SET state = 'parked', owner = NULL, ended_at = now()
      FROM gone WHERE c.notification_id = gone.notification_id AND c.sequence = gone.sequence
    RETURNING c.caller
)
SELECT caller, count(*) AS events FROM parked GROUP BY caller";

const PRUNE: &str = "
DELETE FROM callback_event c
 USING (SELECT notification_id, sequence FROM callback_event
         WHERE state = $1 AND ended_at < now() - $2::bigint * interval '1 millisecond'
         ORDER BY ended_at LIMIT $3 FOR UPDATE SKIP LOCKED) AS old
 WHERE c.notification_id = old.notification_id AND c.sequence = old.sequence";

impl Store {
    /// Parks what was tried for `give_up_after`, and what nobody wants any more; at most
    /// `limit` of either.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn park_callbacks(&self, give_up_after: Duration, limit: i64) -> Result<Parked, RecordError> {
        let at = RecordError::at("callback_park");
        let client = self.client().await?;
        let overdue = client.prepare_cached(PARK_OVERDUE).await.map_err(&at)?;
        let disabled = client.prepare_cached(PARK_DISABLED).await.map_err(&at)?;
        let mut rows = client.query(&overdue, &[&millis(give_up_after), &limit]).await.map_err(&at)?;
        rows.extend(client.query(&disabled, &[&limit]).await.map_err(&at)?);
        let parked = |row: &tokio_postgres::Row| {
            let events: i64 = row.try_get("events")?;
            Ok(OfCaller { caller: row.try_get("caller")?, events: events.unsigned_abs() })
        };
        rows.iter().map(parked).collect()
    }

    /// Forgets delivered events after `delivered`, and parked ones after `parked`; at most
    /// `limit` of either, oldest first. How many were forgotten.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn prune_callbacks(
        &self,
        delivered: Duration,
        parked: Duration,
        limit: i64,
    ) -> Result<u64, RecordError> {
        let at = RecordError::at("callback_prune");
        let client = self.client().await?;
        let statement = client.prepare_cached(PRUNE).await.map_err(&at)?;
        let mut forgotten = 0;
        for (state, age) in [("delivered", delivered), ("parked", parked)] {
            forgotten += client.execute(&statement, &[&state, &millis(age), &limit]).await.map_err(&at)?;
        }
        Ok(forgotten)
    }
}

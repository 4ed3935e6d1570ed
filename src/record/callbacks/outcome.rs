//! What came of a call. Each counts only while the claim is ours.

use std::time::Duration;

use tokio_postgres::types::ToSql;

use super::{CallbackEvent, FAILURES_MAX, millis};
use crate::record::{RecordError, Store};

/// Bounds of the pauses between tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retry {
    /// After the first failure.
    pub initial: Duration,
    /// Longest one; each is twice as long as the one before until then.
    pub max: Duration,
}

/// The next event of the notification is due for the first time.
const DELIVERED: &str = "
WITH ended AS (
    UPDATE callback_event SET state = 'delivered', owner = NULL, ended_at = now()
     WHERE notification_id = $1 AND sequence = $2 AND owner = $3 AND epoch = $4 AND state = 'pending'
    RETURNING caller
), next AS (
    UPDATE callback_event n SET first_due_at = now(), due_at = least(n.due_at, now())
      FROM ended
     WHERE n.notification_id = $1 AND n.sequence > $2 AND n.state = 'pending' AND n.owner IS NULL
), opened AS (
    UPDATE callback_endpoint e SET failures = 0, failing_since = NULL, last_failure = NULL
      FROM ended WHERE e.caller = ended.caller AND e.failures > 0
)
SELECT FROM ended";

/// Half of each pause is certain. What follows of the notification waits with it, so that
/// nobody looks at it in vain. Of calls that fail together only the first ones count: an
/// end that is known to fail is judged by its probes.
const FAILED: &str = "
WITH failed AS (
    UPDATE callback_event c
       SET owner = NULL,
           due_at = now() + greatest($8::bigint,
               least($6::bigint, $5::bigint * 2 ^ least(c.attempts - 1, 30)) * (0.5 + random() / 2))
               * interval '1 millisecond'
     WHERE notification_id = $1 AND sequence = $2 AND owner = $3 AND epoch = $4 AND state = 'pending'
    RETURNING caller, due_at
), followers AS (
    UPDATE callback_event n SET due_at = failed.due_at
      FROM failed
     WHERE n.notification_id = $1 AND n.sequence > $2 AND n.state = 'pending' AND n.owner IS NULL
), endpoint AS (
    UPDATE callback_endpoint e
       SET failures = CASE WHEN $8::bigint > 0 THEN greatest(e.failures + 1, $9) ELSE e.failures + 1 END,
           failing_since = coalesce(e.failing_since, now()),
           last_failure = $7,
           probe_at = now() + greatest($8::bigint,
               least($6::bigint, $5::bigint * 2 ^ least(greatest(e.failures + 1 - $9, 0), 30))
               * (0.5 + random() / 2)) * interval '1 millisecond'
      FROM failed
     WHERE e.caller = failed.caller AND ($10 OR e.failures < $9 OR e.probe_at <= now())
)
SELECT FROM failed";

/// What follows is parked by the sweep.
const GONE: &str = "
WITH ended AS (
    UPDATE callback_event SET state = 'parked', owner = NULL, ended_at = now()
     WHERE notification_id = $1 AND sequence = $2 AND owner = $3 AND epoch = $4 AND state = 'pending'
    RETURNING caller
), endpoint AS (
    UPDATE callback_endpoint e
       SET disabled_at = coalesce(e.disabled_at, now()), failures = e.failures + 1,
           failing_since = coalesce(e.failing_since, now()), last_failure = '410'
      FROM ended WHERE e.caller = ended.caller
)
SELECT FROM ended";

/// A try that a stop has cut short is none.
const RELEASED: &str = "
WITH released AS (
    UPDATE callback_event SET owner = NULL, due_at = now(), attempts = attempts - 1
     WHERE notification_id = $1 AND sequence = $2 AND owner = $3 AND epoch = $4 AND state = 'pending'
    RETURNING caller
), endpoint AS (
    UPDATE callback_endpoint e SET probe_at = now()
      FROM released WHERE $5 AND e.caller = released.caller
)
SELECT FROM released";

impl Store {
    /// The end has taken it. False: the claim was lost.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn callback_delivered(&self, event: &CallbackEvent) -> Result<bool, RecordError> {
        self.end_callback("callback_delivered", DELIVERED, event, &[]).await
    }

    /// The end has not taken it, for this reason; it is tried again after a pause, which
    /// is at least `asked`. False: the claim was lost.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn callback_failed(
        &self,
        event: &CallbackEvent,
        why: &str,
        asked: Option<Duration>,
        retry: Retry,
    ) -> Result<bool, RecordError> {
        let (initial, max) = (millis(retry.initial), millis(retry.max));
        let asked = millis(asked.unwrap_or_default());
        let more: [&(dyn ToSql + Sync); 6] = [&initial, &max, &why, &asked, &FAILURES_MAX, &event.probes];
        self.end_callback("callback_failed", FAILED, event, &more).await
    }

    /// The end wants nothing any more: it is disabled, and the event parked. False: the
    /// claim was lost.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn callback_gone(&self, event: &CallbackEvent) -> Result<bool, RecordError> {
        self.end_callback("callback_gone", GONE, event, &[]).await
    }

    /// It was not tried to its end: anybody may take it at once. False: the claim was lost.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn release_callback(&self, event: &CallbackEvent) -> Result<bool, RecordError> {
        self.end_callback("callback_released", RELEASED, event, &[&event.probes]).await
    }

    async fn end_callback(
        &self,
        name: &'static str,
        sql: &str,
        event: &CallbackEvent,
        more: &[&(dyn ToSql + Sync)],
    ) -> Result<bool, RecordError> {
        let at = RecordError::at(name);
        let client = self.client().await?;
        let statement = client.prepare_cached(sql).await.map_err(&at)?;
        let change = &event.change;
        let claim: [&(dyn ToSql + Sync); 4] =
            [&change.notification_id.0, &change.sequence, &self.owner.0, &event.epoch];
        let parameters: Vec<&(dyn ToSql + Sync)> = claim.iter().chain(more).copied().collect();
        Ok(!client.query(&statement, &parameters).await.map_err(&at)?.is_empty())
    }
}

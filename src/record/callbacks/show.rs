//! What operators see of callbacks, and the replay of what was parked.

use std::time::Duration;

use deadpool_postgres::Pool;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::{FAILURES_MAX, duration};
use crate::record::audit::{self, AuditEntry};
use crate::record::{RecordError, Store};

/// How an end stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointState {
    /// It takes what it is given.
    Open,
    /// It is tried with one event at a time.
    Failing,
    /// It answered 410: nothing is tried, everything is parked.
    Disabled,
    /// No longer configured: nothing is tried.
    Removed,
}

impl EndpointState {
    /// The word for people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Failing => "failing",
            Self::Disabled => "disabled",
            Self::Removed => "removed",
        }
    }
}

/// One end with what waits for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownEndpoint {
    /// Whose it is.
    pub caller: String,
    /// How it stands.
    pub state: EndpointState,
    /// Events that are still to be delivered.
    pub pending: i64,
    /// Age of the change that the oldest of them tells of; `None`: there is none.
    pub oldest_pending: Option<Duration>,
    /// Events that were given up, and can be replayed.
    pub parked: i64,
    /// Since when it has taken nothing; `None`: the last call was taken.
    pub failing_since: Option<Timestamp>,
    /// What was wrong with the last call: an HTTP status or a word of ours.
    pub last_failure: Option<String>,
}

/// Events that could be delivered now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CallbackDepth {
    /// How many; an end that fails counts one at most.
    pub due: i64,
    /// For how long the oldest of them has been due.
    pub oldest: Option<Duration>,
}

/// What to replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replay<'a> {
    /// Of which end.
    pub caller: &'a str,
    /// Only changes at or after this time.
    pub from: Option<Timestamp>,
    /// How many events at most, oldest change first.
    pub limit: i64,
}

/// What a replay did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replayed {
    /// Events that are pending again.
    pub events: u64,
    /// The end was disabled before.
    pub was_disabled: bool,
}

const LIST: &str = "
SELECT e.caller, e.failing_since, e.last_failure, e.failures >= $1 AS failing,
       e.disabled_at IS NOT NULL AS disabled, e.removed_at IS NOT NULL AS removed,
       p.pending, p.oldest_ms, k.parked
  FROM callback_endpoint e
 CROSS JOIN LATERAL (
    SELECT count(*) AS pending,
           (extract(epoch FROM now() - min(c.changed_at)) * 1000)::bigint AS oldest_ms
      FROM callback_event c WHERE c.caller = e.caller AND c.state = 'pending') AS p
 CROSS JOIN LATERAL (
    SELECT count(*) AS parked FROM callback_event c WHERE c.caller = e.caller AND c.state = 'parked') AS k
 WHERE $2::text IS NULL OR e.caller = $2
 ORDER BY e.caller";

const DEPTH: &str = "
SELECT coalesce(sum(d.due), 0)::bigint AS due, max(d.oldest_ms) AS oldest_ms
  FROM callback_endpoint e
 CROSS JOIN LATERAL (
    SELECT CASE WHEN e.failures >= $1 THEN least(count(*), 1) ELSE count(*) END AS due,
           (extract(epoch FROM now() - min(c.due_at)) * 1000)::bigint AS oldest_ms
      FROM callback_event c WHERE c.caller = e.caller AND c.state = 'pending' AND c.due_at <= now()) AS d
 WHERE e.disabled_at IS NULL AND e.removed_at IS NULL AND (e.failures < $1 OR e.probe_at <= now())";

/// Who asks for a replay believes that the end can be called again.
const OPEN: &str = "
UPDATE callback_endpoint e
   SET disabled_at = NULL, failures = 0, failing_since = NULL, last_failure = NULL, probe_at = now()
  FROM (SELECT caller, disabled_at IS NOT NULL AS was_disabled FROM callback_endpoint
         WHERE caller = $1 FOR UPDATE) AS o
 WHERE e.caller = o.caller
RETURNING o.was_disabled";

const REPLAY: &str = "
UPDATE callback_event c
   SET state = 'pending', attempts = 0, first_due_at = now(), due_at = now(), ended_at = NULL
  FROM (SELECT notification_id, sequence FROM callback_event
         WHERE caller = $1 AND state = 'parked' AND ($2::timestamptz IS NULL OR changed_at >= $2)
         ORDER BY changed_at, sequence LIMIT $3 FOR UPDATE) AS again
 WHERE c.notification_id = again.notification_id AND c.sequence = again.sequence";

impl Store {
    /// What could be delivered now.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn callback_depth(&self) -> Result<CallbackDepth, RecordError> {
        let at = RecordError::at("callback_depth");
        let client = self.client().await?;
        let statement = client.prepare_cached(DEPTH).await.map_err(&at)?;
        let row = client.query_one(&statement, &[&FAILURES_MAX]).await.map_err(&at)?;
        let oldest: Option<i64> = row.try_get("oldest_ms")?;
        Ok(CallbackDepth { due: row.try_get("due")?, oldest: oldest.map(duration) })
    }
}

/// Every end that is or was configured, by name; with a caller only that one's.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn list(pool: &Pool, caller: Option<&str>) -> Result<Vec<ShownEndpoint>, RecordError> {
    let at = RecordError::at("callback_list");
    let client = pool.get().await?;
    let statement = client.prepare_cached(LIST).await.map_err(&at)?;
    let rows = client.query(&statement, &[&FAILURES_MAX, &caller]).await.map_err(&at)?;
    rows.iter().map(shown).collect()
}

fn shown(row: &Row) -> Result<ShownEndpoint, RecordError> {
    let is = |column: &str| row.try_get::<_, bool>(column);
    let state = if is("removed")? {
        EndpointState::Removed
    } else if is("disabled")? {
        EndpointState::Disabled
    } else if is("failing")? {
        EndpointState::Failing
    } else {
        EndpointState::Open
    };
    let oldest: Option<i64> = row.try_get("oldest_ms")?;
    Ok(ShownEndpoint {
        caller: row.try_get("caller")?,
        state,
        pending: row.try_get("pending")?,
        oldest_pending: oldest.map(duration),
        parked: row.try_get("parked")?,
        failing_since: row.try_get("failing_since")?,
        last_failure: row.try_get("last_failure")?,
    })
}

/// Makes parked events pending again, and opens their end if it was disabled; with its
/// audit line. `None`: no such end is or was configured.
///
/// # Errors
/// As [`RecordError`] tells; then nothing has changed.
pub async fn replay(pool: &Pool, by: &str, what: Replay<'_>) -> Result<Option<Replayed>, RecordError> {
    let at = RecordError::at("callback_replay");
    let mut client = pool.get().await?;
    let tx = client.transaction().await.map_err(&at)?;
    let Some(opened) = tx.query_opt(OPEN, &[&what.caller]).await.map_err(&at)? else { return Ok(None) };
    let events = tx.execute(REPLAY, &[&what.caller, &what.from, &what.limit]).await.map_err(&at)?;
    let from = what.from.map_or_else(String::new, |from| format!(", changed at or after {from}"));
    audit::append(
        &tx,
        &AuditEntry {
            caller: by,
            action: "OperationsService/ReplayCallbacks",
            subject_kind: "callback",
            subject: what.caller,
            detail: Some(&format!("{events} events{from}")),
        },
    )
    .await?;
    tx.commit().await.map_err(&at)?;
    Ok(Some(Replayed { events, was_disabled: opened.try_get("was_disabled")? }))
}

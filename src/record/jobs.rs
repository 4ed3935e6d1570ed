//! The general queue as it is asked: a job is put into it, looked at, called off, and
//! begun anew. How processes work on it is in
//! [`super::job_turns`], what comes back by itself in [`super::job_upkeep`].
//!
//! Two calls that are about the same key of a kind follow one another, so that there is
//! at most one job of it that has not ended.

use std::time::Duration;

use deadpool_postgres::{Pool, Transaction};
use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::audit::{self, AuditEntry};
use super::cases::query;
use super::error::RecordError;
use super::job_turns::millis;
use crate::domain::job::{JobKind, JobState};
use crate::metrics;

/// A job that is asked for.
#[derive(Debug, Clone, Copy)]
pub struct NewJob<'a> {
    /// What is to be done.
    pub kind: JobKind,
    /// Opaque, no health information. While a job of this kind and key has not ended,
    /// the same key means that job.
    pub key: &'a str,
    /// No health information.
    pub arguments: &'a Value,
    /// Who asks.
    pub requested_by: &'a str,
}

/// What came of asking for a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enqueued {
    /// Which job.
    pub job_id: Uuid,
    /// False: it was there already.
    pub is_new: bool,
    /// What the job was asked with, which may differ where it is not new.
    pub arguments: Value,
}

/// A job as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct JobView {
    /// Which one.
    pub job_id: Uuid,
    /// What is done.
    pub kind: JobKind,
    /// Once a kind while it has not ended.
    pub key: String,
    /// Where it stands.
    pub state: JobState,
    /// Lower goes first.
    pub priority: i16,
    /// Attempts that count, and at most.
    pub attempts: (i32, i32),
    /// Longest time of one attempt.
    pub timeout: Duration,
    /// What it was asked with.
    pub arguments: Value,
    /// How far it is, in the words of its kind.
    pub progress: Value,
    /// Why the last attempt did not succeed; a stable word.
    pub fault: Option<String>,
    /// Which process works on it.
    pub owner: Option<Uuid>,
    /// Queued: when it is due. Running: the end of the lease.
    pub look_at: Option<Timestamp>,
    /// Who asked for it.
    pub requested_by: String,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// First attempt.
    pub started_at: Option<Timestamp>,
    /// When it was done, parked or cancelled.
    pub ended_at: Option<Timestamp>,
    /// Last change.
    pub updated_at: Timestamp,
}

/// Which jobs, newest first.
#[derive(Debug, Clone, Copy, Default)]
pub struct ListQuery {
    /// Of this kind only.
    pub kind: Option<JobKind>,
    /// In this state only.
    pub state: Option<JobState>,
    /// Older than this one.
    pub after: Option<Uuid>,
    /// At most so many.
    pub limit: i64,
}

/// What came of steering a job.
#[derive(Debug, Clone, PartialEq)]
pub enum Steered {
    /// As it stands now.
    Stored(Box<JobView>),
    /// There is no such job.
    NotFound,
    /// It is in a state in which this cannot be done.
    State(JobState),
    /// Another job with its key has not ended.
    Replaced(Uuid),
}

const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('job:' || $1 || ':' || $2, 0))";

const PRESENT: &str = "
SELECT job_id, arguments FROM job WHERE kind = $1 AND job_key = $2 AND state IN ('queued', 'running')";

const INSERT: &str = "
INSERT INTO job (job_id, kind, job_key, state, priority, attempts_max, timeout_ms, arguments, progress, look_at,
                 requested_by)
VALUES ($1, $2, $3, 'queued', $4, $5, $6, $7, '{}', now(), $8)";

/// Puts a job into the queue, in the caller's transaction; a job of the same kind and
/// key that has not ended is taken in its place.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn enqueue(tx: &Transaction<'_>, job: NewJob<'_>) -> Result<Enqueued, RecordError> {
    lock(tx, job.kind, job.key).await?;
    let kind = job.kind.as_str();
    if let Some(row) = query(tx, "job_present", PRESENT, &[&kind, &job.key]).await?.first() {
        let (job_id, arguments) = (row.try_get("job_id")?, row.try_get("arguments")?);
        return Ok(Enqueued { job_id, is_new: false, arguments });
    }
    let (job_id, plan) = (Uuid::now_v7(), job.kind.plan());
    let timeout_ms = millis(plan.timeout);
    query(
        tx,
        "job_enqueue",
        INSERT,
        &[
            &job_id,
            &kind,
            &job.key,
            &plan.priority,
            &plan.attempts_max,
            &timeout_ms,
            job.arguments,
            &job.requested_by,
        ],
    )
    .await?;
    Ok(Enqueued { job_id, is_new: true, arguments: job.arguments.clone() })
}

async fn lock(tx: &Transaction<'_>, kind: JobKind, key: &str) -> Result<(), RecordError> {
    query(tx, "job_lock", LOCK, &[&kind.as_str(), &key]).await?;
    Ok(())
}

const SELECT: &str = "
SELECT job_id, kind, job_key, state, priority, attempts, attempts_max, timeout_ms, arguments, progress, fault, owner,
       look_at, requested_by, created_at, started_at, ended_at, updated_at
  FROM job";

const LIST: &str = "
 WHERE ($1::text IS NULL OR kind = $1) AND ($2::text IS NULL OR state = $2) AND ($3::uuid IS NULL OR job_id < $3)
   AND kind = ANY($4)
 ORDER BY job_id DESC LIMIT $5";

/// See [`ListQuery`]. Kinds that only a newer version knows are passed over.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn list(pool: &Pool, wanted: ListQuery) -> Result<Vec<JobView>, RecordError> {
    let at = RecordError::at("job_list");
    let client = pool.get().await?;
    let statement = client.prepare_cached(&format!("{SELECT}{LIST}")).await.map_err(&at)?;
    let (kind, state) = (wanted.kind.map(JobKind::as_str), wanted.state.map(JobState::as_str));
    let rows = client
        .query(&statement, &[&kind, &state, &wanted.after, &kinds(), &wanted.limit])
        .await
        .map_err(&at)?;
    rows.iter().map(view).collect()
}

/// One job; `None`: there is none.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn get(pool: &Pool, job_id: Uuid) -> Result<Option<JobView>, RecordError> {
    let mut client = pool.get().await?;
    let tx = client.transaction().await.map_err(RecordError::at("job_get"))?;
    one(&tx, job_id).await
}

async fn one(tx: &Transaction<'_>, job_id: Uuid) -> Result<Option<JobView>, RecordError> {
    let text = format!("{SELECT} WHERE job_id = $1 AND kind = ANY($2)");
    query(tx, "job_get", &text, &[&job_id, &kinds()]).await?.first().map(view).transpose()
}

const CANCEL: &str = "
UPDATE job SET state = 'cancelled', look_at = NULL, owner = NULL, ended_at = now(), updated_at = now()
 WHERE job_id = $1 AND state IN ('queued', 'running', 'parked')";

const RETRY: &str = "
UPDATE job SET state = 'queued', look_at = now(), owner = NULL, attempts = 0, ended_at = NULL, updated_at = now()
 WHERE job_id = $1 AND state = 'parked'";

/// What a person does with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Steering {
    Cancel,
    Retry,
}

/// Calls a job off. A process that works on it stops within a few seconds; what it has
/// done stays done.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn cancel(pool: &Pool, job_id: Uuid, caller: &str) -> Result<Steered, RecordError> {
    steer(pool, job_id, caller, Steering::Cancel).await
}

/// Begins a parked job anew, with all of its attempts, where it was.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn retry(pool: &Pool, job_id: Uuid, caller: &str) -> Result<Steered, RecordError> {
    steer(pool, job_id, caller, Steering::Retry).await
}

async fn steer(pool: &Pool, job_id: Uuid, caller: &str, how: Steering) -> Result<Steered, RecordError> {
    let at = RecordError::at("job_steer");
    let mut client = pool.get().await?;
    let tx = client.transaction().await.map_err(&at)?;
    let Some(found) = one(&tx, job_id).await? else { return Ok(Steered::NotFound) };
    lock(&tx, found.kind, &found.key).await?;
    let (action, statement) = match how {
        Steering::Cancel => ("OperationsService/CancelJob", CANCEL),
        Steering::Retry => ("OperationsService/RetryJob", RETRY),
    };
    if how == Steering::Retry {
        let rows = query(&tx, "job_present", PRESENT, &[&found.kind.as_str(), &found.key]).await?;
        let present: Option<Uuid> = rows.first().map(|row| row.try_get("job_id")).transpose()?;
        if let Some(other) = present.filter(|other| *other != job_id) {
            return Ok(Steered::Replaced(other));
        }
    }
    let written = tx.execute(statement, &[&job_id]).await.map_err(&at)?;
    let now = one(&tx, job_id).await?.ok_or_else(|| RecordError::bug("a job was there and is not"))?;
    if written == 0 {
        return Ok(Steered::State(now.state));
    }
    let subject = job_id.to_string();
    let detail = Some(now.kind.as_str());
    audit::append(&tx, &AuditEntry { caller, action, subject_kind: "job", subject: &subject, detail })
        .await?;
    tx.commit().await.map_err(&at)?;
    if how == Steering::Cancel {
        metrics::job(now.kind.as_str(), "cancelled");
    }
    Ok(Steered::Stored(Box::new(now)))
}

/// The kinds that this version knows.
pub(super) fn kinds() -> Vec<&'static str> {
    JobKind::ALL.iter().map(|kind| kind.as_str()).collect()
}

fn view(row: &Row) -> Result<JobView, RecordError> {
    let timeout_ms: i64 = row.try_get("timeout_ms")?;
    Ok(JobView {
        job_id: row.try_get("job_id")?,
        kind: word(row, "kind", JobKind::parse)?,
        key: row.try_get("job_key")?,
        state: word(row, "state", JobState::parse)?,
        priority: row.try_get("priority")?,
        attempts: (row.try_get("attempts")?, row.try_get("attempts_max")?),
        timeout: Duration::from_millis(u64::try_from(timeout_ms).unwrap_or_default()),
        arguments: row.try_get("arguments")?,
        progress: row.try_get("progress")?,
        fault: row.try_get("fault")?,
        owner: row.try_get("owner")?,
        look_at: row.try_get("look_at")?,
        requested_by: row.try_get("requested_by")?,
        created_at: row.try_get("created_at")?,
        started_at: row.try_get("started_at")?,
        ended_at: row.try_get("ended_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}

pub(super) fn word<T>(row: &Row, column: &str, parse: fn(&str) -> Option<T>) -> Result<T, RecordError> {
    parse(row.try_get(column)?).ok_or_else(|| {
        RecordError::bug(format!("column {column} has a value that this version does not know"))
    })
}

//! The general queue as processes work on it: a due job is claimed under a lease, held,
//! and ended. Who has lost the lease writes nothing.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::error::RecordError;
use super::jobs::word;
use super::store::Store;
use crate::domain::job::{JobKind, JobState};
use crate::metrics;

/// A due job that is ours until the lease ends.
#[derive(Debug, Clone, PartialEq)]
pub struct ClaimedJob {
    /// Which one.
    pub job_id: Uuid,
    /// What is to be done.
    pub kind: JobKind,
    /// Number of this claim.
    pub epoch: i32,
    /// Number of this attempt, from 1.
    pub attempt: i32,
    /// Longest time of the attempt.
    pub timeout: Duration,
    /// What it was asked with.
    pub arguments: Value,
    /// Where an earlier attempt has come to.
    pub progress: Value,
    /// Who asked for it.
    pub requested_by: String,
}

/// What a look at the queue gave.
#[derive(Debug, Clone, PartialEq)]
pub enum Claimed {
    /// It is ours.
    Ours(Box<ClaimedJob>),
    /// Its owner died on its last attempt: it is parked.
    Parked(Uuid, JobKind),
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobEnd {
    /// It is done.
    Done,
    /// The attempt counts; the job is due again after this pause, or parked after its
    /// last attempt. A stable word says why.
    Failed(&'static str, Duration),
    /// No attempt can succeed: parked at once.
    Hopeless(&'static str),
    /// What it is about is gone: it is not wanted any more.
    Moot(&'static str),
    /// Something that it needs is away; the attempt does not count.
    Postponed(&'static str, Duration),
    /// This process stops; the attempt does not count, and any other may go on at once.
    Released,
}

impl JobEnd {
    /// The word that stands for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed(..) => "failed",
            Self::Hopeless(_) => "hopeless",
            Self::Moot(_) => "moot",
            Self::Postponed(..) => "postponed",
            Self::Released => "released",
        }
    }

    const fn fault(self) -> Option<&'static str> {
        match self {
            Self::Failed(fault, _)
            | Self::Hopeless(fault)
            | Self::Moot(fault)
            | Self::Postponed(fault, _) => Some(fault),
            Self::Done | Self::Released => None,
        }
    }

    const fn pause(self) -> Duration {
        match self {
            Self::Failed(_, pause) | Self::Postponed(_, pause) => pause,
            Self::Done | Self::Hopeless(_) | Self::Moot(_) | Self::Released => Duration::ZERO,
        }
    }
}

// An attempt of a dead owner counts. When it was the last one, nobody tries again.
const CLAIM: &str = "
WITH due AS (
    SELECT job_id, attempts >= attempts_max AS is_over FROM job
     WHERE look_at <= now() AND kind = ANY($3)
     ORDER BY priority, look_at
     LIMIT 1
       FOR UPDATE SKIP LOCKED
)
UPDATE job j
   SET state = CASE WHEN is_over THEN 'parked' ELSE 'running' END,
       attempts = j.attempts + CASE WHEN is_over THEN 0 ELSE 1 END,
       owner = CASE WHEN NOT is_over THEN $1::uuid END,
       epoch = j.epoch + 1,
       look_at = CASE WHEN NOT is_over THEN now() + $2::bigint * interval '1 millisecond' END,
       fault = CASE WHEN j.state = 'running' THEN 'owner_died' ELSE j.fault END,
       started_at = coalesce(j.started_at, now()),
       ended_at = CASE WHEN is_over THEN now() END,
       updated_at = now()
  FROM due
 WHERE j.job_id = due.job_id
RETURNING j.job_id, j.kind, j.state, j.epoch, j.attempts, j.timeout_ms, j.arguments, j.progress, j.requested_by";

const HOLD: &str = "
UPDATE job
   SET look_at = now() + $4::bigint * interval '1 millisecond', progress = coalesce($5::jsonb, progress),
       updated_at = now()
 WHERE job_id = $1 AND owner = $2 AND epoch = $3 AND state = 'running' AND look_at > now()";

const END: &str = "
WITH ended AS (
    SELECT job_id,
           CASE WHEN $4::text = 'done' THEN 'done'
                WHEN $4 = 'moot' THEN 'cancelled'
                WHEN $4 = 'hopeless' OR ($4 = 'failed' AND attempts >= attempts_max) THEN 'parked'
                ELSE 'queued' END AS state
      FROM job
     WHERE job_id = $1 AND owner = $2 AND epoch = $3 AND state = 'running' AND look_at > now()
       FOR UPDATE
)
UPDATE job j
   SET state = e.state,
       attempts = j.attempts - CASE WHEN $4 IN ('released', 'postponed') THEN 1 ELSE 0 END,
       owner = NULL,
       look_at = CASE WHEN e.state = 'queued' THEN now() + $6::bigint * interval '1 millisecond' END,
       fault = CASE $4 WHEN 'done' THEN NULL WHEN 'released' THEN j.fault ELSE $5::text END,
       progress = coalesce($7::jsonb, j.progress),
       ended_at = CASE WHEN e.state <> 'queued' THEN now() END,
       updated_at = now()
  FROM ended e
 WHERE j.job_id = e.job_id
RETURNING j.state";

impl Store {
    /// Claims a due job of one of these kinds for as long as `lease`: by priority, then by
    /// due time. Jobs of owners that died are among them once their leases have run out.
    /// `None`: nothing is due.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn claim_job(
        &self,
        kinds: &[JobKind],
        lease: Duration,
    ) -> Result<Option<Claimed>, RecordError> {
        let at = RecordError::at("job_claim");
        let begun = Instant::now();
        let kinds: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
        let client = self.client().await?;
        let statement = client.prepare_cached(CLAIM).await.map_err(&at)?;
        let rows = client.query(&statement, &[&self.owner.0, &millis(lease), &kinds]).await.map_err(&at)?;
        metrics::statement("job_claim", rows.len(), begun.elapsed());
        let Some(row) = rows.first() else { return Ok(None) };
        Ok(Some(match word(row, "state", JobState::parse)? {
            JobState::Parked => Claimed::Parked(row.try_get("job_id")?, word(row, "kind", JobKind::parse)?),
            _ => Claimed::Ours(Box::new(claimed(row)?)),
        }))
    }

    /// Holds a claimed job for another `lease`, and writes down how far it is. False: the
    /// job is not ours any more, or was called off.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn hold_job(
        &self,
        job: &ClaimedJob,
        lease: Duration,
        progress: Option<&Value>,
    ) -> Result<bool, RecordError> {
        let at = RecordError::at("job_hold");
        let client = self.client().await?;
        let statement = client.prepare_cached(HOLD).await.map_err(&at)?;
        let (job_id, epoch) = (&job.job_id, &job.epoch);
        let held =
            client.execute(&statement, &[job_id, &self.owner.0, epoch, &millis(lease), &progress]).await;
        Ok(held.map_err(&at)? == 1)
    }

    /// Ends an attempt. Where the job stands then; `None`: it was not ours any more, and
    /// nothing is written.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn end_job(
        &self,
        job: &ClaimedJob,
        end: JobEnd,
        progress: Option<&Value>,
    ) -> Result<Option<JobState>, RecordError> {
        let at = RecordError::at("job_end");
        let client = self.client().await?;
        let statement = client.prepare_cached(END).await.map_err(&at)?;
        let rows = client
            .query(
                &statement,
                &[
                    &job.job_id,
                    &self.owner.0,
                    &job.epoch,
                    &end.as_str(),
                    &end.fault(),
                    &millis(end.pause()),
                    &progress,
                ],
            )
            .await
            .map_err(&at)?;
        rows.first().map(|row| word(row, "state", JobState::parse)).transpose()
    }
}

fn claimed(row: &Row) -> Result<ClaimedJob, RecordError> {
    let timeout_ms: i64 = row.try_get("timeout_ms")?;
    Ok(ClaimedJob {
        job_id: row.try_get("job_id")?,
        kind: word(row, "kind", JobKind::parse)?,
        epoch: row.try_get("epoch")?,
        attempt: row.try_get("attempts")?,
        timeout: Duration::from_millis(u64::try_from(timeout_ms).unwrap_or_default()),
        arguments: row.try_get("arguments")?,
        progress: row.try_get("progress")?,
        requested_by: row.try_get("requested_by")?,
    })
}

pub(super) fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

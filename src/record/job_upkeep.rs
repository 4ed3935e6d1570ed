//! The general queue as it is kept: jobs that come back by themselves, and what is
//! forgotten.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::error::RecordError;
use super::job_turns::millis;
use super::store::Store;
use crate::domain::job::JobKind;
use crate::metrics;

/// Ended jobs of one statement that forgets them.
const FORGET_MAX: i64 = 1_000;
/// How long ended jobs are kept.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// Who asks for jobs that come back by themselves.
const OURSELVES: &str = "patient-notify";

/// One of each kind that comes back by itself, unless one waits or runs: the pause counts
/// from the end of the last one, however it ended.
const SCHEDULE: &str = "
INSERT INTO job (job_id, kind, job_key, state, priority, attempts_max, timeout_ms, arguments, progress, look_at,
                 requested_by)
SELECT $1, $2, '', 'queued', $3, $4, $5, '{}', '{}',
       coalesce((SELECT max(ended_at) FROM job WHERE kind = $2) + $6::bigint * interval '1 millisecond', now()), $7
 WHERE NOT EXISTS (SELECT FROM job WHERE kind = $2 AND state IN ('queued', 'running'))
ON CONFLICT (kind, job_key) WHERE state IN ('queued', 'running') DO NOTHING";

const FORGET: &str = "
DELETE FROM job WHERE job_id IN (
    SELECT job_id FROM job WHERE ended_at < now() - $1::bigint * interval '1 millisecond'
     ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED)";

impl Store {
    /// Sees to it that each kind which comes back by itself has one job that waits or
    /// runs. Any number of processes may ask at any time.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn schedule_jobs(&self) -> Result<(), RecordError> {
        let at = RecordError::at("job_schedule");
        let client = self.client().await?;
        let statement = client.prepare_cached(SCHEDULE).await.map_err(&at)?;
        for kind in JobKind::ALL {
            let plan = kind.plan();
            let Some(repeat) = plan.repeat else { continue };
            let (timeout_ms, repeat_ms) = (millis(plan.timeout), millis(repeat));
            client
                .execute(
                    &statement,
                    &[
                        &Uuid::now_v7(),
                        &kind.as_str(),
                        &plan.priority,
                        &plan.attempts_max,
                        &timeout_ms,
                        &repeat_ms,
                        &OURSELVES,
                    ],
                )
                .await
                .map_err(&at)?;
        }
        Ok(())
    }

    /// Forgets some of the jobs that ended 30 days ago. How many; fewer than a thousand:
    /// there are no more.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn forget_jobs(&self) -> Result<u64, RecordError> {
        let at = RecordError::at("job_forget");
        let begun = Instant::now();
        let client = self.client().await?;
        let statement = client.prepare_cached(FORGET).await.map_err(&at)?;
        let kept_ms = millis(KEPT);
        let forgotten = client.execute(&statement, &[&kept_ms, &FORGET_MAX]).await.map_err(&at)?;
        metrics::statement("job_forget", usize::try_from(forgotten).unwrap_or(0), begun.elapsed());
        Ok(forgotten)
    }
}

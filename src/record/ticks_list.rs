//! Ticks of cron's jobs, for people to look at, and their end.

use deadpool_postgres::Pool;
use jiff::Timestamp;

use super::error::RecordError;
use super::store::Store;
use super::ticks::{Counts, counts};

/// A tick as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TickLine {
    /// Which job.
    pub job: String,
    /// When it was due.
    pub due_at: Timestamp,
    /// Who asked for it, when an operator did.
    pub run_by: Option<String>,
    /// `running`, `done`, `failed` or `skipped`.
    pub state: String,
    /// Why it failed or was skipped.
    pub fault: Option<String>,
    /// Older ticks that were missed and are not run.
    pub passed_over: i32,
    /// When its first runner began.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// What it did.
    pub counts: Counts,
}

const HISTORY: &str = "
SELECT job, due_at, run_by, state, fault, passed_over, started_at, ended_at, counts FROM cron_tick
 WHERE ($1::text IS NULL OR job = $1) ORDER BY due_at DESC, job LIMIT $2";

/// At most `limit` ticks of a job, or of all, newest first.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn history(pool: &Pool, job: Option<&str>, limit: u32) -> Result<Vec<TickLine>, RecordError> {
    let client = pool.get().await?;
    let rows =
        client.query(HISTORY, &[&job, &i64::from(limit)]).await.map_err(RecordError::at("tick_history"))?;
    rows.iter()
        .map(|row| {
            Ok(TickLine {
                job: row.try_get("job")?,
                due_at: row.try_get("due_at")?,
                run_by: row.try_get("run_by")?,
                state: row.try_get("state")?,
                fault: row.try_get("fault")?,
                passed_over: row.try_get("passed_over")?,
                started_at: row.try_get("started_at")?,
                ended_at: row.try_get("ended_at")?,
                counts: counts(&row.try_get("counts")?),
            })
        })
        .collect()
}

// The newest tick of a job's schedule stays: without it the job would begin anew.
const PRUNE: &str = "
DELETE FROM cron_tick t
 USING (SELECT job, due_at FROM cron_tick old
         WHERE old.ended_at < now() - $1::bigint * interval '1 day'
           AND old.due_at < (SELECT max(due_at) FROM cron_tick newest WHERE newest.job = old.job AND NOT newest.manual)
         LIMIT $2 FOR UPDATE SKIP LOCKED) AS old
 WHERE t.job = old.job AND t.due_at = old.due_at";

impl Store {
    /// Forgets ticks that ended so many days ago, at most `limit`. How many those were.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn prune_ticks(&self, days: u32, limit: i64) -> Result<u64, RecordError> {
        let client = self.client().await?;
        let at = RecordError::at("tick_prune");
        client.execute(PRUNE, &[&i64::from(days), &limit]).await.map_err(at)
    }
}

//! Ticks of cron's jobs: won by inserting a row, held by a lease, gone on with by the
//! next runner when theirs died. The database's clock decides.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;

use super::error::RecordError;
use super::store::Store;

/// What a tick has done so far, by words of its job.
pub type Counts = BTreeMap<String, u64>;

/// A tick that is ours until its lease ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tick {
    /// Which job.
    pub job: String,
    /// When it was due; with the job, its identity.
    pub due_at: Timestamp,
    /// Of our lease.
    pub epoch: i32,
    /// Runners before us whose lease ran out.
    pub deaths: i32,
    /// Since its first runner began.
    pub age: Duration,
    /// Where to go on; `None`: at the beginning.
    pub progress: Option<Value>,
    /// What runners before us have done.
    pub counts: Counts,
}

/// What the table says of a job, by the database's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// Now.
    pub now: Timestamp,
    /// The last tick of the schedule, however it ended.
    pub last: Option<Timestamp>,
    /// A tick is running.
    pub busy: bool,
    /// Since a tick was last done, and what it did.
    pub done: Option<(Duration, Counts)>,
}

/// How a tick ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TickEnd {
    /// All of it is done.
    Done,
    /// It cannot be done; a word that says why.
    Failed(&'static str),
}

impl TickEnd {
    /// The state, and a metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed(_) => "failed",
        }
    }

    const fn fault(self) -> Option<&'static str> {
        match self {
            Self::Done => None,
            Self::Failed(fault) => Some(fault),
        }
    }
}

// The last ticks are found from the end of the primary key.
const LOOK: &str = "
SELECT now() AS now,
       (SELECT due_at FROM cron_tick WHERE job = $1 AND NOT manual ORDER BY due_at DESC LIMIT 1) AS last,
       EXISTS (SELECT FROM cron_tick WHERE job = $1 AND state = 'running') AS busy,
       (extract(epoch FROM now() - done.ended_at) * 1000)::bigint AS done_age_ms, done.counts AS done_counts
  FROM (VALUES (1)) AS one (row)
  LEFT JOIN LATERAL (SELECT ended_at, counts FROM cron_tick WHERE job = $1 AND state = 'done'
                      ORDER BY due_at DESC LIMIT 1) AS done ON true";

// One that is running hinders, too: a job runs once at a time.
const WIN: &str = "
INSERT INTO cron_tick (job, due_at, passed_over, manual, run_by, state, owner, lease_until)
VALUES ($1, coalesce($2, now()), $3, $4, $5, 'running', $6, now() + $7::bigint * interval '1 millisecond')
ON CONFLICT DO NOTHING
RETURNING due_at";

const SKIP: &str = "
INSERT INTO cron_tick (job, due_at, passed_over, state, fault, ended_at) VALUES ($1, $2, $3, 'skipped', $4, now())
ON CONFLICT DO NOTHING";

const TAKE_OVER: &str = "
UPDATE cron_tick t
   SET owner = $2, epoch = t.epoch + 1, lease_until = now() + $3::bigint * interval '1 millisecond',
       deaths = t.deaths + (t.owner IS NOT NULL)::integer
  FROM (SELECT job, due_at FROM cron_tick WHERE job = $1 AND state = 'running' AND lease_until <= now()
           FOR UPDATE SKIP LOCKED) AS left_over
 WHERE t.job = left_over.job AND t.due_at = left_over.due_at
RETURNING t.job, t.due_at, t.epoch, t.deaths, t.progress, t.counts,
          (extract(epoch FROM now() - t.started_at) * 1000)::bigint AS age_ms";

const SAVE: &str = "
UPDATE cron_tick SET progress = $5, counts = $6, lease_until = now() + $7::bigint * interval '1 millisecond'
 WHERE job = $1 AND due_at = $2 AND owner = $3 AND epoch = $4 AND state = 'running'";

const GIVE_BACK: &str = "
UPDATE cron_tick SET owner = NULL, lease_until = now() + $5::bigint * interval '1 millisecond'
 WHERE job = $1 AND due_at = $2 AND owner = $3 AND epoch = $4 AND state = 'running'";

const END: &str = "
UPDATE cron_tick SET state = $5, fault = $6, counts = $7, progress = NULL, lease_until = NULL, ended_at = now()
 WHERE job = $1 AND due_at = $2 AND owner = $3 AND epoch = $4 AND state = 'running'";

impl Store {
    /// What is known of a job.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn look_at_job(&self, job: &str) -> Result<Look, RecordError> {
        let at = RecordError::at("tick_look");
        let client = self.client().await?;
        let statement = client.prepare_cached(LOOK).await.map_err(&at)?;
        let row = client.query_one(&statement, &[&job]).await.map_err(&at)?;
        let done_age: Option<i64> = row.try_get("done_age_ms")?;
        let done_counts: Option<Value> = row.try_get("done_counts")?;
        let done = done_age.zip(done_counts).map(|(age, done)| (positive_ms(age), counts(&done)));
        Ok(Look { now: row.try_get("now")?, last: row.try_get("last")?, busy: row.try_get("busy")?, done })
    }

    /// Wins a due tick, for `lease`. `None`: another one has it, or one is running.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn win_tick(
        &self,
        job: &str,
        due_at: Timestamp,
        passed_over: u32,
        lease: Duration,
    ) -> Result<Option<Tick>, RecordError> {
        self.insert_tick(job, Some(due_at), passed_over, None, lease).await
    }

    /// Begins a tick of its own, now, for an operator. `None`: one is running.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn begin_manual_tick(
        &self,
        job: &str,
        by: &str,
        lease: Duration,
    ) -> Result<Option<Tick>, RecordError> {
        self.insert_tick(job, None, 0, Some(by), lease).await
    }

    async fn insert_tick(
        &self,
        job: &str,
        due_at: Option<Timestamp>,
        passed_over: u32,
        by: Option<&str>,
        lease: Duration,
    ) -> Result<Option<Tick>, RecordError> {
        let at = RecordError::at("tick_win");
        let client = self.client().await?;
        let statement = client.prepare_cached(WIN).await.map_err(&at)?;
        let passed_over = i32::try_from(passed_over).unwrap_or(i32::MAX);
        let row = client
            .query_opt(
                &statement,
                &[&job, &due_at, &passed_over, &by.is_some(), &by, &self.owner.0, &millis(lease)],
            )
            .await
            .map_err(&at)?;
        let Some(row) = row else { return Ok(None) };
        Ok(Some(Tick {
            job: job.to_owned(),
            due_at: row.try_get("due_at")?,
            epoch: 1,
            deaths: 0,
            age: Duration::ZERO,
            progress: None,
            counts: Counts::new(),
        }))
    }

    /// Writes down that a tick is not run, and why. False: another one decided already.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn skip_tick(
        &self,
        job: &str,
        due_at: Timestamp,
        passed_over: u32,
        why: &'static str,
    ) -> Result<bool, RecordError> {
        let at = RecordError::at("tick_skip");
        let client = self.client().await?;
        let statement = client.prepare_cached(SKIP).await.map_err(&at)?;
        let passed_over = i32::try_from(passed_over).unwrap_or(i32::MAX);
        let written = client.execute(&statement, &[&job, &due_at, &passed_over, &why]).await.map_err(&at)?;
        Ok(written == 1)
    }

    /// Takes a tick over whose runner gave it back or died. `None`: there is none.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn take_over_tick(&self, job: &str, lease: Duration) -> Result<Option<Tick>, RecordError> {
        let at = RecordError::at("tick_take_over");
        let client = self.client().await?;
        let statement = client.prepare_cached(TAKE_OVER).await.map_err(&at)?;
        let row = client.query_opt(&statement, &[&job, &self.owner.0, &millis(lease)]).await.map_err(&at)?;
        row.as_ref().map(tick).transpose()
    }

    /// Writes progress down and holds the tick for another `lease`. False: it is
    /// somebody else's by now.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn save_tick(&self, tick: &Tick, lease: Duration) -> Result<bool, RecordError> {
        let at = RecordError::at("tick_save");
        let client = self.client().await?;
        let statement = client.prepare_cached(SAVE).await.map_err(&at)?;
        let Tick { job, due_at, epoch, progress, counts, .. } = tick;
        let counts = as_json(counts);
        let owner = &self.owner.0;
        let written = client
            .execute(&statement, &[job, due_at, owner, epoch, progress, &counts, &millis(lease)])
            .await
            .map_err(&at)?;
        Ok(written == 1)
    }

    /// Gives a tick back: anybody may go on with it after `pause`.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn give_tick_back(&self, tick: &Tick, pause: Duration) -> Result<(), RecordError> {
        let at = RecordError::at("tick_give_back");
        let client = self.client().await?;
        let statement = client.prepare_cached(GIVE_BACK).await.map_err(&at)?;
        let Tick { job, due_at, epoch, .. } = tick;
        client
            .execute(&statement, &[job, due_at, &self.owner.0, epoch, &millis(pause)])
            .await
            .map_err(&at)?;
        Ok(())
    }

    /// Ends a tick. False: it is somebody else's by now.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn end_tick(&self, tick: &Tick, end: TickEnd) -> Result<bool, RecordError> {
        let at = RecordError::at("tick_end");
        let client = self.client().await?;
        let statement = client.prepare_cached(END).await.map_err(&at)?;
        let Tick { job, due_at, epoch, counts, .. } = tick;
        let (counts, owner) = (as_json(counts), &self.owner.0);
        let written = client
            .execute(&statement, &[job, due_at, owner, epoch, &end.as_str(), &end.fault(), &counts])
            .await
            .map_err(&at)?;
        Ok(written == 1)
    }
}

fn tick(row: &Row) -> Result<Tick, RecordError> {
    Ok(Tick {
        job: row.try_get("job")?,
        due_at: row.try_get("due_at")?,
        epoch: row.try_get("epoch")?,
        deaths: row.try_get("deaths")?,
        age: positive_ms(row.try_get("age_ms")?),
        progress: row.try_get("progress")?,
        counts: counts(&row.try_get("counts")?),
    })
}

/// Counts as they stand in the table; what is no number there is left out.
pub(super) fn counts(value: &Value) -> Counts {
    let entries = value.as_object().into_iter().flatten();
    entries.filter_map(|(word, count)| Some((word.clone(), count.as_u64()?))).collect()
}

fn as_json(counts: &Counts) -> Value {
    counts.iter().map(|(word, count)| (word.clone(), Value::from(*count))).collect()
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn positive_ms(age_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(age_ms).unwrap_or(0))
}

//! Runs a job's ticks: looks whether one is due or left over, and takes it step by step.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::schedule::Schedule;
use super::{Job, Missed, StepError};
use crate::metrics;
use crate::record::ticks::{Look, Tick, TickEnd};
use crate::record::{RecordError, Store};
use crate::workers::rounds::Worker;

/// A tick that is found later than this was missed.
const ON_TIME: SignedDuration = SignedDuration::from_mins(10);
/// How long one turn works on a tick; then it gives it back and looks anew, so that
/// liveness sees it come round.
const TURN_SLICE: Duration = Duration::from_secs(30);
/// Pause after something that a step needs was away.
const AWAY_PAUSE: Duration = Duration::from_secs(5);
/// A tick whose runners die again and again is not given to another one.
const DEATHS_MAX: i32 = 20;
/// A tick that is not done after this time is given up.
const AGE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Why a missed tick is not run, and why a job's first look runs none.
const MISSED: &str = "missed";
const FIRST_SEEN: &str = "first_seen";

/// One job's runner in this process; any number of processes may go round.
pub struct Runner<J> {
    /// The job.
    pub job: J,
    /// When it is due.
    pub schedule: Schedule,
    /// The database.
    pub store: Store,
    /// Cancelled when the process stops: what is under way goes back after its step.
    pub stop: CancellationToken,
    /// How long a tick stays ours without a sign of us.
    pub lease: Duration,
    /// Pause between looks.
    pub poll_interval: Duration,
}

/// What is to be done about a due time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Run(Timestamp, u32),
    Skip(Timestamp, u32, &'static str),
    Nothing,
}

/// How a turn on a tick ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ran {
    /// It is done, or has failed.
    Ended(TickEnd),
    /// Somebody goes on with it.
    GivenBack,
    /// It is another runner's: our lease had run out.
    Lost,
}

impl<J: Job> Worker for Runner<J> {
    const NAME: &'static str = J::NAME;

    async fn turn(&self) -> Result<Duration, RecordError> {
        let Some(tick) = self.take().await? else { return Ok(self.poll_interval) };
        match self.run(tick, Some(TURN_SLICE)).await? {
            Ran::Ended(_) | Ran::GivenBack => Ok(Duration::ZERO),
            Ran::Lost => Ok(self.poll_interval),
        }
    }
}

impl<J: Job> Runner<J> {
    /// A tick to work on: one that is left over, or the one that is due.
    async fn take(&self) -> Result<Option<Tick>, RecordError> {
        if let Some(tick) = self.store.take_over_tick(J::NAME, self.lease).await? {
            info!(job = J::NAME, due_at = %tick.due_at, deaths = tick.deaths, "a tick is gone on with");
            return Ok(Some(tick));
        }
        let look = self.store.look_at_job(J::NAME).await?;
        tell::<J>(&look);
        if look.busy {
            return Ok(None);
        }
        match due(&self.schedule, J::MISSED, &look) {
            Due::Nothing => Ok(None),
            Due::Skip(due_at, passed_over, why) => {
                if self.store.skip_tick(J::NAME, due_at, passed_over, why).await? {
                    metrics::cron_tick(J::NAME, "skipped");
                    info!(job = J::NAME, %due_at, passed_over, why, "a tick is skipped");
                }
                Ok(None)
            }
            Due::Run(due_at, passed_over) => {
                let tick = self.store.win_tick(J::NAME, due_at, passed_over, self.lease).await?;
                if tick.is_some() {
                    info!(job = J::NAME, %due_at, passed_over, "a tick is won");
                }
                Ok(tick)
            }
        }
    }

    /// Takes a tick of ours step by step: to its end, or until `slice` is over or the
    /// process stops, when it goes back.
    ///
    /// # Errors
    /// When the database is away; the tick is taken over once the lease is over.
    pub async fn run(&self, mut tick: Tick, slice: Option<Duration>) -> Result<Ran, RecordError> {
        let begun = Instant::now();
        let age = tick.age;
        if tick.deaths > DEATHS_MAX {
            return self.end(&tick, TickEnd::Failed("runners_died"), age).await;
        }
        if age > AGE_MAX {
            return self.end(&tick, TickEnd::Failed("out_of_time"), age).await;
        }
        let Some(mut cursor) = cursor::<J>(&tick) else {
            return self.end(&tick, TickEnd::Failed("unknown_progress"), age).await;
        };
        loop {
            if self.stop.is_cancelled() || slice.is_some_and(|slice| begun.elapsed() > slice) {
                return self.give_back(&tick, Duration::ZERO).await;
            }
            let step = match self.job.step(&tick, &cursor).await {
                Ok(step) => step,
                Err(error) => return self.stumbled(&tick, &error, age + begun.elapsed()).await,
            };
            for (word, count) in step.counts {
                let sum = tick.counts.entry(word.to_owned()).or_default();
                *sum = sum.saturating_add(count);
            }
            let Some(next) = step.next else {
                return self.end(&tick, TickEnd::Done, age + begun.elapsed()).await;
            };
            tick.progress = Some(serde_json::to_value(&next).map_err(unwritable)?);
            cursor = next;
            if !self.store.save_tick(&tick, self.lease).await? {
                warn!(job = J::NAME, due_at = %tick.due_at, "a tick is another runner's by now");
                return Ok(Ran::Lost);
            }
        }
    }

    async fn stumbled(&self, tick: &Tick, error: &StepError, age: Duration) -> Result<Ran, RecordError> {
        match error {
            StepError::Record(RecordError::Bug(_)) => {
                error!(job = J::NAME, due_at = %tick.due_at, %error, "a tick cannot be done");
                return self.end(tick, TickEnd::Failed("invariant"), age).await;
            }
            StepError::Record(RecordError::Unavailable(_)) => metrics::unavailable("postgres"),
            StepError::Away { dependency, .. } => metrics::unavailable(dependency),
        }
        warn!(job = J::NAME, due_at = %tick.due_at, %error, "a tick waits");
        self.give_back(tick, AWAY_PAUSE).await
    }

    async fn give_back(&self, tick: &Tick, pause: Duration) -> Result<Ran, RecordError> {
        metrics::cron_tick(J::NAME, "interrupted");
        self.store.give_tick_back(tick, pause).await?;
        Ok(Ran::GivenBack)
    }

    async fn end(&self, tick: &Tick, end: TickEnd, took: Duration) -> Result<Ran, RecordError> {
        if !self.store.end_tick(tick, end).await? {
            return Ok(Ran::Lost);
        }
        metrics::cron_tick(J::NAME, end.as_str());
        metrics::cron_tick_duration(J::NAME, took);
        if let TickEnd::Failed(fault) = end {
            error!(job = J::NAME, due_at = %tick.due_at, fault, "a tick has failed");
        } else {
            info!(job = J::NAME, due_at = %tick.due_at, counts = ?tick.counts, "a tick is done");
        }
        Ok(Ran::Ended(end))
    }
}

fn unwritable(error: serde_json::Error) -> RecordError {
    RecordError::bug(format!("a cursor cannot be written: {error}"))
}

/// Where a tick stands; `None`: another version wrote it.
fn cursor<J: Job>(tick: &Tick) -> Option<J::Cursor> {
    match &tick.progress {
        None => Some(J::Cursor::default()),
        Some(progress) => serde_json::from_value(progress.clone()).ok(),
    }
}

/// Every replica tells the same of what is done, whoever did it.
fn tell<J: Job>(look: &Look) {
    let Some((age, counts)) = &look.done else { return };
    metrics::cron_done_age(J::NAME, *age);
    for what in J::COUNTS {
        metrics::cron_counted(J::NAME, what, counts.get(*what).copied().unwrap_or(0));
    }
}

/// What is due: at most one tick, however many were missed.
fn due(schedule: &Schedule, missed: Missed, look: &Look) -> Due {
    let Some(latest) = schedule.latest(look.now) else { return Due::Nothing };
    let Some(last) = look.last else { return Due::Skip(latest, 0, FIRST_SEEN) };
    if latest <= last {
        return Due::Nothing;
    }
    let late = look.now.duration_since(latest);
    let passed_over = schedule.between(last, latest);
    let runs = late <= ON_TIME
        || match missed {
            Missed::RunOnce => true,
            Missed::RunWithinHours(hours) => late <= SignedDuration::from_hours(i64::from(hours)),
            Missed::Skip => false,
        };
    if runs { Due::Run(latest, passed_over) } else { Due::Skip(latest, passed_over, MISSED) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn decided(missed: Missed, last: Option<&str>, now: &str) -> Due {
        let schedule = Schedule::parse("0 8 * * *", "UTC").unwrap();
        due(&schedule, missed, &Look { now: at(now), last: last.map(at), busy: false, done: None })
    }

    #[test]
    fn a_tick_is_run_when_it_is_due_whatever_the_policy() {
        let last = Some("2026-05-01T08:00:00Z");
        for missed in [Missed::RunOnce, Missed::RunWithinHours(2), Missed::Skip] {
            assert_eq!(decided(missed, last, "2026-05-02T07:59:59Z"), Due::Nothing);
            let run = Due::Run(at("2026-05-02T08:00:00Z"), 0);
            assert_eq!(decided(missed, last, "2026-05-02T08:00:00Z"), run);
            assert_eq!(decided(missed, last, "2026-05-02T08:09:00Z"), run);
        }
    }

    #[test]
    fn of_missed_ticks_the_newest_is_run_once_or_skipped() {
        let (last, newest) = (Some("2026-05-01T08:00:00Z"), at("2026-05-11T08:00:00Z"));
        let soon = "2026-05-11T09:00:00Z";
        let late = "2026-05-11T12:00:00Z";
        assert_eq!(decided(Missed::RunOnce, last, late), Due::Run(newest, 9));
        assert_eq!(decided(Missed::Skip, last, soon), Due::Skip(newest, 9, MISSED));
        assert_eq!(decided(Missed::RunWithinHours(2), last, soon), Due::Run(newest, 9));
        assert_eq!(decided(Missed::RunWithinHours(2), last, late), Due::Skip(newest, 9, MISSED));
        // What was decided is not decided again.
        assert_eq!(decided(Missed::RunOnce, Some("2026-05-11T08:00:00Z"), late), Due::Nothing);
    }

    #[test]
    fn a_job_that_is_new_begins_with_its_next_tick() {
        let newest = at("2026-05-11T08:00:00Z");
        let first = decided(Missed::RunOnce, None, "2026-05-11T12:00:00Z");
        assert_eq!(first, Due::Skip(newest, 0, FIRST_SEEN));
    }
}

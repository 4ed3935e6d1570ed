//! One attempt of a job, from its claim to what is written of it.

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;
use tokio::time::{sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::fault::Fault;
use super::{Place, dead_letter_replay, export, job_prune, push_token_prune};
use crate::domain::job::{JobKind, JobState};
use crate::metrics;
use crate::record::Store;
use crate::record::job_turns::{ClaimedJob, JobEnd};

/// A job is ours this long after it was last held.
pub(super) const LEASE: Duration = Duration::from_secs(30);
/// How often it is held; also how soon a cancelled one is left alone.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How long an attempt may go on to a good place when the process stops.
pub(super) const STOP_MAX: Duration = Duration::from_secs(5);
/// Pause after the first failed attempt; it doubles with each.
const RETRY_INITIAL: Duration = Duration::from_secs(10);
const RETRY_MAX: Duration = Duration::from_secs(15 * 60);
/// Pause while something is away.
const AWAY_PAUSE: Duration = Duration::from_secs(10);
/// Pause between tries to write down how an attempt ended.
const WRITE_PAUSE: Duration = Duration::from_millis(500);

/// An attempt under way.
pub(super) struct Attempt {
    pub(super) job: ClaimedJob,
    pub(super) store: Store,
    /// Until when the job is ours, by a clock that was asked before the database's.
    ours_until: Mutex<Instant>,
    stop: CancellationToken,
}

impl Attempt {
    pub(super) fn new(job: ClaimedJob, store: Store, asked: Instant, stop: CancellationToken) -> Self {
        Self { job, store, ours_until: Mutex::new(asked + LEASE), stop }
    }

    /// Writes down how far the job is.
    ///
    /// # Errors
    /// The job is not ours any more, or the process stops: the attempt ends here.
    pub(super) async fn reached(&self, progress: &impl Serialize) -> Result<(), Fault> {
        let progress = serde_json::to_value(progress).map_err(|_| Fault::Failed("progress_unusable"))?;
        if self.hold(Some(&progress)).await? { self.may_go_on() } else { Err(Fault::Lost) }
    }

    /// # Errors
    /// The process stops: the attempt ends here.
    pub(super) fn may_go_on(&self) -> Result<(), Fault> {
        if self.stop.is_cancelled() { Err(Fault::Interrupted) } else { Ok(()) }
    }

    /// Waits, but not when the process stops.
    pub(super) async fn pause_until(&self, time: Instant) -> Result<(), Fault> {
        self.stop.run_until_cancelled(sleep_until(time.into())).await.ok_or(Fault::Interrupted)
    }

    async fn hold(&self, progress: Option<&Value>) -> Result<bool, Fault> {
        let asked = Instant::now();
        let held = self.store.hold_job(&self.job, LEASE, progress).await?;
        if held {
            *self.ours_until.lock() = asked + LEASE;
        }
        Ok(held)
    }

    /// Holds the job again and again; ends when it is not ours any more.
    async fn held(&self) {
        loop {
            sleep(HEARTBEAT).await;
            let ours_until = *self.ours_until.lock();
            match timeout_at(ours_until.into(), self.hold(None)).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) | Err(_) => return,
                Ok(Err(fault)) => warn!(%fault, job_id = %self.job.job_id, "a job could not be held now"),
            }
            if Instant::now() >= *self.ours_until.lock() {
                return;
            }
        }
    }

    /// What comes first: its end, a lost lease, its time-out, the end of the process.
    async fn outcome(&self, place: &Place) -> Result<(), Fault> {
        let stopped = async {
            self.stop.cancelled().await;
            sleep(STOP_MAX).await;
        };
        tokio::select! {
            biased;
            ended = AssertUnwindSafe(self.work(place)).catch_unwind() => {
                ended.unwrap_or(Err(Fault::Failed("panicked")))
            }
            () = self.held() => Err(Fault::Lost),
            () = sleep(self.job.timeout) => Err(Fault::Failed("timed_out")),
            () = stopped => Err(Fault::Interrupted),
        }
    }

    async fn work(&self, Place(shared, kind): &Place) -> Result<(), Fault> {
        match kind {
            JobKind::Export => export::run(self).await,
            JobKind::DeadLetterReplay => dead_letter_replay::run(self, &shared.kafka).await,
            JobKind::PushTokenPrune => push_token_prune::run(self).await,
            JobKind::JobPrune => job_prune::run(self).await,
        }
    }

    /// What is written of it; `None`: nothing, because it is not ours to write.
    fn end(&self, outcome: Result<(), Fault>) -> Option<JobEnd> {
        Some(match outcome {
            Ok(()) => JobEnd::Done,
            Err(Fault::Lost) => return None,
            Err(Fault::Interrupted) => JobEnd::Released,
            Err(Fault::Away(fault)) => JobEnd::Postponed(fault, jittered(AWAY_PAUSE, rand::random())),
            Err(Fault::Failed(fault)) => JobEnd::Failed(fault, pause(self.job.attempt, rand::random())),
            Err(Fault::Hopeless(fault)) => JobEnd::Hopeless(fault),
            Err(Fault::Moot(fault)) => JobEnd::Moot(fault),
        })
    }

    /// Writes the end down, again and again while the database is away and the job ours.
    async fn write(&self, end: JobEnd) -> Option<JobState> {
        loop {
            match self.store.end_job(&self.job, end, None).await {
                Ok(state) => return state,
                Err(error) => {
                    let ours_until = *self.ours_until.lock();
                    if !error.is_unavailable() || Instant::now() + WRITE_PAUSE >= ours_until {
                        error!(%error, job_id = %self.job.job_id, "a job's end could not be written");
                        return None;
                    }
                }
            }
            sleep(WRITE_PAUSE).await;
        }
    }
}

/// Works on a claimed job, and writes down what came of it.
pub(super) async fn attend(attempt: Attempt, place: Place) {
    let begun = Instant::now();
    let ClaimedJob { job_id, kind, attempt: number, .. } = attempt.job;
    info!(%job_id, %kind, attempt = number, "an attempt of a job begins");
    let outcome = attempt.outcome(&place).await;
    let state = match attempt.end(outcome) {
        Some(end) => attempt.write(end).await.map(|state| (end, state)),
        None => None,
    };
    let word = match state {
        None => "lost",
        Some((_, JobState::Parked)) => "parked",
        Some((JobEnd::Moot(_), _)) => "cancelled",
        Some((end, _)) => end.as_str(),
    };
    metrics::job(kind.as_str(), word);
    let elapsed_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    let fault = outcome.err().map(tracing::field::display);
    if word == "parked" {
        warn!(%job_id, %kind, attempt = number, elapsed_ms, fault, "a job is parked: `jobs show`, then `jobs retry`");
    } else {
        info!(%job_id, %kind, attempt = number, elapsed_ms, fault, end = word, "an attempt of a job has ended");
    }
}

/// Pause after the attempt of this number (from 1), growing; `chance` lies in 0..1.
fn pause(attempt: i32, chance: f64) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or_default().min(16);
    jittered(RETRY_INITIAL.saturating_mul(1 << doublings).min(RETRY_MAX), chance)
}

/// Between half of it and all, so that jobs which failed together do not come back
/// together.
fn jittered(pause: Duration, chance: f64) -> Duration {
    pause.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_never_vanish() {
        assert_eq!((pause(1, 1.0), pause(1, 0.0)), (RETRY_INITIAL, RETRY_INITIAL / 2));
        assert_eq!(pause(2, 1.0), RETRY_INITIAL * 2);
        for attempt in [0, 1, 7, 40, i32::MAX] {
            for chance in [0.0, 0.3, 1.0] {
                assert!((RETRY_INITIAL / 2..=RETRY_MAX).contains(&pause(attempt, chance)), "{attempt}");
            }
        }
    }

    #[test]
    fn a_lease_outlasts_several_heartbeats() {
        assert!(LEASE > HEARTBEAT * 10 && LEASE > STOP_MAX * 2);
    }
}

//! The general queue: each due job is worked on by one process at a time, one file a kind.
//!
//! A job is held by a lease, which a heartbeat extends while it is worked on. It is tried
//! as often as its kind says, with growing pauses, and then waits for a person. What a
//! stop of the process interrupts, or an absent dependency, is no failed attempt.

mod attend;
mod dead_letter_replay;
mod export;
mod fault;
mod job_prune;
mod push_token_prune;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::rounds::Worker;
use crate::config;
use crate::domain::job::JobKind;
use crate::metrics;
use crate::record::job_turns::Claimed;
use crate::record::{RecordError, Store};
use attend::{Attempt, LEASE, STOP_MAX, attend};

/// How often it is seen to that jobs which come back by themselves are there.
const SCHEDULE_INTERVAL: Duration = Duration::from_secs(60);
/// How long the last words on interrupted jobs may take, after [`STOP_MAX`].
const RELEASE_MAX: Duration = Duration::from_secs(5);

/// Works on due jobs; any number of processes may.
pub struct JobWorker {
    shared: Arc<Shared>,
    in_flight_max: usize,
    poll_interval: Duration,
    stop: CancellationToken,
    /// Cancelled when the last turn has ended.
    _over: DropGuard,
}

/// What the attempts of a process share.
struct Shared {
    store: Store,
    kafka: config::Kafka,
    attempts: TaskTracker,
    /// How many of each kind are worked on.
    busy: Mutex<HashMap<JobKind, usize>>,
    /// When it was last seen to that jobs which come back by themselves are there.
    scheduled: Mutex<Option<Instant>>,
}

/// A job's place in its process; free again when it is dropped.
struct Place(Arc<Shared>, JobKind);

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(busy) = self.0.busy.lock().get_mut(&self.1) {
            *busy = busy.saturating_sub(1);
        }
        if self.1.plan().repeat.is_some() {
            *self.0.scheduled.lock() = None;
        }
    }
}

impl JobWorker {
    /// A worker with at most `in_flight_max` jobs side by side, which interrupts them at
    /// `stop`; and what ends once each of them has said how far it came.
    pub fn new(
        store: Store,
        kafka: config::Kafka,
        in_flight_max: usize,
        poll_interval: Duration,
        stop: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let attempts = TaskTracker::new();
        let shared = Shared {
            store,
            kafka,
            attempts: attempts.clone(),
            busy: Mutex::default(),
            scheduled: Mutex::default(),
        };
        let over = CancellationToken::new();
        let drained = {
            let over = over.clone();
            async move {
                over.cancelled().await;
                attempts.close();
                if tokio::time::timeout(STOP_MAX + RELEASE_MAX, attempts.wait()).await.is_err() {
                    warn!("jobs could not be released; their leases run out");
                }
            }
        };
        let worker =
            Self { shared: Arc::new(shared), in_flight_max, poll_interval, stop, _over: over.drop_guard() };
        (worker, drained)
    }

    /// Kinds of which one more may be worked on here.
    fn free(&self) -> Vec<JobKind> {
        let busy = self.shared.busy.lock();
        if busy.values().sum::<usize>() >= self.in_flight_max {
            return Vec::new();
        }
        let is_free =
            |kind: &JobKind| busy.get(kind).copied().unwrap_or_default() < kind.plan().side_by_side_max;
        JobKind::ALL.iter().copied().filter(is_free).collect()
    }

    async fn schedule(&self) -> Result<(), RecordError> {
        {
            let mut scheduled = self.shared.scheduled.lock();
            if scheduled.is_some_and(|at| at.elapsed() < SCHEDULE_INTERVAL) {
                return Ok(());
            }
            *scheduled = Some(Instant::now());
        }
        let done = self.shared.store.schedule_jobs().await;
        if done.is_err() {
            *self.shared.scheduled.lock() = None;
        }
        done
    }
}

impl Worker for JobWorker {
    const NAME: &'static str = "jobs";

    async fn turn(&self) -> Result<Duration, RecordError> {
        self.schedule().await?;
        while !self.stop.is_cancelled() {
            let kinds = self.free();
            if kinds.is_empty() {
                break;
            }
            let asked = Instant::now();
            match self.shared.store.claim_job(&kinds, LEASE).await? {
                None => break,
                Some(Claimed::Parked(job_id, kind)) => {
                    metrics::job(kind.as_str(), "parked");
                    warn!(%job_id, %kind, "the process of a job's last attempt died; the job is parked");
                }
                Some(Claimed::Ours(job)) => {
                    *self.shared.busy.lock().entry(job.kind).or_default() += 1;
                    let place = Place(Arc::clone(&self.shared), job.kind);
                    let attempt = Attempt::new(*job, self.shared.store.clone(), asked, self.stop.clone());
                    self.shared.attempts.spawn(attend(attempt, place));
                }
            }
        }
        Ok(self.poll_interval)
    }
}

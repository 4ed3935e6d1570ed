//! Outcomes on their way to the database: a bounded queue, and lanes that write
//! what has gathered in one statement each.

use std::collections::HashSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::domain::{DeliveryId, Outcome, Reason};
use crate::metrics;
use crate::plan::EscalationPolicy;
use crate::record::{RecordError, Recorded, Store};

/// Called once, when an outcome is durable.
pub type OnRecorded = Box<dyn FnOnce(Outcome) + Send>;

struct Job {
    recorded: Recorded,
    outcome: Outcome,
    on_recorded: OnRecorded,
}

/// Bounds of the recorder.
#[derive(Debug, Clone, Copy)]
pub struct RecorderOptions {
    /// Statements side by side.
    pub lanes: usize,
    /// Rows a statement.
    pub batch_max: usize,
    /// How long a batch waits for company.
    pub linger: Duration,
    /// Outcomes that may wait.
    pub queue_max: usize,
    /// Pauses while the database is away: first and longest.
    pub backoff: (Duration, Duration),
    /// Which outcomes are looked at again for evidence.
    pub escalation: EscalationPolicy,
}

/// Takes outcomes; clones share the queue. The lanes end when every clone is gone
/// and the queue is empty.
#[derive(Clone)]
pub struct Recorder {
    jobs: mpsc::Sender<Job>,
}

impl Recorder {
    /// Starts the lanes. A broken invariant cancels `fatal`, for the process to end.
    #[must_use]
    pub fn start(store: &Store, options: RecorderOptions, fatal: &CancellationToken) -> (Self, JoinSet<()>) {
        let (jobs, queue) = mpsc::channel(options.queue_max.max(1));
        let queue = Arc::new(Mutex::new(queue));
        let mut lanes = JoinSet::new();
        for _ in 0..options.lanes.max(1) {
            let lane = Lane {
                queue: Arc::clone(&queue),
                store: store.clone(),
                options,
                fatal: fatal.clone(),
                postponed: Vec::new(),
            };
            lanes.spawn(lane.run());
        }
        (Self { jobs }, lanes)
    }

    /// Queues an outcome; waits while the queue is full.
    pub async fn record(&self, recorded: Recorded, outcome: Outcome, on_recorded: OnRecorded) {
        // The lanes end only after the last sender; a lane that died has said so.
        let _ = self.jobs.send(Job { recorded, outcome, on_recorded }).await;
    }
}

struct Lane {
    queue: Arc<Mutex<mpsc::Receiver<Job>>>,
    store: Store,
    options: RecorderOptions,
    fatal: CancellationToken,
    /// A second change of one notification waits for the next batch.
    postponed: Vec<Job>,
}

impl Lane {
    async fn run(mut self) {
        loop {
            let batch = self.gather().await;
            if batch.is_empty() {
                return;
            }
            write(&self.store, &self.options, &self.fatal, batch).await;
        }
    }

    /// Waits for the first outcome, then for company. Empty: the end.
    async fn gather(&mut self) -> Vec<Job> {
        let mut gathered = std::mem::take(&mut self.postponed);
        // Another lane may hold the queue for as long as nothing comes: what was
        // postponed must not wait for that.
        let queue =
            if gathered.is_empty() { Some(self.queue.lock().await) } else { self.queue.try_lock().ok() };
        if let Some(mut queue) = queue {
            if gathered.is_empty() {
                match queue.recv().await {
                    Some(job) => gathered.push(job),
                    None => return gathered,
                }
            }
            let closes = tokio::time::sleep(self.options.linger);
            tokio::pin!(closes);
            while gathered.len() < self.options.batch_max {
                tokio::select! {
                    biased;
                    job = queue.recv() => match job {
                        Some(job) => gathered.push(job),
                        None => break,
                    },
                    () = &mut closes => break,
                }
            }
        }
        let mut seen = HashSet::with_capacity(gathered.len());
        let (batch, postponed) =
            gathered.into_iter().partition(|job| seen.insert(job.recorded.notification_id));
        self.postponed = postponed;
        batch
    }
}

async fn write(store: &Store, options: &RecorderOptions, fatal: &CancellationToken, jobs: Vec<Job>) {
    let (batch, waiting): (Vec<Recorded>, Vec<(Outcome, OnRecorded)>) =
        jobs.into_iter().map(|job| (job.recorded, (job.outcome, job.on_recorded))).unzip();
    let plain: Vec<&Recorded> = batch.iter().filter(|one| !one.tells_more()).collect();
    let Some(mut recorded) =
        written(options, fatal, plain.len(), || store.record(&plain, &options.escalation)).await
    else {
        return;
    };
    let rest: Vec<&Recorded> = batch.iter().filter(|one| !recorded.contains(&one.delivery_id)).collect();
    let Some(folded) =
        written(options, fatal, rest.len(), || store.record_folded(&rest, &options.escalation)).await
    else {
        return;
    };
    recorded.extend(folded);
    for (one, (outcome, on_recorded)) in batch.iter().zip(waiting) {
        if recorded.contains(&one.delivery_id) {
            on_recorded(outcome);
        } else {
            metrics::lease_lost(1);
            warn!(delivery_id = %one.delivery_id, epoch = one.epoch, "the claim was no longer ours; nothing recorded");
            on_recorded(Outcome::Ignored(Reason::OwnerLost));
        }
    }
}

/// Tries until the database has it. `None`: it never will.
async fn written<Tried>(
    options: &RecorderOptions,
    fatal: &CancellationToken,
    rows: usize,
    attempt: impl Fn() -> Tried,
) -> Option<HashSet<DeliveryId>>
where
    Tried: Future<Output = Result<HashSet<DeliveryId>, RecordError>>,
{
    if rows == 0 {
        return Some(HashSet::new());
    }
    let (mut pause, longest) = options.backoff;
    loop {
        match attempt().await {
            Ok(recorded) => return Some(recorded),
            Err(error @ RecordError::Unavailable(_)) => {
                metrics::unavailable("postgres");
                warn!(%error, rows, "outcomes wait for the database");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(longest);
            }
            Err(error @ RecordError::Bug(_)) => {
                error!(%error, "outcomes cannot be recorded; the process ends and their claims run out");
                fatal.cancel();
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::config::Config;
    use crate::domain::{DeliveryId, NotificationId, State};
    use crate::record::{Owner, pool};

    fn lane(queue: &Arc<Mutex<mpsc::Receiver<Job>>>, postponed: Vec<Job>) -> Lane {
        let options = RecorderOptions {
            lanes: 2,
            batch_max: 10,
            linger: Duration::from_millis(1),
            queue_max: 10,
            backoff: (Duration::ZERO, Duration::ZERO),
            escalation: EscalationPolicy::new(&Config::from_defaults()),
        };
        let pool = pool::pool(&Config::from_defaults().postgres).unwrap();
        let (store, fatal) = (Store::new(pool, Owner::new()), CancellationToken::new());
        Lane { queue: Arc::clone(queue), store, options, fatal, postponed }
    }

    fn job(delivery: u128) -> Job {
        let recorded = Recorded {
            delivery_id: DeliveryId(Uuid::from_u128(delivery)),
            notification_id: NotificationId(Uuid::from_u128(1)),
            epoch: 1,
            state: State::Sent,
            reason: Reason::ProviderAccepted,
            notification_state: State::Sent,
            attempts: 1,
            new_group: false,
            due_after: None,
            provider: None,
            provider_message_id: None,
            next: None,
            evidence: None,
        };
        Job { recorded, outcome: Outcome::Done, on_recorded: Box::new(|_| {}) }
    }

    #[tokio::test]
    async fn what_was_postponed_waits_for_no_other_lane() {
        let (sender, queue) = mpsc::channel(10);
        let queue = Arc::new(Mutex::new(queue));
        let mut busy = lane(&queue, Vec::new());
        for delivery in 1..=3 {
            sender.send(job(delivery)).await.unwrap();
        }
        assert_eq!(busy.gather().await.len(), 1, "one change of a notification a batch");
        // The other lane now holds the queue, and nothing comes.
        let mut idle = lane(&queue, Vec::new());
        let idles = tokio::spawn(async move { idle.gather().await.len() });
        tokio::task::yield_now().await;
        for _ in 0..2 {
            let batch = tokio::time::timeout(Duration::from_secs(10), busy.gather()).await.unwrap();
            assert_eq!(batch.len(), 1);
        }
        drop(sender);
        assert_eq!(idles.await.unwrap(), 0);
    }
}

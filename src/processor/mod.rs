//! The spine of a consumer: claim loops take records from the intake, a batch at
//! a time, decode them and give them to the processor's [`Flow`]. When the outcome
//! of a record is durable, its offset may move.

mod batch;
mod breaker;
mod claims;
mod notify;
mod pending;
mod retry;
mod updates;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::config;
use crate::decode::{Decoder, RecordKind};
use crate::dispatch::Dispatcher;
use crate::health::Health;
use crate::plan::Settings;
use crate::record::Store;
use crate::topic::{Consumer, ConsumerError, DeadLetters, Intake, Record};

pub use breaker::{BreakerLimits, DeadLetterBreaker};
pub use claims::claim_of;
pub(crate) use updates::expired as unmatched_expired;

/// Everything that a processor works with.
pub struct Parts {
    /// `[processor]`.
    pub config: config::Processor,
    /// What is done with what was decoded.
    pub flow: Flow,
    /// Bytes → event.
    pub decoder: Decoder,
    /// The database.
    pub store: Store,
    /// Where undecodable records go.
    pub dead_letters: DeadLetters,
}

/// What a processor is for.
pub enum Flow {
    /// Events that ask for notifications: plan → claim → deliver → record.
    Notify(Notify),
    /// What becomes known later: fold it into what is recorded.
    Updates(Updates),
}

/// Parts of [`Flow::Notify`].
pub struct Notify {
    /// What the topics hold.
    pub kind: RecordKind,
    /// Defaults of plans.
    pub settings: Settings,
    /// Sends and records.
    pub dispatcher: Arc<Dispatcher>,
}

/// Parts of [`Flow::Updates`].
pub struct Updates {
    /// How long an update waits for what it is about to become known.
    pub unmatched_expiry: Duration,
}

/// Why a processor ended.
#[derive(Debug, thiserror::Error)]
pub enum ProcessorError {
    /// The consumer failed.
    #[error(transparent)]
    Consumer(#[from] ConsumerError),
    /// An invariant is broken; the log has it. Offsets stayed.
    #[error("an invariant is broken (see the log before this line); offsets were not moved past it")]
    Bug,
}

/// What the probes look at. Apart from the rest, because probes outlive a processor
/// and must not keep its recorder waiting for outcomes.
#[derive(Default)]
struct Conditions {
    breaker_open: AtomicBool,
    /// Batches that wait for a dependency: slots age without it being a bug.
    waiting: AtomicUsize,
}

/// State that the claim loops share.
struct Shared {
    parts: Parts,
    intake: Arc<Intake>,
    in_flight: Arc<Semaphore>,
    breaker: Mutex<DeadLetterBreaker>,
    conditions: Arc<Conditions>,
    /// Number of the last claim; epochs of first claims come from it.
    batches: AtomicI32,
    stop: CancellationToken,
    fatal: CancellationToken,
}

impl Shared {
    fn next_batch(&self) -> i32 {
        // Wraps after two billion batches; an epoch only has to differ from those
        // whose claims may still be open.
        self.batches.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    fn bug(&self, what: &dyn std::fmt::Display) {
        error!(error = %what, "broken invariant; the process ends");
        self.fatal.cancel();
    }
}

/// Runs until `shutdown`, then drains, commits and leaves; or until something
/// breaks. `fatal` is cancelled by whoever meets a broken invariant.
///
/// # Errors
/// [`ProcessorError`].
pub async fn run(
    parts: Parts,
    consumer: Arc<Consumer>,
    health: &Health,
    shutdown: CancellationToken,
    fatal: CancellationToken,
) -> Result<(), ProcessorError> {
    let config = parts.config.clone();
    let limits = BreakerLimits {
        consecutive: config.breaker_consecutive_rejects,
        ratio_percent: config.breaker_ratio_percent,
        window: config.breaker_window_records,
    };
    let shared = Arc::new(Shared {
        parts,
        in_flight: Arc::clone(consumer.intake().in_flight()),
        intake: consumer.intake(),
        breaker: Mutex::new(DeadLetterBreaker::new(limits)),
        conditions: Arc::default(),
        batches: AtomicI32::new(0),
        stop: CancellationToken::new(),
        fatal: fatal.clone(),
    });
    register_probes(health, &shared.conditions, &consumer, config.slot_deadline_ms);

    let mut loops = JoinSet::new();
    for shard in 0..shared.intake.shards() {
        loops.spawn(claim_loop(Arc::clone(&shared), shard));
    }
    let watch = watch_for_leaks(Arc::clone(&shared), Arc::clone(&consumer));
    let leaks = tokio::spawn(watch);

    tokio::select! {
        () = shutdown.cancelled() => info!("draining"),
        () = fatal.cancelled() => {}
        ended = consumer.ended() => ended?,
    }
    // The poll thread closes the intakes, waits for what was begun, commits, leaves.
    consumer.stop();
    let ended = if fatal.is_cancelled() {
        Err(ProcessorError::Bug)
    } else {
        consumer.ended().await.map_err(Into::into)
    };
    shared.stop.cancel();
    leaks.abort();
    loops.join_all().await;
    ended
}

fn register_probes(
    health: &Health,
    conditions: &Arc<Conditions>,
    consumer: &Arc<Consumer>,
    slot_deadline_ms: u64,
) {
    let of_heartbeat = Arc::clone(consumer);
    health.add_liveness("kafka-poll-loop", move || of_heartbeat.check_heartbeat());
    let (of_slots, waits) = (Arc::clone(consumer), Arc::clone(conditions));
    health.add_liveness("progress", move || {
        if waits.waiting.load(Ordering::Relaxed) > 0 || waits.breaker_open.load(Ordering::Relaxed) {
            return Ok(()); // A restart would not help.
        }
        let limit = Duration::from_millis(slot_deadline_ms);
        match of_slots.partitions().iter().find(|one| one.oldest_taken_age().is_some_and(|age| age > limit)) {
            None => Ok(()),
            Some(stuck) => Err(format!(
                "a record of {}/{} has been worked on for more than {slot_deadline_ms} ms",
                stuck.topic, stuck.partition
            )),
        }
    });
    let of_group = Arc::clone(consumer);
    health.add_readiness("consumer-group", move || {
        if of_group.is_joined() {
            Ok(())
        } else {
            Err("not a member of its group, or no broker answers".into())
        }
    });
    let of_breaker = Arc::clone(conditions);
    health.add_readiness("dead-letter-breaker", move || {
        if of_breaker.breaker_open.load(Ordering::Relaxed) {
            return Err(
                "open: too many records in a row cannot be decoded; mend the producer or the schema, \
                        then restart this pod"
                    .into(),
            );
        }
        Ok(())
    });
}

/// A ticket that was dropped unsettled could never be committed past.
async fn watch_for_leaks(shared: Arc<Shared>, consumer: Arc<Consumer>) {
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    loop {
        tick.tick().await;
        if let Some(leaky) = consumer.partitions().iter().find(|partition| partition.has_leaked()) {
            shared.bug(&format!("a record of {}/{} was dropped unsettled", leaky.topic, leaky.partition));
            return;
        }
    }
}

async fn claim_loop(shared: Arc<Shared>, shard: usize) {
    while !shared.stop.is_cancelled() && !shared.fatal.is_cancelled() {
        if shared.conditions.breaker_open.load(Ordering::Relaxed) {
            return shared.stop.cancelled().await;
        }
        let Some((records, permits)) = gather(&shared, shard).await else { continue };
        batch::process(&shared, records, permits).await;
    }
}

/// Waits for room in the in-flight budget and for records, then a moment for
/// company. `None`: there was nothing; there may be something now, or the end has come.
async fn gather(shared: &Shared, shard: usize) -> Option<(Vec<Record>, tokio::sync::OwnedSemaphorePermit)> {
    let config = &shared.parts.config;
    let mut permits = tokio::select! {
        permit = Arc::clone(&shared.in_flight).acquire_owned() => permit.ok()?,
        () = shared.stop.cancelled() => return None,
    };
    let mut records = Vec::new();
    if shared.intake.take(shard, 1, &mut records) == 0 {
        // A place that is not used is free for the other loops.
        drop(permits);
        tokio::select! {
            () = shared.intake.ready(shard) => {}
            () = shared.stop.cancelled() => {}
        }
        return None;
    }
    let closes = tokio::time::Instant::now() + Duration::from_millis(config.batch_linger_ms);
    let mut closed = false;
    loop {
        let wanted = config.batch_max_records.saturating_sub(records.len());
        let free = shared.in_flight.available_permits().min(wanted);
        // A share of what is free, so that the other loops find some as well.
        let fair = (free / shared.intake.shards()).max(1);
        if wanted > 0
            && let Ok(mut more) =
                Arc::clone(&shared.in_flight).try_acquire_many_owned(u32::try_from(fair).unwrap_or(u32::MAX))
        {
            let taken = shared.intake.take(shard, fair, &mut records);
            drop(more.split(fair - taken));
            permits.merge(more);
        }
        if closed || records.len() >= config.batch_max_records {
            break;
        }
        tokio::select! {
            () = tokio::time::sleep_until(closes) => closed = true,
            () = shared.intake.arrived(shard) => {}
            () = shared.stop.cancelled() => closed = true,
        }
    }
    Some((records, permits))
}

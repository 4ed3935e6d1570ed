//! Parts that several roles are made of.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::deliver::{Providers, Renderer};
use crate::dispatch::{Dispatcher, Pauses, Recorder, RecorderOptions, Teller};
use crate::domain::Channel;
use crate::health::Health;
use crate::metrics;
use crate::plan::{EscalationPolicy, RetryPolicy};
use crate::record::{Owner, RecordError, Store, pool};
use crate::topic::encoder::Encoder;
use crate::topic::producer::Producer;
use crate::workers::rounds::{Turned, Worker, go_round};

/// How long an outcome waits for company before it is written.
const RECORD_LINGER: Duration = Duration::from_millis(5);

/// The database, and the readiness that depends on it.
///
/// # Errors
/// When `postgres.url` cannot be used.
pub fn store(ctx: &Context) -> anyhow::Result<Store> {
    Ok(Store::new(pool::pool(&ctx.config.postgres)?, Owner::new()))
}

/// How often readiness asks the database.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Ready only while the database answers.
pub fn probe_database(ctx: &Context, store: &Store) {
    let answers = Arc::new(AtomicBool::new(false));
    let probed = Arc::clone(&answers);
    ctx.health.add_readiness("postgres", move || {
        if probed.load(Ordering::Relaxed) { Ok(()) } else { Err("the database does not answer".to_owned()) }
    });
    let (store, shutdown) = (store.clone(), ctx.shutdown.clone());
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(PROBE_INTERVAL);
        while shutdown.run_until_cancelled(tick.tick()).await.is_some() {
            answers.store(store.ping().await.is_ok(), Ordering::Relaxed);
        }
    });
}

/// What publishes.
pub struct Publishing {
    /// The broker.
    pub producer: Arc<Producer>,
    /// Avro.
    pub encoder: Encoder,
    /// Longest time a produced record may wait for its acknowledgement.
    pub publish_timeout: Duration,
}

/// The broker and the registry.
///
/// # Errors
/// When `[kafka]` or `[registry]` cannot be used.
pub fn publishing(ctx: &Context) -> anyhow::Result<Publishing> {
    let config = &ctx.config;
    Ok(Publishing {
        producer: Arc::new(Producer::new(&config.kafka)?),
        encoder: Encoder::new(&config.registry, &config.kafka.topic_prefix)?,
        publish_timeout: Duration::from_millis(config.kafka.produce_timeout_ms),
    })
}

/// A role's workers, side by side. When one ends, the others are stopped too.
pub struct Workers {
    /// Cancelled at a stop, and when one of them has ended.
    pub stop: CancellationToken,
    /// Cancelled by a broken invariant.
    pub fatal: CancellationToken,
    health: Arc<Health>,
    tasks: JoinSet<()>,
}

impl Workers {
    /// None yet.
    pub fn new(ctx: &Context) -> Self {
        Self {
            stop: ctx.shutdown.child_token(),
            fatal: CancellationToken::new(),
            health: Arc::clone(&ctx.health),
            tasks: JoinSet::new(),
        }
    }

    /// Starts one that goes round; liveness looks whether it still does.
    pub fn go_round<W: Worker>(&mut self, worker: W) {
        let turned = self.watched(W::NAME, worker.turn_timeout());
        self.spawn(go_round(worker, turned, self.stop.clone(), self.fatal.clone()));
    }

    /// For one with a way of its own: liveness fails once it says for longer than `limit`
    /// nothing of itself.
    pub fn watched(&self, name: &'static str, limit: Duration) -> Turned {
        let turned = Turned::default();
        let looked_at = turned.clone();
        self.health.add_liveness(name, move || looked_at.within(limit));
        turned
    }

    /// Starts one with a way of its own; it has to end at `stop` and at `fatal`.
    pub fn spawn(&mut self, worker: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(worker);
    }

    /// Waits until all have ended, which is after the first one that does.
    ///
    /// # Errors
    /// When an invariant broke, or a worker panicked.
    pub async fn ended(mut self) -> anyhow::Result<()> {
        let mut ended = Ok(());
        while let Some(one) = self.tasks.join_next().await {
            self.stop.cancel();
            ended = ended.and(one);
        }
        ended?;
        anyhow::ensure!(!self.fatal.is_cancelled(), "an invariant is broken (see the log before this line)");
        Ok(())
    }
}

/// Waits until what was decided is written down; bounded, because the database
/// may be away, and then the leases run out.
pub async fn join_recorders(recorders: JoinSet<()>, ctx: &Context) {
    let timeout = Duration::from_millis(ctx.config.processor.close_timeout_ms);
    if tokio::time::timeout(timeout, recorders.join_all()).await.is_err() {
        tracing::warn!("outcomes could not be written before the end; their claims run out");
    }
}

/// Providers, words and the recorder; its lanes end after the last dispatcher.
///
/// # Errors
/// When a template cannot be used.
pub fn dispatcher(
    ctx: &Context,
    store: &Store,
    fatal: &CancellationToken,
    providers: Providers,
    role: &'static str,
) -> anyhow::Result<(Arc<Dispatcher>, JoinSet<()>)> {
    let config = &ctx.config;
    let options = RecorderOptions {
        lanes: config.processor.record_lanes,
        batch_max: config.processor.batch_max_records,
        linger: RECORD_LINGER,
        queue_max: config.processor.in_flight_max,
        backoff: (
            Duration::from_millis(config.processor.unavailable_backoff_initial_ms),
            Duration::from_millis(config.processor.unavailable_backoff_max_ms),
        ),
        escalation: EscalationPolicy::new(config),
    };
    let (recorder, lanes) = Recorder::start(store, options, fatal);
    let renderer = Arc::new(Renderer::embedded(&config.plan)?);
    let (teller, pauses) = Pauses::new();
    let providers = Arc::new(providers);
    tokio::spawn(keep_in_touch(store.clone(), Arc::clone(&providers), teller, role, ctx.shutdown.clone()));
    let dispatcher = Dispatcher::new(providers, renderer, recorder, RetryPolicy::new(&config.retry), pauses);
    Ok((dispatcher, lanes))
}

/// How often a sender looks for paused channels, and after how many looks it says what
/// it does itself, and forgets those that say nothing any more.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const LOOKS_A_REPORT: u64 = 5;
const LOOKS_A_PRUNE: u64 = 300;

/// Tells the dispatcher what is paused, and operators what this process does. While the
/// database is away, what was last seen stands.
async fn keep_in_touch(
    store: Store,
    providers: Arc<Providers>,
    teller: Teller,
    role: &'static str,
    shutdown: CancellationToken,
) {
    let mut tick = tokio::time::interval(LOOK_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut looks: u64 = 0;
    loop {
        let looked = async {
            let pauses = store.channel_pauses().await?;
            teller.send_if_modified(|seen| {
                let is_new = seen.as_ref() != Some(&pauses);
                if is_new {
                    *seen = Some(pauses);
                }
                is_new
            });
            if looks.is_multiple_of(LOOKS_A_REPORT) {
                let open = Channel::ALL.iter().copied().filter(|channel| providers.breaker_open(*channel));
                let open: Vec<Channel> = open.collect();
                store.report_sender(role, &open, looks.is_multiple_of(LOOKS_A_PRUNE)).await?;
            }
            Ok::<(), RecordError>(())
        };
        if let Err(error) = looked.await {
            metrics::unavailable("postgres");
            tracing::warn!(%error, "paused channels could not be looked at; what was last seen stands");
        }
        looks += 1;
        if shutdown.run_until_cancelled(tick.tick()).await.is_none() {
            return;
        }
    }
}

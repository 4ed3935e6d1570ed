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
use crate::metrics;
use crate::plan::RetryPolicy;
use crate::record::{Owner, RecordError, Store, pool};

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

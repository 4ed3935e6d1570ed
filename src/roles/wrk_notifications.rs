//! `wrk-notifications`: deliveries that were deferred.

use std::time::Duration;

use super::wiring::Workers;
use super::{Context, wiring};
use crate::deliver::Providers;
use crate::plan::{EscalationPolicy, Settings};
use crate::workers::depth::DepthWorker;
use crate::workers::due::DueWorker;
use crate::workers::escalation::EscalationWorker;
use crate::workers::paused::PausedWorker;
use crate::workers::rounds::TURN_TIME;

/// Runs until the context's shutdown.
///
/// # Errors
/// When the configuration cannot be used, or an invariant breaks.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let providers = Providers::from_config(&ctx.config)?;
    run_with(ctx, providers).await
}

/// As [`run`], with given providers; for benchmarks of everything around them.
///
/// # Errors
/// As [`run`].
pub async fn run_with(ctx: Context, providers: Providers) -> anyhow::Result<()> {
    let config = &ctx.config;
    let store = wiring::store(&ctx)?;
    wiring::probe_database(&ctx, &store);
    let mut workers = Workers::new(&ctx);
    let (dispatcher, recorders) =
        wiring::dispatcher(&ctx, &store, &workers.fatal, providers, "wrk-notifications")?;
    workers.go_round(DepthWorker::new(store.clone()));
    workers.go_round(PausedWorker { store: store.clone() });
    workers.go_round(EscalationWorker {
        store: store.clone(),
        policy: EscalationPolicy::new(config),
        poll_interval: Duration::from_millis(config.workers.poll_interval_ms),
    });
    let worker = DueWorker {
        config: config.workers.clone(),
        lease: Duration::from_millis(config.processor.lease_ms),
        drain_timeout: Duration::from_millis(config.processor.drain_timeout_ms),
        store,
        dispatcher,
        settings: Settings::new(&config.plan)?,
    };
    let turned = workers.watched("due deliveries", TURN_TIME);
    workers.spawn(worker.run(turned, workers.stop.clone(), workers.fatal.clone()));
    let ended = workers.ended().await;
    wiring::join_recorders(recorders, &ctx).await;
    ended
}

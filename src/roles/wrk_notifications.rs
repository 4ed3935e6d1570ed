//! `wrk-notifications`: deliveries that were deferred.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Context, wiring};
use crate::deliver::Providers;
use crate::plan::Settings;
use crate::workers::due::DueWorker;
use crate::workers::paused;

/// Runs until the context's shutdown.
///
/// # Errors
/// When the configuration cannot be used, or an invariant breaks.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let config = &ctx.config;
    let fatal = CancellationToken::new();
    let store = wiring::store(&ctx)?;
    wiring::probe_database(&ctx, &store);
    let providers = Providers::from_config(config)?;
    let (dispatcher, recorders) = wiring::dispatcher(&ctx, &store, &fatal, providers, "wrk-notifications")?;
    let released = tokio::spawn(paused::run(store.clone(), ctx.shutdown.clone(), fatal.clone()));
    let worker = DueWorker {
        config: config.workers.clone(),
        lease: Duration::from_millis(config.processor.lease_ms),
        drain_timeout: Duration::from_millis(config.processor.drain_timeout_ms),
        store,
        dispatcher,
        settings: Settings::new(&config.plan)?,
    };
    worker.run(ctx.shutdown.clone(), fatal.clone()).await;
    wiring::join_recorders(recorders, &ctx).await;
    released.await?;
    anyhow::ensure!(!fatal.is_cancelled(), "an invariant is broken (see the log before this line)");
    Ok(())
}

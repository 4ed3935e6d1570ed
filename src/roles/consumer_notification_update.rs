//! `consumer-notification-update`: `pat.notification-updates.v1` → what is recorded.

use std::time::Duration;

use super::{Context, consumer, wiring};
use crate::decode::Decoder;
use crate::processor::{Flow, Updates};
use crate::topic::names;
use crate::workers::unmatched::UnmatchedWorker;
use tokio_util::sync::CancellationToken;

/// Runs until the context's shutdown.
///
/// # Errors
/// When the configuration cannot be used, or the processor breaks.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let config = &ctx.config;
    let fatal = CancellationToken::new();
    let store = wiring::store(&ctx)?;
    let unmatched_expiry = Duration::from_millis(config.workers.unmatched_expiry_ms);
    let worker = UnmatchedWorker {
        store: store.clone(),
        decoder: Decoder::new(&config.registry, config.processor.payload_max_bytes)?,
        expiry: unmatched_expiry,
    };
    let looking = tokio::spawn(worker.run(ctx.shutdown.clone(), fatal.clone()));
    let flow = Flow::Updates(Updates { unmatched_expiry });
    let ended = consumer::process(&ctx, &[names::NOTIFICATION_UPDATES], flow, store, fatal).await;
    ctx.shutdown.cancel();
    looking.await?;
    ended
}

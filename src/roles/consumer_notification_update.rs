//! `consumer-notification-update`: `pat.notification-updates.v1` → what is recorded.

use std::time::Duration;

use super::wiring::Workers;
use super::{Context, consumer, wiring};
use crate::decode::Decoder;
use crate::processor::{Flow, Updates};
use crate::topic::names;
use crate::workers::unmatched::UnmatchedWorker;

/// Runs until the context's shutdown.
///
/// # Errors
/// When the configuration cannot be used, or the processor breaks.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let config = &ctx.config;
    let store = wiring::store(&ctx)?;
    let unmatched_expiry = Duration::from_millis(config.workers.unmatched_expiry_ms);
    let decoder = Decoder::new(&config.registry, config.processor.payload_max_bytes)?;
    let mut workers = Workers::new(&ctx);
    workers.go_round(UnmatchedWorker::new(store.clone(), decoder, unmatched_expiry));
    let flow = Flow::Updates(Updates { unmatched_expiry });
    let ended =
        consumer::process(&ctx, &[names::NOTIFICATION_UPDATES], flow, store, workers.fatal.clone()).await;
    ctx.shutdown.cancel();
    ended.and(workers.ended().await)
}

//! `wrk-batch-publisher`: running batches to the bulk topic.

use std::sync::Arc;
use std::time::Duration;

use super::wiring::{Publishing, Workers};
use super::{Context, wiring};
use crate::topic::names::NOTIFICATIONS_BULK;
use crate::workers::batches::BatchPublisher;

/// Runs until the context's shutdown. Any number of replicas take turns.
///
/// # Errors
/// When the configuration cannot be used, or an invariant breaks.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let config = &ctx.config;
    let store = wiring::store(&ctx)?;
    wiring::probe_database(&ctx, &store);
    let Publishing { producer, encoder, publish_timeout } = wiring::publishing(&ctx)?;
    let mut workers = Workers::new(&ctx);
    workers.go_round(BatchPublisher {
        store,
        producer: Arc::clone(&producer),
        encoder,
        topic: NOTIFICATIONS_BULK.full_name(&config.kafka.topic_prefix),
        publish_timeout,
        poll_interval: Duration::from_millis(config.workers.poll_interval_ms),
    });
    workers.ended().await?;
    Ok(producer.flush(publish_timeout).await?)
}

//! `wrk-batch-publisher`: running batches to the bulk topic.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{Context, wiring};
use crate::topic::encoder::Encoder;
use crate::topic::names::NOTIFICATIONS_BULK;
use crate::topic::producer::Producer;
use crate::workers::batches::BatchPublisher;
use crate::workers::reminders::progress;

/// Runs until the context's shutdown. Any number of replicas take turns.
///
/// # Errors
/// When the configuration cannot be used, or an invariant breaks.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let config = &ctx.config;
    let fatal = CancellationToken::new();
    let store = wiring::store(&ctx)?;
    wiring::probe_database(&ctx, &store);
    let producer = Arc::new(Producer::new(&config.kafka)?);
    let publish_timeout = Duration::from_millis(config.kafka.produce_timeout_ms);
    let turned = Arc::new(Mutex::new(Instant::now()));
    let looked_at = Arc::clone(&turned);
    ctx.health.add_liveness("batches", move || progress(&looked_at, publish_timeout));
    let publisher = BatchPublisher {
        store,
        producer: Arc::clone(&producer),
        encoder: Encoder::new(&config.registry, &config.kafka.topic_prefix)?,
        topic: NOTIFICATIONS_BULK.full_name(&config.kafka.topic_prefix),
        publish_timeout,
        poll_interval: Duration::from_millis(config.workers.poll_interval_ms),
        turned,
    };
    publisher.run(ctx.shutdown.clone(), fatal.clone()).await;
    producer.flush(publish_timeout).await?;
    anyhow::ensure!(!fatal.is_cancelled(), "an invariant is broken (see the log before this line)");
    Ok(())
}

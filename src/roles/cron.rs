//! `cron`: what is done when its time has come. Reminders of appointments.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{Context, wiring};
use crate::topic::encoder::Encoder;
use crate::topic::producer::Producer;
use crate::workers::reminders::{ReminderWorker, progress};

/// Runs until the context's shutdown. Any number of replicas share the work.
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
    ctx.health.add_liveness("reminders", move || progress(&looked_at, publish_timeout));
    let worker = ReminderWorker {
        store,
        producer: Arc::clone(&producer),
        encoder: Encoder::new(&config.registry, &config.kafka.topic_prefix)?,
        topic_prefix: config.kafka.topic_prefix.clone(),
        publish_timeout,
        batch_max: config.workers.batch_max_rows,
        poll_interval: Duration::from_millis(config.workers.poll_interval_ms),
        turned,
    };
    worker.run(ctx.shutdown.clone(), fatal.clone()).await;
    producer.flush(publish_timeout).await?;
    anyhow::ensure!(!fatal.is_cancelled(), "an invariant is broken (see the log before this line)");
    Ok(())
}

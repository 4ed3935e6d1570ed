//! `cron`: what is done when its time has come. Reminders of appointments, and the jobs of
//! [`crate::cron`].

use std::sync::Arc;
use std::time::Duration;

use super::wiring::{Publishing, Workers};
use super::{Context, wiring};
use crate::cron::jobs::Jobs;
use crate::topic::encoder::Encoder;
use crate::workers::reminders::ReminderWorker;

/// Runs until the context's shutdown. Any number of replicas share the work.
///
/// # Errors
/// When the configuration cannot be used, or an invariant breaks.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let config = &ctx.config;
    let store = wiring::store(&ctx)?;
    wiring::probe_database(&ctx, &store);
    let Publishing { producer, encoder, publish_timeout } = wiring::publishing(&ctx)?;
    let mut workers = Workers::new(&ctx);
    let jobs = Jobs {
        config: Arc::clone(config),
        store: store.clone(),
        producer: Arc::clone(&producer),
        encoder: Arc::new(Encoder::new(&config.registry, &config.kafka.topic_prefix)?),
        stop: workers.stop.clone(),
    };
    if config.cron.digest_enabled {
        workers.go_round(jobs.digest()?);
    }
    workers.go_round(jobs.retention()?);
    workers.go_round(jobs.stale()?);
    workers.go_round(ReminderWorker {
        store,
        producer: Arc::clone(&producer),
        encoder,
        topic_prefix: config.kafka.topic_prefix.clone(),
        publish_timeout,
        batch_max: config.workers.batch_max_rows,
        poll_interval: Duration::from_millis(config.workers.poll_interval_ms),
    });
    workers.ended().await?;
    Ok(producer.flush(publish_timeout).await?)
}

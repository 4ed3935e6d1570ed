//! `wrk-default`: the outbox's relay, erasures that go on, and the general queue.

use std::sync::Arc;
use std::time::Duration;

use super::wiring::{Publishing, Workers};
use super::{Context, wiring};
use crate::topic::names;
use crate::workers::erasure::ErasureWorker;
use crate::workers::jobs::JobWorker;
use crate::workers::relay::StatusRelay;

/// Runs until the context's shutdown.
///
/// # Errors
/// When the configuration cannot be used, or an invariant breaks.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let config = &ctx.config;
    let store = wiring::store(&ctx)?;
    wiring::probe_database(&ctx, &store);
    let Publishing { producer, encoder, publish_timeout } = wiring::publishing(&ctx)?;
    let mut workers = Workers::new(&ctx);
    workers.go_round(ErasureWorker { store: store.clone() });
    let (jobs, drained) = JobWorker::new(
        store.clone(),
        config.kafka.clone(),
        config.workers.jobs_max,
        Duration::from_millis(config.workers.poll_interval_ms),
        workers.stop.clone(),
    );
    workers.go_round(jobs);
    workers.spawn(drained);
    let relay = StatusRelay {
        store,
        producer: Arc::clone(&producer),
        encoder,
        topic: names::NOTIFICATION_STATUS.full_name(&config.kafka.topic_prefix),
    };
    workers.spawn(relay.run(workers.stop.clone(), workers.fatal.clone()));
    workers.ended().await?;
    Ok(producer.flush(publish_timeout).await?)
}

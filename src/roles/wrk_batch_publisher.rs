//! `wrk-batch-publisher`: running batches to the bulk topic, and checks of batches.

use std::sync::Arc;
use std::time::Duration;

use super::wiring::{Publishing, Workers};
use super::{Context, wiring};
use crate::topic::names::NOTIFICATIONS_BULK;
use crate::workers::batches::BatchPublisher;
use crate::workers::batches::check::BatchChecker;
use crate::workers::batches::produce::RowProducer;

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
    let rows = Arc::new(RowProducer {
        producer: Arc::clone(&producer),
        encoder,
        topic: NOTIFICATIONS_BULK.full_name(&config.kafka.topic_prefix),
        publish_timeout,
    });
    let poll_interval = Duration::from_millis(config.workers.poll_interval_ms);
    workers.go_round(BatchPublisher::new(store.clone(), Arc::clone(&rows), poll_interval));
    workers.go_round(BatchChecker { store, rows, kafka: config.kafka.clone() });
    workers.ended().await?;
    Ok(producer.flush(publish_timeout).await?)
}

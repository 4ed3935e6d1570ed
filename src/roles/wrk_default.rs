//! `wrk-default`: the outbox's relay, and erasures that go on.

use std::sync::Arc;

use super::wiring::{Publishing, Workers};
use super::{Context, wiring};
use crate::topic::names;
use crate::workers::erasure::ErasureWorker;
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

//! `wrk-default`: the outbox's relay, and erasures that go on.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Context, wiring};
use crate::topic::encoder::Encoder;
use crate::topic::names;
use crate::topic::producer::Producer;
use crate::workers::erasure::ErasureWorker;
use crate::workers::relay::StatusRelay;

/// Runs until the context's shutdown.
///
/// # Errors
/// When the configuration cannot be used, or an invariant breaks.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let config = &ctx.config;
    let fatal = CancellationToken::new();
    let store = wiring::store(&ctx)?;
    wiring::probe_database(&ctx, &store);
    let producer = Arc::new(Producer::new(&config.kafka)?);
    let erasures = ErasureWorker { store: store.clone() };
    let relay = StatusRelay {
        store,
        producer: Arc::clone(&producer),
        encoder: Encoder::new(&config.registry, &config.kafka.topic_prefix)?,
        topic: names::NOTIFICATION_STATUS.full_name(&config.kafka.topic_prefix),
    };
    // Each ends at a stop or a broken invariant, and then the other one has to, too.
    let stop = ctx.shutdown.child_token();
    let _ended = tokio::join!(
        async {
            relay.run(stop.clone(), fatal.clone()).await;
            stop.cancel();
        },
        async {
            erasures.run(stop.clone(), fatal.clone()).await;
            stop.cancel();
        },
    );
    producer.flush(Duration::from_millis(config.kafka.produce_timeout_ms)).await?;
    anyhow::ensure!(!fatal.is_cancelled(), "an invariant is broken (see the log before this line)");
    Ok(())
}

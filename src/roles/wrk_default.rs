//! `wrk-default`: the outbox's relay, callbacks to other backends, erasures that go on, and
//! the general queue.

use std::sync::Arc;
use std::time::Duration;

use super::wiring::{Publishing, Workers};
use super::{Context, wiring};
use crate::api::auth;
use crate::topic::names;
use crate::workers::callbacks::{CallbackWorker, Endpoints};
use crate::workers::erasure::ErasureWorker;
use crate::workers::jobs::JobWorker;
use crate::workers::relay::StatusRelay;
use crate::workers::rounds::TURN_TIME;

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
    let endpoints = endpoints(&ctx)?;
    let callbacks = CallbackWorker::new(config.callbacks.clone(), store.clone(), endpoints.clone());
    workers.go_round(callbacks.clone());
    let relay = StatusRelay {
        store,
        producer: Arc::clone(&producer),
        encoder,
        topic: names::NOTIFICATION_STATUS.full_name(&config.kafka.topic_prefix),
        callbacks: endpoints,
    };
    // A turn publishes, and waits for the acknowledgements.
    let turned = workers.watched("status relay", TURN_TIME.saturating_add(publish_timeout));
    workers.spawn(relay.run(turned, workers.stop.clone(), workers.fatal.clone()));
    let ended = workers.ended().await;
    callbacks.drain(Duration::from_millis(config.processor.drain_timeout_ms)).await;
    ended?;
    Ok(producer.flush(publish_timeout).await?)
}

/// Where callers are called back; read again and again, as the front does.
fn endpoints(ctx: &Context) -> anyhow::Result<Endpoints> {
    let config = Arc::clone(&ctx.config);
    let endpoints = Endpoints::default();
    endpoints.replace(auth::callbacks(&config.auth)?, &config.callbacks)?;
    let (again, shutdown) = (endpoints.clone(), ctx.shutdown.clone());
    tokio::spawn(async move {
        let interval = Duration::from_millis(config.auth.reread_interval_ms);
        while shutdown.run_until_cancelled(tokio::time::sleep(interval)).await.is_some() {
            match auth::callbacks(&config.auth).map(|read| again.replace(read, &config.callbacks)) {
                Ok(Ok(true)) => tracing::info!("callbacks have changed"),
                Ok(Ok(false)) => {}
                Ok(Err(error)) => {
                    tracing::warn!(%error, "callbacks cannot be taken over; the last ones stay")
                }
                Err(faults) => tracing::warn!(%faults, "callbacks cannot be read; the last ones stay"),
            }
        }
    });
    Ok(endpoints)
}

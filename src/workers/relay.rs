//! Outbox → `pat.notification-status.v1`: one active relay, oldest first, at least
//! once, in order a notification.

use std::time::Duration;

use futures::future::join_all;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::callbacks::Endpoints;
use super::rounds::Turned;
use crate::metrics;
use crate::record::{OutboxRow, RecordError, Relay, Store};
use crate::topic::encoder::Encoder;
use crate::topic::producer::{ProduceError, Producer};
use crate::trace::{Kind, Span, TRACEPARENT};

/// Changes that are published before they are deleted together.
const BATCH: usize = 2000;
/// Pause when there is nothing to publish, or another process is the relay.
const IDLE: Duration = Duration::from_millis(200);
/// Pause while the database, the registry or the broker is away.
const UNAVAILABLE_PAUSE: Duration = Duration::from_secs(1);

/// The relay of status changes.
pub struct StatusRelay {
    /// The database.
    pub store: Store,
    /// The broker.
    pub producer: std::sync::Arc<Producer>,
    /// Avro.
    pub encoder: Encoder,
    /// Full name of the status topic.
    pub topic: String,
    /// Who is called back about what is published.
    pub callbacks: Endpoints,
}

impl StatusRelay {
    /// Runs until `shutdown`. A broken invariant cancels `fatal`. `turned` is told of each look.
    pub async fn run(self, turned: Turned, shutdown: CancellationToken, fatal: CancellationToken) {
        while !shutdown.is_cancelled() && !fatal.is_cancelled() {
            turned.now();
            let pause = match self.store.become_relay().await {
                Ok(Some(relay)) => {
                    info!("this process relays status changes now");
                    let ended = self.relay(&relay, &turned, &shutdown).await;
                    relay.resign();
                    match ended {
                        Ok(()) => return,
                        Err(error) => self.after(&error, &fatal),
                    }
                }
                Ok(None) => IDLE * 5,
                Err(error) => self.after(&error, &fatal),
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    fn after(&self, error: &RecordError, fatal: &CancellationToken) -> Duration {
        match error {
            RecordError::Unavailable(_) => {
                metrics::unavailable("postgres");
                warn!(%error, "status changes wait");
            }
            RecordError::Bug(_) => {
                error!(%error, "status changes cannot be read; the process ends");
                fatal.cancel();
            }
        }
        UNAVAILABLE_PAUSE
    }

    async fn relay(
        &self,
        relay: &Relay,
        turned: &Turned,
        shutdown: &CancellationToken,
    ) -> Result<(), RecordError> {
        while !shutdown.is_cancelled() {
            turned.now();
            let rows = relay.oldest(BATCH).await?;
            let published = self.publish(&rows).await;
            relay.published(&published, &self.callbacks.wanted()).await?;
            metrics::outbox_published(published.len() as u64);
            let pause = match (rows.len(), published.len()) {
                (0, _) => IDLE,
                (all, some) if some < all => UNAVAILABLE_PAUSE,
                _ => continue,
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => {}
            }
        }
        Ok(())
    }

    /// Publishes in order; returns the ids up to the first that failed, so that
    /// nothing is deleted that a later repetition would have to precede.
    async fn publish(&self, rows: &[OutboxRow]) -> Vec<i64> {
        let mut records = Vec::with_capacity(rows.len());
        for row in rows {
            match self.encoder.status(&row.change).await {
                Ok(payload) => records.push((row, payload)),
                Err(error) => {
                    metrics::unavailable("registry");
                    warn!(%error, "status changes cannot be encoded now");
                    break;
                }
            }
        }
        let sends = records.iter().map(|(row, payload)| self.publish_one(row, payload));
        let mut published = Vec::with_capacity(records.len());
        for ((row, _), sent) in records.iter().zip(join_all(sends).await) {
            if let Err(error) = sent {
                metrics::unavailable("kafka");
                warn!(%error, "status changes cannot be published now");
                break;
            }
            published.push(row.outbox_id);
        }
        published
    }

    async fn publish_one(&self, row: &OutboxRow, payload: &[u8]) -> Result<(i32, i64), ProduceError> {
        let change = &row.change;
        let span = Span::begin("publish status", Kind::Producer, row.trace);
        let traceparent = span.context(row.trace).to_string();
        let headers = [(TRACEPARENT, traceparent.as_bytes())];
        let key = change.patient_id.as_str().as_bytes();
        let sent = self.producer.send(&self.topic, Some(key), Some(payload), &headers).await;
        let span = span
            .with("messaging.system", "kafka")
            .with_text("messaging.destination.name", &self.topic)
            .with_text("notification_id", &change.notification_id)
            .with("sequence", i64::from(change.sequence))
            .with("state", change.state.as_str())
            .with("reason", change.reason.as_str());
        if sent.is_ok() {
            span.end()
        } else {
            span.fail("kafka")
        }
        sent
    }
}

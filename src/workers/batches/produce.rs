//! Rows of a batch → requests on the bulk topic.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::warn;

use crate::domain::{NotificationRequested, PatientId, Redacted, Strategy, Urgency};
use crate::metrics;
use crate::record::batch_publish::NextRow;
use crate::record::batches::BatchView;
use crate::topic::encoder::{Alike, EncodeError, Encoder};
use crate::topic::names::NOTIFICATIONS_BULK;
use crate::topic::producer::{OnItsWay, ProduceError, Producer};

/// Rows between two looks at the clock.
const LOOK_ROWS: usize = 500;

/// Publishes rows of batches.
pub struct RowProducer {
    /// The broker.
    pub producer: std::sync::Arc<Producer>,
    /// Avro.
    pub encoder: Encoder,
    /// Full name of the bulk topic.
    pub topic: String,
    /// Longest time a produced record may wait for its acknowledgement.
    pub publish_timeout: Duration,
}

/// How far a turn came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Produced {
    /// Rows from the first on that are acknowledged without a gap.
    pub acknowledged: usize,
    /// True when something was away; false: what is not acknowledged was not begun.
    pub failed: bool,
}

impl RowProducer {
    /// Publishes rows in their order. What has not begun after `time` is left.
    pub async fn produce(
        &self,
        batch: &BatchView,
        rows: &[NextRow],
        now: Timestamp,
        time: Duration,
    ) -> Produced {
        let Some(first) = rows.first() else {
            return Produced { acknowledged: 0, failed: false };
        };
        let alike = match self.alike(batch, &first.patient_id, now).await {
            Ok(alike) => alike,
            Err(error) => {
                metrics::unavailable("registry");
                warn!(%error, "rows of a batch cannot be encoded now");
                return Produced { acknowledged: 0, failed: true };
            }
        };
        let (sent, mut refused) = self.hand_over(batch, rows, &alike, Instant::now() + time).await;
        let mut acknowledged = 0;
        for one in sent {
            if let Err(error) = self.producer.acknowledged(&self.topic, one).await {
                refused = Some(error);
                break;
            }
            acknowledged += 1;
        }
        // Where the queue is full, the rest follows once these have left it.
        let refused = refused.filter(|error| acknowledged == 0 || !error.is_queue_full());
        if let Some(error) = &refused {
            metrics::unavailable("kafka");
            warn!(%error, "rows of a batch cannot be published now");
        }
        Produced { acknowledged, failed: refused.is_some() }
    }

    /// Hands rows over until it is time, or one is not taken.
    async fn hand_over(
        &self,
        batch: &BatchView,
        rows: &[NextRow],
        alike: &Alike,
        until: Instant,
    ) -> (Vec<OnItsWay>, Option<ProduceError>) {
        let mut sent = Vec::with_capacity(rows.len());
        for some in rows.chunks(LOOK_ROWS) {
            if !sent.is_empty() && Instant::now() >= until {
                break;
            }
            for row in some {
                let payload = encoded(alike, batch, row);
                match self.producer.begin(&self.topic, row.patient_id.as_str().as_bytes(), &payload) {
                    Ok(one) => sent.push(one),
                    Err(error) => return (sent, Some(error)),
                }
            }
            // Acknowledgements are taken in, and other batches have their turn.
            tokio::task::yield_now().await;
        }
        (sent, None)
    }

    /// What the requests of a batch have in common.
    async fn alike(&self, batch: &BatchView, any: &PatientId, now: Timestamp) -> Result<Alike, EncodeError> {
        let common = NotificationRequested {
            caller: batch.made.caller.clone(),
            idempotency_key: String::new(),
            patient_id: any.clone(),
            recipient: None,
            purpose: batch.made.purpose,
            urgency: Urgency::Bulk,
            channels: batch.made.channels.clone(),
            strategy: Strategy::InOrder,
            send_at: None,
            expires_at: Some(batch.made.expires_at),
            variables: Redacted::new(Vec::new()),
            requested_at: now,
        };
        Alike::new(&self.encoder, &NOTIFICATIONS_BULK, &common).await
    }
}

/// A row's request: its variables over those of the batch.
fn encoded(alike: &Alike, batch: &BatchView, row: &NextRow) -> Vec<u8> {
    let (own, common) = (row.variables.expose(), batch.made.variables.expose());
    let common = common.iter().filter(|(name, _)| !own.contains_key(*name));
    let variables: Vec<(&str, &str)> =
        own.iter().chain(common).map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let key = batch.id.key(row.patient_id.as_str(), row.recipient.as_deref());
    alike.encode(&key, &row.patient_id, row.recipient.as_deref(), &variables)
}

//! Writing records: idempotent, acknowledged by all in-sync replicas, bounded.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, Headers as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use rdkafka::util::Timeout;
use thiserror::Error;

use crate::config;

use super::client::{QuietContext, kafka_client_config};

/// Longest record that we produce, in bytes: the brokers' usual 1 MiB, and room
/// for a dead letter's headers on top of it.
pub const RECORD_MAX_BYTES: usize = 2 * 1024 * 1024;

const QUEUE_MAX_RECORDS: u32 = 100_000;
const QUEUE_MAX_KBYTES: u32 = 65_536;
/// How long a record waits for company: a gRPC caller waits with it.
const LINGER_MS: u32 = 2;
/// How long a topic that the brokers do not know may still appear.
const TOPIC_APPEARS_MS: u32 = 5_000;

/// Why a record was not written. (librdkafka's error says all that its own sources
/// say, so it is part of the text and not a source.)
#[derive(Debug, Error)]
pub enum ProduceError {
    /// The brokers did not acknowledge it in time. It may have been written all
    /// the same: send it again, readers know it by its meaning.
    #[error("no acknowledgement for a record on {topic}: {cause}; check that the brokers are up")]
    Unavailable {
        /// Where it should have gone.
        topic: String,
        /// What librdkafka says.
        cause: KafkaError,
    },
    /// The brokers do not take this record, now or later.
    #[error(
        "a record on {topic} was refused: {cause}; check the topic (`topics check`) and the record's size"
    )]
    Refused {
        /// Where it should have gone.
        topic: String,
        /// What librdkafka says.
        cause: KafkaError,
    },
}

type Client = FutureProducer<QuietContext>;

/// A producer; one a process is enough, and it is cheap to share.
pub struct Producer {
    client: ClientConfig,
    /// Exchanged when librdkafka says that this one is broken for good.
    current: RwLock<Arc<Client>>,
    timeout: Duration,
}

impl ProduceError {
    /// True when the record is longer than the topic takes.
    #[must_use]
    pub fn is_too_large(&self) -> bool {
        let Self::Refused { cause, .. } = self else {
            return false;
        };
        let code = cause.rdkafka_error_code();
        matches!(code, Some(RDKafkaErrorCode::MessageSizeTooLarge | RDKafkaErrorCode::MessageBatchTooLarge))
    }
}

impl Producer {
    /// A producer on these brokers; it connects when it is used.
    ///
    /// # Errors
    /// When the settings make no client.
    pub fn new(kafka: &config::Kafka) -> Result<Self, KafkaError> {
        let mut client = kafka_client_config(kafka);
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("message.timeout.ms", kafka.produce_timeout_ms.to_string())
            .set("linger.ms", LINGER_MS.to_string())
            .set("compression.type", "lz4")
            .set("message.max.bytes", RECORD_MAX_BYTES.to_string())
            .set("topic.metadata.propagation.max.ms", TOPIC_APPEARS_MS.to_string())
            .set("queue.buffering.max.messages", QUEUE_MAX_RECORDS.to_string())
            .set("queue.buffering.max.kbytes", QUEUE_MAX_KBYTES.to_string());
        let current = RwLock::new(Arc::new(client.create_with_context(QuietContext::default())?));
        Ok(Self { client, current, timeout: Duration::from_millis(kafka.produce_timeout_ms) })
    }

    /// Writes one record and waits for its acknowledgement: its partition and
    /// offset. Records of one key stay in the order in which they were first polled.
    /// Waits at most `kafka.produce_timeout_ms` for room in the queue, and as long
    /// again for the acknowledgement.
    ///
    /// # Errors
    /// [`ProduceError`] says whether trying again can help.
    pub async fn send(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        headers: &[(&str, &[u8])],
    ) -> Result<(i32, i64), ProduceError> {
        let headers = headers.iter().map(|&(key, value)| (key, Some(value)));
        self.send_with(topic, key, payload, owned(headers)).await
    }

    /// As [`Producer::send`], for headers that are built already.
    pub(super) async fn send_with(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        headers: OwnedHeaders,
    ) -> Result<(i32, i64), ProduceError> {
        self.send_to(topic, None, key, payload, headers).await
    }

    /// As [`Producer::send_with`], to this partition whatever the key says; `None`:
    /// the key decides.
    pub(super) async fn send_to(
        &self,
        topic: &str,
        partition: Option<i32>,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        headers: OwnedHeaders,
    ) -> Result<(i32, i64), ProduceError> {
        let record = FutureRecord::<[u8], [u8]> {
            topic,
            partition,
            payload,
            key,
            timestamp: None,
            headers: (headers.count() > 0).then_some(headers),
        };
        let producer = Arc::clone(&self.current.read());
        match producer.send(record, Timeout::After(self.timeout)).await {
            Ok(delivery) => Ok((delivery.partition, delivery.offset)),
            Err((cause, _)) => {
                if cause.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
                    self.replace(&producer);
                }
                Err(classify(topic, cause))
            }
        }
    }

    /// Waits until everything that was sent is acknowledged or has failed.
    ///
    /// # Errors
    /// When that takes longer than `timeout`.
    pub async fn flush(&self, timeout: Duration) -> Result<(), KafkaError> {
        let producer = Arc::clone(&self.current.read());
        tokio::task::spawn_blocking(move || producer.flush(timeout))
            .await
            .unwrap_or(Err(KafkaError::Flush(RDKafkaErrorCode::Fail)))
    }

    /// An idempotent producer that lost its place can only be thrown away. What
    /// it held is reported as failed to its senders, who send it again.
    fn replace(&self, broken: &Arc<Client>) {
        let mut current = self.current.write();
        if !Arc::ptr_eq(&current, broken) {
            return;
        }
        match self.client.create_with_context(QuietContext::default()) {
            Ok(fresh) => {
                tracing::warn!("the Kafka producer failed for good and was replaced");
                *current = Arc::new(fresh);
            }
            Err(error) => {
                tracing::error!(%error, "the Kafka producer failed for good and cannot be replaced")
            }
        }
    }
}

/// Headers in librdkafka's own form.
pub(super) fn owned<'a>(headers: impl Iterator<Item = (&'a str, Option<&'a [u8]>)>) -> OwnedHeaders {
    headers.fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value }))
}

fn classify(topic: &str, cause: KafkaError) -> ProduceError {
    let topic = topic.to_owned();
    let refused = cause.rdkafka_error_code().is_some_and(|code| {
        matches!(
            code,
            RDKafkaErrorCode::MessageSizeTooLarge
                | RDKafkaErrorCode::MessageBatchTooLarge
                | RDKafkaErrorCode::InvalidTopic
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::InvalidRecord
                | RDKafkaErrorCode::PolicyViolation
        )
    });
    if refused { ProduceError::Refused { topic, cause } } else { ProduceError::Unavailable { topic, cause } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_never_be_written_is_told_from_what_cannot_be_written_now() {
        let of = |code| classify("t", KafkaError::MessageProduction(code));
        assert!(matches!(of(RDKafkaErrorCode::MessageSizeTooLarge), ProduceError::Refused { .. }));
        assert!(matches!(of(RDKafkaErrorCode::UnknownTopic), ProduceError::Refused { .. }));
        assert!(matches!(of(RDKafkaErrorCode::QueueFull), ProduceError::Unavailable { .. }));
        assert!(matches!(of(RDKafkaErrorCode::MessageTimedOut), ProduceError::Unavailable { .. }));
        assert!(matches!(of(RDKafkaErrorCode::NotEnoughReplicas), ProduceError::Unavailable { .. }));
    }
}

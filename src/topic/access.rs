//! What the brokers let us read, found by reading: where access is refused, a client
//! that only asks for offsets may hear nothing of it.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use super::client::{QuietContext, kafka_client_config};
use crate::config;

/// Longest time that one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest time until a topic has said whether it can be read.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(200);

/// The brokers as they present themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brokers {
    /// How many there are.
    pub count: usize,
    /// How long the answer took, in milliseconds.
    pub answered_ms: u128,
}

/// Asks the brokers who they are. Blocking: call it from a thread that may block.
///
/// # Errors
/// When none answers within 5 s, or ours are refused.
pub fn brokers(kafka: &config::Kafka) -> Result<Brokers, KafkaError> {
    let begun = Instant::now();
    let client: BaseConsumer<QuietContext> =
        kafka_client_config(kafka).create_with_context(QuietContext::default())?;
    let metadata = client.fetch_metadata(None, REQUEST_TIMEOUT)?;
    Ok(Brokers { count: metadata.brokers().len(), answered_ms: begun.elapsed().as_millis() })
}

/// Reads the end of a topic's first partition (full names), as `group`, which it does
/// not join: proof that both may be read. Blocking, at most some 15 s.
///
/// # Errors
/// What the brokers refuse, or that they do not answer.
pub fn read_end(kafka: &config::Kafka, group: &str, topic: &str) -> Result<(), KafkaError> {
    let mut client = kafka_client_config(kafka);
    client
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("allow.auto.create.topics", "false")
        .set("fetch.wait.max.ms", "50");
    let consumer: BaseConsumer<QuietContext> = client.create_with_context(QuietContext::default())?;
    let mut end = TopicPartitionList::new();
    end.add_partition_offset(topic, 0, Offset::End)?;
    for of_group in consumer.committed_offsets(end.clone(), REQUEST_TIMEOUT)?.elements() {
        of_group.error()?;
    }
    consumer.assign(&end)?;
    let begun = Instant::now();
    while begun.elapsed() < READ_TIMEOUT {
        match consumer.poll(POLL) {
            None => {}
            Some(Ok(_) | Err(KafkaError::PartitionEOF(_))) => return Ok(()),
            Some(Err(error)) => return Err(error),
        }
    }
    Err(KafkaError::MessageConsumption(RDKafkaErrorCode::RequestTimedOut))
}

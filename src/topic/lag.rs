//! How far a consumer group is behind: end offset less committed offset, a
//! partition, as any Kafka-compatible broker tells it.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::client::kafka_client_config;
use crate::config;

/// Longest time one request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// One partition of a topic, as a group sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionLag {
    /// Full topic name.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Next offset that the group reads; `None`: it has never committed.
    pub committed: Option<i64>,
    /// Oldest offset that is kept.
    pub low: i64,
    /// Offset after the newest record.
    pub high: i64,
}

impl PartitionLag {
    /// Records that are not committed. Without a commit: all that are kept.
    #[must_use]
    pub fn lag(&self) -> i64 {
        (self.high - self.committed.unwrap_or(self.low).max(self.low)).max(0)
    }
}

/// Reads the lag of a group on these topics (full names). It does not join the
/// group. Blocking: call it from a thread that may block.
///
/// # Errors
/// When the broker does not answer within its time.
pub fn read(kafka: &config::Kafka, group: &str, topics: &[String]) -> Result<Vec<PartitionLag>, KafkaError> {
    let mut client = kafka_client_config(kafka);
    client.set("group.id", group).set("enable.auto.commit", "false").set("allow.auto.create.topics", "false");
    let consumer: BaseConsumer = client.create()?;
    let mut wanted = TopicPartitionList::new();
    for topic in topics {
        let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
        for found in metadata.topics() {
            for partition in found.partitions() {
                wanted.add_partition(found.name(), partition.id());
            }
        }
    }
    let committed = consumer.committed_offsets(wanted, TIMEOUT)?;
    committed
        .elements()
        .iter()
        .map(|element| {
            let (low, high) = consumer.fetch_watermarks(element.topic(), element.partition(), TIMEOUT)?;
            let committed = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            Ok(PartitionLag {
                topic: element.topic().to_owned(),
                partition: element.partition(),
                committed,
                low,
                high,
            })
        })
        .collect()
}

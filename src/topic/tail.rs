//! Reading a topic as it grows, or a stretch of it, without a group and without a
//! trace: all partitions, each from a place of its own.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::client::{QuietContext, kafka_client_config};
use crate::config;

/// Longest time that one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// Records that librdkafka fetches ahead, in kilobytes.
const FETCH_AHEAD_KBYTES: &str = "4096";
/// How long a broker may hold an empty fetch.
const FETCH_WAIT_MS: &str = "50";

type Client = StreamConsumer<QuietContext>;

/// Why a topic could not be read on.
#[derive(Debug, thiserror::Error)]
pub enum TailError {
    /// The brokers do not answer.
    #[error("brokers cannot be reached to read {topic}: {cause}")]
    Unavailable {
        /// Full name.
        topic: String,
        /// What librdkafka says.
        cause: KafkaError,
    },
    /// A place lies before what is kept, or behind what there is.
    #[error("partition {partition} of {topic} does not hold the place to read from any more")]
    Gone {
        /// Full name.
        topic: String,
        /// Partition.
        partition: i32,
    },
}

/// One record.
#[derive(Debug)]
pub struct Tailed {
    /// Partition.
    pub partition: usize,
    /// Offset.
    pub offset: i64,
    /// Value in the registry's wire format.
    pub payload: Option<Vec<u8>>,
}

/// What reading on came to.
#[derive(Debug)]
pub enum Step {
    /// A record.
    Record(Tailed),
    /// There is no more in this partition now; the next offset.
    End(usize, i64),
}

/// The first and the next offset of each partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Extent {
    /// The oldest offset that is kept.
    pub low: Vec<i64>,
    /// The offset after the newest record.
    pub high: Vec<i64>,
}

/// A reader of one topic.
pub struct Tail {
    consumer: Arc<Client>,
    topic: String,
}

impl Tail {
    /// A reader of a topic (full name) on these brokers. It connects when it is used.
    ///
    /// # Errors
    /// When the settings make no client.
    pub fn new(kafka: &config::Kafka, topic: &str) -> Result<Self, TailError> {
        let mut client = kafka_client_config(kafka);
        client
            .set("group.id", format!("{}tail", kafka.topic_prefix))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "error")
            .set("allow.auto.create.topics", "false")
            .set("isolation.level", "read_committed")
            .set("queued.max.messages.kbytes", FETCH_AHEAD_KBYTES)
            .set("fetch.wait.max.ms", FETCH_WAIT_MS);
        let consumer: Client = client
            .create_with_context(QuietContext::default())
            .map_err(|cause| TailError::Unavailable { topic: topic.to_owned(), cause })?;
        Ok(Self { consumer: Arc::new(consumer), topic: topic.to_owned() })
    }

    /// How many partitions the topic has; also the proof that the brokers answer.
    ///
    /// # Errors
    /// [`TailError::Unavailable`].
    pub async fn partitions(&self) -> Result<usize, TailError> {
        let (consumer, topic) = (Arc::clone(&self.consumer), self.topic.clone());
        let ask = move || count(&consumer, &topic);
        let asked = tokio::task::spawn_blocking(ask).await.unwrap_or(Err(KafkaError::Canceled));
        asked.map_err(|cause| self.unavailable(cause))
    }

    /// What the topic holds now.
    ///
    /// # Errors
    /// [`TailError::Unavailable`].
    pub async fn extent(&self) -> Result<Extent, TailError> {
        let (consumer, topic) = (Arc::clone(&self.consumer), self.topic.clone());
        let ask = move || {
            let count = count(&consumer, &topic)?;
            let mut extent = Extent { low: Vec::with_capacity(count), high: Vec::with_capacity(count) };
            for partition in 0..i32::try_from(count).unwrap_or(i32::MAX) {
                let (low, high) = consumer.fetch_watermarks(&topic, partition, REQUEST_TIMEOUT)?;
                extent.low.push(low);
                extent.high.push(high);
            }
            Ok(extent)
        };
        let asked = tokio::task::spawn_blocking(ask).await.unwrap_or(Err(KafkaError::Canceled));
        asked.map_err(|cause| self.unavailable(cause))
    }

    /// Reads these partitions from these offsets on.
    ///
    /// # Errors
    /// When the client does not take them.
    pub fn read_from(&self, places: impl Iterator<Item = (usize, i64)>) -> Result<(), TailError> {
        let mut wanted = TopicPartitionList::new();
        for (partition, offset) in places {
            let partition = i32::try_from(partition).unwrap_or(i32::MAX);
            wanted
                .add_partition_offset(&self.topic, partition, Offset::Offset(offset))
                .map_err(|cause| self.unavailable(cause))?;
        }
        self.consumer.assign(&wanted).map_err(|cause| self.unavailable(cause))
    }

    /// The next record, or the news that a partition has no more. Brokers that are
    /// away are met by silence: [`Tail::partitions`] tells.
    ///
    /// # Errors
    /// [`TailError::Gone`] when what was to be read is not kept any more.
    pub async fn next(&self) -> Result<Step, TailError> {
        loop {
            match self.consumer.recv().await {
                Ok(message) => {
                    return Ok(Step::Record(Tailed {
                        partition: usize::try_from(message.partition()).unwrap_or_default(),
                        offset: message.offset(),
                        payload: message.payload().map(<[u8]>::to_vec),
                    }));
                }
                Err(KafkaError::PartitionEOF(partition)) => {
                    let position = self.position(partition);
                    if let Some(next) = position {
                        return Ok(Step::End(usize::try_from(partition).unwrap_or_default(), next));
                    }
                }
                Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange,
                )) => return Err(TailError::Gone { topic: self.topic.clone(), partition: -1 }),
                // librdkafka goes on by itself; whether it can, `partitions` tells.
                Err(_) => {}
            }
        }
    }

    fn position(&self, partition: i32) -> Option<i64> {
        let positions = self.consumer.position().ok()?;
        match positions.find_partition(&self.topic, partition)?.offset() {
            Offset::Offset(next) => Some(next),
            _ => None,
        }
    }

    fn unavailable(&self, cause: KafkaError) -> TailError {
        TailError::Unavailable { topic: self.topic.clone(), cause }
    }
}

fn count(consumer: &Client, topic: &str) -> Result<usize, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST_TIMEOUT)?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    match found.map_or(0, |found| found.partitions().len()) {
        0 => Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopic)),
        count => Ok(count),
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::topic::producer::Producer;

    #[tokio::test]
    async fn a_topic_is_read_from_any_place_to_its_end_and_on() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let mut kafka = config::Config::from_defaults().kafka;
        kafka.bootstrap_servers = cluster.bootstrap_servers();
        let producer = Producer::new(&kafka).unwrap();
        for number in 0..5_u8 {
            producer.send("t", Some(b"k"), Some(&[number]), &[]).await.unwrap();
        }
        let tail = Tail::new(&kafka, "t").unwrap();
        assert_eq!(tail.extent().await.unwrap(), Extent { low: vec![0], high: vec![5] });
        tail.read_from([(0, 3)].into_iter()).unwrap();
        for number in [3_u8, 4] {
            let Step::Record(record) = tail.next().await.unwrap() else { panic!("there is more") };
            assert_eq!((record.offset, record.payload), (i64::from(number), Some(vec![number])));
        }
        producer.send("t", Some(b"k"), Some(&[5]), &[]).await.unwrap();
        loop {
            match tail.next().await.unwrap() {
                Step::Record(record) => break assert_eq!(record.offset, 5),
                Step::End(partition, _) => assert_eq!(partition, 0),
            }
        }
    }
}

//! Reading dead-letter partitions from end to end, without a group and without a
//! trace: a window at a time, first the markers that concern it, then its letters.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};
use tokio::time::{Instant, timeout_at};

use crate::config;
use crate::topic::client::{QuietContext, kafka_client_config};

use super::letter::{Handled, Lying};
use super::{DlqError, is_no_topic, kafka_error};

/// Longest time that one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the next record of a partition that has more.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(20);
/// Offsets of which it is held at a time what was done with them.
const WINDOW_OFFSETS: i64 = 100_000;
/// Records that librdkafka fetches ahead, in kilobytes.
const FETCH_AHEAD_KBYTES: &str = "8192";
/// How long a broker may hold an empty fetch: the next partition waits behind it.
const FETCH_WAIT_MS: &str = "20";

type Client = StreamConsumer<QuietContext>;

/// Reads dead-letter topics; one partition at a time.
pub struct Reader {
    consumer: Arc<Client>,
}

/// Where the reader is in a partition.
pub(super) struct Cursor {
    topic: String,
    partition: i32,
    next: i64,
    end: i64,
}

impl Reader {
    /// A reader on these brokers; it connects when it is used. It never joins a
    /// group and commits nothing.
    ///
    /// # Errors
    /// When the settings make no client.
    pub fn new(kafka: &config::Kafka) -> Result<Self, DlqError> {
        let mut client = kafka_client_config(kafka);
        client
            .set("group.id", format!("{}dlq", kafka.topic_prefix))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "true")
            .set("auto.offset.reset", "earliest")
            .set("allow.auto.create.topics", "false")
            .set("queued.max.messages.kbytes", FETCH_AHEAD_KBYTES)
            .set("fetch.wait.max.ms", FETCH_WAIT_MS);
        let consumer: Client = client
            .create_with_context(QuietContext::default())
            .map_err(kafka_error("set up a Kafka client"))?;
        Ok(Self { consumer: Arc::new(consumer) })
    }

    /// How many partitions a topic has; `None`: there is no such topic.
    pub(super) async fn partitions(&self, topic: &str) -> Result<Option<i32>, DlqError> {
        let name = topic.to_owned();
        let metadata = self.blocking(move |client| {
            let metadata = client.fetch_metadata(Some(&name), REQUEST_TIMEOUT)?;
            let Some(found) = metadata.topics().iter().find(|found| found.name() == name) else {
                return Ok(None);
            };
            match found.error().map(Into::into) {
                Some(code) if is_no_topic(code) => Ok(None),
                Some(code) => Err(KafkaError::MetadataFetch(code)),
                None => Ok(i32::try_from(found.partitions().len()).ok().filter(|count| *count > 0)),
            }
        });
        metadata.await.map_err(kafka_error(format!("read the layout of {topic}")))
    }

    /// The oldest offset of a partition, and the one after its newest record.
    pub(super) async fn bounds(&self, topic: &str, partition: i32) -> Result<(i64, i64), DlqError> {
        let name = topic.to_owned();
        let bounds = self.blocking(move |client| client.fetch_watermarks(&name, partition, REQUEST_TIMEOUT));
        bounds.await.map_err(kafka_error(format!("read the offsets of {topic} partition {partition}")))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Client) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, KafkaError> {
        let consumer = Arc::clone(&self.consumer);
        tokio::task::spawn_blocking(move || ask(&consumer)).await.unwrap_or(Err(KafkaError::Canceled))
    }

    fn open(&mut self, topic: &str, partition: i32, from: i64, end: i64) -> Result<Cursor, DlqError> {
        let mut wanted = TopicPartitionList::new();
        wanted
            .add_partition_offset(topic, partition, Offset::Offset(from))
            .and_then(|()| self.consumer.assign(&wanted))
            .map_err(kafka_error(format!("read {topic} partition {partition}")))?;
        Ok(Cursor { topic: topic.to_owned(), partition, next: from, end })
    }

    /// The next record before the cursor's end.
    async fn next(&mut self, at: &mut Cursor) -> Result<Option<(i64, Lying)>, DlqError> {
        let begun = Instant::now();
        let mut last = None;
        while at.next < at.end {
            match timeout_at(begun + SILENCE_TIMEOUT, self.consumer.recv()).await {
                Ok(Ok(message)) => {
                    let is_here = message.topic() == at.topic && message.partition() == at.partition;
                    // What was fetched before the last assignment may still come.
                    if !is_here || message.offset() < at.next {
                        continue;
                    }
                    let offset = message.offset();
                    at.next = offset + 1;
                    return Ok((offset < at.end).then(|| (offset, Lying::parse(&message))));
                }
                // Somebody may have removed meanwhile what was still ahead.
                Ok(Err(KafkaError::PartitionEOF(partition))) if partition == at.partition => {
                    let (low, _) = self.bounds(&at.topic, at.partition).await?;
                    at.next = at.next.max(low);
                }
                Ok(Err(KafkaError::PartitionEOF(_))) => {}
                // librdkafka goes on by itself; what does not pass ends by the time-out.
                Ok(Err(error)) => last = Some(error),
                Err(_) => {
                    return Err(DlqError::Silent {
                        topic: at.topic.clone(),
                        partition: at.partition,
                        waited_ms: begun.elapsed().as_millis(),
                        last,
                    });
                }
            }
        }
        Ok(None)
    }
}

/// One partition's records in order, each dead letter with what was done with it.
/// What is written after the walk began is not seen.
pub(super) struct Walk {
    topic: String,
    partition: i32,
    /// Where the next window begins.
    from: i64,
    /// Where the walk ends.
    end: i64,
    /// The partition's end when the walk began: markers are looked for up to here.
    high: i64,
    window_offsets: i64,
    window: Option<(Cursor, HashMap<i64, Handled>)>,
}

/// One step of a [`Walk`].
pub(super) struct Step {
    pub(super) offset: i64,
    pub(super) lying: Lying,
    /// What was done with it, if it is a dead letter.
    pub(super) handled: Option<Handled>,
}

impl Walk {
    /// A walk over the offsets from `from` to `end` (exclusive) of a partition that
    /// ends at `high`.
    pub(super) fn new(topic: &str, partition: i32, from: i64, end: i64, high: i64) -> Self {
        Self {
            topic: topic.to_owned(),
            partition,
            from,
            end: end.min(high),
            high,
            window_offsets: WINDOW_OFFSETS,
            window: None,
        }
    }

    /// The next record; `None` at the end.
    pub(super) async fn next(&mut self, reader: &mut Reader) -> Result<Option<Step>, DlqError> {
        loop {
            if let Some((cursor, handled)) = &mut self.window {
                if let Some((offset, lying)) = reader.next(cursor).await? {
                    let handled = handled.remove(&offset);
                    return Ok(Some(Step { offset, lying, handled }));
                }
                self.from = cursor.end;
                self.window = None;
            }
            if self.from >= self.end {
                return Ok(None);
            }
            let end = self.end.min(self.from + self.window_offsets);
            let handled = self.handled(reader, end).await?;
            self.window = Some((reader.open(&self.topic, self.partition, self.from, end)?, handled));
        }
    }

    /// What was done with the letters from `self.from` to `end`, the last word on
    /// each. Markers lie behind what they mark.
    async fn handled(&self, reader: &mut Reader, end: i64) -> Result<HashMap<i64, Handled>, DlqError> {
        let mut handled = HashMap::new();
        let mut cursor = reader.open(&self.topic, self.partition, self.from, self.high)?;
        while let Some((_, lying)) = reader.next(&mut cursor).await? {
            if let Lying::Marker { target, handled: how } = lying
                && (self.from..end).contains(&target)
            {
                handled.insert(target, how);
            }
        }
        Ok(handled)
    }
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::topic::dlq::letter::{ACTION, HANDLED};
    use crate::topic::producer::Producer;

    /// Ten letters, then markers of every second one, all on one partition.
    async fn reader(cluster: &MockCluster<'_, rdkafka::producer::DefaultProducerContext>) -> Reader {
        cluster.create_topic("t.dlq", 1, 1).unwrap();
        let mut kafka = config::Config::from_defaults().kafka;
        kafka.bootstrap_servers = cluster.bootstrap_servers();
        let producer = Producer::new(&kafka).unwrap();
        for number in 0..10_u8 {
            producer.send("t.dlq", None, Some(&[number]), &[]).await.unwrap();
        }
        for target in ["0", "2", "4", "6", "8"] {
            let headers = [(HANDLED, target.as_bytes()), (ACTION, b"dropped")];
            producer.send("t.dlq", None, None, &headers).await.unwrap();
        }
        Reader::new(&kafka).unwrap()
    }

    async fn walked(reader: &mut Reader, mut walk: Walk) -> Vec<(i64, bool)> {
        let mut seen = Vec::new();
        while let Some(step) = walk.next(reader).await.unwrap() {
            if matches!(step.lying, Lying::Letter(_)) {
                seen.push((step.offset, step.handled.is_some()));
            }
        }
        seen
    }

    #[tokio::test]
    async fn letters_meet_their_markers_whatever_the_window() {
        let cluster = MockCluster::new(1).unwrap();
        let mut reader = reader(&cluster).await;
        assert_eq!(reader.partitions("t.dlq").await.unwrap(), Some(1));
        let (low, high) = reader.bounds("t.dlq", 0).await.unwrap();
        assert_eq!((low, high), (0, 15));
        let all: Vec<(i64, bool)> = (0..10).map(|offset| (offset, offset % 2 == 0)).collect();
        for window_offsets in [1, 3, 100] {
            let walk = Walk { window_offsets, ..Walk::new("t.dlq", 0, low, high, high) };
            assert_eq!(walked(&mut reader, walk).await, all, "{window_offsets}");
        }
        let some = walked(&mut reader, Walk::new("t.dlq", 0, 3, 6, high)).await;
        assert_eq!(some, [(3, false), (4, true), (5, false)]);
        assert_eq!(walked(&mut reader, Walk::new("t.dlq", 0, high, high, high)).await, []);
    }
}

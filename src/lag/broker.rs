//! The questions to the brokers. All block, each for a bounded time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use crate::config;
use crate::topic::client::{QuietContext, kafka_client_config};
use crate::topic::members::{self, Group};

pub(super) type Client = BaseConsumer<QuietContext>;
/// Topic and partition.
pub(super) type Place = (String, i32);

/// Bytes that one answer may have when oldest records are fetched, unless one batch of
/// records alone is larger.
const FETCH_MAX_BYTES: &str = "1048576";
/// The same of one partition.
const FETCH_MAX_BYTES_PARTITION: &str = "16384";
/// Longest time one poll waits, so that the deadline is looked at.
const POLL: Duration = Duration::from_millis(100);

/// A client that reads what a group has committed and, when told where, records. It never
/// subscribes, so it never becomes a member, and it commits nothing.
pub(super) fn client(kafka: &config::Kafka, group: &str) -> Result<Client, KafkaError> {
    let mut client = kafka_client_config(kafka);
    client
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("allow.auto.create.topics", "false")
        .set("enable.partition.eof", "true")
        // What was deleted meanwhile is not the oldest any more.
        .set("auto.offset.reset", "earliest")
        .set("fetch.wait.max.ms", "100")
        .set("queued.min.messages", "1")
        .set("fetch.max.bytes", FETCH_MAX_BYTES)
        .set("fetch.message.max.bytes", FETCH_MAX_BYTES_PARTITION);
    client.create_with_context(QuietContext::default())
}

/// Partitions of these topics, or of all of the cluster (`None`); those that do not exist
/// are left out.
pub(super) fn partitions(
    client: &Client,
    topics: Option<&BTreeSet<String>>,
    timeout: Duration,
) -> Result<BTreeMap<String, Vec<i32>>, KafkaError> {
    let mut found = BTreeMap::new();
    let mut keep = |metadata: rdkafka::metadata::Metadata| {
        for topic in metadata.topics() {
            let numbers: Vec<i32> =
                topic.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect();
            if !numbers.is_empty() {
                found.insert(topic.name().to_owned(), numbers);
            }
        }
    };
    match topics {
        None => keep(client.fetch_metadata(None, timeout)?),
        Some(topics) => {
            for topic in topics {
                keep(client.fetch_metadata(Some(topic), timeout)?);
            }
        }
    }
    Ok(found)
}

/// What the group has committed; a place without a commit is left out.
pub(super) fn committed(
    client: &Client,
    topics: &BTreeMap<String, Vec<i32>>,
    timeout: Duration,
) -> Result<BTreeMap<Place, i64>, KafkaError> {
    let mut asked = TopicPartitionList::new();
    for (topic, numbers) in topics {
        for number in numbers {
            asked.add_partition(topic, *number);
        }
    }
    if asked.count() == 0 {
        return Ok(BTreeMap::new());
    }
    let mut found = BTreeMap::new();
    for element in client.committed_offsets(asked, timeout)?.elements() {
        match (element.error(), element.offset()) {
            (Ok(()), Offset::Offset(offset)) => {
                found.insert((element.topic().to_owned(), element.partition()), offset);
            }
            (Err(error), _) if !is_gone(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(found)
}

/// Which end of a partition.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// Oldest offset that is kept.
    Low,
    /// Offset after the newest that can be read.
    High,
}

/// One end of each partition, one request a broker. Places that have gone are left out.
pub(super) fn ends(
    client: &Client,
    topics: &BTreeMap<String, Vec<i32>>,
    end: End,
    timeout: Duration,
) -> Result<BTreeMap<Place, i64>, KafkaError> {
    // Kafka's ListOffsets takes these for a time: -1 the latest, -2 the earliest offset.
    let time = match end {
        End::Low => Offset::Beginning,
        End::High => Offset::End,
    };
    let mut asked = TopicPartitionList::new();
    for (topic, numbers) in topics {
        for number in numbers {
            asked.add_partition_offset(topic, *number, time)?;
        }
    }
    if asked.count() == 0 {
        return Ok(BTreeMap::new());
    }
    let mut found = BTreeMap::new();
    for element in client.offsets_for_times(asked, timeout)?.elements() {
        match (element.error(), element.offset()) {
            (Ok(()), Offset::Offset(offset)) => {
                found.insert((element.topic().to_owned(), element.partition()), offset);
            }
            (Err(error), _) if !is_gone(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(found)
}

/// A topic or partition that the brokers do not have.
pub(super) fn is_gone(error: &KafkaError) -> bool {
    error.rdkafka_error_code().is_some_and(|code| {
        matches!(
            code,
            RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownPartition
        )
    })
}

/// Who is in the group.
pub(super) fn group(client: &Client, group: &str, timeout: Duration) -> Result<Option<Group>, KafkaError> {
    members::of(client, group, timeout)
}

/// The first record from a position on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    /// It, with its timestamp in milliseconds since 1970.
    Record(i64, Option<i64>),
    /// There is none: what is between the position and the end was compacted away, or marks
    /// the end of a transaction.
    None,
}

/// Fetches the first record of each place from its position on, topic by topic. A place that
/// is not in the answer was not reached in time.
pub(super) fn first_records(
    client: &Client,
    positions: &BTreeMap<Place, i64>,
    timeout: Duration,
) -> Result<BTreeMap<Place, First>, KafkaError> {
    let until = Instant::now() + timeout;
    let mut found = BTreeMap::new();
    let topics: BTreeSet<&str> = positions.keys().map(|(topic, _)| topic.as_str()).collect();
    for topic in topics {
        let wanted: BTreeMap<i32, i64> = positions
            .iter()
            .filter(|((of, _), _)| of == topic)
            .map(|((_, partition), offset)| (*partition, *offset))
            .collect();
        let read = of_topic(client, topic, &wanted, until);
        client.unassign()?;
        found.extend(read?.into_iter().map(|(partition, first)| ((topic.to_owned(), partition), first)));
    }
    Ok(found)
}

/// One topic at a time, because librdkafka says of an end only the partition's number.
fn of_topic(
    client: &Client,
    topic: &str,
    wanted: &BTreeMap<i32, i64>,
    until: Instant,
) -> Result<BTreeMap<i32, First>, KafkaError> {
    let mut assignment = TopicPartitionList::new();
    for (partition, offset) in wanted {
        assignment.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
    }
    client.assign(&assignment)?;
    let mut found = BTreeMap::new();
    while found.len() < wanted.len() && Instant::now() < until {
        match client.poll(POLL) {
            None => {}
            Some(Ok(message)) => {
                let partition = message.partition();
                if message.topic() == topic && wanted.contains_key(&partition) {
                    let first = First::Record(message.offset(), message.timestamp().to_millis());
                    found.entry(partition).or_insert(first);
                    let mut done = TopicPartitionList::new();
                    done.add_partition(topic, partition);
                    client.pause(&done)?;
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) if wanted.contains_key(&partition) => {
                found.entry(partition).or_insert(First::None);
            }
            // librdkafka goes on by itself; whether it could, the deadline tells.
            Some(Err(_)) => {}
        }
    }
    Ok(found)
}

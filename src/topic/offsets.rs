//! First offsets of a group: a partition without a committed offset has no lag
//! that anybody could read, so the earliest one is committed when a topic is set up.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::config;

use super::admin::{AdminError, REQUEST_TIMEOUT, kafka_error};
use super::client::{QuietContext, kafka_client_config};

type Client = BaseConsumer<QuietContext>;

/// How long brokers may need until they lead what they have just been given.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);
const SETTLE_PAUSE: Duration = Duration::from_millis(200);

/// Group → its topics with the number of their partitions.
type Groups = BTreeMap<String, Vec<(String, i32)>>;

/// A group with partitions that had no committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupOffsets {
    /// Full name of the group.
    pub group: String,
    /// How many such partitions.
    pub partitions: usize,
    /// What became of them.
    pub outcome: Commit,
}

/// What became of partitions without a committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// Nothing was asked for (`check`).
    Missing,
    /// The earliest offset was committed.
    Done,
    /// The group has members: only they can commit, and will.
    LeftToMembers,
}

impl fmt::Display for GroupOffsets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            Commit::Missing => "have no committed offset",
            Commit::Done => "had no committed offset, now the earliest",
            Commit::LeftToMembers => "have no committed offset; the group has members, which will commit",
        };
        write!(f, "group {}: {} partitions {outcome}", self.group, self.partitions)
    }
}

/// Groups that have partitions without a committed offset.
pub(super) async fn missing(kafka: &config::Kafka, groups: Groups) -> Result<Vec<GroupOffsets>, AdminError> {
    for_each_group(kafka, groups, |_, _, _| Ok(Commit::Missing)).await
}

/// Commits the earliest offset for each partition that has none. Never moves one.
pub(super) async fn commit(kafka: &config::Kafka, groups: Groups) -> Result<Vec<GroupOffsets>, AdminError> {
    for_each_group(kafka, groups, |consumer, group, mut absent| {
        // The brokers take offsets of a group with members only from its members.
        if has_members(consumer, group)? {
            return Ok(Commit::LeftToMembers);
        }
        for (topic, partition) in absent.to_topic_map().into_keys() {
            let (earliest, _) = consumer.fetch_watermarks(&topic, partition, REQUEST_TIMEOUT)?;
            absent.set_partition_offset(&topic, partition, Offset::Offset(earliest))?;
        }
        consumer.commit(&absent, CommitMode::Sync)?;
        Ok(Commit::Done)
    })
    .await
}

type Act = fn(&Client, &str, TopicPartitionList) -> Result<Commit, KafkaError>;

/// Calls `act` for each group with the partitions that have no committed offset.
async fn for_each_group(
    kafka: &config::Kafka,
    groups: Groups,
    act: Act,
) -> Result<Vec<GroupOffsets>, AdminError> {
    let mut found = Vec::new();
    for (group, topics) in groups {
        let mut client = kafka_client_config(kafka);
        // Without a subscription it never becomes a member of the group.
        client.set("group.id", &group).set("enable.auto.commit", "false");
        let work = Arc::new(move || with_group(&client, &group, &topics, act));
        let begin = Instant::now();
        let outcome = loop {
            let work = Arc::clone(&work);
            match tokio::task::spawn_blocking(move || work()).await.unwrap_or(Err(KafkaError::Canceled)) {
                Err(error) if is_settling(&error) && begin.elapsed() < SETTLE_TIMEOUT => {
                    tokio::time::sleep(SETTLE_PAUSE).await;
                }
                outcome => break outcome,
            }
        };
        found.extend(outcome.map_err(kafka_error("set up a group's first offsets"))?);
    }
    Ok(found)
}

fn with_group(
    client: &ClientConfig,
    group: &str,
    topics: &[(String, i32)],
    act: Act,
) -> Result<Option<GroupOffsets>, KafkaError> {
    let consumer: Client = client.create_with_context(QuietContext::default())?;
    let absent = without_offset(&consumer, topics)?;
    let partitions = absent.count();
    if partitions == 0 {
        return Ok(None);
    }
    let outcome = act(&consumer, group, absent)?;
    Ok(Some(GroupOffsets { group: group.to_owned(), partitions, outcome }))
}

/// New partitions and coordinators answer like this for a moment.
fn is_settling(error: &KafkaError) -> bool {
    error.rdkafka_error_code().is_some_and(|code| {
        matches!(
            code,
            RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::CoordinatorLoadInProgress
                | RDKafkaErrorCode::CoordinatorNotAvailable
                | RDKafkaErrorCode::NotCoordinator
        )
    })
}

fn without_offset(consumer: &Client, topics: &[(String, i32)]) -> Result<TopicPartitionList, KafkaError> {
    let mut all = TopicPartitionList::new();
    for (topic, partitions) in topics {
        all.add_partition_range(topic, 0, partitions - 1);
    }
    let committed = consumer.committed_offsets(all, REQUEST_TIMEOUT)?;
    let mut absent = TopicPartitionList::new();
    for element in committed.elements() {
        element.error()?;
        if element.offset() == Offset::Invalid {
            absent.add_partition(element.topic(), element.partition());
        }
    }
    Ok(absent)
}

fn has_members(consumer: &Client, group: &str) -> Result<bool, KafkaError> {
    let groups = consumer.fetch_group_list(Some(group), REQUEST_TIMEOUT)?;
    Ok(groups.groups().iter().any(|found| found.name() == group && !found.members().is_empty()))
}

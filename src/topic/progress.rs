//! How far the groups have come, for callers who wait until something was processed.
//!
//! One request to the brokers serves everybody who waits: a reading is shared by all
//! who asked before it began, and is made at most four times a second.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

use super::client::{QuietContext, kafka_client_config};
use super::names::{self, Topic};
use crate::config;

/// Longest time that one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Shortest time between two readings.
const READING_EVERY: Duration = Duration::from_millis(250);

/// How long the layout of the topics is believed.
const LAYOUT_TTL: Duration = Duration::from_secs(30);

type Client = BaseConsumer<QuietContext>;

/// Topic (full name) and partition → next offset.
pub type Offsets = HashMap<(String, i32), i64>;

/// Why the brokers did not say how far a group is.
#[derive(Debug, thiserror::Error)]
#[error("brokers do not say how far a group has come: {0}")]
pub struct ProgressError(KafkaError);

/// How far one group is.
#[derive(Debug, Clone)]
pub struct Reading {
    /// What the group has committed; a partition without a commit is absent.
    pub committed: Arc<Offsets>,
    /// The number of partitions of each topic that the group reads.
    pub partitions: Arc<HashMap<String, i32>>,
}

impl Reading {
    /// True when the group has processed the record at this place.
    #[must_use]
    pub fn has_passed(&self, topic: &str, partition: i32, offset: i64) -> bool {
        self.committed.get(&(topic.to_owned(), partition)).is_some_and(|&next| next > offset)
    }

    /// True when the group has processed everything before these ends.
    #[must_use]
    pub fn covers(&self, ends: &Offsets) -> bool {
        ends.iter()
            .all(|(place, &end)| end == 0 || self.committed.get(place).is_some_and(|&next| next >= end))
    }
}

/// Asks the brokers about the groups that process requests and updates.
pub struct Progress {
    groups: Vec<Group>,
}

struct Group {
    name: String,
    topics: Vec<String>,
    kafka: config::Kafka,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    client: Option<Arc<Client>>,
    last: Option<(Instant, Reading)>,
    /// Since when the layout of the topics is known.
    layout_at: Option<Instant>,
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Progress")
    }
}

impl Progress {
    /// Connects when it is asked for the first time.
    #[must_use]
    pub fn new(kafka: &config::Kafka) -> Self {
        let group = |topics: &[Topic]| Group {
            name: topics[0].full_group(&kafka.topic_prefix).unwrap_or_default(),
            topics: topics.iter().map(|topic| topic.full_name(&kafka.topic_prefix)).collect(),
            kafka: kafka.clone(),
            state: Mutex::default(),
        };
        let groups = [&[names::NOTIFICATIONS, names::NOTIFICATIONS_BULK][..], &[names::NOTIFICATION_UPDATES]];
        Self { groups: groups.into_iter().map(group).collect() }
    }

    /// Whether tokens about this topic (full name) are given out at all.
    #[must_use]
    pub fn knows(&self, topic: &str) -> bool {
        self.group(topic).is_some()
    }

    /// How far the group of a topic is, by a reading that began after `since`. `None`:
    /// no group of ours processes the topic for callers.
    ///
    /// # Errors
    /// When the brokers do not answer.
    pub async fn since(&self, topic: &str, since: Instant) -> Result<Option<Reading>, ProgressError> {
        match self.group(topic) {
            Some(group) => group.since(since).await.map(Some),
            None => Ok(None),
        }
    }

    /// The ends of everything that requests lie on, as they are now: what has been
    /// acknowledged lies before them.
    ///
    /// # Errors
    /// When the brokers do not answer.
    pub async fn ends_of_requests(&self) -> Result<Offsets, ProgressError> {
        let group = &self.groups[0];
        let reading = group.since(Instant::now()).await?;
        let client = group.client().await?;
        let ends = move || {
            let mut ends = Offsets::new();
            for (topic, &count) in reading.partitions.iter() {
                for partition in 0..count {
                    let (_, end) = client.fetch_watermarks(topic, partition, REQUEST_TIMEOUT)?;
                    ends.insert((topic.clone(), partition), end);
                }
            }
            Ok(ends)
        };
        blocking(ends).await
    }

    /// The group that processes requests, as [`Progress::since`] tells of it.
    ///
    /// # Errors
    /// When the brokers do not answer.
    pub async fn requests_since(&self, since: Instant) -> Result<Reading, ProgressError> {
        self.groups[0].since(since).await
    }

    fn group(&self, topic: &str) -> Option<&Group> {
        self.groups.iter().find(|group| group.topics.iter().any(|known| known == topic))
    }
}

impl Group {
    async fn since(&self, since: Instant) -> Result<Reading, ProgressError> {
        let mut state = self.state.lock().await;
        if let Some((begun, reading)) = &state.last {
            if *begun >= since {
                return Ok(reading.clone());
            }
            // Others wait for the lock meanwhile, and share what comes.
            sleep_until(*begun + READING_EVERY).await;
        }
        let begun = Instant::now();
        let client = self.client_in(&mut state)?;
        let fresh = state.layout_at.is_some_and(|at| at.elapsed() < LAYOUT_TTL);
        let known = state.last.as_ref().filter(|_| fresh).map(|(_, last)| Arc::clone(&last.partitions));
        if known.is_none() {
            state.layout_at = Some(begun);
        }
        let topics = self.topics.clone();
        let reading = blocking(move || read(&client, &topics, known)).await?;
        state.last = Some((begun, reading.clone()));
        Ok(reading)
    }

    async fn client(&self) -> Result<Arc<Client>, ProgressError> {
        self.client_in(&mut *self.state.lock().await)
    }

    fn client_in(&self, state: &mut State) -> Result<Arc<Client>, ProgressError> {
        if let Some(client) = &state.client {
            return Ok(Arc::clone(client));
        }
        let mut config = kafka_client_config(&self.kafka);
        // Without a subscription it never becomes a member of the group.
        config
            .set("group.id", &self.name)
            .set("enable.auto.commit", "false")
            .set("allow.auto.create.topics", "false");
        let client: Client = config.create_with_context(QuietContext::default()).map_err(ProgressError)?;
        Ok(Arc::clone(state.client.insert(Arc::new(client))))
    }
}

async fn blocking<T: Send + 'static>(
    ask: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, ProgressError> {
    tokio::task::spawn_blocking(ask).await.unwrap_or(Err(KafkaError::Canceled)).map_err(ProgressError)
}

fn read(
    client: &Client,
    topics: &[String],
    known: Option<Arc<HashMap<String, i32>>>,
) -> Result<Reading, KafkaError> {
    let partitions = match known {
        Some(known) => known,
        None => Arc::new(layout(client, topics)?),
    };
    let mut wanted = TopicPartitionList::new();
    for (topic, &count) in partitions.iter().filter(|&(_, &count)| count > 0) {
        wanted.add_partition_range(topic, 0, count - 1);
    }
    let mut committed = Offsets::new();
    for element in client.committed_offsets(wanted, REQUEST_TIMEOUT)?.elements() {
        element.error()?;
        if let Offset::Offset(next) = element.offset() {
            committed.insert((element.topic().to_owned(), element.partition()), next);
        }
    }
    Ok(Reading { committed: Arc::new(committed), partitions })
}

fn layout(client: &Client, topics: &[String]) -> Result<HashMap<String, i32>, KafkaError> {
    let mut partitions = HashMap::new();
    for topic in topics {
        let metadata = client.fetch_metadata(Some(topic), REQUEST_TIMEOUT)?;
        let found = metadata.topics().iter().find(|found| found.name() == topic);
        let count = found.map_or(0, |found| found.partitions().len());
        partitions.insert(topic.clone(), i32::try_from(count).unwrap_or(i32::MAX));
    }
    Ok(partitions)
}

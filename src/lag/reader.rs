//! Reads a group from the brokers, again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use rdkafka::error::KafkaError;

use super::broker::{self, Client, End, First, Place};
use super::reading::{GroupReading, Ownership, PartitionReading, Retention};
use super::retention::RetentionReader;
use crate::config;
use crate::topic::ledger::Held;
use crate::topic::members::Group;

/// Longest time one request to the brokers may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that oldest records are fetched in one reading.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a reader that was not told the topics looks for new ones of its group.
const DISCOVER_EVERY: Duration = Duration::from_secs(30);

/// Why a group could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// librdkafka refuses the configuration.
    #[error("the Kafka client cannot be made (check the [kafka] section): {0}")]
    Configuration(KafkaError),
    /// The brokers did not answer, or not what was asked.
    #[error(
        "cannot read {what} of group {group}: {cause}; check kafka.bootstrap_servers and that the brokers are up"
    )]
    Kafka {
        /// What was asked for.
        what: &'static str,
        /// Full name of the group.
        group: String,
        /// What librdkafka says (all that its own sources say).
        cause: KafkaError,
    },
    /// The program is ending.
    #[error("the reading of group {group} was given up, since the program ends")]
    Ended {
        /// Full name of the group.
        group: String,
    },
}

/// Reads one consumer group. It joins no group and commits nothing; the brokers keep no
/// trace of it. Copies of it share one client.
#[derive(Clone)]
pub struct Reader {
    inner: Arc<Inner>,
}

struct Inner {
    group: String,
    client: Client,
    /// Topics that were asked for; empty: those of the group, whichever they are.
    asked: BTreeSet<String>,
    began: Instant,
    memory: Mutex<Memory>,
    retention: RetentionReader,
    /// One reading at a time: the client can be assigned once.
    turn: Mutex<()>,
}

/// What one reading leaves to the next.
#[derive(Default)]
struct Memory {
    discovered: Option<Instant>,
    /// Topics that the group was found in.
    topics: BTreeSet<String>,
    /// Where the oldest record was looked for, up to which end, and what was there.
    first: BTreeMap<Place, Looked>,
    /// What owned partitions had done at the last reading.
    done: BTreeMap<Place, i64>,
}

#[derive(Debug, Clone, Copy)]
struct Looked {
    position: i64,
    high: i64,
    first: First,
}

impl Looked {
    /// Whether it still says what stands at this position. A record that was the first one
    /// stays that until it is deleted; an end may have moved.
    fn holds(&self, position: i64, high: i64) -> bool {
        self.position == position
            && match self.first {
                First::Record(..) => high >= self.high,
                First::None => high == self.high,
            }
    }
}

impl Reader {
    /// A reader of a group (full name), in all topics that it has commits or members in.
    /// Nothing is asked of the brokers before the first reading.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn new(kafka: &config::Kafka, group: &str) -> Result<Self, ReadError> {
        Self::of_topics(kafka, group, [])
    }

    /// As [`Self::new`], in these topics only (full names).
    ///
    /// # Errors
    /// When librdkafka refuses the configuration.
    pub fn of_topics(
        kafka: &config::Kafka,
        group: &str,
        topics: impl IntoIterator<Item = String>,
    ) -> Result<Self, ReadError> {
        let client = broker::client(kafka, group).map_err(ReadError::Configuration)?;
        let inner = Inner {
            group: group.to_owned(),
            client,
            asked: topics.into_iter().collect(),
            began: Instant::now(),
            memory: Mutex::default(),
            retention: RetentionReader::new(kafka),
            turn: Mutex::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Full name of the group.
    #[must_use]
    pub fn group(&self) -> &str {
        &self.inner.group
    }

    /// Reads the group once. It takes at most about a minute, when brokers answer slowly;
    /// dropping it does not stop what was begun, which the next reading waits for.
    ///
    /// # Errors
    /// When the brokers do not answer in their time. What can be told is never told by half:
    /// only ages may be missing, of partitions whose records could not be fetched in time.
    pub async fn read(&self) -> Result<GroupReading, ReadError> {
        self.read_as(None).await
    }

    /// Reads the partitions that this process owns. What it holds itself is not fetched from
    /// the brokers, so that it costs next to nothing beside the consumer. What is done counts
    /// as committed, as long as commits follow from one reading to the next.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_owned(&self, held: BTreeMap<(String, i32), Held>) -> Result<GroupReading, ReadError> {
        self.read_as(Some(held)).await
    }

    async fn read_as(&self, held: Option<BTreeMap<Place, Held>>) -> Result<GroupReading, ReadError> {
        let inner = Arc::clone(&self.inner);
        let mut reading = tokio::task::spawn_blocking(move || inner.read(held.as_ref()))
            .await
            .map_err(|_| ReadError::Ended { group: self.inner.group.clone() })??;
        let topics: BTreeSet<&str> = reading.partitions.iter().map(|one| one.topic.as_str()).collect();
        let retention = self.inner.retention.read(&topics).await;
        for partition in &mut reading.partitions {
            partition.retention = retention.get(&partition.topic).copied().unwrap_or(Retention::Unknown);
        }
        Ok(reading)
    }
}

/// What the group is made of: its topics with their partitions, what it has committed, who
/// is in it, and the topics that are not there.
struct Shape {
    topics: BTreeMap<String, Vec<i32>>,
    committed: BTreeMap<Place, i64>,
    members: Option<Group>,
    missing: Vec<String>,
}

impl Inner {
    fn failed(&self, what: &'static str) -> impl FnOnce(KafkaError) -> ReadError {
        let group = self.group.clone();
        move |cause| ReadError::Kafka { what, group, cause }
    }

    fn read(&self, held: Option<&BTreeMap<Place, Held>>) -> Result<GroupReading, ReadError> {
        let _turn = self.turn.lock();
        let shape = match held {
            Some(held) => self.shape_of_owned(held)?,
            None => self.shape()?,
        };
        // The commit was read before the end: a group that keeps up is never ahead of it.
        let ends = |end| {
            broker::ends(&self.client, &shape.topics, end, REQUEST_TIMEOUT).map_err(self.failed("the ends"))
        };
        let (low, high) = (ends(End::Low)?, ends(End::High)?);
        let (taken, at_ms) = (self.began.elapsed(), Timestamp::now().as_millisecond());

        let mut partitions = Vec::with_capacity(high.len());
        for (place, high) in high {
            let Some(low) = low.get(&place).copied() else { continue };
            partitions.push(PartitionReading {
                committed: shape.committed.get(&place).copied(),
                low,
                high,
                oldest_offset: None,
                oldest_timestamp_ms: None,
                oldest_age_ms: None,
                lag_messages: 0,
                owner: match held {
                    Some(_) => Ownership::Owned(String::new()),
                    None => owner(&shape, &place),
                },
                retention: Retention::Unknown,
                topic: place.0,
                partition: place.1,
            });
        }
        if let Some(held) = held {
            self.believe(held, &mut partitions);
        }
        self.find_oldest(&mut partitions, at_ms)?;
        Ok(GroupReading {
            group: self.group.clone(),
            group_state: shape.members.as_ref().map(|group| group.state.clone()),
            members: shape.members.as_ref().map_or(0, |group| group.members.len()),
            taken,
            at_ms,
            partitions,
            missing_topics: shape.missing,
        })
    }

    fn shape(&self) -> Result<Shape, ReadError> {
        let members =
            broker::group(&self.client, &self.group, REQUEST_TIMEOUT).map_err(self.failed("the members"))?;
        let assigned = members.iter().flat_map(|group| &group.members).flat_map(|one| &one.partitions);
        let assigned: BTreeSet<String> = assigned.map(|(topic, _)| topic.clone()).collect();

        let mut memory = self.memory.lock();
        let wanted = if self.asked.is_empty() {
            memory.topics.extend(assigned);
            let discover = memory.discovered.is_none_or(|at| at.elapsed() >= DISCOVER_EVERY);
            (!discover).then(|| memory.topics.clone())
        } else {
            Some(self.asked.clone())
        };
        let mut topics = broker::partitions(&self.client, wanted.as_ref(), REQUEST_TIMEOUT)
            .map_err(self.failed("the topics"))?;
        let committed =
            broker::committed(&self.client, &topics, REQUEST_TIMEOUT).map_err(self.failed("the commits"))?;
        if wanted.is_none() {
            memory.discovered = Some(Instant::now());
            memory.topics.extend(committed.keys().map(|(topic, _)| topic.clone()));
            topics.retain(|topic, _| memory.topics.contains(topic));
        }
        let known = if self.asked.is_empty() { &memory.topics } else { &self.asked };
        let missing = known.iter().filter(|topic| !topics.contains_key(*topic)).cloned().collect();
        Ok(Shape { topics, committed, members, missing })
    }

    fn shape_of_owned(&self, held: &BTreeMap<Place, Held>) -> Result<Shape, ReadError> {
        let mut topics: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for (topic, partition) in held.keys() {
            topics.entry(topic.clone()).or_default().push(*partition);
        }
        let committed =
            broker::committed(&self.client, &topics, REQUEST_TIMEOUT).map_err(self.failed("the commits"))?;
        Ok(Shape { topics, committed, members: None, missing: Vec::new() })
    }

    /// Puts what the owner holds in the place of what would have to be fetched: what is done,
    /// unless commits do not follow it, and the record in hand.
    fn believe(&self, held: &BTreeMap<Place, Held>, partitions: &mut [PartitionReading]) {
        let mut memory = self.memory.lock();
        let mut done = BTreeMap::new();
        for one in partitions {
            let place = (one.topic.clone(), one.partition);
            let Some(known) = held.get(&place) else { continue };
            let before = memory.done.get(&place).copied();
            let follows = before.is_none_or(|before| one.committed.is_some_and(|now| now >= before));
            if let Some(next) = known.next {
                if follows && one.committed.is_none_or(|committed| committed < next) {
                    one.committed = Some(next);
                }
                done.insert(place.clone(), next);
            }
            let (position, high) = (one.position(), one.high);
            if let Some((offset, timestamp_ms)) = known.head
                && (follows || known.next.is_none())
                && offset >= position
            {
                let first = First::Record(offset, (timestamp_ms > 0).then_some(timestamp_ms));
                memory.first.insert(place, Looked { position, high: high.min(offset), first });
            }
        }
        memory.done = done;
    }

    /// Finds the oldest uncommitted record of each partition that has one; remembered ones
    /// are not fetched again.
    fn find_oldest(&self, partitions: &mut [PartitionReading], at_ms: i64) -> Result<(), ReadError> {
        let mut memory = self.memory.lock();
        let place = |one: &PartitionReading| (one.topic.clone(), one.partition);
        let mut unknown = BTreeMap::new();
        for one in partitions.iter().filter(|one| one.position() < one.high) {
            let place = place(one);
            if !memory.first.get(&place).is_some_and(|looked| looked.holds(one.position(), one.high)) {
                unknown.insert(place, one.position());
            }
        }
        let fetched = broker::first_records(&self.client, &unknown, FETCH_TIMEOUT)
            .map_err(self.failed("the oldest records"))?;
        let mut still = BTreeMap::new();
        for one in partitions.iter_mut() {
            let position = one.position();
            one.lag_messages = (one.high - position).max(0);
            if one.lag_messages == 0 {
                continue;
            }
            let place = place(one);
            let looked = match fetched.get(&place) {
                Some(first) => Some(Looked { position, high: one.high, first: *first }),
                None if unknown.contains_key(&place) => None,
                None => memory.first.get(&place).map(|looked| Looked { high: one.high, ..*looked }),
            };
            let Some(looked) = looked else { continue };
            match looked.first {
                // A record that came after the end was read is none of this reading.
                First::Record(offset, timestamp_ms) if offset < one.high => {
                    one.lag_messages = one.high - offset;
                    one.oldest_offset = Some(offset);
                    one.oldest_timestamp_ms = timestamp_ms;
                    let age = timestamp_ms.map(|oldest_ms| at_ms.saturating_sub(oldest_ms));
                    one.oldest_age_ms = age.map(|age| u64::try_from(age).unwrap_or(0));
                }
                First::Record(..) | First::None => one.lag_messages = 0,
            }
            still.insert(place, looked);
        }
        memory.first = still;
        Ok(())
    }
}

/// Who reads a place. A group that is sharing out its partitions has no owners to tell; nor
/// has one that has commits and that the brokers still do not know: it follows a newer
/// protocol than the one in which was asked.
fn owner(shape: &Shape, place: &Place) -> Ownership {
    let Some(group) = &shape.members else {
        return if shape.committed.is_empty() { Ownership::Nobody } else { Ownership::Unknown };
    };
    let owner = group.members.iter().find(|member| member.partitions.contains(place));
    match owner {
        Some(member) => Ownership::Owned(member.client_id.clone()),
        None if group.state == "Stable" || group.state == "Empty" => Ownership::Nobody,
        None => Ownership::Unknown,
    }
}

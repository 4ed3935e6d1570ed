//! Replaying and dropping: the record, if it is replayed, and then the marker,
//! each acknowledged by all in-sync replicas.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rdkafka::message::OwnedHeaders;
use thiserror::Error;

use crate::config;
use crate::topic::names;
use crate::topic::producer::{ProduceError, Producer, owned};

use super::letter::{self, Action, Letter, Place};
use super::read::Reader;
use super::{DlqError, kafka_error};

/// Longest name of who did it, in bytes.
const BY_MAX_BYTES: usize = 64;

/// Why a dead letter was not replayed or dropped.
#[derive(Debug, Error)]
pub enum NotHandled {
    /// Only its beginning was kept.
    #[error("only the beginning was kept ({sizes}): the producer has to publish it again")]
    Cut {
        /// Its sizes, as `dlq.cut` says them.
        sizes: String,
    },
    /// Its headers do not say where it was, or name a topic that is none of ours.
    #[error("it does not come from a topic that our consumers read: {origin}")]
    Foreign {
        /// What its headers say.
        origin: String,
    },
    /// The brokers do not have its topic any more.
    #[error("the brokers have no topic {topic}: run `patient-notify topics apply`")]
    NoTopic {
        /// Full name.
        topic: String,
    },
    /// It was not written; nothing was done.
    #[error(transparent)]
    NotWritten(ProduceError),
    /// It was replayed, and the marker that says so was not written.
    #[error(
        "it was replayed to {to}, but not marked, so it is still listed (a repeat does no harm): {cause}"
    )]
    NotMarked {
        /// Where it lies now.
        to: Box<Place>,
        /// Why there is no marker.
        cause: ProduceError,
    },
}

impl NotHandled {
    /// True when the brokers were away: the others will not fare better.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        let (Self::NotWritten(cause) | Self::NotMarked { cause, .. }) = self else { return false };
        matches!(cause, ProduceError::Unavailable { .. })
    }
}

/// Replays and drops dead letters.
pub struct Handler {
    producer: Producer,
    /// Topics that our groups read, by full name, with the number of their
    /// partitions; 0: the brokers do not have it.
    origins: BTreeMap<String, i32>,
    by: Option<String>,
}

impl Handler {
    /// A handler that acts in the name of `by` (cut to 64 bytes).
    ///
    /// # Errors
    /// When the settings make no client, or the brokers do not answer.
    pub async fn new(kafka: &config::Kafka, reader: &Reader, by: Option<&str>) -> Result<Self, DlqError> {
        let producer = Producer::new(kafka).map_err(kafka_error("set up a Kafka producer"))?;
        let mut origins = BTreeMap::new();
        for topic in names::ALL.iter().filter(|topic| topic.group.is_some()) {
            let name = topic.full_name(&kafka.topic_prefix);
            let partitions = reader.partitions(&name).await?.unwrap_or(0);
            origins.insert(name, partitions);
        }
        let by = by.map(|by| letter::printable(&by[..by.floor_char_boundary(BY_MAX_BYTES)]));
        Ok(Self { producer, origins, by })
    }

    /// Writes the record to its topic once more, key, value and its own headers
    /// unchanged, then the marker. It goes to the partition that it was on, as
    /// others of its key do; with another `key`, to that key's. Consumers know it by
    /// its meaning: what was sent already is not sent again.
    ///
    /// # Errors
    /// [`NotHandled`] says whether it was written.
    pub async fn replay(&self, letter: &Letter, key: Option<&[u8]>) -> Result<Place, NotHandled> {
        if let Some(sizes) = letter.header("dlq.cut") {
            return Err(NotHandled::Cut { sizes: sizes.to_owned() });
        }
        let (topic, partition) = self.target(letter)?;
        let contents = letter.contents.expose();
        let partition = if key.is_none() && contents.key.is_some() { partition } else { None };
        let from = letter.place.to_string();
        let own = contents.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
        let headers = owned(own.chain([(letter::REPLAYED_FROM, Some(from.as_bytes()))]));
        let (key, payload) = (key.or(contents.key.as_deref()), contents.payload.as_deref());
        let written = self.producer.send_to(&topic, partition, key, payload, headers).await;
        let (partition, offset) = written.map_err(NotHandled::NotWritten)?;
        let to = Place { topic, partition, offset };
        match self.mark(letter, Action::Replayed, Some(&to)).await {
            Ok(()) => Ok(to),
            Err(cause) => Err(NotHandled::NotMarked { to: Box::new(to), cause }),
        }
    }

    /// Marks it as given up.
    ///
    /// # Errors
    /// When the marker was not written.
    pub async fn drop(&self, letter: &Letter) -> Result<(), NotHandled> {
        self.mark(letter, Action::Dropped, None).await.map_err(NotHandled::NotWritten)
    }

    /// Where it goes: a topic of ours, and its partition there, if there still is one.
    fn target(&self, letter: &Letter) -> Result<(String, Option<i32>), NotHandled> {
        let origin = letter.header("dlq.topic").unwrap_or("its headers name none");
        match self.origins.get(origin) {
            None => Err(NotHandled::Foreign { origin: origin.to_owned() }),
            Some(0) => Err(NotHandled::NoTopic { topic: origin.to_owned() }),
            Some(&count) => {
                let partition = letter.origin().map(|place| place.partition);
                let partition = partition.filter(|partition| (0..count).contains(partition));
                Ok((origin.to_owned(), partition))
            }
        }
    }

    async fn mark(&self, letter: &Letter, action: Action, to: Option<&Place>) -> Result<(), ProduceError> {
        let Place { topic, partition, .. } = &letter.place;
        let headers = self.marker(letter, action, to);
        self.producer.send_to(topic, Some(*partition), None, None, headers).await?;
        Ok(())
    }

    fn marker(&self, letter: &Letter, action: Action, to: Option<&Place>) -> OwnedHeaders {
        let (target, at) = (letter.place.offset.to_string(), Timestamp::now().to_string());
        let to = to.map(Place::to_string);
        let headers = [
            (letter::HANDLED, Some(target.as_str())),
            (letter::ACTION, Some(action.as_str())),
            (letter::AT, Some(at.as_str())),
            (letter::BY, self.by.as_deref()),
            (letter::REPLAYED_TO, to.as_deref()),
        ];
        let present = headers.into_iter().filter_map(|(name, value)| Some((name, value?)));
        owned(present.map(|(name, value)| (name, Some(value.as_bytes()))))
    }
}

//! Dead letters as operators handle them: found, read, replayed, dropped, removed.
//!
//! Kafka cannot delete one record. So what was done with a dead letter is a record
//! as well: a marker on the same partition, without key and value, whose headers
//! say which offset was handled and how. Once the oldest records of a partition are
//! all handled, or markers, that prefix is removed for good.
//!
//! Nothing here holds more than a few records, or the markers of one window of a
//! partition, and every wait on the brokers has an end.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use thiserror::Error;

use super::dlq_of;
use super::names;
use super::producer::ProduceError;

mod handle;
mod letter;
mod read;
mod remove;
mod select;

pub use handle::{Handler, NotHandled};
pub use letter::{Action, Contents, Handled, Letter, Place, PlaceError, printable};
pub use read::Reader;
pub use remove::{Removal, Remover};
pub use select::{Letters, Missing};

/// Why dead letters could not be read or handled.
#[derive(Debug, Error)]
pub enum DlqError {
    /// The brokers did not do what they were asked.
    #[error("cannot {what}: {cause}; check kafka.bootstrap_servers and that the brokers are up")]
    Kafka {
        /// What was asked.
        what: String,
        /// What librdkafka says (all that its own sources say).
        cause: KafkaError,
    },
    /// A partition that has records gave none.
    #[error("{topic} partition {partition}: nothing came for {waited_ms} ms{}", said(.last))]
    Silent {
        /// Full name of the dead-letter topic.
        topic: String,
        /// Partition.
        partition: i32,
        /// How long it was waited.
        waited_ms: u128,
        /// What librdkafka last complained about.
        last: Option<KafkaError>,
    },
    /// The dead-letter topic was never made.
    #[error("the brokers have no topic {topic}: run `patient-notify topics apply`")]
    NoTopic {
        /// Its full name.
        topic: String,
    },
    /// A record was not written.
    #[error(transparent)]
    Produce(#[from] ProduceError),
}

fn said(last: &Option<KafkaError>) -> String {
    last.as_ref().map(|error| format!("; the last complaint: {error}")).unwrap_or_default()
}

impl DlqError {
    /// True when it may go better once the brokers are back.
    #[must_use]
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Kafka { .. } | Self::Silent { .. } => true,
            Self::NoTopic { .. } => false,
            Self::Produce(error) => matches!(error, ProduceError::Unavailable { .. }),
        }
    }
}

fn kafka_error(what: impl Into<String>) -> impl FnOnce(KafkaError) -> DlqError {
    let what = what.into();
    move |cause| DlqError::Kafka { what, cause }
}

/// True when the brokers say that a topic does not exist.
fn is_no_topic(code: RDKafkaErrorCode) -> bool {
    matches!(code, RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)
}

/// Full names of the dead-letter topics: one for each topic that a group of ours reads.
#[must_use]
pub fn topics(prefix: &str) -> Vec<String> {
    names::ALL
        .iter()
        .filter(|topic| topic.group.is_some())
        .map(|topic| dlq_of(&topic.full_name(prefix)))
        .collect()
}

/// The dead-letter topic that somebody means by a word: the topic's name or the
/// dead-letter topic's, with the configured prefix or without.
#[must_use]
pub fn topic_meant(prefix: &str, word: &str) -> Option<String> {
    topics(prefix).into_iter().find(|full| {
        let bare = full.strip_prefix(prefix).unwrap_or(full);
        [full.as_str(), bare].iter().any(|name| *name == word || *name == dlq_of(word))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_known_by_each_of_its_names() {
        let full = "t1.pat.notifications.v1.dlq";
        for word in ["pat.notifications.v1", "pat.notifications.v1.dlq", "t1.pat.notifications.v1", full] {
            assert_eq!(topic_meant("t1.", word).as_deref(), Some(full), "{word}");
        }
        for word in ["", ".dlq", "pat.notifications", "pat.notification-status.v1", "t2.pat.notifications.v1"]
        {
            assert_eq!(topic_meant("t1.", word), None, "{word}");
        }
        assert_eq!(topics("t1.").len(), names::ALL.iter().filter(|topic| topic.group.is_some()).count());
    }

    #[test]
    fn what_is_away_is_told_from_what_is_wrong() {
        let cause = KafkaError::MetadataFetch(RDKafkaErrorCode::BrokerTransportFailure);
        assert!(kafka_error("look")(cause).is_unavailable());
        assert!(!DlqError::NoTopic { topic: "t".to_owned() }.is_unavailable());
    }
}

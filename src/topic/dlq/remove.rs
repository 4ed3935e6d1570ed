//! Removing for good: the oldest records of a dead-letter partition, up to the
//! first dead letter that nobody has handled.

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use std::time::Duration;

use crate::config;
use crate::topic::client::{QuietContext, kafka_client_config};

use super::letter::Lying;
use super::read::{Reader, Walk};
use super::{DlqError, kafka_error};

/// Longest time that the request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// The oldest record is a dead letter that nobody has handled, or there is none.
    Nothing,
    /// Nobody can read these any more.
    Removed {
        /// How many offsets: dead letters and markers.
        offsets: i64,
    },
    /// The brokers do not do it; they stay until their retention ends.
    Refused {
        /// Why.
        cause: RDKafkaErrorCode,
    },
}

/// Removes what is handled.
pub struct Remover {
    admin: AdminClient<QuietContext>,
}

impl Remover {
    /// A remover on these brokers; it connects when it is used.
    ///
    /// # Errors
    /// When the settings make no client.
    pub fn new(kafka: &config::Kafka) -> Result<Self, DlqError> {
        let admin = kafka_client_config(kafka)
            .create_with_context(QuietContext::default())
            .map_err(kafka_error("set up a Kafka client"))?;
        Ok(Self { admin })
    }

    /// Removes the oldest records of a partition as far as all of them are handled
    /// dead letters, or markers: a marker lies behind what it marks, so within that
    /// prefix it has nothing left to say.
    ///
    /// # Errors
    /// When the brokers do not answer. What they refuse is a [`Removal::Refused`].
    pub async fn remove_handled(
        &self,
        reader: &mut Reader,
        topic: &str,
        partition: i32,
    ) -> Result<Removal, DlqError> {
        let (low, high) = reader.bounds(topic, partition).await?;
        let mut walk = Walk::new(topic, partition, low, high, high);
        let mut before = high;
        while let Some(step) = walk.next(reader).await? {
            if matches!(step.lying, Lying::Letter(_)) && step.handled.is_none() {
                before = step.offset;
                break;
            }
        }
        if before <= low {
            return Ok(Removal::Nothing);
        }
        match self.delete_before(topic, partition, before).await {
            Ok(()) => Ok(Removal::Removed { offsets: before - low }),
            Err(cause) => match cause.rdkafka_error_code().filter(is_refusal) {
                Some(cause) => Ok(Removal::Refused { cause }),
                None => {
                    let what = format!("remove what is handled from {topic} partition {partition}");
                    Err(kafka_error(what)(cause))
                }
            },
        }
    }

    async fn delete_before(&self, topic: &str, partition: i32, before: i64) -> Result<(), KafkaError> {
        let options = AdminOptions::new()
            .request_timeout(Some(REQUEST_TIMEOUT))
            .operation_timeout(Some(REQUEST_TIMEOUT));
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition_offset(topic, partition, Offset::Offset(before))?;
        let answer = self.admin.delete_records(&wanted, &options).await?;
        answer.elements().iter().try_for_each(|element| element.error())
    }
}

/// Answers of brokers that will not do it, now or later.
fn is_refusal(code: &RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::PolicyViolation
            | RDKafkaErrorCode::TopicAuthorizationFailed
            | RDKafkaErrorCode::ClusterAuthorizationFailed
            | RDKafkaErrorCode::InvalidRequest
            | RDKafkaErrorCode::UnsupportedVersion
            | RDKafkaErrorCode::UnsupportedFeature
    )
}

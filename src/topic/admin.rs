//! Topics: what is there, what should be, and the step from one to the other.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use thiserror::Error;

use crate::config::{self, Config};

use super::names;
use super::offsets::{self, GroupOffsets};

mod brokers;
mod plan;

use brokers::{Admin, survey};
pub use plan::{Change, Note};
use plan::{Found, Wanted, plan, wanted};

/// Longest time one request to the brokers may take.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a new topic may take until every broker shows it with leaders.
const VISIBLE_TIMEOUT: Duration = Duration::from_secs(60);
const VISIBLE_POLL: Duration = Duration::from_millis(100);

/// Why topics could not be compared or changed.
#[derive(Debug, Error)]
pub enum AdminError {
    /// The brokers did not do what they were asked.
    #[error("cannot {what}: {cause}; check kafka.bootstrap_servers and that the brokers are up")]
    Kafka {
        /// What was asked.
        what: &'static str,
        /// What librdkafka says (all that its own sources say).
        cause: KafkaError,
    },
    /// The brokers refused it for one topic.
    #[error("cannot {what} {topic}: {code}")]
    Topic {
        /// What was asked.
        what: &'static str,
        /// Which topic.
        topic: String,
        /// The brokers' reason.
        code: RDKafkaErrorCode,
    },
    /// New topics or partitions have no leaders yet.
    #[error("{topics} changed, and not all partitions have a leader after {waited_ms} ms")]
    NotVisible {
        /// Names.
        topics: String,
        /// How long it was waited.
        waited_ms: u128,
    },
}

pub(super) fn kafka_error(what: &'static str) -> impl FnOnce(KafkaError) -> AdminError {
    move |cause| AdminError::Kafka { what, cause }
}

/// What differs (`check`) or was changed (`apply`); printed for people.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Topics compared.
    pub topics: usize,
    /// Steps, in order.
    pub changes: Vec<Change>,
    /// What stays as it is.
    pub notes: Vec<Note>,
    /// Groups with partitions that have no committed offset.
    pub offsets: Vec<GroupOffsets>,
}

impl Report {
    /// True when everything is as it should be. More partitions than asked for
    /// do no harm; fewer copies do.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        let harmless = |note: &Note| matches!(note, Note::MorePartitions { .. });
        self.changes.is_empty() && self.notes.iter().all(harmless) && self.offsets.is_empty()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for change in &self.changes {
            writeln!(f, "{change}")?;
        }
        for note in &self.notes {
            writeln!(f, "{note}")?;
        }
        for group in &self.offsets {
            writeln!(f, "{group}")?;
        }
        Ok(())
    }
}

/// Compares the brokers' topics with ours; changes nothing.
///
/// # Errors
/// When the brokers do not answer.
pub async fn check(config: &Config) -> Result<Report, AdminError> {
    let wanted = wanted(&config.kafka);
    let found = survey(&Admin::new(&config.kafka)?, &wanted).await?;
    let (changes, notes) = plan(&wanted, &found);
    let offsets = offsets::missing(&config.kafka, partitions_by_group(&config.kafka, &found)).await?;
    Ok(Report { topics: wanted.len(), changes, notes, offsets })
}

/// Creates what is missing, adds partitions, corrects settings, waits until all
/// of it is visible, and commits the earliest offset for each partition of each
/// group that has none. Gives back what it did. Idempotent.
///
/// # Errors
/// When the brokers do not answer, or refuse a change.
pub async fn apply(config: &Config) -> Result<Report, AdminError> {
    let wanted = wanted(&config.kafka);
    let admin = Admin::new(&config.kafka)?;
    let found = survey(&admin, &wanted).await?;
    let (changes, notes) = plan(&wanted, &found);
    admin.create(&wanted, &changes).await?;
    admin.add_partitions(&changes).await?;
    admin.set(&wanted, &found, &changes).await?;
    let found = wait_until_visible(&admin, &wanted).await?;
    let offsets = offsets::commit(&config.kafka, partitions_by_group(&config.kafka, &found)).await?;
    Ok(Report { topics: wanted.len(), changes, notes, offsets })
}

/// Group → its topics with the number of their partitions, as far as they exist.
fn partitions_by_group(
    kafka: &config::Kafka,
    found: &BTreeMap<String, Found>,
) -> BTreeMap<String, Vec<(String, i32)>> {
    let mut groups: BTreeMap<String, Vec<(String, i32)>> = BTreeMap::new();
    for topic in &names::ALL {
        let name = topic.full_name(&kafka.topic_prefix);
        if let (Some(group), Some(found)) = (topic.full_group(&kafka.topic_prefix), found.get(&name)) {
            groups.entry(group).or_default().push((name, found.partitions));
        }
    }
    groups
}

/// Waits until every partition that we asked for has a leader.
async fn wait_until_visible(admin: &Admin, wanted: &[Wanted]) -> Result<BTreeMap<String, Found>, AdminError> {
    let begin = Instant::now();
    loop {
        let layout = admin.layout().await?;
        let there = |want: &Wanted| layout.get(&want.name).is_some_and(|(has, _)| *has >= want.partitions);
        let absent: Vec<&str> =
            wanted.iter().filter(|want| !there(want)).map(|want| want.name.as_str()).collect();
        if absent.is_empty() {
            return survey(admin, wanted).await;
        }
        if begin.elapsed() > VISIBLE_TIMEOUT {
            let (topics, waited_ms) = (absent.join(", "), begin.elapsed().as_millis());
            return Err(AdminError::NotVisible { topics, waited_ms });
        }
        tokio::time::sleep(VISIBLE_POLL).await;
    }
}

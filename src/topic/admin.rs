//! Topics: what is there, what should be, and the step from one to the other.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigSource, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use thiserror::Error;

use crate::config::{self, Config};

use super::client::kafka_client_config;
use super::names;
use super::offsets::{self, GroupOffsets};
use super::producer::RECORD_MAX_BYTES;

/// Longest time one request to the brokers may take.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// How long a new topic may take until every broker shows it with leaders.
const VISIBLE_TIMEOUT: Duration = Duration::from_secs(60);
const VISIBLE_POLL: Duration = Duration::from_millis(100);

/// Why topics could not be compared or changed.
#[derive(Debug, Error)]
pub enum AdminError {
    /// The brokers did not do what they were asked.
    #[error("cannot {what}: {source}; check kafka.bootstrap_servers and that the brokers are up")]
    Kafka {
        /// What was asked.
        what: &'static str,
        /// What librdkafka says.
        source: KafkaError,
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
    move |source| AdminError::Kafka { what, source }
}

/// A topic as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    name: String,
    partitions: i32,
    replication: i32,
    /// The settings that we own, by name.
    settings: BTreeMap<&'static str, String>,
}

/// A topic as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Found {
    partitions: i32,
    /// Copies of the partition that has the fewest.
    replication: i32,
    /// Every setting in force.
    settings: BTreeMap<String, String>,
    /// Those of them that were set on this topic.
    own: BTreeMap<String, String>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The topic is missing.
    Create { topic: String, partitions: i32, replication: i32 },
    /// It has too few partitions.
    AddPartitions { topic: String, from: i32, to: i32 },
    /// A setting differs.
    Set { topic: String, setting: &'static str, from: String, to: String },
}

/// What `apply` does not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// More partitions than asked for: kept, Kafka cannot take them away.
    MorePartitions { topic: String, has: i32, wanted: i32 },
    /// Fewer copies than asked for: an operator has to reassign partitions.
    FewerCopies { topic: String, has: i32, wanted: i32 },
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

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create { topic, partitions, replication } => {
                write!(f, "{topic}: create, {partitions} partitions, {replication} copies each")
            }
            Self::AddPartitions { topic, from, to } => {
                write!(f, "{topic}: from {from} to {to} partitions")
            }
            Self::Set { topic, setting, from, to } => write!(f, "{topic}: {setting} from {from} to {to}"),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MorePartitions { topic, has, wanted } => {
                write!(f, "{topic}: has {has} partitions, {wanted} are asked for; kept, Kafka takes none away")
            }
            Self::FewerCopies { topic, has, wanted } => write!(
                f,
                "{topic}: has {has} copies of a partition, kafka.replication_factor asks for {wanted}; \
                 reassign its partitions (kafka-reassign-partitions, or rpk)"
            ),
        }
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

/// Every topic of ours, and the dead-letter topic of each that a group reads.
fn wanted(kafka: &config::Kafka) -> Vec<Wanted> {
    let topic = |name: String, partitions: i32, retention_ms: i64| Wanted {
        name,
        partitions,
        replication: kafka.replication_factor,
        settings: BTreeMap::from([
            ("cleanup.policy", "delete".to_owned()),
            ("min.insync.replicas", kafka.min_insync_replicas.to_string()),
            ("retention.ms", retention_ms.to_string()),
        ]),
    };
    let mut all = Vec::new();
    for known in &names::ALL {
        let name = known.full_name(&kafka.topic_prefix);
        if known.group.is_some() {
            let mut dlq = topic(names::dlq_of(&name), names::DLQ_PARTITIONS, names::DLQ_RETENTION_MS);
            // A record of the greatest size that its topic takes, plus our headers.
            dlq.settings.insert("max.message.bytes", RECORD_MAX_BYTES.to_string());
            all.push(dlq);
        }
        all.push(topic(name, known.partitions, known.retention_ms));
    }
    all
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

/// What has to happen, and what cannot.
fn plan(wanted: &[Wanted], found: &BTreeMap<String, Found>) -> (Vec<Change>, Vec<Note>) {
    let (mut changes, mut notes) = (Vec::new(), Vec::new());
    for want in wanted {
        let topic = want.name.clone();
        let Some(has) = found.get(&want.name) else {
            let (partitions, replication) = (want.partitions, want.replication);
            changes.push(Change::Create { topic, partitions, replication });
            continue;
        };
        if has.partitions < want.partitions {
            let (from, to) = (has.partitions, want.partitions);
            changes.push(Change::AddPartitions { topic: topic.clone(), from, to });
        } else if has.partitions > want.partitions {
            let (has, wanted) = (has.partitions, want.partitions);
            notes.push(Note::MorePartitions { topic: topic.clone(), has, wanted });
        }
        if has.replication < want.replication {
            let (has, wanted) = (has.replication, want.replication);
            notes.push(Note::FewerCopies { topic: topic.clone(), has, wanted });
        }
        for (&setting, to) in &want.settings {
            let from = has.settings.get(setting).cloned().unwrap_or_else(|| "unset".to_owned());
            if from != *to {
                changes.push(Change::Set { topic: topic.clone(), setting, from, to: to.clone() });
            }
        }
    }
    (changes, notes)
}

struct Admin {
    client: Arc<AdminClient<DefaultClientContext>>,
    options: AdminOptions,
}

impl Admin {
    fn new(kafka: &config::Kafka) -> Result<Self, AdminError> {
        let client = kafka_client_config(kafka).create().map_err(kafka_error("set up a Kafka client"))?;
        let options =
            AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT)).operation_timeout(Some(REQUEST_TIMEOUT));
        Ok(Self { client: Arc::new(client), options })
    }

    /// Partitions and copies of every topic that has a leader everywhere, by name.
    async fn layout(&self) -> Result<BTreeMap<String, (i32, i32)>, AdminError> {
        const WHAT: &str = "list the topics";
        let client = Arc::clone(&self.client);
        let metadata = move || client.inner().fetch_metadata(None, REQUEST_TIMEOUT);
        let metadata = tokio::task::spawn_blocking(metadata)
            .await
            .unwrap_or(Err(KafkaError::Canceled))
            .map_err(kafka_error(WHAT))?;
        let topics = metadata.topics().iter().filter(|topic| topic.error().is_none());
        let with_leaders = topics.filter(|topic| topic.partitions().iter().all(|p| p.leader() >= 0));
        Ok(with_leaders
            .map(|topic| {
                let copies = topic.partitions().iter().map(|p| to_i32(p.replicas().len())).min();
                (topic.name().to_owned(), (to_i32(topic.partitions().len()), copies.unwrap_or(0)))
            })
            .collect())
    }

    async fn create(&self, wanted: &[Wanted], changes: &[Change]) -> Result<(), AdminError> {
        let is_new = |name: &str| changes.iter().any(|c| matches!(c, Change::Create { topic, .. } if topic == name));
        let new: Vec<NewTopic<'_>> = wanted
            .iter()
            .filter(|want| is_new(&want.name))
            .map(|want| {
                let topic = NewTopic::new(&want.name, want.partitions, TopicReplication::Fixed(want.replication));
                want.settings.iter().fold(topic, |topic, (&key, value)| topic.set(key, value))
            })
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let results = self.client.create_topics(&new, &self.options).await;
        let results = results.map_err(kafka_error("create topics"))?;
        // Somebody else may have created it meanwhile.
        let exists = |code: &RDKafkaErrorCode| *code == RDKafkaErrorCode::TopicAlreadyExists;
        first_failure("create", results.into_iter().filter_map(Result::err).filter(|(_, code)| !exists(code)))
    }

    async fn add_partitions(&self, changes: &[Change]) -> Result<(), AdminError> {
        let grown: Vec<NewPartitions<'_>> = changes
            .iter()
            .filter_map(|change| match change {
                Change::AddPartitions { topic, to, .. } => {
                    Some(NewPartitions::new(topic, usize::try_from(*to).unwrap_or(0)))
                }
                _ => None,
            })
            .collect();
        if grown.is_empty() {
            return Ok(());
        }
        let results = self.client.create_partitions(&grown, &self.options).await;
        let results = results.map_err(kafka_error("add partitions"))?;
        first_failure("add partitions to", results.into_iter().filter_map(Result::err))
    }

    /// Corrects settings. The request replaces all settings of a topic, so those
    /// that others have set on it are sent along unchanged.
    async fn set(
        &self,
        wanted: &[Wanted],
        found: &BTreeMap<String, Found>,
        changes: &[Change],
    ) -> Result<(), AdminError> {
        let differs = |name: &str| changes.iter().any(|c| matches!(c, Change::Set { topic, .. } if topic == name));
        let altered: Vec<AlterConfig<'_>> = wanted
            .iter()
            .filter(|want| differs(&want.name))
            .filter_map(|want| Some((want, found.get(&want.name)?)))
            .map(|(want, has)| {
                let kept = has.own.iter().filter(|(key, _)| !want.settings.contains_key(key.as_str()));
                let ours = want.settings.iter().map(|(&key, value)| (key, value));
                kept.map(|(key, value)| (key.as_str(), value))
                    .chain(ours)
                    .fold(AlterConfig::new(ResourceSpecifier::Topic(&want.name)), |all, (key, value)| {
                        all.set(key, value)
                    })
            })
            .collect();
        if altered.is_empty() {
            return Ok(());
        }
        let results = self.client.alter_configs(&altered, &self.options).await;
        let results = results.map_err(kafka_error("change topics' settings"))?;
        let failures = results.into_iter().filter_map(Result::err);
        first_failure("change settings of", failures.map(|(topic, code)| (format!("{topic:?}"), code)))
    }
}

fn first_failure(
    what: &'static str,
    mut failures: impl Iterator<Item = (String, RDKafkaErrorCode)>,
) -> Result<(), AdminError> {
    match failures.next() {
        Some((topic, code)) => Err(AdminError::Topic { what, topic, code }),
        None => Ok(()),
    }
}

fn to_i32(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Those of our topics that exist, with their settings.
async fn survey(admin: &Admin, wanted: &[Wanted]) -> Result<BTreeMap<String, Found>, AdminError> {
    let layout = admin.layout().await?;
    let present: Vec<&str> =
        wanted.iter().map(|want| want.name.as_str()).filter(|name| layout.contains_key(*name)).collect();
    if present.is_empty() {
        return Ok(BTreeMap::new());
    }
    let resources: Vec<_> = present.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    let described = admin.client.describe_configs(&resources, &admin.options).await;
    let described = described.map_err(kafka_error("read topics' settings"))?;
    let mut found = BTreeMap::new();
    for (name, resource) in present.into_iter().zip(described) {
        let resource = resource.map_err(|code| AdminError::Topic {
            what: "read the settings of",
            topic: name.to_owned(),
            code,
        })?;
        let (partitions, replication) = layout[name];
        let mut topic = Found { partitions, replication, ..Found::default() };
        for entry in resource.entries {
            let Some(value) = entry.value else { continue };
            if entry.source == ConfigSource::DynamicTopic {
                topic.own.insert(entry.name.clone(), value.clone());
            }
            topic.settings.insert(entry.name, value);
        }
        found.insert(name.to_owned(), topic);
    }
    Ok(found)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(partitions: i32, retention: &str) -> Wanted {
        let settings = BTreeMap::from([("retention.ms", retention.to_owned())]);
        Wanted { name: "t".to_owned(), partitions, replication: 3, settings }
    }

    fn found(partitions: i32, replication: i32, retention: &str) -> BTreeMap<String, Found> {
        let settings = BTreeMap::from([("retention.ms".to_owned(), retention.to_owned())]);
        BTreeMap::from([("t".to_owned(), Found { partitions, replication, settings, own: BTreeMap::new() })])
    }

    #[test]
    fn a_topic_as_it_should_be_needs_nothing() {
        assert_eq!(plan(&[topic(6, "10")], &found(6, 3, "10")), (vec![], vec![]));
    }

    #[test]
    fn a_missing_topic_is_created() {
        let (changes, notes) = plan(&[topic(6, "10")], &BTreeMap::new());
        assert_eq!(changes, [Change::Create { topic: "t".to_owned(), partitions: 6, replication: 3 }]);
        assert_eq!(notes, []);
    }

    #[test]
    fn partitions_grow_and_never_shrink() {
        let (changes, _) = plan(&[topic(6, "10")], &found(4, 3, "10"));
        assert_eq!(changes, [Change::AddPartitions { topic: "t".to_owned(), from: 4, to: 6 }]);
        let (changes, notes) = plan(&[topic(6, "10")], &found(9, 3, "10"));
        assert_eq!(changes, []);
        assert_eq!(notes, [Note::MorePartitions { topic: "t".to_owned(), has: 9, wanted: 6 }]);
        assert!(Report { notes, ..Report::default() }.is_clean());
    }

    #[test]
    fn settings_are_corrected_and_missing_copies_are_told() {
        let (changes, notes) = plan(&[topic(6, "10")], &found(6, 1, "20"));
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].to_string(), "t: retention.ms from 20 to 10");
        assert_eq!(notes, [Note::FewerCopies { topic: "t".to_owned(), has: 1, wanted: 3 }]);
        assert!(!Report { notes, ..Report::default() }.is_clean());
    }
}

//! The brokers' side of topics: reading them, creating and changing them.

use std::collections::BTreeMap;
use std::sync::Arc;

use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, ConfigSource, NewPartitions, NewTopic, ResourceSpecifier,
    TopicReplication,
};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::config;
use crate::topic::client::{QuietContext, kafka_client_config};

use super::plan::{Change, Found, Wanted};
use super::{AdminError, REQUEST_TIMEOUT, kafka_error};

/// A connection with an administrator's rights.
pub(super) struct Admin {
    client: Arc<AdminClient<QuietContext>>,
    options: AdminOptions,
}

impl Admin {
    pub(super) fn new(kafka: &config::Kafka) -> Result<Self, AdminError> {
        let client = kafka_client_config(kafka)
            .create_with_context(QuietContext::default())
            .map_err(kafka_error("set up a Kafka client"))?;
        let options = AdminOptions::new()
            .request_timeout(Some(REQUEST_TIMEOUT))
            .operation_timeout(Some(REQUEST_TIMEOUT));
        Ok(Self { client: Arc::new(client), options })
    }

    /// Partitions and copies of every topic that has a leader everywhere, by name.
    pub(super) async fn layout(&self) -> Result<BTreeMap<String, (i32, i32)>, AdminError> {
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

    pub(super) async fn create(&self, wanted: &[Wanted], changes: &[Change]) -> Result<(), AdminError> {
        let is_new =
            |name: &str| changes.iter().any(|c| matches!(c, Change::Create { topic, .. } if topic == name));
        let new: Vec<NewTopic<'_>> = wanted
            .iter()
            .filter(|want| is_new(&want.name))
            .map(|want| {
                let topic =
                    NewTopic::new(&want.name, want.partitions, TopicReplication::Fixed(want.replication));
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

    pub(super) async fn add_partitions(&self, changes: &[Change]) -> Result<(), AdminError> {
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
    pub(super) async fn set(
        &self,
        wanted: &[Wanted],
        found: &BTreeMap<String, Found>,
        changes: &[Change],
    ) -> Result<(), AdminError> {
        let differs =
            |name: &str| changes.iter().any(|c| matches!(c, Change::Set { topic, .. } if topic == name));
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
pub(super) async fn survey(admin: &Admin, wanted: &[Wanted]) -> Result<BTreeMap<String, Found>, AdminError> {
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

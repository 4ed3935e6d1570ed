//! How long topics keep their records.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigEntry, ResourceSpecifier};
use rdkafka::error::KafkaError;

use super::reading::Retention;
use crate::config;
use crate::topic::client::{QuietContext, kafka_client_config};

/// Longest time one request to the brokers may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// For how long the topics' retention is remembered.
const RETENTION_FOR: Duration = Duration::from_secs(300);

/// Asks the brokers for the retention of topics, and remembers it for a while.
pub(super) struct RetentionReader {
    kafka: config::Kafka,
    kept: Mutex<Kept>,
}

/// How long topics keep records, as it was last read.
#[derive(Default)]
struct Kept {
    topics: BTreeMap<String, Retention>,
    read: Option<Instant>,
}

impl RetentionReader {
    pub(super) fn new(kafka: &config::Kafka) -> Self {
        Self { kafka: kafka.clone(), kept: Mutex::default() }
    }

    /// Retention by topic. What cannot be read is unknown: a client may read a group without
    /// the right to read settings.
    pub(super) async fn read(&self, topics: &BTreeSet<&str>) -> BTreeMap<String, Retention> {
        {
            let kept = self.kept.lock();
            let fresh = kept.read.is_some_and(|at| at.elapsed() < RETENTION_FOR);
            if fresh && topics.iter().all(|topic| kept.topics.contains_key(*topic)) {
                return kept.topics.clone();
            }
        }
        let mut read: BTreeMap<String, Retention> =
            topics.iter().map(|topic| ((*topic).to_owned(), Retention::Unknown)).collect();
        match self.settings(topics).await {
            Ok(described) => {
                for (topic, entries) in topics.iter().zip(described) {
                    read.insert((*topic).to_owned(), retention_of(&entries));
                }
            }
            Err(error) => tracing::debug!(%error, "the retention of topics cannot be read"),
        }
        let mut kept = self.kept.lock();
        kept.topics.clone_from(&read);
        kept.read = Some(Instant::now());
        read
    }

    /// The settings of topics. The client lives only for this: it is needed once in minutes.
    async fn settings(&self, topics: &BTreeSet<&str>) -> Result<Vec<Vec<ConfigEntry>>, KafkaError> {
        if topics.is_empty() {
            return Ok(Vec::new());
        }
        let admin: AdminClient<QuietContext> =
            kafka_client_config(&self.kafka).create_with_context(QuietContext::default())?;
        let resources: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT));
        let described = admin.describe_configs(&resources, &options).await;
        // Its end waits for its thread.
        let _ = tokio::task::spawn_blocking(move || drop(admin)).await;
        Ok(described?.into_iter().map(|one| one.map(|one| one.entries).unwrap_or_default()).collect())
    }
}

fn retention_of(entries: &[ConfigEntry]) -> Retention {
    let value =
        |name: &str| entries.iter().find(|entry| entry.name == name).and_then(|entry| entry.value.as_deref());
    let deletes = value("cleanup.policy").is_none_or(|policy| policy.contains("delete"));
    match value("retention.ms").and_then(|text| text.parse::<i64>().ok()) {
        _ if !deletes => Retention::Endless,
        Some(kept_ms) => u64::try_from(kept_ms).map_or(Retention::Endless, Retention::Ms),
        None => Retention::Unknown,
    }
}

//! Topics and groups, their names and sizes (ARCHITECTURE.md, "Topics").

use std::collections::BTreeMap;

/// A topic of the system, without the configured prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topic {
    /// Name, to which `kafka.topic_prefix` is put in front.
    pub name: &'static str,
    /// Partitions; well above the greatest number of pods, so that they spread evenly.
    pub partitions: i32,
    /// How long records are kept.
    pub retention_ms: i64,
    /// Consumer group that reads it, if one of ours does.
    pub group: Option<&'static str>,
    /// Subject's schema in `avro/`; `None`: raw bytes.
    pub schema: Option<&'static str>,
}

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// Laboratories → `consumer-test-result-notification`.
pub const TEST_RESULTS: Topic = Topic {
    name: "pat.test-results.v1",
    partitions: 60,
    retention_ms: 14 * DAY_MS,
    group: Some("consumer-test-result-notification"),
    schema: Some("pat.test-results.v1.avsc"),
};

/// Front, cron and other backends → `consumer-notification`.
pub const NOTIFICATIONS: Topic = Topic {
    name: "pat.notifications.v1",
    partitions: 30,
    retention_ms: 7 * DAY_MS,
    group: Some("consumer-notification"),
    schema: Some("pat.notifications.v1.avsc"),
};

/// Batch publisher → `consumer-notification`, with left-over capacity.
pub const NOTIFICATIONS_BULK: Topic = Topic {
    name: "pat.notifications-bulk.v1",
    partitions: 30,
    retention_ms: 7 * DAY_MS,
    group: Some("consumer-notification"),
    schema: Some("pat.notifications.v1.avsc"),
};

/// Webhooks and portals → `consumer-notification-update`.
pub const NOTIFICATION_UPDATES: Topic = Topic {
    name: "pat.notification-updates.v1",
    partitions: 24,
    retention_ms: 7 * DAY_MS,
    group: Some("consumer-notification-update"),
    schema: Some("pat.notification-updates.v1.avsc"),
};

/// Outbox → other backends and Watch streams.
pub const NOTIFICATION_STATUS: Topic = Topic {
    name: "pat.notification-status.v1",
    partitions: 24,
    retention_ms: 14 * DAY_MS,
    group: None,
    schema: Some("pat.notification-status.v1.avsc"),
};

/// Every topic with a schema; each that a group of ours reads has a dead-letter topic beside it.
pub const ALL: [Topic; 5] =
    [TEST_RESULTS, NOTIFICATIONS, NOTIFICATIONS_BULK, NOTIFICATION_UPDATES, NOTIFICATION_STATUS];

/// Partitions of a dead-letter topic.
pub const DLQ_PARTITIONS: i32 = 6;
/// How long dead letters are kept.
pub const DLQ_RETENTION_MS: i64 = 30 * DAY_MS;

/// Full names of our groups under a prefix, each with the full names of the topics that it
/// reads.
#[must_use]
pub fn groups(prefix: &str) -> BTreeMap<String, Vec<String>> {
    let mut groups: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for topic in &ALL {
        if let Some(group) = topic.full_group(prefix) {
            groups.entry(group).or_default().push(topic.full_name(prefix));
        }
    }
    groups
}

/// The dead-letter topic of a topic (full name in, full name out).
#[must_use]
pub fn dlq_of(topic: &str) -> String {
    format!("{topic}.dlq")
}

impl Topic {
    /// Its name under a prefix.
    #[must_use]
    pub fn full_name(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.name)
    }

    /// The registry subject of its values (TopicNameStrategy).
    #[must_use]
    pub fn subject(&self, prefix: &str) -> String {
        format!("{prefix}{}-value", self.name)
    }

    /// The group that reads it, under a prefix.
    #[must_use]
    pub fn full_group(&self, prefix: &str) -> Option<String> {
        self.group.map(|group| format!("{prefix}{group}"))
    }
}

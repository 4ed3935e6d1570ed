//! What topics should be, what they are, and the steps between. Pure.

use std::collections::BTreeMap;
use std::fmt;

use crate::config;
use crate::topic::names;
use crate::topic::producer::RECORD_MAX_BYTES;

/// A topic as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) partitions: i32,
    pub(super) replication: i32,
    /// The settings that we own, by name.
    pub(super) settings: BTreeMap<&'static str, String>,
}

/// A topic as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Found {
    pub(super) partitions: i32,
    /// Copies of the partition that has the fewest.
    pub(super) replication: i32,
    /// Every setting in force.
    pub(super) settings: BTreeMap<String, String>,
    /// Those of them that were set on this topic.
    pub(super) own: BTreeMap<String, String>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The topic is missing.
    Create {
        /// Full name.
        topic: String,
        /// Partitions to create.
        partitions: i32,
        /// Copies of each.
        replication: i32,
    },
    /// It has too few partitions.
    AddPartitions {
        /// Full name.
        topic: String,
        /// Partitions that it has.
        from: i32,
        /// Partitions that it should have.
        to: i32,
    },
    /// A setting differs.
    Set {
        /// Full name of the topic.
        topic: String,
        /// Name of the setting.
        setting: &'static str,
        /// Value in force.
        from: String,
        /// Value that it should have.
        to: String,
    },
}

/// What `apply` does not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// More partitions than asked for: kept, Kafka cannot take them away.
    MorePartitions {
        /// Full name of the topic.
        topic: String,
        /// Partitions that it has.
        has: i32,
        /// Partitions that were asked for.
        wanted: i32,
    },
    /// Fewer copies than asked for: an operator has to reassign partitions.
    FewerCopies {
        /// Full name of the topic.
        topic: String,
        /// Copies of the partition that has the fewest.
        has: i32,
        /// Copies that were asked for.
        wanted: i32,
    },
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
                write!(
                    f,
                    "{topic}: has {has} partitions, {wanted} are asked for; kept, Kafka takes none away"
                )
            }
            Self::FewerCopies { topic, has, wanted } => write!(
                f,
                "{topic}: has {has} copies of a partition, kafka.replication_factor asks for {wanted}; \
                 reassign its partitions (kafka-reassign-partitions, or rpk)"
            ),
        }
    }
}

/// Every topic of ours, and the dead-letter topic of each that a group reads.
pub(super) fn wanted(kafka: &config::Kafka) -> Vec<Wanted> {
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

/// What has to happen, and what cannot.
pub(super) fn plan(wanted: &[Wanted], found: &BTreeMap<String, Found>) -> (Vec<Change>, Vec<Note>) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::admin::Report;

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

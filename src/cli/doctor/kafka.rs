//! Brokers, topics, first offsets, and what may be read.

use rdkafka::error::KafkaError;
use tokio::task::spawn_blocking;

use super::finding::Finding;
use crate::config::Config;
use crate::topic::names::{self, Topic};
use crate::topic::{access, admin};

const BROKERS: &str = "brokers";
const TOPICS: &str = "topics";
const READING: &str = "reading";

pub(super) async fn look(config: &Config) -> Vec<Finding> {
    let kafka = config.kafka.clone();
    let found = spawn_blocking(move || access::brokers(&kafka)).await.unwrap_or(Err(KafkaError::Canceled));
    let brokers = match found {
        Ok(brokers) => brokers,
        Err(error) => {
            let reached = Finding::fault(
                BROKERS,
                format!("{} do not answer: {error}", config.kafka.bootstrap_servers),
                "start them, or correct kafka.bootstrap_servers, kafka.security_protocol and the sasl_ and ssl_ keys",
            );
            let away = |check| Finding::skipped(check, "no broker answers");
            return vec![reached, away(TOPICS), away(READING)];
        }
    };
    let wanted = usize::try_from(config.kafka.replication_factor).unwrap_or(usize::MAX);
    let there = if brokers.count < wanted {
        Finding::fault(
            BROKERS,
            format!("{} of the {wanted} that kafka.replication_factor needs", brokers.count),
            "bring up the missing brokers, or ask for fewer copies",
        )
    } else {
        Finding::ok(BROKERS, format!("{} there, answered in {} ms", brokers.count, brokers.answered_ms))
    };
    let (topics, reading) = tokio::join!(topics(config), reading(config));
    vec![there, topics, reading]
}

async fn topics(config: &Config) -> Finding {
    match admin::check(config).await {
        Ok(report) if report.is_clean() => {
            Finding::ok(TOPICS, format!("{} as they should be", report.topics))
        }
        Ok(report) => Finding::fault(TOPICS, report.to_string(), "run `patient-notify topics apply`"),
        Err(error) => {
            Finding::fault(TOPICS, error.to_string(), "give this user DESCRIBE on topics and groups")
        }
    }
}

/// Each topic that a group of ours reads, as that group.
async fn reading(config: &Config) -> Finding {
    let mut refused = Vec::new();
    let mut read = 0;
    for topic in names::ALL.iter().filter(|topic| topic.group.is_some()) {
        match read_end(config, topic).await {
            Ok(()) => read += 1,
            Err(error) => refused.push(format!("{}: {error}", topic.full_name(&config.kafka.topic_prefix))),
        }
    }
    if refused.is_empty() {
        Finding::ok(READING, format!("{read} topics can be read by their groups"))
    } else {
        let mend =
            "create the topic (`patient-notify topics apply`), or give this user READ on it and on its group";
        Finding::fault(READING, refused.join("\n"), mend)
    }
}

async fn read_end(config: &Config, topic: &Topic) -> Result<(), KafkaError> {
    let prefix = &config.kafka.topic_prefix;
    let (kafka, name) = (config.kafka.clone(), topic.full_name(prefix));
    let group = topic.full_group(prefix).unwrap_or_default();
    spawn_blocking(move || access::read_end(&kafka, &group, &name)).await.unwrap_or(Err(KafkaError::Canceled))
}

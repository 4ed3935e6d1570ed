//! Topics and first offsets: made once, mended when they differ, never shrunk,
//! and lag is true before the first consumer ever ran.

use std::collections::BTreeMap;
use std::time::Duration;

use patient_notify::config::{self, Config};
use patient_notify::topic::admin::{self, Change, Note};
use patient_notify::topic::client::kafka_client_config;
use patient_notify::topic::lag::{self, PartitionLag};
use patient_notify::topic::names::{self, Topic};
use patient_notify::topic::producer::Producer;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::harness::{World, eventually, results};
use crate::tools::{printed, tool};

const DEADLINE: Duration = Duration::from_secs(30);
const OPTIONS_TIMEOUT: Duration = Duration::from_secs(15);

fn client(kafka: &config::Kafka) -> AdminClient<DefaultClientContext> {
    kafka_client_config(kafka).create().unwrap()
}

fn options() -> AdminOptions {
    AdminOptions::new().operation_timeout(Some(OPTIONS_TIMEOUT)).request_timeout(Some(OPTIONS_TIMEOUT))
}

/// Every partition of the topics that a group reads.
async fn offsets(config: &Config, topics: &[Topic]) -> Vec<PartitionLag> {
    let kafka = config.kafka.clone();
    let group = topics[0].full_group(&kafka.topic_prefix).unwrap();
    let topics: Vec<String> = topics.iter().map(|topic| topic.full_name(&kafka.topic_prefix)).collect();
    tokio::task::spawn_blocking(move || lag::read(&kafka, &group, &topics).unwrap()).await.unwrap()
}

/// Partitions by topic, of those under this prefix.
async fn layout(kafka: &config::Kafka) -> BTreeMap<String, usize> {
    let kafka = kafka.clone();
    let look = move || {
        let consumer: BaseConsumer = kafka_client_config(&kafka).create().unwrap();
        let metadata = consumer.fetch_metadata(None, OPTIONS_TIMEOUT).unwrap();
        let ours = metadata.topics().iter().filter(|topic| topic.name().starts_with(&kafka.topic_prefix));
        ours.map(|topic| (topic.name().to_owned(), topic.partitions().len())).collect()
    };
    tokio::task::spawn_blocking(look).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_is_idempotent_and_lag_is_true_before_any_consumer_ran() {
    let world = World::full_size().await;
    let again = admin::apply(&world.config).await.unwrap();
    assert!(again.is_clean() && again.changes.is_empty(), "a second apply has nothing to do:\n{again}");
    let check = tool(&world.config, &["topics", "check"]).await;
    assert!(check.status.success(), "{}", printed(&check));

    let layout = layout(&world.config.kafka).await;
    for topic in &names::ALL {
        let name = world.topic(topic);
        assert_eq!(layout.get(&name).copied(), usize::try_from(topic.partitions).ok(), "{name}");
        let letters = layout.get(&names::dlq_of(&name)).copied();
        let expected = topic.group.and(usize::try_from(names::DLQ_PARTITIONS).ok());
        assert_eq!(letters, expected, "the dead-letter topic of {name}");
    }

    world.publish(&results(7, 25, 10)).await;
    let of_results = offsets(&world.config, &[names::TEST_RESULTS]).await;
    assert_eq!(of_results.iter().map(PartitionLag::lag).sum::<i64>(), 25);
    for topics in [
        &[names::TEST_RESULTS][..],
        &[names::NOTIFICATIONS, names::NOTIFICATIONS_BULK],
        &[names::NOTIFICATION_UPDATES],
    ] {
        for one in offsets(&world.config, topics).await {
            assert!(one.committed.is_some(), "{}/{} has no committed offset", one.topic, one.partition);
        }
    }
    let after = admin::apply(&world.config).await.unwrap();
    assert!(after.is_clean(), "{after}");
    let lag: i64 = offsets(&world.config, &[names::TEST_RESULTS]).await.iter().map(PartitionLag::lag).sum();
    assert_eq!(lag, 25, "apply never moves an offset that is there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_setting_is_reported_and_mended_and_others_stay() {
    let world = World::full_size().await;
    let name = world.topic(&names::TEST_RESULTS);
    let altered = AlterConfig::new(ResourceSpecifier::Topic(&name))
        .set("retention.ms", "60000")
        .set("segment.bytes", "2097152");
    client(&world.config.kafka).alter_configs([&altered], &options()).await.unwrap();
    let differs = |change: &Change| matches!(change, Change::Set { topic, setting: "retention.ms", from, .. } if *topic == name && from == "60000");
    eventually("check reports it", DEADLINE, async || {
        admin::check(&world.config).await.unwrap().changes.iter().any(differs)
    })
    .await;
    let check = tool(&world.config, &["topics", "check"]).await;
    assert_eq!(check.status.code(), Some(1), "{}", printed(&check));
    assert!(printed(&check).contains(&format!("{name}: retention.ms from 60000")), "{}", printed(&check));

    let apply = tool(&world.config, &["topics", "apply"]).await;
    assert!(apply.status.success(), "{}", printed(&apply));
    eventually("check has nothing to report", DEADLINE, async || {
        admin::check(&world.config).await.unwrap().is_clean()
    })
    .await;
    let described = client(&world.config.kafka)
        .describe_configs([&ResourceSpecifier::Topic(&name)], &options())
        .await
        .unwrap()
        .remove(0)
        .unwrap();
    let value = |name: &str| described.get(name).and_then(|entry| entry.value.clone()).unwrap();
    assert_eq!(value("retention.ms"), names::TEST_RESULTS.retention_ms.to_string());
    assert_eq!(value("segment.bytes"), "2097152", "what an operator has set stays");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_are_added_and_never_taken_away() {
    let world = World::new().await;
    let mut config = world.config.clone();
    config.kafka.topic_prefix.push_str("older.");
    let (small, large) = (names::TEST_RESULTS, names::NOTIFICATION_UPDATES);
    let full = |topic: &Topic| topic.full_name(&config.kafka.topic_prefix);
    let (small_name, large_name) = (full(&small), full(&large));
    let made = [
        NewTopic::new(&small_name, 3, TopicReplication::Fixed(1)),
        NewTopic::new(&large_name, large.partitions + 6, TopicReplication::Fixed(1)),
    ];
    let admin_client = client(&config.kafka);
    admin_client.create_topics(&made, &options()).await.unwrap().into_iter().for_each(|made| {
        made.unwrap();
    });
    let producer = Producer::new(&config.kafka).unwrap();
    for key in 0..12_u8 {
        producer.send(&small_name, Some(&[key]), Some(b"older than us"), &[]).await.unwrap();
    }

    let report = admin::apply(&config).await.unwrap();
    let grown = Change::AddPartitions { topic: small_name.clone(), from: 3, to: small.partitions };
    assert!(report.changes.contains(&grown), "{report}");
    let kept = Note::MorePartitions {
        topic: large_name.clone(),
        has: large.partitions + 6,
        wanted: large.partitions,
    };
    assert!(report.notes.contains(&kept), "{report}");
    let check = admin::check(&config).await.unwrap();
    assert!(check.is_clean() && check.notes.contains(&kept), "more partitions do no harm:\n{check}");
    let layout = layout(&config.kafka).await;
    assert_eq!(layout[&small_name], usize::try_from(small.partitions).unwrap());
    assert_eq!(layout[&large_name], usize::try_from(large.partitions + 6).unwrap());

    let offsets_small = offsets(&config, &[small]).await;
    assert_eq!(offsets_small.len(), usize::try_from(small.partitions).unwrap());
    assert!(offsets_small.iter().all(|one| one.committed.is_some()), "new partitions have offsets too");
    assert_eq!(offsets_small.iter().map(PartitionLag::lag).sum::<i64>(), 12, "what lay there counts");
    let offsets_large = offsets(&config, &[large]).await;
    assert!(offsets_large.iter().all(|one| one.committed.is_some()));

    let names: Vec<&str> = layout.keys().map(String::as_str).collect();
    admin_client.delete_topics(&names, &options()).await.unwrap();
}

//! Topics as tests look at them: from the outside.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use patient_notify::config;
use patient_notify::topic::client::kafka_client_config;
use patient_notify::topic::dlq_of;
use patient_notify::topic::lag::{self, PartitionLag};
use patient_notify::topic::names::{self, Topic};
use patient_notify::topic::producer::RECORD_MAX_BYTES;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};

use super::eventually;

const TIMEOUT: Duration = Duration::from_secs(15);

/// One record of a dead-letter topic.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The dead-letter topic that it is on.
    pub topic: String,
    /// Headers as text, ours (`dlq.…`) and the original ones.
    pub headers: HashMap<String, String>,
    /// Key as it came.
    pub key: Option<Vec<u8>>,
    /// Value as it came.
    pub payload: Option<Vec<u8>>,
}

/// Groups with the topics that they read.
fn groups(prefix: &str) -> Vec<(String, Vec<String>)> {
    let readers: [&[Topic]; 3] = [
        &[names::TEST_RESULTS],
        &[names::NOTIFICATIONS, names::NOTIFICATIONS_BULK],
        &[names::NOTIFICATION_UPDATES],
    ];
    readers
        .iter()
        .filter_map(|topics| {
            let group = topics.first()?.full_group(prefix)?;
            Some((group, topics.iter().map(|topic| topic.full_name(prefix)).collect()))
        })
        .collect()
}

/// Every partition of every topic that a consumer of ours reads. Blocking.
pub(super) fn partitions(kafka: &config::Kafka) -> Vec<PartitionLag> {
    groups(&kafka.topic_prefix)
        .into_iter()
        .flat_map(|(group, topics)| lag::read(kafka, &group, &topics).expect("offsets of a group"))
        .collect()
}

/// Partitions of a topic as its group sees them. Blocking.
pub(super) fn committed(kafka: &config::Kafka, topic: &Topic) -> Vec<PartitionLag> {
    let group = topic.full_group(&kafka.topic_prefix).expect("a topic that a group of ours reads");
    let topics = [topic.full_name(&kafka.topic_prefix)];
    lag::read(kafka, &group, &topics).expect("offsets of a group")
}

fn partitions_of(consumer: &BaseConsumer, topic: &str) -> i32 {
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT).expect("metadata of a topic");
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    i32::try_from(found.map_or(0, |found| found.partitions().len())).expect("a count")
}

/// Everything on the dead-letter topics. Blocking.
pub(super) fn dead_letters(kafka: &config::Kafka) -> Vec<DeadLetter> {
    let mut client = kafka_client_config(kafka);
    client.set("group.id", "nobody").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = client.create().expect("a consumer");
    let mut wanted = TopicPartitionList::new();
    let mut expected = 0;
    for (_, topics) in groups(&kafka.topic_prefix) {
        for topic in topics.iter().map(|topic| dlq_of(topic)) {
            for partition in 0..partitions_of(&consumer, &topic) {
                let (low, high) =
                    consumer.fetch_watermarks(&topic, partition, TIMEOUT).expect("a dead-letter topic");
                if high > low {
                    expected += usize::try_from(high - low).expect("a count");
                    wanted.add_partition_offset(&topic, partition, Offset::Beginning).expect("an offset");
                }
            }
        }
    }
    consumer.assign(&wanted).expect("an assignment");
    let begun = Instant::now();
    let mut letters = Vec::with_capacity(expected);
    while letters.len() < expected {
        assert!(begun.elapsed() < TIMEOUT, "only {} of {expected} dead letters could be read", letters.len());
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(record)) => letters.push(DeadLetter {
                topic: record.topic().to_owned(),
                headers: record.headers().map(text_headers).unwrap_or_default(),
                key: record.key().map(<[u8]>::to_vec),
                payload: record.payload().map(<[u8]>::to_vec),
            }),
            Some(Err(error)) => panic!("the dead letters cannot be read: {error}"),
            None => {}
        }
    }
    letters
}

fn text_headers(headers: &rdkafka::message::BorrowedHeaders) -> HashMap<String, String> {
    headers
        .iter()
        .map(|header| {
            let value = header.value.unwrap_or_default();
            (header.key.to_owned(), String::from_utf8_lossy(value).into_owned())
        })
        .collect()
}

/// Partitions of a topic in a small world.
const fn small_partitions(topic: &Topic) -> i32 {
    if topic.partitions >= names::TEST_RESULTS.partitions { 12 } else { 3 }
}

/// Makes every topic and dead-letter topic, with few partitions.
pub(super) async fn create_small_topics(kafka: &config::Kafka) {
    let admin: AdminClient<DefaultClientContext> =
        kafka_client_config(kafka).create().expect("an admin client");
    let longest = RECORD_MAX_BYTES.to_string();
    let wanted: Vec<(String, i32)> = names::ALL
        .iter()
        .flat_map(|topic| {
            let name = topic.full_name(&kafka.topic_prefix);
            let dead_letters = topic.group.map(|_| (dlq_of(&name), 1));
            dead_letters.into_iter().chain([(name, small_partitions(topic))])
        })
        .collect();
    let topics: Vec<NewTopic<'_>> = wanted
        .iter()
        .map(|(name, partitions)| {
            NewTopic::new(name, *partitions, TopicReplication::Fixed(1)).set("max.message.bytes", &longest)
        })
        .collect();
    let options = AdminOptions::new().operation_timeout(Some(TIMEOUT));
    let created = admin.create_topics(&topics, &options).await.expect("an answer of the broker");
    for topic in created {
        topic.expect("a new topic");
    }
}

/// Waits until every partition of every topic of ours answers. The controller has a
/// new topic at once; the broker sees it, leads it and serves it a little later.
pub(super) async fn until_served(kafka: &config::Kafka) {
    let mut client = kafka_client_config(kafka);
    client.set("group.id", "nobody");
    let consumer: Arc<BaseConsumer> = Arc::new(client.create().expect("a consumer"));
    let topics: Vec<String> = names::ALL
        .iter()
        .flat_map(|topic| {
            let name = topic.full_name(&kafka.topic_prefix);
            topic.group.map(|_| dlq_of(&name)).into_iter().chain([name])
        })
        .collect();
    eventually("all partitions are served", TIMEOUT * 2, async || {
        let (consumer, topics) = (Arc::clone(&consumer), topics.clone());
        let look = move || topics.iter().all(|topic| is_served(&consumer, topic));
        tokio::task::spawn_blocking(look).await.expect("a look that does not panic")
    })
    .await;
}

fn is_served(consumer: &BaseConsumer, topic: &str) -> bool {
    let Ok(metadata) = consumer.fetch_metadata(Some(topic), TIMEOUT) else { return false };
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return false };
    !found.partitions().is_empty()
        && found.partitions().iter().all(|one| consumer.fetch_watermarks(topic, one.id(), TIMEOUT).is_ok())
}

/// Removes all records of a topic.
pub(super) async fn empty_topic(kafka: &config::Kafka, topic: &str) {
    let consumer: BaseConsumer = kafka_client_config(kafka).create().expect("a consumer");
    let mut all = TopicPartitionList::new();
    for partition in 0..partitions_of(&consumer, topic) {
        all.add_partition_offset(topic, partition, Offset::End).expect("an offset");
    }
    let admin: AdminClient<DefaultClientContext> =
        kafka_client_config(kafka).create().expect("an admin client");
    let options = AdminOptions::new().operation_timeout(Some(TIMEOUT));
    let removed = admin.delete_records(&all, &options).await.expect("an answer of the broker");
    for partition in removed.elements() {
        partition.error().expect("records that were removed");
    }
}

/// Deletes a world's topics, so that the broker does not carry those of every
/// test that has been. Best effort.
pub(super) async fn delete_topics(kafka: &config::Kafka) {
    let Ok(admin) = kafka_client_config(kafka).create::<AdminClient<DefaultClientContext>>() else { return };
    let topics: Vec<String> = names::ALL
        .iter()
        .map(|topic| topic.full_name(&kafka.topic_prefix))
        .flat_map(|topic| [dlq_of(&topic), topic])
        .collect();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    let _ = admin.delete_topics(&topics, &AdminOptions::new().operation_timeout(Some(TIMEOUT))).await;
}

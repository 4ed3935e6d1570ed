//! Groups as `lag` reads them from a real broker: what is behind, and what only looks so.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::time::Duration;

use patient_notify::config;
use patient_notify::lag::{Finding, GroupStanding, Ownership, Reader, State, Window};
use patient_notify::topic::client::kafka_client_config;
use patient_notify::topic::producer::Producer;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::FromClientConfig as _;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use uuid::Uuid;

use crate::harness::{Addresses, eventually};

const SOON: Duration = Duration::from_secs(60);
const TIMEOUT: Duration = Duration::from_secs(15);

/// Topics and a group of one test, on the shared broker.
struct Bed {
    kafka: config::Kafka,
    admin: AdminClient<DefaultClientContext>,
    producer: Producer,
    group: String,
    topics: Vec<String>,
}

impl Bed {
    fn new() -> Self {
        let mut kafka = config::Config::from_defaults().kafka;
        kafka.bootstrap_servers = Addresses::from_environment().brokers;
        let admin = AdminClient::from_config(&kafka_client_config(&kafka)).unwrap();
        let producer = Producer::new(&kafka).unwrap();
        Self { admin, producer, group: format!("lag-{}", Uuid::new_v4().simple()), topics: Vec::new(), kafka }
    }

    async fn topic(&mut self, name: &str, partitions: i32, settings: &[(&str, &str)]) -> String {
        let full = format!("{}.{name}", self.group);
        let mut topic = NewTopic::new(&full, partitions, TopicReplication::Fixed(1));
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        for made in self.admin.create_topics([&topic], &self.options()).await.unwrap() {
            made.unwrap();
        }
        self.topics.push(full.clone());
        full
    }

    fn options(&self) -> AdminOptions {
        AdminOptions::new().operation_timeout(Some(TIMEOUT))
    }

    async fn publish(&self, topic: &str, key: &str, count: u32) -> (i32, i64) {
        let mut last = (0, 0);
        for _ in 0..count {
            last = self.producer.send(topic, Some(key.as_bytes()), Some(b"v"), &[]).await.unwrap();
        }
        last
    }

    /// Commits for the group as a tool would that is no member of it.
    async fn commit(&self, topic: &str, partition: i32, offset: i64) {
        let mut client = kafka_client_config(&self.kafka);
        client.set("group.id", &self.group).set("enable.auto.commit", "false");
        let (topic, client) = (topic.to_owned(), client);
        let commit = move || {
            let consumer: BaseConsumer = client.create().unwrap();
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(&topic, partition, Offset::Offset(offset)).unwrap();
            consumer.commit(&list, CommitMode::Sync)
        };
        let commit = std::sync::Arc::new(commit);
        // A coordinator that has just been made is not there at once.
        eventually("the commit is taken", SOON, async || {
            let commit = std::sync::Arc::clone(&commit);
            tokio::task::spawn_blocking(move || commit()).await.unwrap().is_ok()
        })
        .await;
    }

    fn reader(&self) -> Reader {
        Reader::new(&self.kafka, &self.group).unwrap()
    }
}

async fn standing(reader: &Reader) -> GroupStanding {
    let mut window = Window::new(Duration::from_secs(30));
    window.push(reader.read().await.unwrap());
    window.standing().unwrap()
}

fn findings(standing: &GroupStanding, topic: &str) -> Vec<Finding> {
    let of_partitions = standing.partitions.iter().filter(|one| one.reading.topic == topic);
    let of_topics = standing.topics.iter().filter(|one| one.topic == topic);
    of_partitions
        .flat_map(|one| one.findings.clone())
        .chain(of_topics.flat_map(|one| one.findings.clone()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_commits_a_deleted_topic_and_retention_loss_are_told_apart() {
    let mut bed = Bed::new();
    let (committed, fresh) = (bed.topic("committed", 2, &[]).await, bed.topic("fresh", 1, &[]).await);
    let deleted = bed.topic("deleted", 1, &[]).await;
    let (partition, last) = bed.publish(&committed, "k", 10).await;
    bed.publish(&fresh, "k", 3).await;
    bed.publish(&deleted, "k", 1).await;

    // Nobody knows the group: it is behind in no topic that could be found.
    let unknown = standing(&bed.reader()).await;
    assert_eq!((unknown.group_state, unknown.topics.len()), (None, 0));

    bed.commit(&committed, partition, 4).await;
    bed.commit(&deleted, 0, 1).await;
    let reader = bed.reader();
    let found = standing(&reader).await;
    // Topics that the group has nothing in are not its own; one that is asked for is.
    assert_eq!(
        found.topics.iter().map(|one| one.topic.clone()).collect::<Vec<_>>(),
        [committed.clone(), deleted.clone()]
    );
    let behind = found.partitions.iter().find(|one| one.reading.lag_messages > 0).unwrap();
    assert_eq!(
        (behind.reading.committed, behind.reading.high, behind.reading.lag_messages),
        (Some(4), last + 1, 6)
    );
    assert_eq!((behind.reading.oldest_offset, behind.state), (Some(4), State::Stopped));
    assert_eq!(behind.reading.owner, Ownership::Nobody);
    assert!(
        behind.reading.retention_headroom_ms().is_some_and(f64::is_finite),
        "the broker's retention is read"
    );
    let asked = Reader::of_topics(&bed.kafka, &bed.group, [fresh.clone()]).unwrap();
    let never = standing(&asked).await;
    assert_eq!(findings(&never, &fresh), [Finding::NoCommits]);
    assert_eq!(never.partitions[0].reading.lag_messages, 3);

    // What retention does.
    let mut before = TopicPartitionList::new();
    before.add_partition_offset(&committed, partition, Offset::Offset(7)).unwrap();
    bed.admin.delete_records(&before, &bed.options()).await.unwrap();
    eventually("the loss is told", SOON, async || {
        let found = standing(&reader).await;
        let told = findings(&found, &committed).contains(&Finding::RetentionLoss(3));
        told.then(|| assert_eq!(found.topics[0].lag_messages, 3))
    })
    .await;

    bed.admin.delete_topics(&[deleted.as_str()], &bed.options()).await.unwrap();
    eventually("the deletion is told", SOON, async || {
        findings(&standing(&reader).await, &deleted) == [Finding::TopicMissing]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_without_records_are_no_lag() {
    let mut bed = Bed::new();
    // The mark at the end of a transaction takes an offset.
    let marked = bed.topic("marked", 1, &[]).await;
    let mut client = kafka_client_config(&bed.kafka);
    client.set("transactional.id", &bed.group);
    let name = marked.clone();
    tokio::task::spawn_blocking(move || {
        let producer: BaseProducer = client.create().unwrap();
        producer.init_transactions(TIMEOUT).unwrap();
        producer.begin_transaction().unwrap();
        producer.send(BaseRecord::<str, str>::to(&name).payload("v")).map_err(|(error, _)| error).unwrap();
        producer.commit_transaction(TIMEOUT).unwrap();
    })
    .await
    .unwrap();
    bed.commit(&marked, 0, 1).await;
    let found = standing(&bed.reader()).await;
    assert_eq!(findings(&found, &marked), [Finding::Gap(1)]);
    assert_eq!((found.state, found.topics[0].lag_messages), (State::Ok, 0));

    // Compaction removes all but the last record of a key.
    let settings = [
        ("cleanup.policy", "compact"),
        ("segment.ms", "100"),
        ("min.cleanable.dirty.ratio", "0.001"),
        ("max.compaction.lag.ms", "200"),
    ];
    let compacted = bed.topic("compacted", 1, &settings).await;
    bed.publish(&compacted, "k", 20).await;
    bed.commit(&compacted, 0, 5).await;
    let reader = Reader::of_topics(&bed.kafka, &bed.group, [compacted.clone()]).unwrap();
    eventually("the gap is told", 2 * SOON, async || {
        // Only what lies in a segment that is closed is compacted.
        let (_, offset) = bed.publish(&compacted, "other", 1).await;
        let found = standing(&Reader::of_topics(&bed.kafka, &bed.group, [compacted.clone()]).unwrap()).await;
        let gap = findings(&found, &compacted).iter().any(|one| matches!(one, Finding::Gap(14..)));
        gap.then(|| assert!(found.topics[0].lag_messages <= offset - 18, "{:?}", found.topics))
    })
    .await;
    let endless = standing(&reader).await.partitions[0].reading.retention_headroom_ms();
    assert_eq!(endless, Some(f64::INFINITY), "time alone deletes nothing there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_reads_any_group_with_its_name_and_the_servers_alone() {
    let mut bed = Bed::new();
    let topic = bed.topic("t", 3, &[]).await;
    let (partition, _) = bed.publish(&topic, "k", 5).await;
    bed.commit(&topic, partition, 2).await;
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_patient-notify"))
            .args(["lag", "--bootstrap", &bed.kafka.bootstrap_servers, "--group", &bed.group])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let json: serde_json::Value = serde_json::from_str(&run(&["--json"])).unwrap();
    assert_eq!(
        (json["state"].as_str(), json["topics"][0]["lag_messages"].as_i64()),
        (Some("stopped"), Some(3))
    );
    assert_eq!(json["topics"][0]["drain_seconds"], "+Inf");
    let behind = json["partitions"].as_array().unwrap().iter().find(|one| one["lag_messages"] == 3).unwrap();
    assert_eq!(
        (behind["committed"].as_i64(), behind["partition"].as_i64()),
        (Some(2), Some(partition.into()))
    );
    let text = run(&[]);
    assert!(text.contains("nobody reads it") && text.contains("never") && text.contains("stopped"), "{text}");
    let states: BTreeSet<&str> = text.lines().filter(|line| line.contains("stalled")).collect();
    assert!(states.is_empty(), "{text}");
}

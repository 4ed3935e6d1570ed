//! What several promises need to look from outside: pages over HTTP, whole topics,
//! our tools as processes, records that our own encoder would not write.

use std::collections::BTreeMap;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use apache_avro::Schema;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use patient_notify::config::{self, Config};
use patient_notify::topic::client::kafka_client_config;
use patient_notify::topic::names::Topic;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::{Offset, TopicPartitionList};

/// Longest time that reading a whole topic may take.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A record as it lies on its topic.
#[derive(Debug, Clone)]
pub(crate) struct Lying {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) timestamp_ms: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) headers: BTreeMap<String, Vec<u8>>,
}

impl Lying {
    /// A header as text; empty where there is none.
    pub(crate) fn header(&self, name: &str) -> String {
        self.headers.get(name).map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default()
    }
}

/// Everything that lies on a topic now, in order a partition.
pub(crate) async fn read_topic(kafka: &config::Kafka, topic: &str) -> Vec<Lying> {
    let (kafka, topic) = (kafka.clone(), topic.to_owned());
    tokio::task::spawn_blocking(move || read_blocking(&kafka, &topic)).await.unwrap()
}

fn read_blocking(kafka: &config::Kafka, topic: &str) -> Vec<Lying> {
    let mut client = kafka_client_config(kafka);
    client.set("group.id", "only-looks").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = client.create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST_TIMEOUT).unwrap();
    let mut open = TopicPartitionList::new();
    let mut missing: BTreeMap<i32, i64> = BTreeMap::new();
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
        let (low, high) = consumer.fetch_watermarks(topic, partition.id(), REQUEST_TIMEOUT).unwrap();
        if high > low {
            open.add_partition_offset(topic, partition.id(), Offset::Offset(low)).unwrap();
            missing.insert(partition.id(), high);
        }
    }
    consumer.assign(&open).unwrap();
    let begun = Instant::now();
    let mut records = Vec::new();
    while !missing.is_empty() {
        assert!(begun.elapsed() < READ_TIMEOUT, "{topic} could not be read to its end: {missing:?}");
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message.unwrap();
        if missing.get(&message.partition()).is_some_and(|&high| message.offset() + 1 >= high) {
            missing.remove(&message.partition());
        }
        let headers = message.headers().map(|headers| {
            headers.iter().map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec())).collect()
        });
        records.push(Lying {
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
        });
    }
    records
}

/// Status and text of a page.
pub(crate) async fn get(url: &str) -> (u16, String) {
    let client = reqwest::Client::builder().no_proxy().timeout(REQUEST_TIMEOUT).build().unwrap();
    let answer = client.get(url).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// Runs one of our tools against the servers of a configuration until it ends.
pub(crate) async fn tool(config: &Config, arguments: &[&str]) -> Output {
    tool_with(config, arguments, &[]).await
}

/// As [`tool`], with more variables.
pub(crate) async fn tool_with(config: &Config, arguments: &[&str], more: &[(&str, &str)]) -> Output {
    tokio::process::Command::new(env!("CARGO_BIN_EXE_patient-notify"))
        .args(arguments)
        .env("PATIENT_NOTIFY_KAFKA__BOOTSTRAP_SERVERS", &config.kafka.bootstrap_servers)
        .env("PATIENT_NOTIFY_KAFKA__TOPIC_PREFIX", &config.kafka.topic_prefix)
        .env("PATIENT_NOTIFY_REGISTRY__URL", &config.registry.url)
        .env("PATIENT_NOTIFY_POSTGRES__URL", config.postgres.url.expose())
        .envs(more.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap()
}

/// What a tool printed, both streams.
pub(crate) fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A value in the registry's wire format under any schema and id.
pub(crate) fn wire(schema_id: u32, schema: &str, fields: Vec<(&str, Value)>) -> Vec<u8> {
    let schema = Schema::parse_str(schema).unwrap();
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let mut bytes = vec![0];
    bytes.extend_from_slice(&schema_id.to_be_bytes());
    let writer = GenericDatumWriter::builder(&schema).build().unwrap();
    writer.write_value(&mut bytes, Value::Record(fields)).unwrap();
    bytes
}

/// Registers a schema under a topic's subject and gives its id.
pub(crate) async fn register(config: &Config, topic: &Topic, schema: &str) -> u32 {
    let subject = topic.subject(&config.kafka.topic_prefix);
    let answer =
        registry(config, reqwest::Method::POST, &format!("subjects/{subject}/versions"), schema).await;
    u32::try_from(answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}"))).unwrap()
}

/// Sends a schema somewhere in the registry's API; what comes back, also when it is a fault.
pub(crate) async fn registry(
    config: &Config,
    method: reqwest::Method,
    path: &str,
    schema: &str,
) -> serde_json::Value {
    let client = reqwest::Client::builder().no_proxy().timeout(REQUEST_TIMEOUT).build().unwrap();
    let body = serde_json::json!({ "schema": schema, "schemaType": "AVRO" });
    let url = format!("{}/{path}", config.registry.url.trim_end_matches('/'));
    client.request(method, url).json(&body).send().await.unwrap().json().await.unwrap()
}

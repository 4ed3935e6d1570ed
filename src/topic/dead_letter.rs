//! Records that can never be processed, kept with their raw bytes, where they
//! came from and why.

use std::sync::Arc;

use rdkafka::message::{Header, OwnedHeaders};

use crate::domain::Reason;

use super::names;
use super::producer::{ProduceError, Producer, owned};

/// Headers of ours begin with this.
pub(super) const OURS: &str = "dlq.";
/// Original headers that are kept: count, and bytes of names and values together.
const HEADERS_MAX: usize = 64;
const HEADERS_MAX_BYTES: usize = 16 * 1024;
/// What is kept of a key or a value that no topic takes whole.
const CUT_BYTES: usize = 64 * 1024;
/// Longest `dlq.detail`, in bytes.
const DETAIL_MAX_BYTES: usize = 512;

/// A record as it stood on its topic.
#[derive(Clone, Copy)]
pub struct Origin<'a> {
    /// Full name of the topic.
    pub topic: &'a str,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Timestamp of the record, milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Key, raw.
    pub key: Option<&'a [u8]>,
    /// Value, raw. PHI.
    pub payload: Option<&'a [u8]>,
    /// Headers, raw.
    pub headers: &'a [(String, Option<Vec<u8>>)],
}

type RawHeader<'a> = (&'a str, Option<&'a [u8]>);

/// Writes dead letters for one consumer group.
pub struct DeadLetters {
    producer: Arc<Producer>,
    group: String,
}

impl DeadLetters {
    /// Dead letters of the consumer group of this full name.
    #[must_use]
    pub const fn new(producer: Arc<Producer>, group: String) -> Self {
        Self { producer, group }
    }

    /// Writes a record to its topic's dead-letter topic, key and value unchanged
    /// (a null stays a null), and returns once the brokers have acknowledged it:
    /// only then may the record's offset move. `detail` is for people and must
    /// hold nothing of the record's values.
    ///
    /// A record can be longer than any that we may write (it was compressed on
    /// its own topic). Then the first 64 KiB are kept and `dlq.cut` says so:
    /// it must not stop its partition for ever.
    ///
    /// # Errors
    /// [`ProduceError`]; the offset must stay.
    pub async fn send(&self, origin: &Origin<'_>, reason: Reason, detail: &str) -> Result<(), ProduceError> {
        let topic = names::dlq_of(origin.topic);
        let headers = self.headers(origin, reason, detail);
        let sent = self.producer.send_with(&topic, origin.key, origin.payload, headers.clone()).await;
        match sent {
            Err(error) if error.is_too_large() => {
                let size = |bytes: Option<&[u8]>| bytes.map_or(0, <[u8]>::len);
                let sizes = format!("key {}, value {} bytes", size(origin.key), size(origin.payload));
                let headers = headers.insert(Header { key: "dlq.cut", value: Some(sizes.as_bytes()) });
                let (key, payload) = (origin.key.map(cut), origin.payload.map(cut));
                self.producer.send_with(&topic, key, payload, headers).await?;
            }
            sent => {
                sent?;
            }
        }
        Ok(())
    }

    fn headers(&self, origin: &Origin<'_>, reason: Reason, detail: &str) -> OwnedHeaders {
        let (kept, dropped) = bounded(origin.headers);
        let (partition, offset) = (origin.partition.to_string(), origin.offset.to_string());
        let (timestamp, dropped) = (origin.timestamp_ms.to_string(), dropped.to_string());
        let detail = &detail[..detail.floor_char_boundary(DETAIL_MAX_BYTES)];
        let ours = [
            ("dlq.reason", reason.as_str()),
            ("dlq.detail", detail),
            ("dlq.topic", origin.topic),
            ("dlq.partition", &partition),
            ("dlq.offset", &offset),
            ("dlq.timestamp_ms", &timestamp),
            ("dlq.consumer", &self.group),
            ("dlq.headers_dropped", &dropped),
        ];
        let ours = ours.into_iter().map(|(key, value)| (key, Some(value.as_bytes())));
        owned(ours.chain(kept))
    }
}

fn cut(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(CUT_BYTES)]
}

/// The original headers that fit, and the number of those that do not. Headers of
/// an earlier dead letter (this is a replay) have had their day and do not count.
fn bounded(headers: &[(String, Option<Vec<u8>>)]) -> (Vec<RawHeader<'_>>, usize) {
    let mut bytes = 0;
    let mut kept = Vec::with_capacity(headers.len().min(HEADERS_MAX));
    let mut dropped = 0;
    for (key, value) in headers.iter().filter(|(key, _)| !key.starts_with(OURS)) {
        let size = key.len() + value.as_ref().map_or(0, Vec::len);
        if kept.len() < HEADERS_MAX && bytes + size <= HEADERS_MAX_BYTES {
            bytes += size;
            kept.push((key.as_str(), value.as_deref()));
        } else {
            dropped += 1;
        }
    }
    (kept, dropped)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use rdkafka::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::message::{Headers, Message, OwnedMessage};
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::config;
    use crate::domain::Redacted;

    fn header(key: &str, bytes: usize) -> (String, Option<Vec<u8>>) {
        (key.to_owned(), Some(vec![0; bytes]))
    }

    #[test]
    fn original_headers_are_kept_within_bounds() {
        let headers = [header("traceparent", 55), header("big", HEADERS_MAX_BYTES), header("lab", 3)];
        let (kept, dropped) = bounded(&headers);
        assert_eq!(kept.iter().map(|(key, _)| *key).collect::<Vec<_>>(), ["traceparent", "lab"]);
        assert_eq!(dropped, 1);

        let many: Vec<_> = (0..100).map(|_| header("h", 1)).collect();
        let (kept, dropped) = bounded(&many);
        assert_eq!((kept.len(), dropped), (HEADERS_MAX, 100 - HEADERS_MAX));
    }

    #[test]
    fn a_replayed_dead_letter_does_not_collect_headers() {
        let headers = [header("dlq.reason", 9), header("lab", 3), ("flag".to_owned(), None)];
        let (kept, dropped) = bounded(&headers);
        assert_eq!(kept, [("lab", Some(&[0, 0, 0][..])), ("flag", None)]);
        assert_eq!(dropped, 0);
    }

    fn kafka(bootstrap_servers: String) -> config::Kafka {
        config::Kafka {
            bootstrap_servers,
            topic_prefix: String::new(),
            security_protocol: "plaintext".to_owned(),
            sasl_mechanism: String::new(),
            sasl_username: String::new(),
            sasl_password: Redacted::new(String::new()),
            ssl_ca_file: String::new(),
            replication_factor: 1,
            min_insync_replicas: 1,
            produce_timeout_ms: 5_000,
        }
    }

    /// The first records of a topic's only partition.
    fn records(bootstrap_servers: &str, topic: &str, count: usize) -> Vec<OwnedMessage> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap_servers)
            .set("group.id", "test")
            .set("auto.offset.reset", "earliest")
            .create()
            .unwrap();
        consumer.subscribe(&[topic]).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut records = Vec::new();
        while records.len() < count && Instant::now() < deadline {
            if let Some(record) = consumer.poll(Duration::from_millis(100)) {
                records.push(record.unwrap().detach());
            }
        }
        records
    }

    fn text(headers: &impl Headers, key: &str) -> Option<String> {
        let value = headers.iter().find(|header| header.key == key)?.value?;
        Some(String::from_utf8(value.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn raw_bytes_origin_and_reason_are_kept() {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("results.dlq", 1, 1).unwrap();
        let brokers = cluster.bootstrap_servers();
        let producer = Arc::new(Producer::new(&kafka(brokers.clone())).unwrap());
        let letters = DeadLetters::new(producer, "the-group".to_owned());
        let long = vec![7; super::super::producer::RECORD_MAX_BYTES + 1];
        let values =
            [(Some(&b"key"[..]), Some(&b"\0raw\xff"[..])), (None, None), (Some(b"long"), Some(&long))];
        for (key, payload) in values {
            let headers = [header("lab", 2)];
            let origin = Origin {
                topic: "results",
                partition: 3,
                offset: 44,
                timestamp_ms: 1_795_600_000_000,
                key,
                payload,
                headers: &headers,
            };
            letters.send(&origin, Reason::Undecodable, "the value ends too early").await.unwrap();
        }

        let records = records(&brokers, "results.dlq", 3);
        assert_eq!(records.len(), 3);
        assert_eq!((records[0].key(), records[0].payload()), (Some(&b"key"[..]), Some(&b"\0raw\xff"[..])));
        assert_eq!((records[1].key(), records[1].payload()), (None, None));
        assert_eq!(records[2].payload().map(<[u8]>::len), Some(CUT_BYTES));
        let headers = records[0].headers().unwrap();
        let expected = [
            ("dlq.reason", "undecodable"),
            ("dlq.detail", "the value ends too early"),
            ("dlq.topic", "results"),
            ("dlq.partition", "3"),
            ("dlq.offset", "44"),
            ("dlq.timestamp_ms", "1795600000000"),
            ("dlq.consumer", "the-group"),
            ("dlq.headers_dropped", "0"),
            ("lab", "\0\0"),
        ];
        for (key, value) in expected {
            assert_eq!(text(headers, key).as_deref(), Some(value), "{key}");
        }
        assert_eq!(text(headers, "dlq.cut"), None);
        let cut = text(records[2].headers().unwrap(), "dlq.cut");
        assert_eq!(cut, Some(format!("key 4, value {} bytes", long.len())));
    }

    #[tokio::test]
    async fn without_an_acknowledgement_it_fails() {
        let mut kafka = kafka("127.0.0.1:1".to_owned());
        kafka.produce_timeout_ms = 500;
        let letters = DeadLetters::new(Arc::new(Producer::new(&kafka).unwrap()), "g".to_owned());
        let origin = Origin {
            topic: "t",
            partition: 0,
            offset: 0,
            timestamp_ms: 0,
            key: None,
            payload: None,
            headers: &[],
        };
        let error = letters.send(&origin, Reason::EmptyPayload, "").await.unwrap_err();
        assert!(matches!(error, ProduceError::Unavailable { .. }), "{error}");
    }
}

//! Records that can never be processed, kept with their raw bytes, where they
//! came from and why.

use std::sync::Arc;

use rdkafka::message::OwnedHeaders;

use crate::domain::Reason;

use super::names;
use super::producer::{ProduceError, Producer, owned};

/// Headers of ours begin with this.
const OURS: &str = "dlq.";
/// Original headers that are kept: count, and bytes of names and values together.
const HEADERS_MAX: usize = 64;
const HEADERS_MAX_BYTES: usize = 16 * 1024;
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

type Header<'a> = (&'a str, Option<&'a [u8]>);

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
    /// # Errors
    /// [`ProduceError`]; either way the offset must stay.
    pub async fn send(&self, origin: &Origin<'_>, reason: Reason, detail: &str) -> Result<(), ProduceError> {
        let topic = names::dlq_of(origin.topic);
        let headers = self.headers(origin, reason, detail);
        self.producer.send_with(&topic, origin.key, origin.payload, headers).await?;
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

/// The original headers that fit, and the number of those that do not. Headers of
/// an earlier dead letter (this is a replay) have had their day and do not count.
fn bounded(headers: &[(String, Option<Vec<u8>>)]) -> (Vec<Header<'_>>, usize) {
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
    use super::*;

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
}

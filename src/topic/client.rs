//! What every Kafka client of ours has in common.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Statistics};

use crate::config;

/// Addresses, security and a `client.id` that no other client has.
///
/// librdkafka can loop for ever when two clients of a group share an id, so it
/// is made of the host's name (in Kubernetes: the pod's, which says its role),
/// the process and a counter.
#[must_use]
pub fn kafka_client_config(kafka: &config::Kafka) -> ClientConfig {
    static CLIENTS: AtomicU64 = AtomicU64::new(0);
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    let host = host.unwrap_or_else(|| "unnamed-host".to_owned());
    let number = CLIENTS.fetch_add(1, Ordering::Relaxed);

    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &kafka.bootstrap_servers)
        .set("client.id", format!("patient-notify-{host}-{}-{number}", std::process::id()))
        .set("security.protocol", &kafka.security_protocol)
        .set("socket.keepalive.enable", "true")
        // A topic that is being made is asked for again this often.
        .set("topic.metadata.refresh.fast.interval.ms", "100")
        .set("reconnect.backoff.max.ms", "2000");
    if kafka.security_protocol.starts_with("sasl") {
        client
            .set("sasl.mechanism", &kafka.sasl_mechanism)
            .set("sasl.username", &kafka.sasl_username)
            .set("sasl.password", kafka.sasl_password.expose());
    }
    if !kafka.ssl_ca_file.is_empty() {
        client.set("ssl.ca.location", &kafka.ssl_ca_file);
    }
    client
}

/// A client logs at most one of librdkafka's complaints in this time.
const COMPLAINT_EVERY: Duration = Duration::from_secs(10);

/// What librdkafka tells on the side. While brokers are away it complains several
/// times a second; failures that matter come back from the calls that failed.
#[derive(Default)]
pub struct QuietContext {
    last: Mutex<Option<Instant>>,
    left_out: AtomicU64,
}

impl QuietContext {
    /// Logs a complaint, or counts it when one was logged a moment ago.
    pub fn complain(&self, text: &str) {
        let mut last = self.last.lock();
        if last.is_some_and(|at| at.elapsed() < COMPLAINT_EVERY) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        *last = Some(Instant::now());
        drop(last);
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        tracing::warn!(left_out, "Kafka client: {text}");
    }
}

impl ClientContext for QuietContext {
    fn log(&self, level: RDKafkaLogLevel, _facility: &str, text: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => self.complain(text),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => {
                tracing::debug!("Kafka client: {text}");
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.complain(&format!("{error}: {reason}"));
    }

    /// Nobody here asks for statistics.
    fn stats(&self, _statistics: Statistics) {}
}

impl ConsumerContext for QuietContext {}

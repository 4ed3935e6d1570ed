//! What every Kafka client of ours has in common.

use std::sync::atomic::{AtomicU64, Ordering};

use rdkafka::ClientConfig;

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

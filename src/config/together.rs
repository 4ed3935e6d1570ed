//! What keys must satisfy together.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::fault::{Fault, Origin};
use super::keys::{Config, Secret};
use super::kind::is_loopback_url;

/// A rule between keys.
struct Together {
    /// The keys that it reads, the one to change first.
    keys: &'static [&'static str],
    /// Does it hold?
    holds: fn(&Config) -> bool,
    /// What must hold, and what goes wrong otherwise.
    must: &'static str,
}

/// What a lease must leave beyond the wait for a free call and the call itself: the
/// dispatcher wants 5 s of it for the record, and the way there takes time too.
const LEASE_MARGIN_MS: u64 = 10_000;

/// Shortest key that signs links.
const SIGNING_KEY_MIN_CHARS: usize = 32;

const fn outlasts(config: &Config, timeout_ms: u64) -> bool {
    config.processor.lease_ms >= 2 * timeout_ms + LEASE_MARGIN_MS
}

/// A key that is set cannot be guessed.
fn is_long(key: &Secret) -> bool {
    key.expose().is_empty() || key.expose().chars().count() >= SIGNING_KEY_MIN_CHARS
}

const fn together(keys: &'static [&'static str], holds: fn(&Config) -> bool, must: &'static str) -> Together {
    Together { keys, holds, must }
}

const RULES: &[Together] = &[
    together(
        &["scaler.results_replicas_min", "scaler.results_replicas_max"],
        |c| c.scaler.results_replicas_min <= c.scaler.results_replicas_max,
        "the least at most the most",
    ),
    together(
        &["scaler.requests_replicas_min", "scaler.requests_replicas_max"],
        |c| c.scaler.requests_replicas_min <= c.scaler.requests_replicas_max,
        "the least at most the most",
    ),
    together(
        &["scaler.updates_replicas_min", "scaler.updates_replicas_max"],
        |c| c.scaler.updates_replicas_min <= c.scaler.updates_replicas_max,
        "the least at most the most",
    ),
    together(
        &["scaler.stale_after_ms", "scaler.interval_ms"],
        |c| c.scaler.stale_after_ms >= 2 * c.scaler.interval_ms,
        "stale_after_ms at least twice interval_ms: one reading that fails is no outage",
    ),
    together(
        &["processor.lease_ms", "sms.timeout_ms"],
        |c| outlasts(c, c.sms.timeout_ms),
        "lease_ms at least twice timeout_ms, and 10000 more: a claim must outlast the wait for a free call, the call and its record, or nothing is ever sent",
    ),
    together(
        &["processor.lease_ms", "email.timeout_ms"],
        |c| outlasts(c, c.email.timeout_ms),
        "lease_ms at least twice timeout_ms, and 10000 more: a claim must outlast the wait for a free call, the call and its record, or nothing is ever sent",
    ),
    together(
        &["processor.lease_ms", "push.timeout_ms"],
        |c| outlasts(c, c.push.timeout_ms),
        "lease_ms at least twice timeout_ms, and 10000 more: a claim must outlast the wait for a free call, the call and its record, or nothing is ever sent",
    ),
    together(
        &["postgres.statement_timeout_ms", "postgres.pool_wait_timeout_ms", "processor.lease_ms"],
        |c| c.postgres.statement_timeout_ms + c.postgres.pool_wait_timeout_ms < c.processor.lease_ms,
        "both time-outs together below lease_ms: an outcome must be recorded while the claim is ours",
    ),
    together(
        &["processor.slot_deadline_ms", "processor.lease_ms"],
        |c| c.processor.slot_deadline_ms > c.processor.lease_ms,
        "slot_deadline_ms above lease_ms: a slow send is not a stuck process",
    ),
    together(
        &["processor.drain_timeout_ms", "processor.max_poll_interval_ms"],
        |c| c.processor.drain_timeout_ms < c.processor.max_poll_interval_ms,
        "drain_timeout_ms below max_poll_interval_ms: the group expels a member that does not poll",
    ),
    together(
        &["processor.drain_timeout_ms", "processor.close_timeout_ms", "shutdown.timeout_ms"],
        |c| c.processor.drain_timeout_ms + c.processor.close_timeout_ms < c.shutdown.timeout_ms,
        "drain_timeout_ms + close_timeout_ms below shutdown.timeout_ms: otherwise the exit cuts the drain short",
    ),
    together(
        &["processor.heartbeat_interval_ms", "processor.session_timeout_ms"],
        |c| c.processor.heartbeat_interval_ms * 3 <= c.processor.session_timeout_ms,
        "heartbeat_interval_ms at most a third of session_timeout_ms",
    ),
    together(
        &["processor.session_timeout_ms", "processor.max_poll_interval_ms"],
        |c| c.processor.session_timeout_ms <= c.processor.max_poll_interval_ms,
        "session_timeout_ms at most max_poll_interval_ms (Kafka's own rule)",
    ),
    together(
        &["processor.queue_max_records", "processor.window_max_records"],
        |c| c.processor.queue_max_records <= c.processor.window_max_records,
        "queue_max_records at most window_max_records: what is queued is in the window",
    ),
    together(
        &["processor.bulk_in_flight_max", "processor.in_flight_max"],
        |c| c.processor.bulk_in_flight_max < c.processor.in_flight_max,
        "bulk_in_flight_max below in_flight_max: otherwise bulk can leave no place for urgent records",
    ),
    together(
        &["processor.payload_max_bytes", "processor.queue_max_bytes"],
        |c| c.processor.payload_max_bytes <= c.processor.queue_max_bytes,
        "payload_max_bytes at most queue_max_bytes: the largest record must fit",
    ),
    together(
        &["processor.unavailable_backoff_initial_ms", "processor.unavailable_backoff_max_ms"],
        |c| c.processor.unavailable_backoff_initial_ms <= c.processor.unavailable_backoff_max_ms,
        "the initial pause at most the longest one",
    ),
    together(
        &["postgres.pool_size", "processor.claim_shards", "processor.record_lanes"],
        |c| c.postgres.pool_size > c.processor.claim_shards + c.processor.record_lanes,
        "pool_size at least claim_shards + record_lanes + 1: each holds a connection, and readiness needs one",
    ),
    together(
        &["retry.initial_ms", "retry.max_ms", "retry.give_up_after_ms"],
        |c| c.retry.initial_ms <= c.retry.max_ms && c.retry.max_ms <= c.retry.give_up_after_ms,
        "initial_ms at most max_ms, and that at most give_up_after_ms",
    ),
    together(
        &["retry.outcome_unknown_deadline_ms", "retry.give_up_after_ms"],
        |c| {
            let retry = &c.retry;
            let deadlines = [
                retry.outcome_unknown_deadline_ms,
                retry.outcome_unknown_deadline_test_result_ms,
                retry.outcome_unknown_deadline_appointment_reminder_ms,
                retry.outcome_unknown_deadline_appointment_confirmation_ms,
                retry.outcome_unknown_deadline_general_ms,
                retry.outcome_unknown_deadline_campaign_ms,
            ];
            deadlines.iter().all(|deadline| *deadline <= retry.give_up_after_ms)
        },
        "outcome_unknown_deadline_ms, and that of each purpose, at most give_up_after_ms",
    ),
    together(
        &["kafka.min_insync_replicas", "kafka.replication_factor"],
        |c| c.kafka.min_insync_replicas <= c.kafka.replication_factor,
        "min_insync_replicas at most replication_factor: otherwise nothing can be produced",
    ),
    together(
        &["kafka.sasl_username", "kafka.sasl_password", "kafka.security_protocol"],
        |c| {
            !c.kafka.security_protocol.starts_with("sasl_")
                || !(c.kafka.sasl_username.is_empty() || c.kafka.sasl_password.expose().is_empty())
        },
        "a user name and a password with a sasl_ protocol",
    ),
    together(
        &["registry.username", "registry.password"],
        |c| c.registry.username.is_empty() == c.registry.password.expose().is_empty(),
        "both or neither",
    ),
    together(
        &["email.username", "email.password"],
        |c| c.email.username.is_empty() == c.email.password.expose().is_empty(),
        "both or neither",
    ),
    together(
        &["email.unsubscribe_key", "email.unsubscribe_base_url"],
        |c| c.email.unsubscribe_base_url.is_empty() || !c.email.unsubscribe_key.expose().is_empty(),
        "a key with an address for links: they are signed",
    ),
    together(
        &["email.unsubscribe_key"],
        |c| is_long(&c.email.unsubscribe_key),
        "at least 32 characters, or empty: whoever guesses it can unsubscribe anybody",
    ),
    together(
        &["email.unsubscribe_previous_key"],
        |c| is_long(&c.email.unsubscribe_previous_key),
        "at least 32 characters, or empty: whoever guesses it can unsubscribe anybody",
    ),
    together(
        &["app.code_key"],
        |c| is_long(&c.app.code_key),
        "at least 32 characters, or empty: whoever guesses it reads codes out of the database",
    ),
    together(
        &["email.smtp_tls", "email.username"],
        |c| c.email.smtp_tls != "none" || c.email.username.is_empty(),
        "starttls or tls with a user name: the password must not travel in the clear",
    ),
    together(
        &["cron.retention_test_result_days", "cron.digest_days"],
        |c| c.cron.retention_test_result_days >= c.cron.digest_days,
        "retention_test_result_days at least digest_days: a digest counts results whose contents are still there",
    ),
    together(
        &["app.listen", "app.allow_unauthenticated"],
        |c| {
            c.app.allow_unauthenticated
                || c.auth.authenticates()
                || c.app.listen.parse().is_ok_and(|at: SocketAddr| at.ip().is_loopback())
        },
        "a loopback address such as 127.0.0.1:9080, callers who are authenticated (auth.jwks_file, auth.jwks_url or auth.client_ca_file), or true where a mesh authenticates them",
    ),
    together(
        &["auth.jwks_file", "auth.jwks_url"],
        |c| c.auth.jwks_file.is_empty() || c.auth.jwks_url.is_empty(),
        "one of the two: keys have one source",
    ),
    together(
        &["auth.token_issuer", "auth.token_audience", "auth.jwks_file", "auth.jwks_url"],
        |c| {
            let named = [&c.auth.token_issuer, &c.auth.token_audience];
            named.iter().all(|text| text.is_empty() != c.auth.takes_tokens())
        },
        "token_issuer and token_audience with keys, and neither without: a token for somebody else must not count here",
    ),
    together(
        &["auth.jwks_url"],
        |c| !c.auth.jwks_url.starts_with("http://") || is_loopback_url(&c.auth.jwks_url),
        "https, unless it is on this machine: whoever answers in the issuer's place makes every token",
    ),
    together(
        &["auth.jwks_stale_max_ms", "auth.reread_interval_ms"],
        |c| c.auth.jwks_stale_max_ms >= 2 * c.auth.reread_interval_ms,
        "jwks_stale_max_ms at least twice reread_interval_ms: one failed reading must not lock everybody out",
    ),
    together(
        &["auth.tls_certificate_file", "auth.tls_key_file"],
        |c| c.auth.tls_certificate_file.is_empty() == c.auth.tls_key_file.is_empty(),
        "both or neither",
    ),
    together(
        &["auth.client_ca_file", "auth.tls_certificate_file"],
        |c| !c.auth.takes_certificates() || !c.auth.tls_certificate_file.is_empty(),
        "a certificate of the server where clients are to show theirs",
    ),
    together(
        &["auth.client_ca_file", "auth.callers_file"],
        |c| !c.auth.takes_certificates() || !c.auth.callers_file.is_empty(),
        "a table of callers where certificates are taken: without it no certificate means anybody",
    ),
    together(
        &["auth.callers_file", "auth.jwks_file", "auth.jwks_url", "auth.client_ca_file"],
        |c| c.auth.callers_file.is_empty() || c.auth.authenticates(),
        "a table of callers only where callers are authenticated: nobody else is bound by it",
    ),
    together(
        &["push.service_account_file", "push.base_url"],
        |c| !c.push.base_url.contains("googleapis.com") || !c.push.service_account_file.is_empty(),
        "a service account with Google's own address",
    ),
];

/// Every rule that does not hold, but those that read a key which is faulty by itself.
pub(super) fn faults(config: &Config, faulty_keys: &BTreeSet<&'static str>) -> Vec<Fault> {
    RULES
        .iter()
        .filter(|rule| !rule.keys.iter().any(|key| faulty_keys.contains(key)) && !(rule.holds)(config))
        .map(|rule| Fault {
            key: rule.keys.join(" with "),
            origin: Origin::Together,
            wrong: in_force(config, rule.keys),
            allowed: rule.must.to_owned(),
        })
        .collect()
}

/// The values that do not go together, secrets hidden, with their origins.
fn in_force(config: &Config, keys: &[&str]) -> String {
    let values: Vec<_> = keys.iter().map(|key| config.loaded.describe(key)).collect();
    format!("{} do not go together", values.join(" and "))
}

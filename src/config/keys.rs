//! The keys as the program sees them.
#![allow(missing_docs, reason = "meaning, unit and default of each key stand in config/default.toml")]

use serde::{Deserialize, Serialize};

use super::show::Loaded;
use crate::domain::Redacted;

/// Text that must not be printed.
pub type Secret = Redacted<String>;

/// The whole configuration; meaning, unit and default of each key stand in
/// `config/default.toml`.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Config {
    pub kafka: Kafka,
    pub registry: Registry,
    pub postgres: Postgres,
    pub processor: Processor,
    pub plan: Plan,
    pub retry: Retry,
    pub escalation: Escalation,
    pub sms: Sms,
    pub email: Email,
    pub push: Push,
    pub workers: Workers,
    pub callbacks: Callbacks,
    pub appointments: Appointments,
    pub cron: Cron,
    pub app: App,
    pub auth: Auth,
    pub scaler: Scaler,
    pub metrics: Metrics,
    pub traces: Traces,
    pub log: Log,
    pub shutdown: Shutdown,
    #[serde(skip)]
    pub(super) loaded: Loaded,
}

/// `[kafka]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    pub bootstrap_servers: String,
    pub topic_prefix: String,
    pub security_protocol: String,
    pub sasl_mechanism: String,
    pub sasl_username: String,
    #[serde(with = "secret")]
    pub sasl_password: Secret,
    pub ssl_ca_file: String,
    pub replication_factor: i32,
    pub min_insync_replicas: i32,
    pub produce_timeout_ms: u64,
}

/// `[registry]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    pub url: String,
    pub username: String,
    #[serde(with = "secret")]
    pub password: Secret,
    pub timeout_ms: u64,
}

/// `[postgres]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Postgres {
    #[serde(with = "secret")]
    pub url: Secret,
    pub pool_size: usize,
    pub pool_wait_timeout_ms: u64,
    pub connect_timeout_ms: u64,
    pub statement_timeout_ms: u64,
}

/// `[processor]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Processor {
    pub queue_max_records: usize,
    pub queue_max_bytes: usize,
    pub window_max_records: usize,
    pub in_flight_max: usize,
    pub bulk_in_flight_max: usize,
    pub batch_max_records: usize,
    pub batch_linger_ms: u64,
    pub claim_shards: usize,
    pub record_lanes: usize,
    pub lease_ms: u64,
    pub commit_interval_ms: u64,
    pub commit_every_records: u64,
    pub drain_timeout_ms: u64,
    pub close_timeout_ms: u64,
    pub slot_deadline_ms: u64,
    pub session_timeout_ms: u64,
    pub heartbeat_interval_ms: u64,
    pub max_poll_interval_ms: u64,
    pub unavailable_backoff_initial_ms: u64,
    pub unavailable_backoff_max_ms: u64,
    pub breaker_consecutive_rejects: u64,
    pub breaker_ratio_percent: u64,
    pub breaker_window_records: usize,
    pub payload_max_bytes: usize,
}

/// `[plan]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub portal_url: String,
    pub contact_phone: String,
    pub sender_name: String,
    pub default_locale: String,
    pub default_time_zone: String,
    pub quiet_hours_start: String,
    pub quiet_hours_end: String,
    pub default_channels: Vec<String>,
    pub test_result_expiry_ms: u64,
    pub appointment_expiry_ms: u64,
    pub general_expiry_ms: u64,
    pub campaign_expiry_ms: u64,
    pub schedule_max_ms: u64,
}

/// `[retry]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    pub initial_ms: u64,
    pub max_ms: u64,
    pub give_up_after_ms: u64,
    pub outcome_unknown_deadline_ms: u64,
    pub outcome_unknown_deadline_test_result_ms: u64,
    pub outcome_unknown_deadline_appointment_reminder_ms: u64,
    pub outcome_unknown_deadline_appointment_confirmation_ms: u64,
    pub outcome_unknown_deadline_general_ms: u64,
    pub outcome_unknown_deadline_campaign_ms: u64,
}

/// `[escalation]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Escalation {
    pub critical_sent_within_ms: u64,
    pub critical_delivered_within_ms: u64,
    pub critical_read_within_ms: u64,
    pub high_sent_within_ms: u64,
    pub high_delivered_within_ms: u64,
    pub high_read_within_ms: u64,
    pub normal_sent_within_ms: u64,
    pub normal_delivered_within_ms: u64,
    pub normal_read_within_ms: u64,
}

/// `[sms]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Sms {
    pub enabled: bool,
    pub base_url: String,
    pub account_sid: String,
    #[serde(with = "secret")]
    pub auth_token: Secret,
    pub from_number: String,
    pub status_callback_base_url: String,
    pub timeout_ms: u64,
    pub concurrency: usize,
    pub help_reply: String,
}

/// `[email]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Email {
    pub enabled: bool,
    pub smtp_host: String,
    pub smtp_port: u16,
    pub smtp_tls: String,
    pub username: String,
    #[serde(with = "secret")]
    pub password: Secret,
    pub from_address: String,
    pub message_id_domain: String,
    pub timeout_ms: u64,
    pub concurrency: usize,
    pub event_webhook_public_key: String,
    pub event_webhook_max_age_ms: u64,
    pub unsubscribe_base_url: String,
    #[serde(with = "secret")]
    pub unsubscribe_key: Secret,
    #[serde(with = "secret")]
    pub unsubscribe_previous_key: Secret,
}

/// `[push]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    pub enabled: bool,
    pub base_url: String,
    pub project_id: String,
    pub service_account_file: String,
    pub timeout_ms: u64,
    pub concurrency: usize,
}

/// `[workers]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Workers {
    pub poll_interval_ms: u64,
    pub batch_max_rows: usize,
    pub in_flight_max: usize,
    pub unmatched_expiry_ms: u64,
    pub jobs_max: usize,
}

/// `[callbacks]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Callbacks {
    pub timeout_ms: u64,
    pub in_flight_max: usize,
    pub in_flight_per_endpoint_max: usize,
    pub retry_initial_ms: u64,
    pub retry_max_ms: u64,
    pub give_up_after_ms: u64,
}

/// `[appointments]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Appointments {
    pub reminder_offsets_s: Vec<i32>,
    pub confirmed_offset_max_s: i32,
}

/// `[cron]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Cron {
    pub lease_ms: u64,
    pub page_max_rows: usize,
    pub digest_enabled: bool,
    pub digest_schedule: String,
    pub digest_time_zone: String,
    pub digest_days: u32,
    pub retention_schedule: String,
    pub retention_time_zone: String,
    pub retention_test_result_days: u32,
    pub retention_appointment_reminder_days: u32,
    pub retention_appointment_confirmation_days: u32,
    pub retention_general_days: u32,
    pub retention_campaign_days: u32,
    pub retention_batch_days: u32,
    pub retention_appointment_days: u32,
    pub retention_tick_days: u32,
    pub stale_schedule: String,
    pub stale_time_zone: String,
}

/// `[app]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct App {
    pub listen: String,
    pub allow_unauthenticated: bool,
    pub request_max_bytes: usize,
    pub concurrency: usize,
    pub streams_max: usize,
    pub streams_max_per_caller: usize,
    pub browser_origins: String,
    pub recent_keys_max: usize,
    pub watch_heartbeat_ms: u64,
    pub stream_idle_ms: u64,
    pub webhook_calls_per_second: u32,
    pub webhook_calls_burst: u32,
    pub webhook_source_header: String,
    /// Where the board asks the scaler; empty: nowhere.
    pub scaler_url: String,
    #[serde(with = "secret")]
    pub code_key: Secret,
    pub codes_per_address_per_hour: u32,
    pub codes_per_caller_per_hour: u32,
}

/// `[auth]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Auth {
    pub jwks_file: String,
    pub jwks_url: String,
    pub token_issuer: String,
    pub token_audience: String,
    pub token_leeway_ms: u64,
    pub jwks_timeout_ms: u64,
    pub jwks_stale_max_ms: u64,
    pub tls_certificate_file: String,
    pub tls_key_file: String,
    pub client_ca_file: String,
    pub callers_file: String,
    pub reread_interval_ms: u64,
    pub calls_per_second: u32,
    pub calls_burst: u32,
    pub notifications_per_day: u64,
}

impl Auth {
    /// Are bearer tokens taken?
    #[must_use]
    pub const fn takes_tokens(&self) -> bool {
        !(self.jwks_file.is_empty() && self.jwks_url.is_empty())
    }

    /// Are client certificates taken?
    #[must_use]
    pub const fn takes_certificates(&self) -> bool {
        !self.client_ca_file.is_empty()
    }

    /// Must callers prove who they are?
    #[must_use]
    pub const fn authenticates(&self) -> bool {
        self.takes_tokens() || self.takes_certificates()
    }
}

/// `[scaler]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Scaler {
    pub listen: String,
    pub interval_ms: u64,
    pub stale_after_ms: u64,
    pub processors_url: String,
    pub processors_timeout_ms: u64,
    pub objective_ms: u64,
    pub catch_up_ms: u64,
    pub bulk_catch_up_ms: u64,
    pub rebalance_ms: u64,
    pub utilisation_percent: u32,
    pub scale_down_hold_ms: u64,
    pub provider_budget_per_s: u32,
    pub results_replicas_min: u32,
    pub results_replicas_max: u32,
    pub results_rate_per_s: u32,
    pub requests_replicas_min: u32,
    pub requests_replicas_max: u32,
    pub requests_rate_per_s: u32,
    pub bulk_rate_per_s: u32,
    pub updates_replicas_min: u32,
    pub updates_replicas_max: u32,
    pub updates_rate_per_s: u32,
}

/// `[metrics]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    pub listen: String,
    pub lag_interval_ms: u64,
    pub otlp_endpoint: String,
    pub otlp_interval_ms: u64,
    pub otlp_timeout_ms: u64,
}

/// `[traces]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Traces {
    pub otlp_endpoint: String,
    pub timeout_ms: u64,
    pub sample_per_mille: u32,
}

/// `[log]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    pub format: String,
    pub filter: String,
}

/// `[shutdown]`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    pub timeout_ms: u64,
}

/// Secrets are read as text and written as `[redacted]`; an empty one is no
/// secret and stays visible as "not set".
mod secret {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Secret;

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        String::deserialize(deserializer).map(Secret::new)
    }

    pub(super) fn serialize<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(if secret.expose().is_empty() { "" } else { "[redacted]" })
    }
}

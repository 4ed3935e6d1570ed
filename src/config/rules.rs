//! What each key may hold. Every key of `config/default.toml` has one row here,
//! in the same order.

use toml::Value;

use super::kind::{Complaint, Kind};

/// The rule of one key.
#[derive(Debug)]
pub(super) struct Rule {
    /// `section.name`.
    pub(super) key: &'static str,
    /// What it may hold.
    pub(super) kind: Kind,
    /// May it be empty (which means: not set)?
    pub(super) optional: bool,
    /// Must its value stay out of every output?
    pub(super) secret: bool,
}

impl Rule {
    /// `("kafka", "topic_prefix")` of `kafka.topic_prefix`.
    pub(super) fn section_and_name(&self) -> (&'static str, &'static str) {
        self.key.split_once('.').unwrap_or((self.key, ""))
    }

    /// Checks a value; the complaint never shows a secret.
    pub(super) fn check(&self, value: &Value) -> Result<(), Complaint> {
        self.kind.check(value, self.optional).map_err(|complaint| match value {
            Value::String(text) if self.secret && !text.is_empty() => {
                self.kind.complaint("the value (not shown, it is a secret) cannot be used".to_owned())
            }
            _ => complaint,
        })
    }

    const fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    const fn secret(mut self) -> Self {
        self.secret = true;
        self
    }
}

const fn rule(key: &'static str, kind: Kind) -> Rule {
    Rule { key, kind, optional: false, secret: false }
}

/// A time span in milliseconds, both bounds included.
const fn ms(key: &'static str, min: i64, max: i64) -> Rule {
    rule(key, Kind::Number(min, max))
}

/// A count or a size, both bounds included.
const fn count(key: &'static str, min: i64, max: i64) -> Rule {
    rule(key, Kind::Number(min, max))
}

const SECOND_MS: i64 = 1000;
const MINUTE_MS: i64 = 60 * SECOND_MS;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
const DAY_S: i64 = DAY_MS / SECOND_MS;
const KIB: i64 = 1024;
const MIB: i64 = 1024 * KIB;

/// All keys.
pub(super) const RULES: &[Rule] = &[
    rule("kafka.bootstrap_servers", Kind::Servers),
    rule("kafka.topic_prefix", Kind::Name(100)).optional(),
    rule("kafka.security_protocol", Kind::Word(&["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"])),
    rule("kafka.sasl_mechanism", Kind::Word(&["SCRAM-SHA-512", "SCRAM-SHA-256"])),
    rule("kafka.sasl_username", Kind::Text(256)).optional(),
    rule("kafka.sasl_password", Kind::Text(1024)).optional().secret(),
    rule("kafka.ssl_ca_file", Kind::File).optional(),
    count("kafka.replication_factor", 1, 9),
    count("kafka.min_insync_replicas", 1, 9),
    ms("kafka.produce_timeout_ms", 100, 5 * MINUTE_MS),
    rule("registry.url", Kind::HttpUrl),
    rule("registry.username", Kind::Text(256)).optional(),
    rule("registry.password", Kind::Text(1024)).optional().secret(),
    ms("registry.timeout_ms", 100, MINUTE_MS),
    rule("postgres.url", Kind::PostgresUrl).secret(),
    count("postgres.pool_size", 2, 500),
    ms("postgres.pool_wait_timeout_ms", 100, MINUTE_MS),
    ms("postgres.connect_timeout_ms", 100, MINUTE_MS),
    ms("postgres.statement_timeout_ms", 100, 10 * MINUTE_MS),
    count("processor.queue_max_records", 10, 1_000_000),
    count("processor.queue_max_bytes", 64 * KIB, 1024 * MIB),
    count("processor.window_max_records", 10, 10_000_000),
    count("processor.in_flight_max", 1, 100_000),
    count("processor.bulk_in_flight_max", 1, 100_000),
    count("processor.batch_max_records", 1, 10_000),
    ms("processor.batch_linger_ms", 0, SECOND_MS),
    count("processor.claim_shards", 1, 64),
    count("processor.record_lanes", 1, 64),
    ms("processor.lease_ms", 5 * SECOND_MS, HOUR_MS),
    ms("processor.commit_interval_ms", 1000, 5000),
    count("processor.commit_every_records", 1, 1_000_000),
    ms("processor.drain_timeout_ms", SECOND_MS, 10 * MINUTE_MS),
    ms("processor.close_timeout_ms", SECOND_MS, 5 * MINUTE_MS),
    ms("processor.slot_deadline_ms", 10 * SECOND_MS, HOUR_MS),
    ms("processor.session_timeout_ms", 6 * SECOND_MS, 5 * MINUTE_MS),
    ms("processor.heartbeat_interval_ms", 500, MINUTE_MS),
    ms("processor.max_poll_interval_ms", 10 * SECOND_MS, HOUR_MS),
    ms("processor.unavailable_backoff_initial_ms", 10, MINUTE_MS),
    ms("processor.unavailable_backoff_max_ms", 100, 10 * MINUTE_MS),
    count("processor.breaker_consecutive_rejects", 1, 1_000_000),
    count("processor.breaker_ratio_percent", 1, 100),
    count("processor.breaker_window_records", 10, 1_000_000),
    count("processor.payload_max_bytes", KIB, 16 * MIB),
    rule("plan.portal_url", Kind::HttpUrl),
    rule("plan.contact_phone", Kind::Text(40)),
    rule("plan.sender_name", Kind::Text(40)),
    rule("plan.default_locale", Kind::Locale),
    rule("plan.default_time_zone", Kind::TimeZone),
    rule("plan.quiet_hours_start", Kind::TimeOfDay),
    rule("plan.quiet_hours_end", Kind::TimeOfDay),
    rule("plan.default_channels", Kind::Channels),
    ms("plan.test_result_expiry_ms", MINUTE_MS, 90 * DAY_MS),
    ms("plan.appointment_expiry_ms", MINUTE_MS, 90 * DAY_MS),
    ms("plan.general_expiry_ms", MINUTE_MS, 90 * DAY_MS),
    ms("plan.campaign_expiry_ms", MINUTE_MS, 90 * DAY_MS),
    // Below what the front takes for expires_at.
    ms("plan.schedule_max_ms", HOUR_MS, 731 * DAY_MS),
    ms("retry.initial_ms", 10, HOUR_MS),
    ms("retry.max_ms", 100, DAY_MS),
    ms("retry.give_up_after_ms", SECOND_MS, 30 * DAY_MS),
    ms("retry.outcome_unknown_deadline_ms", SECOND_MS, 7 * DAY_MS),
    ms("retry.outcome_unknown_deadline_test_result_ms", 0, 7 * DAY_MS),
    ms("retry.outcome_unknown_deadline_appointment_reminder_ms", 0, 7 * DAY_MS),
    ms("retry.outcome_unknown_deadline_appointment_confirmation_ms", 0, 7 * DAY_MS),
    ms("retry.outcome_unknown_deadline_general_ms", 0, 7 * DAY_MS),
    ms("retry.outcome_unknown_deadline_campaign_ms", 0, 7 * DAY_MS),
    ms("escalation.critical_sent_within_ms", 0, 30 * DAY_MS),
    ms("escalation.critical_delivered_within_ms", 0, 30 * DAY_MS),
    ms("escalation.critical_read_within_ms", 0, 30 * DAY_MS),
    ms("escalation.high_sent_within_ms", 0, 30 * DAY_MS),
    ms("escalation.high_delivered_within_ms", 0, 30 * DAY_MS),
    ms("escalation.high_read_within_ms", 0, 30 * DAY_MS),
    ms("escalation.normal_sent_within_ms", 0, 30 * DAY_MS),
    ms("escalation.normal_delivered_within_ms", 0, 30 * DAY_MS),
    ms("escalation.normal_read_within_ms", 0, 30 * DAY_MS),
    rule("sms.enabled", Kind::Flag),
    rule("sms.base_url", Kind::HttpUrl),
    rule("sms.account_sid", Kind::Name(64)),
    rule("sms.auth_token", Kind::Text(256)).secret(),
    rule("sms.from_number", Kind::PhoneNumber),
    rule("sms.status_callback_base_url", Kind::HttpUrl).optional(),
    ms("sms.timeout_ms", 100, 2 * MINUTE_MS),
    count("sms.concurrency", 1, 10_000),
    rule("sms.help_reply", Kind::Text(320)).optional(),
    rule("email.enabled", Kind::Flag),
    rule("email.smtp_host", Kind::Host),
    count("email.smtp_port", 1, 65_535),
    rule("email.smtp_tls", Kind::Word(&["none", "starttls", "tls"])),
    rule("email.username", Kind::Text(256)).optional(),
    rule("email.password", Kind::Text(1024)).optional().secret(),
    rule("email.from_address", Kind::Mailbox),
    rule("email.message_id_domain", Kind::Host),
    ms("email.timeout_ms", 100, 5 * MINUTE_MS),
    count("email.concurrency", 1, 1000),
    rule("email.event_webhook_public_key", Kind::SigningKey).optional(),
    ms("email.event_webhook_max_age_ms", SECOND_MS, 2 * DAY_MS),
    rule("email.unsubscribe_base_url", Kind::HttpUrl).optional(),
    rule("email.unsubscribe_key", Kind::Text(1024)).optional().secret(),
    rule("email.unsubscribe_previous_key", Kind::Text(1024)).optional().secret(),
    rule("push.enabled", Kind::Flag),
    rule("push.base_url", Kind::HttpUrl),
    rule("push.project_id", Kind::Name(64)),
    rule("push.service_account_file", Kind::File).optional(),
    ms("push.timeout_ms", 100, 2 * MINUTE_MS),
    count("push.concurrency", 1, 10_000),
    ms("workers.poll_interval_ms", 10, MINUTE_MS),
    count("workers.batch_max_rows", 1, 10_000),
    count("workers.in_flight_max", 1, 100_000),
    ms("workers.unmatched_expiry_ms", 1_000, 30 * DAY_MS),
    count("workers.jobs_max", 1, 100),
    ms("callbacks.timeout_ms", 100, 60 * SECOND_MS),
    count("callbacks.in_flight_max", 1, 10_000),
    count("callbacks.in_flight_per_endpoint_max", 1, 1_000),
    ms("callbacks.retry_initial_ms", 100, MINUTE_MS),
    ms("callbacks.retry_max_ms", SECOND_MS, HOUR_MS),
    ms("callbacks.give_up_after_ms", MINUTE_MS, 7 * DAY_MS),
    rule("appointments.reminder_offsets_s", Kind::Numbers(60, 90 * DAY_S, 10)),
    rule("appointments.confirmed_offset_max_s", Kind::Number(0, 90 * DAY_S)),
    ms("cron.lease_ms", SECOND_MS, HOUR_MS),
    count("cron.page_max_rows", 1, 10_000),
    rule("cron.digest_enabled", Kind::Flag),
    rule("cron.digest_schedule", Kind::CronExpression),
    rule("cron.digest_time_zone", Kind::TimeZone),
    count("cron.digest_days", 1, 90),
    rule("cron.retention_schedule", Kind::CronExpression),
    rule("cron.retention_time_zone", Kind::TimeZone),
    count("cron.retention_test_result_days", 1, 36_500),
    count("cron.retention_appointment_reminder_days", 1, 36_500),
    count("cron.retention_appointment_confirmation_days", 1, 36_500),
    count("cron.retention_general_days", 1, 36_500),
    count("cron.retention_campaign_days", 1, 36_500),
    count("cron.retention_batch_days", 1, 36_500),
    count("cron.retention_appointment_days", 1, 36_500),
    count("cron.retention_tick_days", 1, 36_500),
    rule("cron.stale_schedule", Kind::CronExpression),
    rule("cron.stale_time_zone", Kind::TimeZone),
    rule("app.listen", Kind::Listen),
    rule("app.allow_unauthenticated", Kind::Flag),
    count("app.request_max_bytes", KIB, 16 * MIB),
    count("app.concurrency", 1, 100_000),
    count("app.streams_max", 1, 100_000),
    count("app.streams_max_per_caller", 1, 100_000),
    rule("app.browser_origins", Kind::Origins).optional(),
    count("app.recent_keys_max", 0, 10_000_000),
    ms("app.watch_heartbeat_ms", 100, 10 * MINUTE_MS),
    ms("app.stream_idle_ms", 100, 10 * MINUTE_MS),
    count("app.webhook_calls_per_second", 0, 1_000_000),
    count("app.webhook_calls_burst", 1, 1_000_000),
    rule("app.webhook_source_header", Kind::Name(64)).optional(),
    rule("app.scaler_url", Kind::Text(512)).optional(),
    rule("app.code_key", Kind::Text(1024)).optional().secret(),
    count("app.codes_per_address_per_hour", 1, 100),
    count("app.codes_per_caller_per_hour", 1, 1_000_000),
    rule("auth.jwks_file", Kind::File).optional(),
    rule("auth.jwks_url", Kind::HttpUrl).optional(),
    rule("auth.token_issuer", Kind::Text(256)).optional(),
    rule("auth.token_audience", Kind::Text(256)).optional(),
    ms("auth.token_leeway_ms", 0, 5 * MINUTE_MS),
    ms("auth.jwks_timeout_ms", 100, 8 * SECOND_MS),
    ms("auth.jwks_stale_max_ms", MINUTE_MS, 30 * DAY_MS),
    rule("auth.tls_certificate_file", Kind::File).optional(),
    rule("auth.tls_key_file", Kind::File).optional(),
    rule("auth.client_ca_file", Kind::File).optional(),
    rule("auth.callers_file", Kind::File).optional(),
    ms("auth.reread_interval_ms", 100, HOUR_MS),
    count("auth.calls_per_second", 0, 1_000_000),
    count("auth.calls_burst", 1, 1_000_000),
    count("auth.notifications_per_day", 0, 1_000_000_000),
    rule("scaler.listen", Kind::Listen),
    ms("scaler.interval_ms", 500, MINUTE_MS),
    ms("scaler.stale_after_ms", SECOND_MS, 10 * MINUTE_MS),
    rule("scaler.processors_url", Kind::Text(512)).optional(),
    ms("scaler.processors_timeout_ms", 100, 10 * SECOND_MS),
    ms("scaler.objective_ms", SECOND_MS, HOUR_MS),
    ms("scaler.catch_up_ms", SECOND_MS, HOUR_MS),
    ms("scaler.bulk_catch_up_ms", SECOND_MS, HOUR_MS),
    ms("scaler.rebalance_ms", 0, 10 * MINUTE_MS),
    count("scaler.utilisation_percent", 10, 100),
    ms("scaler.scale_down_hold_ms", 0, HOUR_MS),
    count("scaler.provider_budget_per_s", 0, 1_000_000),
    count("scaler.results_replicas_min", 1, 1_000),
    count("scaler.results_replicas_max", 1, 1_000),
    count("scaler.results_rate_per_s", 1, 1_000_000),
    count("scaler.requests_replicas_min", 1, 1_000),
    count("scaler.requests_replicas_max", 1, 1_000),
    count("scaler.requests_rate_per_s", 1, 1_000_000),
    count("scaler.bulk_rate_per_s", 1, 1_000_000),
    count("scaler.updates_replicas_min", 1, 1_000),
    count("scaler.updates_replicas_max", 1, 1_000),
    count("scaler.updates_rate_per_s", 1, 1_000_000),
    rule("metrics.listen", Kind::Listen),
    ms("metrics.lag_interval_ms", 500, MINUTE_MS),
    rule("metrics.otlp_endpoint", Kind::HttpUrl).optional(),
    ms("metrics.otlp_interval_ms", SECOND_MS, 10 * MINUTE_MS),
    ms("metrics.otlp_timeout_ms", 100, MINUTE_MS),
    rule("traces.otlp_endpoint", Kind::HttpUrl).optional(),
    ms("traces.timeout_ms", 100, MINUTE_MS),
    count("traces.sample_per_mille", 0, 1_000),
    rule("log.format", Kind::Word(&["human", "json"])),
    rule("log.filter", Kind::LogFilter),
    ms("shutdown.timeout_ms", SECOND_MS, 30 * MINUTE_MS),
];

/// The rule of a key; `None` where there is no such key.
pub(super) fn find(section: &str, name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.section_and_name() == (section, name))
}

/// The candidate that is spelt most like `text`, if one is near enough to be meant.
pub(super) fn nearest<'c>(text: &str, candidates: impl Iterator<Item = &'c str>) -> Option<&'c str> {
    const NEAR: f64 = 0.6;
    candidates
        .map(|candidate| (strsim::normalized_damerau_levenshtein(text, candidate), candidate))
        .filter(|(likeness, _)| *likeness >= NEAR)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, candidate)| candidate)
}

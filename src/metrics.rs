//! What is measured. `instruments` declares every instrument; nothing else does.
//!
//! Rules: a label's values are bounded and known beforehand (words of
//! [`crate::domain`], static names, topics); never an identifier, an address or
//! an error text. All functions are cheap and do nothing before [`init`].

mod bound;
mod circuits;
mod front;
mod instruments;
mod lag;
mod push;
mod queues;
mod scaler;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::metrics::MeterProvider;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use parking_lot::RwLock;
use prometheus::{Encoder, Registry, TextEncoder};

pub use circuits::circuit;
pub use front::{verification, webhook};
pub use lag::LagTeller;
pub use push::end;
pub use queues::{
    callback, cron_counted, cron_done_age, cron_tick, cron_tick_duration, due_depth, escalated, job,
};
pub use scaler::{scaler_decision, scaler_stale};

use crate::config;
use crate::domain::{Channel, Purpose, Reason, Urgency};

use instruments::{Cron, Intake, Load, Queues, Sends, Sides};

/// Distinct topics that get a label of their own; the rest is counted as `other`.
const TOPICS_MAX: usize = 64;

static INSTRUMENTS: OnceLock<Instruments> = OnceLock::new();

/// Why the metrics could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The exporter for scrapes cannot be built.
    #[error("cannot set up metrics: {0}")]
    Scrape(String),
    /// The collector's address cannot be used.
    #[error(
        "metrics.otlp_endpoint cannot be used: {0}; give http://host:port of a collector's gRPC receiver, or nothing"
    )]
    Endpoint(#[from] opentelemetry_otlp::ExporterBuildError),
}

struct Instruments {
    registry: Registry,
    // The provider ends its instruments when it is dropped.
    provider: SdkMeterProvider,
    topics: RwLock<HashMap<String, KeyValue>>,
    intake: Intake,
    sends: Sends,
    sides: Sides,
    cron: Cron,
    queues: Queues,
    load: Load,
}

/// Sets the instruments up, once a process; a second call changes nothing.
/// `role` is the deployment's name. Within a runtime where a collector is configured: the
/// connection to it lives there.
///
/// # Errors
/// An exporter cannot be built.
pub fn init(role: &'static str, metrics: &config::Metrics) -> Result<(), MetricsError> {
    if INSTRUMENTS.get().is_some() {
        return Ok(());
    }
    let instruments = Instruments::new(role, metrics)?;
    instruments.announce(role);
    // A second thread that was as fast has set up the same.
    let _ = INSTRUMENTS.set(instruments);
    Ok(())
}

/// All metrics in Prometheus' text format; empty before [`init`].
#[must_use]
pub fn render() -> String {
    let Some(instruments) = INSTRUMENTS.get() else {
        return String::new();
    };
    let mut text = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&instruments.registry.gather(), &mut text) {
        tracing::error!(%error, "metrics cannot be written as text");
        text.clear();
    }
    // See `lag`: the SDK takes no infinite value.
    String::from_utf8(text).unwrap_or_default().replace(&f64::MAX.to_string(), "+Inf")
}

impl Instruments {
    fn new(role: &'static str, metrics: &config::Metrics) -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build()
            .map_err(|error| MetricsError::Scrape(error.to_string()))?;
        let provider =
            push::to_collector(SdkMeterProvider::builder().with_reader(exporter), role, metrics)?.build();
        let meter = provider.meter("patient_notify");
        instruments::lag(&meter);
        instruments::circuits(&meter);
        instruments::scaler(&meter);
        Ok(Self {
            topics: RwLock::default(),
            intake: Intake::new(&meter),
            sends: Sends::new(&meter),
            sides: Sides::new(&meter),
            cron: Cron::new(&meter),
            queues: Queues::new(&meter),
            load: Load::new(&meter),
            registry,
            provider,
        })
    }

    /// Writes down who runs, and every series that has one value at rest.
    fn announce(&self, role: &'static str) {
        let meter = self.provider.meter("patient_notify");
        instruments::build_info(&meter)
            .record(1, &[word("version", env!("CARGO_PKG_VERSION")), word("role", role)]);
        self.intake.breaker_open.record(0, &[]);
        self.sends.leases_lost.add(0, &[]);
    }

    /// The label of a topic, made once a topic.
    fn topic(&self, topic: &str) -> KeyValue {
        if let Some(label) = self.topics.read().get(topic) {
            return label.clone();
        }
        let mut topics = self.topics.write();
        if topics.len() >= TOPICS_MAX {
            return word("topic", "other");
        }
        let shared = || KeyValue::new("topic", Arc::<str>::from(topic));
        topics.entry(topic.to_owned()).or_insert_with(shared).clone()
    }
}

/// A label of static text: no allocation.
fn word(key: &'static str, value: &'static str) -> KeyValue {
    KeyValue::new(key, value)
}

/// Records of `topic` that ended with `outcome`.
pub fn records(topic: &str, outcome: &'static str, n: u64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.intake.records.add(topic, outcome, n, || i.topic(topic));
    }
}

/// Records of `topic` that were ignored for this reason.
pub fn ignored(topic: &str, reason: Reason, n: u64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.intake.ignored.add(n, &[word("reason", reason.as_str()), i.topic(topic)]);
    }
}

/// An update of this kind that came to `result`.
pub fn update(kind: &'static str, result: &'static str) {
    if let Some(i) = INSTRUMENTS.get() {
        i.intake.updates.add(1, &[word("kind", kind), word("result", result)]);
    }
}

/// Attempts on `channel` that ended with `outcome`.
pub fn deliveries(channel: Channel, outcome: &'static str, n: u64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.sends.deliveries.of([channel.as_str(), outcome]).add(n);
    }
}

/// A delivery on `channel` has arrived (`delivered`), or never will.
pub fn delivery_end(channel: Channel, end: &'static str) {
    if let Some(i) = INSTRUMENTS.get() {
        i.sends.delivery_ends.add(1, &[word("channel", channel.as_str()), word("end", end)]);
    }
}

/// One call to the provider of `channel`.
pub fn provider_call(channel: Channel, outcome: &'static str, elapsed: Duration) {
    if let Some(i) = INSTRUMENTS.get() {
        i.sends.provider_calls.of([channel.as_str(), outcome]).record(elapsed.as_secs_f64());
    }
}

/// A message reached its provider `elapsed` after its source record.
pub fn accept_to_provider(purpose: Purpose, urgency: Urgency, elapsed: Duration) {
    if let Some(i) = INSTRUMENTS.get() {
        i.sends.accept_to_provider.of([purpose.as_str(), urgency.as_str()]).record(elapsed.as_secs_f64());
    }
}

/// One database statement by its name in `record`.
pub fn statement(name: &'static str, rows: usize, elapsed: Duration) {
    if let Some(i) = INSTRUMENTS.get() {
        let labels = [word("statement", name)];
        i.sides.statements.record(elapsed.as_secs_f64(), &labels);
        i.sides.statement_rows.record(rows as u64, &labels);
    }
}

/// One offset commit, for example `ok` or `failed`.
pub fn commit(result: &'static str) {
    if let Some(i) = INSTRUMENTS.get() {
        i.intake.commits.add(1, &[word("result", result)]);
    }
}

/// `partitions` were assigned, revoked or lost, which kept records waiting for `pause`.
pub fn rebalance(kind: &'static str, partitions: usize, pause: Duration) {
    if let Some(i) = INSTRUMENTS.get() {
        let labels = [word("kind", kind)];
        i.intake.rebalances.add(1, &labels);
        if partitions > 0 {
            i.intake.rebalance_pauses.record(pause.as_secs_f64(), &labels);
        }
    }
}

/// Share of time in which records waited in this process, and how many a second it did when
/// they waited all the time (`None`: they never did).
pub fn busy(ratio: f64, true_rate: Option<f64>) {
    if let Some(i) = INSTRUMENTS.get() {
        i.load.busy.record(ratio, &[]);
        if let Some(true_rate) = true_rate {
            i.load.true_rate.record(true_rate, &[]);
        }
    }
}

/// One record of `topic` was kept as a dead letter.
pub fn dead_letter(topic: &str, reason: Reason) {
    if let Some(i) = INSTRUMENTS.get() {
        i.intake.dead_letters.add(1, &[word("reason", reason.as_str()), i.topic(topic)]);
    }
}

/// The dead-letter breaker opened or closed.
pub fn breaker_open(open: bool) {
    if let Some(i) = INSTRUMENTS.get() {
        i.intake.breaker_open.record(u64::from(open), &[]);
    }
}

/// Claims that ran out before their outcome was recorded.
pub fn lease_lost(n: u64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.sends.leases_lost.add(n, &[]);
    }
}

/// Sends on `channel` whose outcome became unknown.
pub fn outcome_unknown(channel: Channel, n: u64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.sends.outcomes_unknown.add(n, &[word("channel", channel.as_str())]);
    }
}

/// Deliveries in flight, up or down by `delta`.
pub fn in_flight(delta: i64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.sends.in_flight.add(delta, &[]);
    }
}

/// Partitions in hand, and how many of them are paused.
pub fn partitions(assigned: u64, paused: u64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.intake.partitions.record(assigned, &[word("state", "assigned")]);
        i.intake.partitions.record(paused, &[word("state", "paused")]);
    }
}

/// Bulk partitions in hand that rest for urgent work.
pub fn bulk_resting(partitions: u64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.intake.partitions.record(partitions, &[word("state", "resting_for_urgent")]);
    }
}

/// A partition was paused, because it is full or for urgent work.
pub fn partition_paused(cause: &'static str) {
    if let Some(i) = INSTRUMENTS.get() {
        i.intake.pauses.add(1, &[word("cause", cause)]);
    }
}

/// A try met an absent `dependency` (postgres, kafka, registry …).
pub fn unavailable(dependency: &'static str) {
    if let Some(i) = INSTRUMENTS.get() {
        i.sides.unavailable.add(1, &[word("dependency", dependency)]);
    }
}

/// Status changes that the broker has acknowledged.
pub fn outbox_published(n: u64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.sides.outbox_published.add(n, &[]);
    }
}

/// A due reminder, by what came of it.
pub fn reminder(result: &'static str) {
    if let Some(i) = INSTRUMENTS.get() {
        i.sides.reminders.add(1, &[word("result", result)]);
    }
}

/// Recipients of batches whose requests the broker has acknowledged.
pub fn batch_published(n: u64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.sides.batch_published.add(n, &[]);
    }
}

/// Due deliveries that a worker has claimed.
pub fn due_claimed(n: u64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.sends.due_claimed.add(n, &[]);
    }
}

/// One gRPC call: full method and code by name.
pub fn grpc_request(method: &'static str, code: &'static str, elapsed: Duration) {
    if let Some(i) = INSTRUMENTS.get() {
        i.sides.grpc_requests.record(elapsed.as_secs_f64(), &[word("method", method), word("code", code)]);
    }
}

/// gRPC streams of this method that are open, up or down by `delta`.
pub fn grpc_streams(method: &'static str, delta: i64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.sides.grpc_streams.add(delta, &[word("method", method)]);
    }
}

/// One gRPC stream has ended: full method and code by name.
pub fn grpc_stream_ended(method: &'static str, code: &'static str) {
    if let Some(i) = INSTRUMENTS.get() {
        i.sides.grpc_streams_ended.add(1, &[word("method", method), word("code", code)]);
    }
}

/// A gRPC call that its caller may not make, for example `token_expired` or `scope`;
/// method `none` for a connection that came to no call.
pub fn call_refused(method: &'static str, reason: &'static str) {
    if let Some(i) = INSTRUMENTS.get() {
        i.sides.calls_refused.add(1, &[word("method", method), word("reason", reason)]);
    }
}

/// Age of the record that has been in hand longest; zero: nothing is in hand.
pub fn oldest_in_hand_age_ms(age_ms: u64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.intake.oldest_in_hand.record(Duration::from_millis(age_ms).as_secs_f64(), &[]);
    }
}

/// Records that wait in this process, and their bytes.
pub fn queue(records: u64, bytes: u64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.intake.queue_records.record(records, &[]);
        i.intake.queue_bytes.record(bytes, &[]);
    }
}

#[cfg(test)]
mod tests;

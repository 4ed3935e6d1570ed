//! Every instrument of the system, with its unit. Nothing else declares one.
//!
//! Rules: a label's values are bounded and known beforehand (words of
//! [`crate::domain`], static names, topics); never an identifier, an address or
//! an error text. All functions are cheap and do nothing before [`init`].

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, MeterProvider, UpDownCounter};
use opentelemetry::KeyValue;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use parking_lot::RwLock;
use prometheus::{Encoder, Registry, TextEncoder};

use crate::domain::{Channel, Purpose, Reason, Urgency};

/// Distinct topics that get a label of their own; the rest is counted as `other`.
const TOPICS_MAX: usize = 64;

/// Bounds of histograms of calls (seconds): a loopback answer to the longest time-out.
const CALL_SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Bounds of the way from acceptance to provider (seconds); the promise is at 10.
const WAY_SECONDS: [f64; 13] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];
/// Bounds of rows a statement.
const ROWS: [f64; 9] = [1.0, 5.0, 20.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2000.0];

static INSTRUMENTS: OnceLock<Instruments> = OnceLock::new();

/// Why the metrics could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up metrics: {0}")]
pub struct MetricsError(String);

struct Instruments {
    registry: Registry,
    // The provider ends its instruments when it is dropped.
    _provider: SdkMeterProvider,
    topics: RwLock<HashMap<String, KeyValue>>,
    records: Counter<u64>,
    deliveries: Counter<u64>,
    provider_calls: Histogram<f64>,
    accept_to_provider: Histogram<f64>,
    statements: Histogram<f64>,
    statement_rows: Histogram<u64>,
    commits: Counter<u64>,
    rebalances: Counter<u64>,
    rebalance_pauses: Histogram<f64>,
    dead_letters: Counter<u64>,
    breaker_open: Gauge<u64>,
    leases_lost: Counter<u64>,
    outcomes_unknown: Counter<u64>,
    in_flight: UpDownCounter<i64>,
    partitions: Gauge<u64>,
    unavailable: Counter<u64>,
    outbox_published: Counter<u64>,
    due_claimed: Counter<u64>,
    grpc_requests: Histogram<f64>,
    oldest_in_hand: Gauge<f64>,
    queue_records: Gauge<u64>,
    queue_bytes: Gauge<u64>,
}

/// Sets the instruments up, once a process; a second call changes nothing.
/// `role` is the deployment's name.
///
/// # Errors
/// The exporter cannot be built.
pub fn init(role: &'static str) -> Result<(), MetricsError> {
    if INSTRUMENTS.get().is_some() {
        return Ok(());
    }
    let instruments = Instruments::new().map_err(MetricsError)?;
    instruments.announce(role);
    // A second thread that was as fast has set up the same.
    let _ = INSTRUMENTS.set(instruments);
    Ok(())
}

/// All metrics in Prometheus' text format; empty before [`init`].
#[must_use]
pub fn render() -> String {
    let Some(instruments) = INSTRUMENTS.get() else { return String::new() };
    let mut text = Vec::new();
    if let Err(error) = TextEncoder::new().encode(&instruments.registry.gather(), &mut text) {
        tracing::error!(%error, "metrics cannot be written as text");
        text.clear();
    }
    String::from_utf8(text).unwrap_or_default()
}

impl Instruments {
    fn new() -> Result<Self, String> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .scope_info_enabled(false)
            .without_target_info()
            .build()
            .map_err(|error| error.to_string())?;
        let provider = SdkMeterProvider::builder().with_reader(exporter).build();
        let meter = provider.meter("patient_notify");
        Ok(Self {
            topics: RwLock::default(),
            records: counter(&meter, "records", "{record}", "Records by how they ended"),
            deliveries: counter(&meter, "deliveries", "{delivery}", "Attempts by channel and outcome"),
            provider_calls: seconds(&meter, "provider_call_duration", "Calls to providers", &CALL_SECONDS),
            accept_to_provider: seconds(
                &meter,
                "accept_to_provider_duration",
                "From the source record's timestamp until a provider has the message",
                &WAY_SECONDS,
            ),
            statements: seconds(&meter, "statement_duration", "Database statements", &CALL_SECONDS),
            statement_rows: meter
                .u64_histogram("patient_notify_statement_rows")
                .with_unit("{row}")
                .with_description("Rows a database statement")
                .with_boundaries(ROWS.to_vec())
                .build(),
            commits: counter(&meter, "commits", "{commit}", "Offset commits by result"),
            rebalances: counter(&meter, "rebalances", "{rebalance}", "Rebalances by kind"),
            rebalance_pauses: seconds(
                &meter,
                "rebalance_pause_duration",
                "How long a rebalance kept records waiting",
                &CALL_SECONDS,
            ),
            dead_letters: counter(&meter, "dead_letters", "{record}", "Records kept as dead letters"),
            breaker_open: gauge(&meter, "breaker_open", "{flag}", "1 while too many rejects stop the processor"),
            leases_lost: counter(&meter, "leases_lost", "{delivery}", "Claims that ran out before their outcome"),
            outcomes_unknown: counter(
                &meter,
                "outcomes_unknown",
                "{delivery}",
                "Sends whose outcome is not known: each may be sent or not",
            ),
            in_flight: meter
                .i64_up_down_counter("patient_notify_in_flight")
                .with_unit("{delivery}")
                .with_description("Deliveries that a provider is being called for")
                .build(),
            partitions: gauge(&meter, "partitions", "{partition}", "Partitions in hand, and paused ones of them"),
            unavailable: counter(&meter, "unavailable", "{error}", "Tries that met an absent dependency"),
            outbox_published: counter(&meter, "outbox_published", "{record}", "Status changes published"),
            due_claimed: counter(&meter, "due_claimed", "{delivery}", "Due deliveries taken by a worker"),
            grpc_requests: seconds(&meter, "grpc_request_duration", "gRPC calls by method and code", &CALL_SECONDS),
            oldest_in_hand: meter
                .f64_gauge("patient_notify_oldest_in_hand_age")
                .with_unit("s")
                .with_description("Age of the record that has been in hand longest; 0: none")
                .build(),
            queue_records: gauge(&meter, "queue_records", "{record}", "Records that wait in this process"),
            queue_bytes: gauge(&meter, "queue", "By", "Bytes of the records that wait in this process"),
            registry,
            _provider: provider,
        })
    }

    /// Writes down who runs, and every series that has one value at rest.
    fn announce(&self, role: &'static str) {
        let meter = self._provider.meter("patient_notify");
        gauge(&meter, "build_info", "{process}", "Always 1; the labels say what runs")
            .record(1, &[word("version", env!("CARGO_PKG_VERSION")), word("role", role)]);
        self.breaker_open.record(0, &[]);
        self.leases_lost.add(0, &[]);
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

fn counter(meter: &Meter, name: &str, unit: &'static str, description: &'static str) -> Counter<u64> {
    meter.u64_counter(format!("patient_notify_{name}")).with_unit(unit).with_description(description).build()
}

fn gauge(meter: &Meter, name: &str, unit: &'static str, description: &'static str) -> Gauge<u64> {
    meter.u64_gauge(format!("patient_notify_{name}")).with_unit(unit).with_description(description).build()
}

fn seconds(meter: &Meter, name: &str, description: &'static str, bounds: &[f64]) -> Histogram<f64> {
    meter
        .f64_histogram(format!("patient_notify_{name}"))
        .with_unit("s")
        .with_description(description)
        .with_boundaries(bounds.to_vec())
        .build()
}

/// A label of static text: no allocation.
fn word(key: &'static str, value: &'static str) -> KeyValue {
    KeyValue::new(key, value)
}

/// Records of `topic` that ended with `outcome`.
pub fn records(topic: &str, outcome: &'static str, n: u64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.records.add(n, &[word("outcome", outcome), i.topic(topic)]);
    }
}

/// Attempts on `channel` that ended with `outcome`.
pub fn deliveries(channel: Channel, outcome: &'static str, n: u64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.deliveries.add(n, &[word("channel", channel.as_str()), word("outcome", outcome)]);
    }
}

/// One call to the provider of `channel`.
pub fn provider_call(channel: Channel, outcome: &'static str, elapsed: Duration) {
    if let Some(i) = INSTRUMENTS.get() {
        let labels = [word("channel", channel.as_str()), word("outcome", outcome)];
        i.provider_calls.record(elapsed.as_secs_f64(), &labels);
    }
}

/// A message reached its provider `elapsed` after its source record.
pub fn accept_to_provider(purpose: Purpose, urgency: Urgency, elapsed: Duration) {
    if let Some(i) = INSTRUMENTS.get() {
        let labels = [word("purpose", purpose.as_str()), word("urgency", urgency.as_str())];
        i.accept_to_provider.record(elapsed.as_secs_f64(), &labels);
    }
}

/// One database statement by its name in `record`.
pub fn statement(name: &'static str, rows: usize, elapsed: Duration) {
    if let Some(i) = INSTRUMENTS.get() {
        let labels = [word("statement", name)];
        i.statements.record(elapsed.as_secs_f64(), &labels);
        i.statement_rows.record(rows as u64, &labels);
    }
}

/// One offset commit, for example `ok` or `failed`.
pub fn commit(result: &'static str) {
    if let Some(i) = INSTRUMENTS.get() {
        i.commits.add(1, &[word("result", result)]);
    }
}

/// `partitions` were assigned, revoked or lost, which kept records waiting for `pause`.
pub fn rebalance(kind: &'static str, partitions: usize, pause: Duration) {
    if let Some(i) = INSTRUMENTS.get() {
        let labels = [word("kind", kind)];
        i.rebalances.add(1, &labels);
        if partitions > 0 {
            i.rebalance_pauses.record(pause.as_secs_f64(), &labels);
        }
    }
}

/// One record of `topic` was kept as a dead letter.
pub fn dead_letter(topic: &str, reason: Reason) {
    if let Some(i) = INSTRUMENTS.get() {
        i.dead_letters.add(1, &[word("reason", reason.as_str()), i.topic(topic)]);
    }
}

/// The dead-letter breaker opened or closed.
pub fn breaker_open(open: bool) {
    if let Some(i) = INSTRUMENTS.get() {
        i.breaker_open.record(u64::from(open), &[]);
    }
}

/// Claims that ran out before their outcome was recorded.
pub fn lease_lost(n: u64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.leases_lost.add(n, &[]);
    }
}

/// Sends on `channel` whose outcome became unknown.
pub fn outcome_unknown(channel: Channel, n: u64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.outcomes_unknown.add(n, &[word("channel", channel.as_str())]);
    }
}

/// Deliveries in flight, up or down by `delta`.
pub fn in_flight(delta: i64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.in_flight.add(delta, &[]);
    }
}

/// Partitions in hand, and how many of them are paused.
pub fn partitions(assigned: u64, paused: u64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.partitions.record(assigned, &[word("state", "assigned")]);
        i.partitions.record(paused, &[word("state", "paused")]);
    }
}

/// A try met an absent `dependency` (postgres, kafka, registry …).
pub fn unavailable(dependency: &'static str) {
    if let Some(i) = INSTRUMENTS.get() {
        i.unavailable.add(1, &[word("dependency", dependency)]);
    }
}

/// Status changes that the broker has acknowledged.
pub fn outbox_published(n: u64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.outbox_published.add(n, &[]);
    }
}

/// Due deliveries that a worker has claimed.
pub fn due_claimed(n: u64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.due_claimed.add(n, &[]);
    }
}

/// One gRPC call: full method and code by name.
pub fn grpc_request(method: &'static str, code: &'static str, elapsed: Duration) {
    if let Some(i) = INSTRUMENTS.get() {
        i.grpc_requests.record(elapsed.as_secs_f64(), &[word("method", method), word("code", code)]);
    }
}

/// Age of the record that has been in hand longest; zero: nothing is in hand.
pub fn oldest_in_hand_age_ms(age_ms: u64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.oldest_in_hand.record(Duration::from_millis(age_ms).as_secs_f64(), &[]);
    }
}

/// Records that wait in this process, and their bytes.
pub fn queue(records: u64, bytes: u64) {
    if let Some(i) = INSTRUMENTS.get() {
        i.queue_records.record(records, &[]);
        i.queue_bytes.record(bytes, &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call_all() {
        let span = Duration::from_millis(30);
        records("pat.test-results.v1", "done", 3);
        deliveries(Channel::Sms, "sent", 2);
        provider_call(Channel::Sms, "sent", span);
        accept_to_provider(Purpose::TestResult, Urgency::Critical, span);
        statement("claim", 500, span);
        commit("ok");
        rebalance("assigned", 4, span);
        dead_letter("pat.test-results.v1", Reason::NotWireFormat);
        breaker_open(true);
        lease_lost(1);
        outcome_unknown(Channel::Push, 1);
        in_flight(5);
        in_flight(-2);
        partitions(60, 2);
        unavailable("postgres");
        outbox_published(7);
        due_claimed(8);
        grpc_request("NotificationService/Send", "OK", span);
        oldest_in_hand_age_ms(1500);
        queue(10, 4096);
    }

    /// One test, because the instruments are one a process.
    #[test]
    fn every_instrument_has_its_name_unit_and_labels() {
        call_all();
        init("test").unwrap();
        init("test").unwrap();
        call_all();
        let text = render();
        for line in [
            r#"patient_notify_records_total{outcome="done",topic="pat.test-results.v1"} 3"#,
            r#"patient_notify_deliveries_total{channel="sms",outcome="sent"} 2"#,
            r#"patient_notify_provider_call_duration_seconds_count{channel="sms",outcome="sent"} 1"#,
            r#"patient_notify_accept_to_provider_duration_seconds_bucket{purpose="test_result",urgency="critical",le="10"} 1"#,
            r#"patient_notify_statement_duration_seconds_count{statement="claim"} 1"#,
            r#"patient_notify_statement_rows_sum{statement="claim"} 500"#,
            r#"patient_notify_commits_total{result="ok"} 1"#,
            r#"patient_notify_rebalances_total{kind="assigned"} 1"#,
            r#"patient_notify_rebalance_pause_duration_seconds_count{kind="assigned"} 1"#,
            r#"patient_notify_dead_letters_total{reason="not_wire_format",topic="pat.test-results.v1"} 1"#,
            "patient_notify_breaker_open 1",
            "patient_notify_leases_lost_total 1",
            r#"patient_notify_outcomes_unknown_total{channel="push"} 1"#,
            "patient_notify_in_flight 3",
            r#"patient_notify_partitions{state="assigned"} 60"#,
            r#"patient_notify_partitions{state="paused"} 2"#,
            r#"patient_notify_unavailable_total{dependency="postgres"} 1"#,
            "patient_notify_outbox_published_total 7",
            "patient_notify_due_claimed_total 8",
            r#"patient_notify_grpc_request_duration_seconds_count{code="OK",method="NotificationService/Send"} 1"#,
            "patient_notify_oldest_in_hand_age_seconds 1.5",
            "patient_notify_queue_records 10",
            "patient_notify_queue_bytes 4096",
            concat!("patient_notify_build_info{role=\"test\",version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
        ] {
            assert!(text.lines().any(|l| l == line), "missing: {line}\n{text}");
        }

        for number in 0..2 * TOPICS_MAX {
            records(&format!("t-{number}"), "done", 1);
        }
        assert!(render().contains(r#"{outcome="done",topic="other"}"#));
        assert_eq!(render().matches("patient_notify_records_total{").count(), TOPICS_MAX + 1);
    }
}

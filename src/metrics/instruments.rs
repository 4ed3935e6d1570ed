//! The declaration of every instrument: name, unit, description, bounds.
//!
//! The exporter adds the unit to a name, and `_total` to a counter's.

use opentelemetry::metrics::{AsyncInstrument, Counter, Gauge, Histogram, Meter, UpDownCounter};

use super::bound::{ByTopic, ByWords};
use super::{circuits, lag, scaler};

/// Bounds of histograms of calls (seconds): a loopback answer to the longest time-out.
const CALL_SECONDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// Bounds of the way from acceptance to provider (seconds); the promise is at 10.
pub(super) const WAY_SECONDS: [f64; 13] =
    [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0];
/// Without prefix and unit; see [`super::push`].
pub(super) const ACCEPT_TO_PROVIDER: &str = "accept_to_provider_duration";
/// Bounds of rows a statement.
const ROWS: [f64; 9] = [1.0, 5.0, 20.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2000.0];

/// From the topics to the claim, and the offsets.
pub(super) struct Intake {
    pub(super) records: ByTopic,
    pub(super) ignored: Counter<u64>,
    pub(super) updates: Counter<u64>,
    pub(super) dead_letters: Counter<u64>,
    pub(super) breaker_open: Gauge<u64>,
    pub(super) partitions: Gauge<u64>,
    pub(super) pauses: Counter<u64>,
    pub(super) commits: Counter<u64>,
    pub(super) rebalances: Counter<u64>,
    pub(super) rebalance_pauses: Histogram<f64>,
    pub(super) oldest_in_hand: Gauge<f64>,
    pub(super) queue_records: Gauge<u64>,
    pub(super) queue_bytes: Gauge<u64>,
}

impl Intake {
    pub(super) fn new(meter: &Meter) -> Self {
        Self {
            records: ByTopic::new(counter(meter, "records", "{record}", "Records by how they ended")),
            ignored: counter(meter, "ignored", "{record}", "Records that came to nothing, by reason"),
            updates: counter(
                meter,
                "updates",
                "{update}",
                "Receipts, readings, opt-outs and cancellations by what they came to",
            ),
            dead_letters: counter(meter, "dead_letters", "{record}", "Records kept as dead letters"),
            breaker_open: gauge(
                meter,
                "breaker_open",
                "{flag}",
                "1 while too many rejects stop the processor",
            ),
            partitions: gauge(
                meter,
                "partitions",
                "{partition}",
                "Partitions in hand; paused ones, and bulk ones that rest for urgent work, of them",
            ),
            pauses: counter(meter, "partition_pauses", "{pause}", "Pauses of partitions by cause"),
            commits: counter(meter, "commits", "{commit}", "Offset commits by result"),
            rebalances: counter(meter, "rebalances", "{rebalance}", "Rebalances by kind"),
            rebalance_pauses: seconds(
                meter,
                "rebalance_pause_duration",
                "How long a rebalance kept records waiting",
                &CALL_SECONDS,
            ),
            oldest_in_hand: measure(
                meter,
                "oldest_in_hand_age",
                "s",
                "Age of the record that has been in hand longest; 0: none",
            ),
            queue_records: gauge(meter, "queue_records", "{record}", "Records that wait in this process"),
            queue_bytes: gauge(meter, "queue", "By", "Bytes of the records that wait in this process"),
        }
    }
}

/// From the claim to a provider.
pub(super) struct Sends {
    pub(super) deliveries: ByWords<Counter<u64>>,
    pub(super) delivery_ends: Counter<u64>,
    pub(super) provider_calls: ByWords<Histogram<f64>>,
    pub(super) accept_to_provider: ByWords<Histogram<f64>>,
    pub(super) leases_lost: Counter<u64>,
    pub(super) outcomes_unknown: Counter<u64>,
    pub(super) in_flight: UpDownCounter<i64>,
    pub(super) due_claimed: Counter<u64>,
}

impl Sends {
    pub(super) fn new(meter: &Meter) -> Self {
        Self {
            deliveries: ByWords::new(
                counter(meter, "deliveries", "{delivery}", "Attempts by channel and outcome"),
                ["channel", "outcome"],
            ),
            delivery_ends: counter(
                meter,
                "delivery_ends",
                "{delivery}",
                "Deliveries by how they ended: delivered, or why not",
            ),
            provider_calls: ByWords::new(
                seconds(meter, "provider_call_duration", "Calls to providers", &CALL_SECONDS),
                ["channel", "outcome"],
            ),
            accept_to_provider: ByWords::new(
                seconds(
                    meter,
                    ACCEPT_TO_PROVIDER,
                    "From the source record's timestamp until a provider has the message",
                    &WAY_SECONDS,
                ),
                ["purpose", "urgency"],
            ),
            leases_lost: counter(
                meter,
                "leases_lost",
                "{delivery}",
                "Claims that ran out before their outcome",
            ),
            outcomes_unknown: counter(
                meter,
                "outcomes_unknown",
                "{delivery}",
                "Sends whose outcome is not known: each may be sent or not",
            ),
            in_flight: meter
                .i64_up_down_counter("patient_notify_in_flight")
                .with_unit("{delivery}")
                .with_description("Deliveries that a provider is being called for")
                .build(),
            due_claimed: counter(meter, "due_claimed", "{delivery}", "Due deliveries taken by a worker"),
        }
    }
}

/// Database, broker and front.
pub(super) struct Sides {
    pub(super) statements: Histogram<f64>,
    pub(super) statement_rows: Histogram<u64>,
    pub(super) unavailable: Counter<u64>,
    pub(super) outbox_published: Counter<u64>,
    pub(super) batch_published: Counter<u64>,
    pub(super) reminders: Counter<u64>,
    pub(super) grpc_requests: Histogram<f64>,
    pub(super) grpc_streams: UpDownCounter<i64>,
    pub(super) grpc_streams_ended: Counter<u64>,
    pub(super) calls_refused: Counter<u64>,
    pub(super) webhooks: Counter<u64>,
    pub(super) verifications: Counter<u64>,
}

impl Sides {
    pub(super) fn new(meter: &Meter) -> Self {
        Self {
            statements: seconds(meter, "statement_duration", "Database statements", &CALL_SECONDS),
            statement_rows: meter
                .u64_histogram("patient_notify_statement_rows")
                .with_unit("{row}")
                .with_description("Rows a database statement")
                .with_boundaries(ROWS.to_vec())
                .build(),
            unavailable: counter(meter, "unavailable", "{error}", "Tries that met an absent dependency"),
            outbox_published: counter(meter, "outbox_published", "{record}", "Status changes published"),
            batch_published: counter(meter, "batch_published", "{record}", "Recipients of batches published"),
            reminders: counter(meter, "reminders", "{reminder}", "Due reminders by what came of them"),
            grpc_requests: seconds(
                meter,
                "grpc_request_duration",
                "gRPC calls by method and code",
                &CALL_SECONDS,
            ),
            calls_refused: counter(
                meter,
                "calls_refused",
                "{call}",
                "gRPC calls that their caller may not make, by method and reason",
            ),
            grpc_streams: meter
                .i64_up_down_counter("patient_notify_grpc_streams")
                .with_unit("{stream}")
                .with_description("gRPC streams that are open, by method")
                .build(),
            grpc_streams_ended: counter(
                meter,
                "grpc_streams_ended",
                "{stream}",
                "gRPC streams that have ended, by method and code",
            ),
            webhooks: counter(
                meter,
                "webhook_requests",
                "{request}",
                "Callbacks of providers by what came of them",
            ),
            verifications: counter(
                meter,
                "verifications",
                "{code}",
                "Codes that prove an address, started and tried, by channel and what came of it",
            ),
        }
    }
}

/// Queues in the database.
pub(super) struct Queues {
    pub(super) due_depth: Gauge<u64>,
    pub(super) due_oldest_age: Gauge<f64>,
    pub(super) escalated: Counter<u64>,
    pub(super) jobs: Counter<u64>,
    pub(super) callbacks: Counter<u64>,
}

impl Queues {
    pub(super) fn new(meter: &Meter) -> Self {
        Self {
            due_depth: gauge(
                meter,
                "due_depth",
                "{row}",
                "Rows that are due, by queue and urgency; at most 10,000 a queue are counted",
            ),
            due_oldest_age: measure(
                meter,
                "due_oldest_age",
                "s",
                "For how long the oldest row has been due, by queue and urgency",
            ),
            escalated: counter(
                meter,
                "escalated",
                "{notification}",
                "Next channels that were begun because evidence was overdue, by channel and reason",
            ),
            jobs: counter(
                meter,
                "jobs",
                "{attempt}",
                "Jobs of the general queue by kind and what they came to",
            ),
            callbacks: counter(
                meter,
                "callbacks",
                "{event}",
                "Callbacks to other backends by caller and what came of them",
            ),
        }
    }
}

/// Jobs of cron.
pub(super) struct Cron {
    pub(super) ticks: Counter<u64>,
    pub(super) tick_duration: Histogram<f64>,
    pub(super) done_age: Gauge<f64>,
    pub(super) counted: Gauge<u64>,
}

impl Cron {
    pub(super) fn new(meter: &Meter) -> Self {
        Self {
            ticks: counter(meter, "cron_ticks", "{tick}", "Ticks of cron's jobs by job and end"),
            tick_duration: seconds(
                meter,
                "cron_tick_duration",
                "From a tick's first runner to its end, by job",
                &WAY_SECONDS,
            ),
            done_age: measure(meter, "cron_done_age", "s", "Since the last done tick of a job ended"),
            counted: gauge(meter, "cron_counted", "{row}", "What a job's last done tick counted"),
        }
    }
}

/// What a processor can do.
pub(super) struct Load {
    pub(super) busy: Gauge<f64>,
    pub(super) true_rate: Gauge<f64>,
}

impl Load {
    pub(super) fn new(meter: &Meter) -> Self {
        Self {
            busy: measure(
                meter,
                "processor_busy_ratio",
                "{ratio}",
                "Share of the last 30 s in which records waited in this process, 0 to 1",
            ),
            true_rate: measure(
                meter,
                "processor_true_rate",
                "{record_per_second}",
                "Records per second in the last 30 s in which records waited all the time",
            ),
        }
    }
}

/// Lag. It is looked up at each scrape, so that what is no longer owned is gone from it.
pub(super) fn lag(meter: &Meter) {
    const OF_PARTITIONS: [(&str, &str, &str, lag::OfPartition); 5] = [
        ("consumer_lag_messages", "{record}", "Records that are not committed", lag::messages),
        ("consumer_lag", "s", "Age of the oldest uncommitted record by its timestamp; 0: none", lag::seconds),
        (
            "consumer_partition_stalled",
            "{flag}",
            "1 while records wait and the committed offset does not move",
            lag::stalled,
        ),
        (
            "consumer_partition_lost_records",
            "{record}",
            "Records that retention deleted before they were committed, as the offsets show it now",
            lag::lost_records,
        ),
        (
            "consumer_retention_headroom",
            "s",
            "Until retention by time deletes the oldest uncommitted record; +Inf: it never does",
            lag::retention_headroom,
        ),
    ];
    for (name, unit, description, value) in OF_PARTITIONS {
        observed(meter, name, unit, description, move |to| lag::observe_partitions(to, value));
    }
    observed(
        meter,
        "consumer_arrival_rate",
        "{record_per_second}",
        "Records per second that come in, over the last 30 s",
        |to| lag::observe_topics(to, |topic| topic.arrival_rate, true),
    );
    observed(
        meter,
        "consumer_processing_rate",
        "{record_per_second}",
        "Records per second that are committed, over the last 30 s",
        |to| lag::observe_topics(to, |topic| topic.processing_rate, true),
    );
    observed(
        meter,
        "consumer_drain",
        "s",
        "Until the lag is gone at these rates; 0: no lag; +Inf: it does not go",
        |to| lag::observe_topics(to, |topic| topic.drain_seconds, false),
    );
    observed(
        meter,
        "consumer_reading_age",
        "s",
        "Since the lag of this group was last read from the brokers",
        lag::observe_reading_age,
    );
}

/// Providers that are left alone.
pub(super) fn circuits(meter: &Meter) {
    observed(
        meter,
        "circuit_open",
        "{flag}",
        "1 while a channel's provider is left alone after failures",
        circuits::observe,
    );
}

/// What the scaler decides.
pub(super) fn scaler(meter: &Meter) {
    observed(
        meter,
        "scaler_desired_replicas",
        "{replica}",
        "Replicas that the scaler wants of a deployment",
        scaler::observe_replicas,
    );
    observed(
        meter,
        "scaler_decision_reason",
        "{flag}",
        "1 for what the last decision came down to",
        scaler::observe_reason,
    );
    observed(
        meter,
        "scaler_stale",
        "{flag}",
        "1 while the lag of a deployment was read too long ago to go by",
        scaler::observe_stale,
    );
}

/// What runs: one series a process.
pub(super) fn build_info(meter: &Meter) -> Gauge<u64> {
    gauge(meter, "build_info", "{process}", "Always 1; the labels say what runs")
}

fn counter(meter: &Meter, name: &str, unit: &'static str, description: &'static str) -> Counter<u64> {
    meter.u64_counter(format!("patient_notify_{name}")).with_unit(unit).with_description(description).build()
}

fn gauge(meter: &Meter, name: &str, unit: &'static str, description: &'static str) -> Gauge<u64> {
    meter.u64_gauge(format!("patient_notify_{name}")).with_unit(unit).with_description(description).build()
}

fn measure(meter: &Meter, name: &str, unit: &'static str, description: &'static str) -> Gauge<f64> {
    meter.f64_gauge(format!("patient_notify_{name}")).with_unit(unit).with_description(description).build()
}

/// The meter keeps what it calls at each scrape.
fn observed(
    meter: &Meter,
    name: &str,
    unit: &'static str,
    description: &'static str,
    observe: impl Fn(&dyn AsyncInstrument<f64>) + Send + Sync + 'static,
) {
    let gauge = meter.f64_observable_gauge(format!("patient_notify_{name}")).with_unit(unit);
    let _kept_by_the_meter = gauge.with_description(description).with_callback(observe).build();
}

fn seconds(meter: &Meter, name: &str, description: &'static str, bounds: &[f64]) -> Histogram<f64> {
    meter
        .f64_histogram(format!("patient_notify_{name}"))
        .with_unit("s")
        .with_description(description)
        .with_boundaries(bounds.to_vec())
        .build()
}

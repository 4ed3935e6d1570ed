//! Where spans go: to an OpenTelemetry collector (OTLP over gRPC), in batches, from a
//! bounded queue. While nobody listens there, spans are dropped and work goes on.

use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanProcessor};

use crate::config;

/// Spans that wait to be exported; more are dropped.
const QUEUE_MAX: usize = 8_192;
/// Spans of one export.
const BATCH_MAX: usize = 1_024;
/// Longest time that a span waits for company.
const LINGER: Duration = Duration::from_secs(1);
/// Longest time for what is left at the end.
const LAST_EXPORT: Duration = Duration::from_secs(2);

static PIPELINE: OnceLock<Pipeline> = OnceLock::new();

#[derive(Debug)]
struct Pipeline {
    processor: BatchSpanProcessor,
    /// Traces whose id, read as a number, lies below are sampled.
    below: u64,
}

/// Why traces cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The endpoint cannot be used.
    #[error(
        "traces.otlp_endpoint cannot be used: {0}; give http://host:port of a collector's gRPC receiver, or nothing"
    )]
    Endpoint(#[from] opentelemetry_otlp::ExporterBuildError),
}

/// What has been set up; ended by [`Traces::end`].
#[derive(Debug)]
#[must_use = "spans that wait are lost unless it is ended"]
pub struct Traces(());

/// Begins to export, once a process; nothing is done where no endpoint is set. `role`
/// becomes the service's name. Within a runtime, which the exporter's connection lives on.
///
/// # Errors
/// The endpoint is no address. That nobody answers there is no error.
pub fn start(role: &'static str, traces: &config::Traces) -> Result<Traces, TraceError> {
    if traces.otlp_endpoint.is_empty() {
        return Ok(Traces(()));
    }
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&traces.otlp_endpoint)
        .with_timeout(Duration::from_millis(traces.timeout_ms))
        .build()?;
    let config = BatchConfigBuilder::default()
        .with_max_queue_size(QUEUE_MAX)
        .with_max_export_batch_size(BATCH_MAX)
        .with_scheduled_delay(LINGER)
        .build();
    let mut processor = BatchSpanProcessor::builder(exporter).with_batch_config(config).build();
    processor.set_resource(
        &Resource::builder_empty()
            .with_attributes([
                KeyValue::new("service.name", role),
                KeyValue::new("service.namespace", env!("CARGO_PKG_NAME")),
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            ])
            .build(),
    );
    // The first one stays: `dev` runs all roles in one process.
    let _ = PIPELINE.set(Pipeline { processor, below: threshold(traces.sample_per_mille) });
    Ok(Traces(()))
}

impl Traces {
    /// Exports what waits, for two seconds at most. Blocking.
    pub fn end(self) {
        if let Some(pipeline) = PIPELINE.get()
            && let Err(error) = pipeline.processor.shutdown_with_timeout(LAST_EXPORT)
        {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

/// Ids lie evenly over all numbers, so the share of those below is the share of traces.
/// Source: OpenTelemetry, "TraceIdRatioBased".
fn threshold(per_mille: u32) -> u64 {
    if per_mille >= 1_000 { u64::MAX } else { u64::MAX / 1_000 * u64::from(per_mille) }
}

/// Does anybody look at traces?
#[must_use]
pub fn is_on() -> bool {
    PIPELINE.get().is_some()
}

pub(super) fn is_sampled(trace_id: &[u8; 16]) -> bool {
    PIPELINE.get().is_some_and(|pipeline| lies_below(trace_id, pipeline.below))
}

fn lies_below(trace_id: &[u8; 16], below: u64) -> bool {
    // The first bytes: in the others, an id that is a UUID says of what kind it is.
    let [a, b, c, d, e, f, ..] = *trace_id;
    u64::from_be_bytes([a, b, c, d, e, f, 0, 0]) < below
}

pub(super) fn keep(span: SpanData) {
    if let Some(pipeline) = PIPELINE.get() {
        pipeline.processor.on_end(span);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_of_traces_is_the_one_asked_for() {
        let ids: Vec<[u8; 16]> = (0..4_000).map(|_| *uuid::Uuid::new_v4().as_bytes()).collect();
        let share = |per_mille| {
            let below = threshold(per_mille);
            ids.iter().filter(|id| lies_below(id, below)).count()
        };
        assert_eq!((share(0), share(1_000)), (0, ids.len()));
        // Six standard deviations: sqrt(4000 * 0.25 * 0.75) is 27.
        assert!((836..=1_164).contains(&share(250)), "{}", share(250));
    }
}

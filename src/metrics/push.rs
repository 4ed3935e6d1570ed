//! Measures go to an OpenTelemetry collector too (OTLP over gRPC), where one is configured.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_otlp::{MetricExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{Aggregation, Instrument, MeterProviderBuilder, PeriodicReader, Stream};

use super::instruments::{ACCEPT_TO_PROVIDER, WAY_SECONDS};
use super::{INSTRUMENTS, MetricsError};
use crate::config;

/// Buckets of the exponential histogram, at most, and its finest scale: 160 and 20 are what
/// OpenTelemetry's SDKs take without being told.
const BUCKETS_MAX: u32 = 160;
const SCALE_MAX: i8 = 20;

/// Adds the collector. Messages' way to a provider goes there as an exponential histogram
/// too, which is exact to a few per cent at any quantile; a scrape shows only the one with
/// fixed bounds.
pub(super) fn to_collector(
    builder: MeterProviderBuilder,
    role: &'static str,
    metrics: &config::Metrics,
) -> Result<MeterProviderBuilder, MetricsError> {
    if metrics.otlp_endpoint.is_empty() {
        return Ok(builder);
    }
    let exporter = MetricExporter::builder()
        .with_tonic()
        .with_endpoint(&metrics.otlp_endpoint)
        .with_timeout(Duration::from_millis(metrics.otlp_timeout_ms))
        .build()?;
    let interval = Duration::from_millis(metrics.otlp_interval_ms);
    let resource = Resource::builder_empty()
        .with_attributes([
            KeyValue::new("service.name", role),
            KeyValue::new("service.namespace", env!("CARGO_PKG_NAME")),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ])
        .build();
    Ok(builder
        .with_resource(resource)
        .with_reader(PeriodicReader::builder(exporter).with_interval(interval).build())
        .with_view(as_declared)
        .with_view(as_exponential))
}

fn is_the_way(instrument: &Instrument) -> bool {
    instrument.name().strip_prefix("patient_notify_") == Some(ACCEPT_TO_PROVIDER)
}

/// Once a view takes an instrument, its own stream has to be asked for.
fn as_declared(instrument: &Instrument) -> Option<Stream> {
    let boundaries = WAY_SECONDS.to_vec();
    let aggregation = Aggregation::ExplicitBucketHistogram { boundaries, record_min_max: true };
    is_the_way(instrument).then(|| Stream::builder().with_aggregation(aggregation).build().ok()).flatten()
}

fn as_exponential(instrument: &Instrument) -> Option<Stream> {
    let aggregation = Aggregation::Base2ExponentialHistogram {
        max_size: BUCKETS_MAX,
        max_scale: SCALE_MAX,
        record_min_max: true,
    };
    let name = format!("{}_exponential", instrument.name());
    let stream = || Stream::builder().with_name(name).with_aggregation(aggregation).build().ok();
    is_the_way(instrument).then(stream).flatten()
}

/// Exports the last values, if a collector is configured. Blocking, for as long as one export
/// may take.
pub fn end() {
    if let Some(i) = INSTRUMENTS.get()
        && let Err(error) = i.provider.force_flush()
    {
        tracing::warn!(%error, "the last measures were not exported");
    }
}

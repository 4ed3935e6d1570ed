//! Measures go to a collector by themselves, in its own protocol, with what a scrape cannot
//! show: exponential histograms.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Metric, ResourceMetrics};
use patient_notify::domain::Channel;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::harness::{World, eventually, only, result};

const SOON: Duration = Duration::from_secs(60);

/// A collector's gRPC receiver, which keeps the last that it got.
#[derive(Clone, Default)]
struct Collector {
    last: Arc<Mutex<Vec<ResourceMetrics>>>,
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        *self.last.lock().unwrap() = request.into_inner().resource_metrics;
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

impl Collector {
    fn metric(&self, name: &str) -> Option<Metric> {
        let last = self.last.lock().unwrap();
        let all = last.iter().flat_map(|one| &one.scope_metrics).flat_map(|one| &one.metrics);
        all.into_iter().find(|metric| metric.name == name).cloned()
    }

    fn role(&self) -> Option<String> {
        let last = self.last.lock().unwrap();
        let attributes = &last.first()?.resource.as_ref()?.attributes;
        let name = attributes.iter().find(|one| one.key == "service.name")?;
        match name.value.clone()?.value? {
            Value::StringValue(role) => Some(role),
            _ => None,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_gets_what_a_scrape_shows_and_exponential_histograms() {
    let world = World::new().await;
    world.load(&[only(Channel::Email, 1)]).await;
    let collector = Collector::default();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let service = MetricsServiceServer::new(collector.clone());
    let served = tokio::spawn(
        Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)),
    );
    let variables = [
        ("PATIENT_NOTIFY_METRICS__OTLP_ENDPOINT", endpoint.as_str()),
        ("PATIENT_NOTIFY_METRICS__OTLP_INTERVAL_MS", "1000"),
    ];
    let process = world.process("consumer-test-result-notification", &variables);
    world.publish(&[result(1, "res-1")]).await;

    let way = "patient_notify_accept_to_provider_duration";
    let exponential = format!("{way}_exponential");
    let counted = eventually("the way of one message is pushed", SOON, async || {
        match collector.metric(&exponential)?.data? {
            Data::ExponentialHistogram(histogram) => histogram.data_points.first().map(|point| point.count),
            other => panic!("{other:?}"),
        }
    })
    .await;
    assert_eq!(counted, 1);
    assert!(matches!(collector.metric(way).and_then(|metric| metric.data), Some(Data::Histogram(_))));
    assert_eq!(collector.role().as_deref(), Some("consumer-test-result-notification"));
    eventually("the lag of all partitions is pushed", SOON, async || {
        match collector.metric("patient_notify_consumer_lag")?.data? {
            Data::Gauge(gauge) => (gauge.data_points.len() == 12).then_some(()),
            other => panic!("{other:?}"),
        }
    })
    .await;
    let process = tokio::sync::Mutex::new(process);
    let address = process.lock().await.metrics_address().await;
    let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
    let scraped = http.get(format!("http://{address}/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(
        scraped.contains(&format!("{way}_seconds_count")) && !scraped.contains("exponential"),
        "{scraped}"
    );
    served.abort();
}

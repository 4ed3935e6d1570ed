//! One trace from whoever asked to what was told of it: a real collector's protocol, real
//! processes. What failed is kept, whatever the sampling says; nobody's address is.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use patient_notify::api::proto;
use patient_notify::api::proto::notification_service_client::NotificationServiceClient;
use patient_notify::domain::{Channel, DeliveryId, NotificationId, ReceiptStatus};
use patient_notify::sandbox::ChannelFaults;
use patient_notify::topic::names::NOTIFICATION_STATUS;
use prost::Message as _;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use crate::front::{front_with, until_state, wish};
use crate::harness::{World, eventually, receipt, sms_only};
use crate::tools::read_topic;

const DEADLINE: Duration = Duration::from_secs(60);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// A collector's gRPC receiver, which keeps what it gets.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<(String, Span)>>>,
    bytes: Arc<Mutex<Vec<u8>>>,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let request = request.into_inner();
        self.bytes.lock().unwrap().extend(request.encode_to_vec());
        for of_process in request.resource_spans {
            let resource = of_process.resource.unwrap_or_default();
            let name = resource.attributes.iter().find(|one| one.key == "service.name");
            let Some(Value::StringValue(role)) = name.and_then(|one| one.value.clone()?.value) else {
                panic!("spans of nobody")
            };
            for span in of_process.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                self.spans.lock().unwrap().push((role.clone(), span));
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Serves for as long as the test runs. Gives its address, too.
    async fn start() -> (Self, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let collector = Self::default();
        let service = TraceServiceServer::new(collector.clone());
        let serving = Server::builder().add_service(service);
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        (collector, address)
    }

    /// Spans of a trace: by name, who made each, and it.
    fn of(&self, trace: &[u8]) -> BTreeMap<String, (String, Span)> {
        let spans = self.spans.lock().unwrap();
        let of_trace = spans.iter().filter(|(_, span)| span.trace_id == trace);
        of_trace.map(|(role, span)| (span.name.clone(), (role.clone(), span.clone()))).collect()
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

const ROLES: [&str; 4] =
    ["consumer-notification", "consumer-notification-update", "wrk-default", "wrk-notifications"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_from_the_call_to_the_status_and_failures_always() {
    let world = World::new().await;
    world.load(&[sms_only(1), sms_only(2)]).await;
    let (collector, endpoint) = Collector::start().await;
    let traces = [
        ("PATIENT_NOTIFY_TRACES__OTLP_ENDPOINT", endpoint.as_str()),
        ("PATIENT_NOTIFY_TRACES__SAMPLE_PER_MILLE", "0"),
    ];
    let (_front, channel) = front_with(&world, &traces).await;
    let _roles = ROLES.map(|role| world.process(role, &traces));
    let mut client = NotificationServiceClient::new(channel);

    let mut request = Request::new(wish("sampled", 1));
    request.metadata_mut().insert("traceparent", format!("00-{TRACE}-{PARENT}-01").parse().unwrap());
    let sent = client.send(request).await.unwrap().into_inner();
    let id = NotificationId(Uuid::try_parse(&sent.notification_id).unwrap());
    let delivery = DeliveryId::for_channel(id, Channel::Sms);
    until_state(&mut client, &sent, proto::State::Sent).await;
    world.publish_updates(&[receipt(delivery, ReceiptStatus::Delivered)]).await;
    until_state(&mut client, &sent, proto::State::Delivered).await;

    let send = "/patientnotify.v1.NotificationService/Send";
    let ways = [
        (send, "app", ""),
        ("notification", "consumer-notification", send),
        ("plan", "consumer-notification", "notification"),
        ("claim", "consumer-notification", "notification"),
        ("deliver", "consumer-notification", "notification"),
        ("receipt", "consumer-notification-update", "notification"),
        ("publish status", "wrk-default", "notification"),
    ];
    let spans = eventually("all spans of the trace", DEADLINE, async || {
        let spans = collector.of(&bytes(TRACE));
        ways.iter().all(|(name, _, _)| spans.contains_key(*name)).then_some(spans)
    })
    .await;
    for (name, role, after) in ways {
        let (by, span) = &spans[name];
        assert_eq!(by, role, "{name}");
        let parent = if after.is_empty() { bytes(PARENT) } else { spans[after].1.span_id.clone() };
        assert_eq!(span.parent_span_id, parent, "{name} follows from {after:?}");
        assert!(span.start_time_unix_nano <= span.end_time_unix_nano);
    }
    let told = read_topic(&world.config.kafka, &world.topic(&NOTIFICATION_STATUS)).await;
    assert!(!told.is_empty());
    for record in told {
        let header = String::from_utf8(record.headers["traceparent"].clone()).unwrap();
        assert!(header.starts_with(&format!("00-{TRACE}-")) && header.ends_with("-01"), "{header}");
    }

    // Nobody asked for a trace of the next one, and none is sampled; but it fails at first.
    world.sandbox.faults.set(Channel::Sms, ChannelFaults { fail_percent: 100, ..ChannelFaults::default() });
    let sent = client.send(wish("unsampled", 2)).await.unwrap().into_inner();
    let own = Uuid::try_parse(&sent.notification_id).unwrap();
    let failed =
        eventually("the failure is kept", DEADLINE, async || collector.of(own.as_bytes()).remove("deliver"))
            .await;
    assert_eq!(failed.1.status.unwrap().code, i32::from(StatusCode::Error));
    world.sandbox.faults.clear();
    until_state(&mut client, &sent, proto::State::Sent).await;
    let others = collector.of(own.as_bytes());
    assert_eq!(others.keys().collect::<Vec<_>>(), ["deliver"], "what went well is not kept");

    let all = collector.bytes.lock().unwrap().clone();
    for canary in ["+1555", "Patient 1", "example.org", "device-"] {
        let found = all.windows(canary.len()).any(|window| window == canary.as_bytes());
        assert!(!found, "{canary} in a span");
    }
}

//! A tonic handler that does nothing but await the produce.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use axum::Router;
use axum::extract::Request as HttpRequest;
use axum::response::Response as HttpResponse;
use axum::routing::post;
use jiff::Timestamp;
use patient_notify::api::proto;
use patient_notify::config::Config;
use patient_notify::domain::{NotificationRequested, PatientId, Purpose, Redacted, Strategy, Urgency};
use patient_notify::topic::encoder::Encoder;
use patient_notify::topic::names::NOTIFICATIONS;
use patient_notify::topic::producer::Producer;
use tokio::net::TcpListener;
use tonic::codegen::BoxFuture;
use tonic::server::{Grpc, UnaryService};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use uuid::Uuid;

use crate::callers::wish;

/// Same topic, same key, a payload of the same size, encoded once.
struct Way {
    producer: Producer,
    topic: String,
    payload: Vec<u8>,
}

#[derive(Clone)]
struct Send(Arc<Way>);

impl UnaryService<proto::NotificationServiceSendRequest> for Send {
    type Response = proto::NotificationServiceSendResponse;
    type Future = BoxFuture<Response<Self::Response>, Status>;

    fn call(&mut self, request: Request<proto::NotificationServiceSendRequest>) -> Self::Future {
        let way = Arc::clone(&self.0);
        Box::pin(async move {
            let key = request.into_inner().patient_id;
            let sent = way.producer.send(&way.topic, Some(key.as_bytes()), Some(&way.payload), &[]).await;
            let (partition, offset) = sent.map_err(|error| Status::unavailable(error.to_string()))?;
            Ok(Response::new(proto::NotificationServiceSendResponse {
                notification_id: Uuid::nil().to_string(),
                consistency_token: format!("{partition}:{offset}"),
            }))
        })
    }
}

/// Serves on a free port for as long as the process lives.
pub async fn start(config: &Config) -> anyhow::Result<SocketAddr> {
    let encoder = Encoder::new(&config.registry, &config.kafka.topic_prefix)?;
    let way = Send(Arc::new(Way {
        producer: Producer::new(&config.kafka)?,
        topic: NOTIFICATIONS.full_name(&config.kafka.topic_prefix),
        payload: encoder.notification(&NOTIFICATIONS, &as_published(wish(0))?).await?,
    }));
    let router = Router::new().route(
        "/patientnotify.v1.NotificationService/Send",
        post(move |request: HttpRequest| {
            let way = way.clone();
            async move { Ok::<HttpResponse, Infallible>(unary(way, request).await) }
        }),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let server = Server::builder()
        .add_routes(Routes::from(router))
        .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
    tokio::spawn(server);
    Ok(address)
}

async fn unary(way: Send, request: HttpRequest) -> HttpResponse {
    let answer = Grpc::new(ProstCodec::default()).unary(way, request).await;
    answer.map(axum::body::Body::new)
}

/// The record that the front makes of this request.
fn as_published(wish: proto::NotificationServiceSendRequest) -> anyhow::Result<NotificationRequested> {
    Ok(NotificationRequested {
        caller: "bench".to_owned(),
        idempotency_key: wish.idempotency_key,
        patient_id: PatientId::parse(&wish.patient_id).context("not a patient's identifier")?,
        recipient: None,
        purpose: Purpose::AppointmentReminder,
        urgency: Urgency::Normal,
        channels: Vec::new(),
        strategy: Strategy::InOrder,
        send_at: None,
        expires_at: None,
        variables: Redacted::new(wish.variables.into_iter().collect()),
        requested_at: Timestamp::now(),
    })
}

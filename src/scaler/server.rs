//! The gRPC server that KEDA and operators ask.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt as _, stream};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use super::decisions::{Decisions, InForce};
use super::proto::externalscaler::external_scaler_server::{ExternalScaler, ExternalScalerServer};
use super::proto::externalscaler::{
    GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec, MetricValue,
    ScaledObjectRef,
};
use super::proto::v1::scaler_service_server::{ScalerService, ScalerServiceServer};
use super::proto::v1::{Decision, ScalerServiceExplainRequest, ScalerServiceExplainResponse};
use super::proto::{self};

/// The only metric: replicas, of which each replica is to have one.
const METRIC: &str = "replicas";
/// Longest time a call may take; an answer needs none.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
/// Calls at once on one connection.
const CALLS_MAX: usize = 64;
/// Bytes of a request.
const REQUEST_MAX_BYTES: usize = 64 * 1024;
/// A client that vanished is noticed after the sum of the two.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long open streams may keep a stopping server.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Why the scaler does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Not an address.
    #[error("scaler.listen is not an IP address and port: `{0}` (for example 127.0.0.1:19110)")]
    Address(String),
    /// The port cannot be had.
    #[error("cannot listen on scaler.listen = {address}: {source}")]
    Listen {
        /// Where.
        address: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The contract that was compiled in cannot be read back.
    #[error("reflection cannot be built")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The running server failed.
    #[error("the scaler stopped serving")]
    Transport(#[from] tonic::transport::Error),
    /// The server's task panicked.
    #[error("the scaler stopped serving")]
    Task(#[from] tokio::task::JoinError),
}

/// A scaler that listens.
#[derive(Debug)]
pub struct Serving {
    /// Where; the port is the real one also where port 0 was asked for.
    pub address: SocketAddr,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Serving {
    /// Ends when the server has stopped.
    ///
    /// # Errors
    /// When the server failed rather than being stopped.
    pub async fn finished(self) -> Result<(), ServeError> {
        self.task.await?
    }
}

/// Binds the port, then serves in the background until `shutdown`.
///
/// # Errors
/// When the address is not one or is taken.
pub async fn serve(
    listen: &str,
    decisions: Decisions,
    shutdown: CancellationToken,
) -> Result<Serving, ServeError> {
    let address: SocketAddr = listen.parse().map_err(|_| ServeError::Address(listen.to_owned()))?;
    let fault = |source| ServeError::Listen { address: listen.to_owned(), source };
    let listener = TcpListener::bind(address).await.map_err(fault)?;
    let address = listener.local_addr().map_err(fault)?;
    let answers = Answers { decisions, shutdown: shutdown.clone() };
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<ExternalScalerServer<Answers>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .build_v1()?;
    let router = Server::builder()
        .timeout(CALL_TIMEOUT)
        .concurrency_limit_per_connection(CALLS_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .add_service(health)
        .add_service(reflection)
        .add_service(ExternalScalerServer::new(answers.clone()).max_decoding_message_size(REQUEST_MAX_BYTES))
        .add_service(ScalerServiceServer::new(answers).max_decoding_message_size(REQUEST_MAX_BYTES));
    let task = tokio::spawn(async move {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let serving = router.serve_with_incoming_shutdown(incoming, shutdown.clone().cancelled_owned());
        let cut = async {
            shutdown.cancelled().await;
            tokio::time::sleep(STOP_MAX).await;
        };
        tokio::select! {
            ended = serving => Ok(ended?),
            () = cut => Ok(()),
        }
    });
    Ok(Serving { address, task })
}

#[derive(Clone)]
struct Answers {
    decisions: Decisions,
    shutdown: CancellationToken,
}

impl Answers {
    fn of(&self, deployment: &str) -> Result<InForce, Status> {
        self.decisions.of(deployment).ok_or_else(|| {
            let known: Vec<&str> = self.decisions.all().iter().map(|one| one.deployment).collect();
            // What is not known is not repeated: it may be anything.
            Status::not_found(format!("no such deployment; there are {}", known.join(", ")))
        })
    }
}

#[tonic::async_trait]
impl ExternalScaler for Answers {
    /// Always: no consumer is ever to have no pod.
    async fn is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<IsActiveResponse>, Status> {
        self.of(&request.get_ref().name)?;
        Ok(Response::new(IsActiveResponse { result: true }))
    }

    type StreamIsActiveStream = Pin<Box<dyn Stream<Item = Result<IsActiveResponse, Status>> + Send>>;

    async fn stream_is_active(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<Self::StreamIsActiveStream>, Status> {
        self.of(&request.get_ref().name)?;
        let active = stream::iter([Ok(IsActiveResponse { result: true })]);
        // It does not change. The stream stays, because an end would look like a fault.
        let open = active.chain(stream::pending()).take_until(self.shutdown.clone().cancelled_owned());
        Ok(Response::new(Box::pin(open)))
    }

    /// Whatever is known or not: without it KEDA would make no HPA.
    async fn get_metric_spec(
        &self,
        request: Request<ScaledObjectRef>,
    ) -> Result<Response<GetMetricSpecResponse>, Status> {
        self.of(&request.get_ref().name)?;
        let spec = MetricSpec { metric_name: METRIC.to_owned(), target_size: 1, target_size_float: 1.0 };
        Ok(Response::new(GetMetricSpecResponse { metric_specs: vec![spec] }))
    }

    /// An error, and never 0, when nothing is known.
    async fn get_metrics(
        &self,
        request: Request<GetMetricsRequest>,
    ) -> Result<Response<GetMetricsResponse>, Status> {
        let request = request.into_inner();
        let asks = request.scaled_object_ref.ok_or_else(|| Status::invalid_argument("no scaledObjectRef"))?;
        if request.metric_name != METRIC {
            return Err(Status::invalid_argument(format!("no such metric; there is {METRIC}")));
        }
        let replicas = self.of(&asks.name)?.replicas().map_err(Status::unavailable)?;
        let value = MetricValue {
            metric_name: METRIC.to_owned(),
            metric_value: i64::from(replicas),
            metric_value_float: f64::from(replicas),
        };
        Ok(Response::new(GetMetricsResponse { metric_values: vec![value] }))
    }
}

#[tonic::async_trait]
impl ScalerService for Answers {
    async fn explain(
        &self,
        request: Request<ScalerServiceExplainRequest>,
    ) -> Result<Response<ScalerServiceExplainResponse>, Status> {
        let asked = request.into_inner().deployment;
        let all = if asked.is_empty() { self.decisions.all() } else { vec![self.of(&asked)?] };
        Ok(Response::new(ScalerServiceExplainResponse { decisions: all.into_iter().map(told).collect() }))
    }
}

fn told(one: InForce) -> Decision {
    Decision {
        deployment: one.deployment.to_owned(),
        replicas: one.explanation.as_ref().map(|explanation| explanation.replicas),
        reason: one
            .explanation
            .as_ref()
            .map_or("unknown", |explanation| explanation.reason.as_str())
            .to_owned(),
        text: one.text(),
        read_ago_ms: one.read_ago.map(|ago| u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
        stale: one.stale,
        rate_per_s: one.explanation.as_ref().map(|explanation| explanation.rate_per_s),
        error: one.error.unwrap_or_default(),
    }
}

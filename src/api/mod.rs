//! The gRPC front, and plain HTTP beside it on the same port.
//!
//! One file a service; [`auth`] knows who calls and may do what, [`error`] has the one match from what went wrong to what a
//! caller is told, [`guard`] the bounds of every call, [`webhooks`] what providers call,
//! with bounds of its own. Health and reflection stand
//! outside of those bounds: a probe must get its answer while calls are refused.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use deadpool_postgres::Pool;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::config;
use crate::deliver::Renderer;
use crate::health::Health;
use auth::{Auth, Tls};
use calls::{AtOnce, Calls};

pub mod appointment;
pub mod auth;
pub mod batch;
mod board;
pub mod browser;
mod calls;
pub mod convert;
pub mod error;
pub mod guard;
pub mod mask;
pub mod notification;
pub mod operations;
pub mod page;
pub mod proto;
pub mod publisher;
mod rates;
pub mod recipient;
pub mod template;
#[cfg(test)]
mod tests;
pub mod token;
pub mod traced;
pub mod validate;
pub mod webhooks;

pub use publisher::{Outgoing, PublishError, Publisher, Until};
pub use token::Position;

/// Services whose health is told by name; the empty name is the whole server.
const SERVICES: [&str; 7] = [
    "",
    "patientnotify.v1.AppointmentService",
    "patientnotify.v1.BatchService",
    "patientnotify.v1.NotificationService",
    "patientnotify.v1.OperationsService",
    "patientnotify.v1.RecipientService",
    "patientnotify.v1.TemplateService",
];
/// How often the health service asks the probes.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);
/// How long open streams (health watches, reflection) may keep a stopping server:
/// every call has ended by then, because none lasts longer than [`guard::CALL_MAX`],
/// and streams of ours are ended by [`guard::stream`].
const STOP_MAX: Duration = guard::CALL_MAX.saturating_add(Duration::from_secs(1));
/// A client that vanished is noticed after interval plus time-out.
const HTTP2_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const HTTP2_KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections are renewed, so that clients spread over new pods. What is under way on
/// an old one is finished: calls and streams have longest times of their own.
const CONNECTION_AGE_MAX: Duration = Duration::from_secs(1800);
/// Bytes of one request's headers.
const HEADERS_MAX_BYTES: u32 = 16 * 1024;

/// What the front is made of.
pub struct Front {
    /// Address and bounds.
    pub config: config::App,
    /// Who may call.
    pub auth: config::Auth,
    /// To the broker.
    pub publisher: Publisher,
    /// Who may tell it something by HTTP.
    pub webhooks: webhooks::Webhooks,
    /// To the database.
    pub pool: Pool,
    /// What operators look at.
    pub operations: operations::Setup,
    /// How far ahead a message may be scheduled.
    pub schedule_max: Duration,
    /// More that is needed to tell of notifications.
    pub notifications: Arc<notification::Means>,
    /// Reminders before the start, and after a confirmation.
    pub appointments: config::Appointments,
    /// Makes the words of messages.
    pub renderer: Arc<Renderer>,
    /// Proves addresses; `None`: nobody has configured it.
    pub codes: Option<Arc<recipient::Codes>>,
    /// More pages on the same port (the sandbox's inbox). It must not have the path
    /// `/`; its fallback is not used.
    pub extra_http: Router,
    /// Links on the index page: words and address.
    pub links: Vec<(String, String)>,
    /// Its readiness is what the health service tells.
    pub health: Arc<Health>,
    /// Stops the server.
    pub shutdown: CancellationToken,
}

/// Why the front does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Not an address.
    #[error("app.listen is not an IP address and port: `{0}` (for example 127.0.0.1:19080)")]
    Address(String),
    /// Callers are not authenticated, so only this machine may call.
    #[error(
        "app.listen is {0}, which other machines can reach, and callers are not authenticated: listen on \
         127.0.0.1 or [::1], configure [auth], or set app.allow_unauthenticated = true where a mesh \
         authenticates them"
    )]
    NotLoopback(SocketAddr),
    /// What callers are to be authenticated by cannot be used.
    #[error(transparent)]
    Auth(#[from] auth::AuthFaults),
    /// The port cannot be had.
    #[error("cannot listen on app.listen = {address}: {}", listen_fault(.source))]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The contract that was compiled in cannot be read back.
    #[error("reflection cannot be built")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// The running server failed.
    #[error("front stopped serving")]
    Transport(#[from] tonic::transport::Error),
    /// The server's task panicked.
    #[error("front stopped serving")]
    Task(#[from] tokio::task::JoinError),
}

fn listen_fault(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            "another process has this port; stop it or choose another port".to_owned()
        }
        _ => source.to_string(),
    }
}

/// A front that listens.
#[derive(Debug)]
pub struct Serving {
    /// Where; the port is the real one also where port 0 was asked for.
    pub address: SocketAddr,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Serving {
    /// Ends when the server has stopped: calls under way are finished, streams are
    /// cut after 11 seconds.
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
/// When the address is not one, is not loopback although callers are not
/// authenticated (without `app.allow_unauthenticated`), or is taken; when what callers
/// are to be authenticated by cannot be used.
pub async fn serve(front: Front) -> Result<Serving, ServeError> {
    let auth = Auth::read(&front.auth).await?;
    let listener = listen(&front.config, &auth).await?;
    let address = listener
        .local_addr()
        .map_err(|source| ServeError::Listen { address: SocketAddr::from(([0, 0, 0, 0], 0)), source })?;
    let (reporter, health_service) = tonic_health::server::health_reporter();
    let open = Routes::new(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .into_axum_router()
        .reset_fallback();
    let calls = Calls::new(&front, &auth);
    let looked_at = (front.pool.clone(), front.operations.clone());
    let board = board::router((&auth, &calls), looked_at, &front.links, front.shutdown.clone());
    let router = Router::new()
        .merge(board)
        .merge(open)
        .merge(calls.for_browsers(&front.config.browser_origins))
        .merge(webhooks::router(front.webhooks, front.publisher.clone(), front.pool.clone()))
        .merge(front.extra_http.reset_fallback())
        .fallback(no_such_path);

    let (health, shutdown, pool) = (front.health, front.shutdown, front.pool);
    tokio::spawn(tell_health(reporter, Arc::clone(&health), shutdown.clone()));
    auth.start(pool.clone(), shutdown.clone());
    let at_once = front.config.concurrency.saturating_add(front.config.streams_max);
    let server =
        run(listener, auth.tls(), (calls, Routes::from(router).prepare()), at_once, health, shutdown);
    let task = tokio::spawn(async move {
        let ended = server.await;
        auth.finish(&pool).await;
        ended
    });
    Ok(Serving { address, task })
}

async fn listen(config: &config::App, auth: &Auth) -> Result<TcpListener, ServeError> {
    let address: SocketAddr =
        config.listen.parse().map_err(|_| ServeError::Address(config.listen.clone()))?;
    let loopback = match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback()),
    };
    match (auth.authenticates(), loopback) {
        (true, _) => {}
        (false, true) => {
            tracing::info!(%address, "callers are not authenticated: only this machine may call ([auth])");
        }
        (false, false) if config.allow_unauthenticated => {
            tracing::warn!(%address, "callers are not authenticated: whoever reaches the port may call");
        }
        (false, false) => return Err(ServeError::NotLoopback(address)),
    }
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, source })
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

async fn run(
    listener: TcpListener,
    tls: Option<Arc<Tls>>,
    (calls, router): (Calls, Routes),
    concurrency: usize,
    health: Arc<Health>,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let router = Server::builder()
        .layer(AtOnce(calls))
        .accept_http1(true)
        .max_concurrent_streams(u32::try_from(concurrency).unwrap_or(u32::MAX))
        .http2_keepalive_interval(Some(HTTP2_KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(HTTP2_KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(HEADERS_MAX_BYTES)
        .max_connection_age(CONNECTION_AGE_MAX)
        .add_routes(router);
    let stop = shutdown.clone().cancelled_owned();
    let server = async {
        match tls {
            Some(tls) => {
                let incoming = tls.incoming(listener, shutdown.clone());
                router.serve_with_incoming_shutdown(incoming, stop).await
            }
            None => {
                let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
                router.serve_with_incoming_shutdown(incoming, stop).await
            }
        }
    };
    let cut = async {
        shutdown.cancelled().await;
        health.stopping();
        sleep(STOP_MAX).await;
    };
    tokio::select! {
        ended = server => Ok(ended?),
        () = cut => {
            tracing::warn!(after_ms = STOP_MAX.as_millis(), "front stopped with streams still open");
            Ok(())
        }
    }
}

/// Keeps what the health service says in step with readiness.
async fn tell_health(reporter: HealthReporter, health: Arc<Health>, shutdown: CancellationToken) {
    let mut ticks = interval(HEALTH_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let stopping = tokio::select! {
            () = shutdown.cancelled() => true,
            _ = ticks.tick() => false,
        };
        let ready = !stopping && health.ready().is_ok();
        let status = if ready { ServingStatus::Serving } else { ServingStatus::NotServing };
        for service in SERVICES {
            reporter.set_service_status(service, status).await;
        }
        if stopping {
            return;
        }
    }
}

/// For gRPC callers UNIMPLEMENTED, for browsers 404.
async fn no_such_path(request: Request) -> Response {
    let grpc = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        return tonic::Status::unimplemented("this server has no such method; reflection lists those it has")
            .into_http();
    }
    (StatusCode::NOT_FOUND, "Nothing is here; / has links.\n").into_response()
}

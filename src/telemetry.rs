//! Logs, and the port for metrics and probes.
//!
//! Rules of the log:
//!
//! 1. A failure is logged once, where it is handled; what is passed on with `?` is not.
//! 2. Identifiers (notification, delivery, recipient, topic, partition, offset): yes.
//!    Addresses, names, message bodies, payloads, variables: never, at no level.
//!    Such values live in [`crate::domain::Redacted`], which prints `[redacted]`.
//! 3. `error`: somebody must act. `warn`: it was handled and should be rare. `info`:
//!    a step of a process's life (started, assigned, drained). `debug`: a batch.
//!    Nothing is logged a message above `trace`.
//! 4. Values are fields (`%error, partition, "commit failed"`), not parts of the text.
//! 5. Libraries speak at `info` or above, whatever the filter says: below it some
//!    print statement parameters, headers and SMTP dialogues.
//! 6. A panic's text is logged only where it is a literal; formatted text may hold data.
//!
//! Logs go to stderr, so that a command's output on stdout stays clean.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::panic::PanicHookInfo;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, fmt};

use crate::config;
use crate::health::Health;
use crate::metrics;

/// Why logging or the probe port could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `log.filter` is no filter.
    #[error("log.filter {filter:?} cannot be used: {source}")]
    Filter {
        /// As configured.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging was set up before.
    #[error("logging is set up already in this process")]
    Already(#[from] tracing_subscriber::util::TryInitError),
    /// The probe port is not to be had.
    #[error(
        "cannot listen on {listen} for metrics and probes: {source}; \
         set metrics.listen (PATIENT_NOTIFY_METRICS__LISTEN) to a free address, port 0 takes any"
    )]
    Listen {
        /// As configured.
        listen: String,
        /// The system's word.
        source: std::io::Error,
    },
}

/// Sets up logging and the panic report, once a process.
///
/// # Errors
/// The filter cannot be read, or logging is set up already.
pub fn init(log: &config::Log) -> Result<(), TelemetryError> {
    subscriber(log)?.try_init()?;
    std::panic::set_hook(Box::new(report_panic));
    Ok(())
}

fn subscriber(log: &config::Log) -> Result<Box<dyn Subscriber + Send + Sync>, TelemetryError> {
    let filter = EnvFilter::builder()
        .parse(&log.filter)
        .map_err(|source| TelemetryError::Filter { filter: log.filter.clone(), source })?;
    let registry = tracing_subscriber::registry().with(filter).with(FilterFn::new(may_be_logged));
    let lines = fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    Ok(if log.format == "json" {
        Box::new(registry.with(lines.json().flatten_event(true)))
    } else {
        Box::new(registry.with(lines))
    })
}

/// Rule 5.
fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::INFO || metadata.target().starts_with("patient_notify")
}

fn report_panic(panic: &PanicHookInfo<'_>) {
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
    // A formatted message is a String; only a literal is known to hold no data.
    let message = panic.payload().downcast_ref::<&'static str>();
    let message = message.copied().unwrap_or("[withheld: it may hold data]");
    tracing::error!(location, thread, message, "a panic, which is a bug of this program");
}

/// The server of `/metrics`, `/health/live` and `/health/ready`.
pub struct ProbeServer {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Starts to serve metrics and probes on `listen` (port 0: any free port).
/// It serves until [`ProbeServer::stop`], so a draining process can still be asked.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve_metrics(listen: &str, health: Arc<Health>) -> Result<ProbeServer, TelemetryError> {
    let cannot = |source| TelemetryError::Listen { listen: listen.to_owned(), source };
    let listener = TcpListener::bind(listen).await.map_err(cannot)?;
    let address = listener.local_addr().map_err(cannot)?;
    let router = Router::new()
        .route(
            "/metrics",
            get(async || ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], metrics::render())),
        )
        .route("/health/live", get(async |State(health): State<Arc<Health>>| answer(health.live())))
        .route("/health/ready", get(async |State(health): State<Arc<Health>>| answer(health.ready())))
        .with_state(health);
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let task = tokio::spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(stopped.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(%error, "metrics and probes are no longer served");
        }
    });
    Ok(ProbeServer { address, stop, task })
}

impl ProbeServer {
    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops to listen. A request in progress gets a second to end.
    pub async fn stop(self) {
        const LAST_REQUEST: Duration = Duration::from_secs(1);
        self.stop.cancel();
        let abort = self.task.abort_handle();
        if tokio::time::timeout(LAST_REQUEST, self.task).await.is_err() {
            abort.abort();
        }
    }
}

fn answer(outcome: Result<(), Vec<String>>) -> impl IntoResponse {
    match outcome {
        Ok(()) => (StatusCode::OK, Json(serde_json::json!({ "status": "ok", "failing": [] }))),
        Err(failing) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(serde_json::json!({ "status": "failing", "failing": failing })),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn get(server: &ProbeServer, path: &str) -> (u16, String) {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).build().unwrap();
        let answer = client.get(format!("http://{}{path}", server.address())).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    #[tokio::test]
    async fn probes_say_what_fails() {
        let health = Health::new();
        let server = serve_metrics("127.0.0.1:0", Arc::clone(&health)).await.unwrap();
        assert_eq!(get(&server, "/health/live").await, (200, r#"{"failing":[],"status":"ok"}"#.to_owned()));
        assert_eq!(get(&server, "/health/ready").await.0, 503);
        health.add_readiness("postgres", || Ok(()));
        assert_eq!(get(&server, "/health/ready").await.0, 200);
        health.add_liveness("poll", || Err("no progress for 200 s".to_owned()));
        let failing = r#"{"failing":["poll: no progress for 200 s"],"status":"failing"}"#.to_owned();
        assert_eq!(get(&server, "/health/live").await, (503, failing));
        health.stopping();
        let failing = r#"{"failing":["process: stopping"],"status":"failing"}"#.to_owned();
        assert_eq!(get(&server, "/health/ready").await, (503, failing));
        server.stop().await;
    }

    #[tokio::test]
    async fn a_taken_port_is_a_clear_error() {
        let server = serve_metrics("127.0.0.1:0", Health::new()).await.unwrap();
        let taken = server.address().to_string();
        let Err(error) = serve_metrics(&taken, Health::new()).await else {
            panic!("two servers on one port")
        };
        let text = error.to_string();
        assert!(text.contains(&taken) && text.contains("metrics.listen"), "{text}");
        server.stop().await;
        serve_metrics(&taken, Health::new()).await.unwrap().stop().await;
    }

    #[test]
    fn a_filter_that_is_none_is_named() {
        let log = config::Log { format: "human".to_owned(), filter: "info,=".to_owned() };
        assert!(subscriber(&log).err().unwrap().to_string().contains("\"info,=\""));
    }
}

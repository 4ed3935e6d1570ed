//! One file a deployment; the only place of wiring.
//!
//! [`run_role`] gives each role what a process needs around it: logs, metrics and
//! probes, signals, and an exit code that says how it ended.

pub mod app;
pub mod consumer;
pub mod consumer_notification;
pub mod consumer_notification_update;
pub mod consumer_test_result_notification;
pub mod cron;
pub mod scaler;
mod wiring;
pub mod wrk_batch_publisher;
pub mod wrk_default;
pub mod wrk_notifications;

use std::future::Future;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::Runtime;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::health::Health;
use crate::{metrics, shutdown, telemetry, trace};

/// Exit code of a usage or configuration fault (EX_USAGE).
pub const EXIT_USAGE: u8 = 64;
/// Exit code when something that a role needs at its start is not to be had (EX_UNAVAILABLE).
pub const EXIT_UNAVAILABLE: u8 = 69;

/// How long blocking work of libraries may last after the role has ended.
const RUNTIME_END: Duration = Duration::from_secs(2);

/// What every role gets.
#[derive(Clone)]
pub struct Context {
    /// What is in force.
    pub config: Arc<Config>,
    /// Where the role registers its probes.
    pub health: Arc<Health>,
    /// Cancelled when the process has to stop.
    pub shutdown: CancellationToken,
}

/// Something that a role needs at its start is not to be had. Put it into the
/// chain of a role's error (`.context(Unavailable("postgres"))`) and the process
/// exits with 69, which asks for a restart, in place of 70, which says bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not available")]
pub struct Unavailable(pub &'static str);

/// Runs a role until it ends, and gives the exit code of the process: 0 for a
/// clean stop, 69 for [`Unavailable`], 70 for any other error and for a panic.
///
/// It sets up logs and metrics, serves the probes, and cancels
/// [`Context::shutdown`] at the first signal. A role that does not end within
/// `shutdown.timeout_ms` after that does not come back: the process exits with 70.
pub fn run_role<Role, Running>(name: &'static str, config: Config, role: Role) -> ExitCode
where
    Role: FnOnce(Context) -> Running,
    Running: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    match supervise(name, config, role) {
        Ok(()) => {
            tracing::info!(role = name, "stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            let code = exit_code(&error);
            let error = format!("{error:#}");
            tracing::error!(role = name, exit_code = code, error, "ended by an error");
            ExitCode::from(code)
        }
    }
}

fn supervise<Role, Running>(name: &'static str, config: Config, role: Role) -> anyhow::Result<()>
where
    Role: FnOnce(Context) -> Running,
    Running: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    telemetry::init(&config.log)?;
    let context =
        Context { config: Arc::new(config), health: Health::new(), shutdown: CancellationToken::new() };
    let timeout = Duration::from_millis(context.config.shutdown.timeout_ms);
    let _signals = shutdown::listen(context.shutdown.clone(), Arc::clone(&context.health), timeout)
        .context("cannot listen for signals")?;
    let runtime = Runtime::new().context("cannot start the runtime")?;
    let ended = runtime.block_on(serve(name, context, role));
    runtime.shutdown_timeout(RUNTIME_END);
    ended
}

async fn serve<Role, Running>(name: &'static str, context: Context, role: Role) -> anyhow::Result<()>
where
    Role: FnOnce(Context) -> Running,
    Running: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    metrics::init(name, &context.config.metrics)?;
    let probes = telemetry::serve_metrics(&context.config.metrics.listen, Arc::clone(&context.health))
        .await
        .context(Unavailable("the probe port"))?;
    let traces = trace::start(name, &context.config.traces)?;
    tracing::info!(role = name, version = env!("CARGO_PKG_VERSION"), metrics = %probes.address(), "started");
    let shutdown = context.shutdown.clone();
    let health = Arc::clone(&context.health);
    let running = shutdown::running(name);
    // A task of its own, so that a panic comes back as a value.
    let ended = tokio::spawn(role(context)).await;
    drop(running);
    // What the role has left behind gets to know.
    health.stopping();
    shutdown.cancel();
    probes.stop().await;
    // The exporter's thread waits for the runtime, which must not wait for it.
    let _ = tokio::task::spawn_blocking(move || {
        traces.end();
        metrics::end();
    })
    .await;
    ended.unwrap_or_else(|error: JoinError| Err(error.into()))
}

/// The exit code of an error: by its kind, not by its text.
#[must_use]
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<Unavailable>().is_some() { EXIT_UNAVAILABLE } else { shutdown::EXIT_HARD }
}

#[cfg(test)]
mod tests;

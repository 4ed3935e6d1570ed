//! Stack, sandbox and every role, started together and stopped together.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::command::{Options, sandbox_options};
use super::reporting::Reporting;
use super::{Stack, StackOptions};
use uuid::Uuid;

use crate::config::Config;
use crate::health::Health;
use crate::record::{Owner, Store, migrate, pool};
use crate::roles::{self, Context};
use crate::sandbox::{ReceiptPlan, Sandbox, inbox_router};
use crate::telemetry::{self, ProbeServer};
use crate::topic::{admin, schemas};

/// How long the roles may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// A running development environment.
pub struct Environment {
    /// What every role runs with.
    pub config: Arc<Config>,
    /// The providers' stand-ins.
    pub sandbox: Sandbox,
    /// What the providers, the portal and the patients say of the sandbox's messages.
    pub reporting: Reporting,
    stack: Stack,
    probes: ProbeServer,
    roles: JoinSet<(&'static str, anyhow::Result<()>)>,
    shutdown: CancellationToken,
}

impl Environment {
    /// Starts servers, sets them up and starts the roles; ends when all are ready.
    ///
    /// # Errors
    /// When a port is taken or a part does not come up. What was started is stopped.
    pub async fn start(
        options: &Options,
        mut config: Config,
        health: Arc<Health>,
        shutdown: CancellationToken,
    ) -> anyhow::Result<Self> {
        let base = options.port_base;
        let mut stack_options = StackOptions::from_base(base)?;
        if let Some(dir) = &options.data_dir {
            stack_options.data_dir = dir.clone();
        }
        check_free(base).await?;
        let begun = Instant::now();
        let stack = Stack::start(stack_options, |step| {
            eprintln!("{:>5.1} s  {step}", begun.elapsed().as_secs_f64());
        })
        .await?;
        let sandbox_dir: PathBuf = stack.data_dir().join("sandbox");
        let sandbox = Sandbox::start(sandbox_options(base, sandbox_dir)).await?;
        sandbox.apply_to(&mut config);
        config.kafka.bootstrap_servers.clone_from(&stack.brokers);
        // A laptop or a shared runner may stand still for a while: that is no outage.
        config.kafka.produce_timeout_ms = 60_000;
        config.postgres.connect_timeout_ms = 15_000;
        config.registry.timeout_ms = 15_000;
        config.registry.url.clone_from(&stack.registry_url);
        config.postgres.url = stack.postgres_url.clone().into();
        config.app.listen = format!("127.0.0.1:{}", base + 80);
        // Codes of this run; who starts again asks for new ones.
        config.app.code_key = format!("{}{}", Uuid::new_v4(), Uuid::new_v4()).into();
        config.metrics.listen = format!("127.0.0.1:{}", base + 90);
        config.scaler.listen = format!("127.0.0.1:{}", base + 110);
        config.app.scaler_url = format!("http://{}", config.scaler.listen);
        migrate::run(&config.postgres).await?;
        admin::apply(&config).await?;
        schemas::apply(&config).await?;
        eprintln!("{:>5.1} s  database, topics and schemas are in place", begun.elapsed().as_secs_f64());

        let probes = telemetry::serve_metrics(&config.metrics.listen, Arc::clone(&health)).await?;
        let context = Context { config: Arc::new(config), health, shutdown: shutdown.clone() };
        let store = Store::new(pool::pool(&context.config.postgres)?, Owner::new());
        let log = Arc::clone(&sandbox.log);
        let reporting = Reporting::start(&context.config, store, log, ReceiptPlan::default())?;
        let roles = start_roles(&context, &sandbox);
        let config = Arc::clone(&context.config);
        let mut environment = Self { config, sandbox, reporting, stack, probes, roles, shutdown };
        environment.wait_ready(&context.health).await?;
        eprintln!("{:>5.1} s  all roles are ready", begun.elapsed().as_secs_f64());
        Ok(environment)
    }

    async fn wait_ready(&mut self, health: &Health) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_TIMEOUT;
        loop {
            self.check_roles()?;
            match health.ready() {
                Ok(()) => return Ok(()),
                Err(failing) if Instant::now() > deadline => {
                    bail!("not ready within {} s: {}", READY_TIMEOUT.as_secs(), failing.join("; "))
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    fn check_roles(&mut self) -> anyhow::Result<()> {
        if let Some(ended) = self.roles.try_join_next() {
            let (name, ended) = ended?;
            ended.with_context(|| format!("role {name}"))?;
            ensure!(self.shutdown.is_cancelled(), "role {name} ended by itself");
        }
        Ok(())
    }

    /// Until a signal, or until a server or a role ends.
    ///
    /// # Errors
    /// What ended, and why.
    pub async fn wait(&mut self, token: &CancellationToken) -> anyhow::Result<()> {
        while !token.is_cancelled() {
            self.check_roles()?;
            self.reporting.is_idle()?;
            self.stack.check().await?;
            tokio::select! {
                () = token.cancelled() => {}
                () = tokio::time::sleep(Duration::from_millis(500)) => {}
            }
        }
        Ok(())
    }

    /// Prints where things are and what to type next.
    pub fn say_where(&self) {
        let app = &self.config.app.listen;
        println!();
        println!("the board            http://{app}/");
        println!("patients' messages   http://{app}/inbox");
        println!("gRPC                 {app}   (grpcurl -plaintext {app} list)");
        println!("metrics, health      http://{}/metrics", self.config.metrics.listen);
        println!(
            "Kafka, registry      {}   {}",
            self.config.kafka.bootstrap_servers, self.config.registry.url
        );
        println!("PostgreSQL           {}", self.stack.postgres_url);
        println!("data, logs           {}", self.stack.data_dir().display());
        println!();
        println!("Next: publish more as a laboratory would (examples/lab/README.md), or");
        println!("  {}{} produce test-results --count 1000 --patients 1000", self.addresses(), program());
        println!("Ctrl-C stops everything.");
    }

    /// What a command needs in its environment to find this stack: nothing where
    /// the ports are the defaults.
    fn addresses(&self) -> String {
        let defaults = Config::from_defaults();
        if self.config.kafka.bootstrap_servers == defaults.kafka.bootstrap_servers {
            return String::new();
        }
        format!(
            "PATIENT_NOTIFY_KAFKA__BOOTSTRAP_SERVERS={} PATIENT_NOTIFY_REGISTRY__URL={} \\\n  ",
            self.config.kafka.bootstrap_servers, self.config.registry.url
        )
    }

    /// Stops the receipts, drains and stops the roles, then the sandbox, then the servers.
    ///
    /// # Errors
    /// When the data folder cannot be removed.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        if let Err(error) = self.reporting.stop().await {
            tracing::error!(error = format!("{error:#}"), "receipts were not published to the end");
        }
        self.shutdown.cancel();
        while let Some(ended) = self.roles.join_next().await {
            if let Ok((name, Err(error))) = ended {
                tracing::error!(role = name, error = format!("{error:#}"), "ended by an error");
            }
        }
        self.probes.stop().await;
        self.sandbox.stop().await;
        self.stack.stop().await?;
        Ok(())
    }
}

fn program() -> String {
    std::env::args().next().unwrap_or_else(|| "patient-notify".to_owned())
}

/// The ports of what runs in this process; the stack checks its own.
async fn check_free(base: u16) -> anyhow::Result<()> {
    let wanted = [(80, "app"), (90, "metrics"), (100, "SMS"), (101, "SMTP"), (102, "push"), (110, "scaler")];
    let mut taken = Vec::new();
    for (above, what) in wanted {
        if TcpListener::bind(("127.0.0.1", base + above)).await.is_err() {
            taken.push(format!("{} ({what})", base + above));
        }
    }
    ensure!(
        taken.is_empty(),
        "these ports on 127.0.0.1 are taken: {}; choose others with --port-base (make demo PORT_BASE=…)",
        taken.join(", ")
    );
    Ok(())
}

fn start_roles(context: &Context, sandbox: &Sandbox) -> JoinSet<(&'static str, anyhow::Result<()>)> {
    let mut running = JoinSet::new();
    let inbox = inbox_router(Arc::clone(&sandbox.log));
    let app = roles::app::run_with(context.clone(), inbox);
    running.spawn(async move { ("app", app.await) });
    let consumer = roles::consumer_test_result_notification::run(context.clone());
    running.spawn(async move { ("consumer-test-result-notification", consumer.await) });
    let consumer = roles::consumer_notification::run(context.clone());
    running.spawn(async move { ("consumer-notification", consumer.await) });
    let consumer = roles::consumer_notification_update::run(context.clone());
    running.spawn(async move { ("consumer-notification-update", consumer.await) });
    let consumer = roles::consumer_notification_update::run(context.clone());
    running.spawn(async move { ("consumer-notification-update", consumer.await) });
    let worker = roles::wrk_notifications::run(context.clone());
    running.spawn(async move { ("wrk-notifications", worker.await) });
    let worker = roles::wrk_default::run(context.clone());
    running.spawn(async move { ("wrk-default", worker.await) });
    let publisher = roles::wrk_batch_publisher::run(context.clone());
    running.spawn(async move { ("wrk-batch-publisher", publisher.await) });
    let cron = roles::cron::run(context.clone());
    running.spawn(async move { ("cron", cron.await) });
    let scaler = roles::scaler::run(context.clone());
    running.spawn(async move { ("scaler", scaler.await) });
    running
}

//! `patient-notify dev`, `sandbox` and `stack`.

use std::ffi::OsString;
use std::future::Future;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::environment::Environment;
use super::{Ports, StackOptions, demo, run_until_signal, run_with_stack};
use crate::config::Config;
use crate::health::Health;
use crate::sandbox::{Sandbox, SandboxOptions};
use crate::{metrics, shutdown, telemetry};

/// From the first signal to the exit: drain, leave the group, stop the servers.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// `patient-notify dev …`
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Load patients, publish results, requests and a campaign, and show what became of them.
    #[arg(long)]
    pub demo: bool,
    /// With --demo: end after the table; exit code 0 only if nothing was lost or doubled.
    #[arg(long, requires = "demo")]
    pub once: bool,
    /// Ports are this number and some above it.
    #[arg(long, default_value_t = Ports::DEFAULT_BASE, value_name = "PORT")]
    pub port_base: u16,
    /// Folder of data and logs; emptied at the start. Default: one for the port base.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// With --demo: test results to publish.
    #[arg(long, default_value_t = 3_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub results: u64,
    /// With --demo: reminders, confirmations and messages to publish.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub requests: u64,
    /// With --demo: messages of a campaign to publish.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub bulk: u64,
    /// With --demo: patients to load.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub patients: u64,
}

/// `patient-notify stack …`
#[derive(Debug, Clone, Args)]
pub struct StackFlags {
    /// Ports are this number and some above it.
    #[arg(long, default_value_t = Ports::DEFAULT_BASE, value_name = "PORT", conflicts_with = "free_ports")]
    pub port_base: u16,
    /// Take ports that nobody uses.
    #[arg(long)]
    pub free_ports: bool,
    /// Folder of data and logs; emptied at the start.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

impl StackFlags {
    fn options(&self) -> anyhow::Result<StackOptions> {
        let mut options = if self.free_ports {
            StackOptions::on_free_ports()?
        } else {
            StackOptions::from_base(self.port_base)?
        };
        if let Some(dir) = &self.data_dir {
            options.data_dir = dir.clone();
        }
        Ok(options)
    }
}

/// `patient-notify sandbox …`
#[derive(Debug, Clone, Args)]
pub struct SandboxFlags {
    /// SMS at this number + 100, SMTP + 101, push + 102.
    #[arg(long, default_value_t = Ports::DEFAULT_BASE, value_name = "PORT")]
    pub port_base: u16,
    /// Where service-account.json is written.
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub dir: PathBuf,
}

fn block_on(running: impl Future<Output = anyhow::Result<ExitCode>>) -> ExitCode {
    let ended = Runtime::new().map_err(anyhow::Error::from).and_then(|runtime| {
        let ended = runtime.block_on(running);
        runtime.shutdown_timeout(Duration::from_secs(2));
        ended
    });
    ended.unwrap_or_else(|error| crate::cli::report(Err(error)))
}

/// Keeps the stack up until a signal.
#[must_use]
pub fn stack_up(flags: &StackFlags) -> ExitCode {
    block_on(async { run_until_signal(flags.options()?).await })
}

/// Runs a command on a stack.
#[must_use]
pub fn stack_run(flags: &StackFlags, command: Vec<OsString>) -> ExitCode {
    block_on(async { run_with_stack(flags.options()?, command).await })
}

/// Runs the provider stand-ins until a signal.
#[must_use]
pub fn run_sandbox(flags: SandboxFlags) -> ExitCode {
    block_on(async move {
        let token = CancellationToken::new();
        let _signals = shutdown::listen(token.clone(), Health::new(), STOP_TIMEOUT)?;
        let sandbox = Sandbox::start(sandbox_options(flags.port_base, flags.dir)).await?;
        let mut config = Config::from_defaults();
        sandbox.apply_to(&mut config);
        println!("SMS (Twilio's REST API)  {}", config.sms.base_url);
        println!("e-mail (SMTP)            {}:{}", config.email.smtp_host, config.email.smtp_port);
        println!("push (FCM HTTP v1)       {}", config.push.base_url);
        println!("service account          {}", config.push.service_account_file);
        println!("inbox                    {}/inbox", config.sms.base_url);
        println!("Ctrl-C stops it.");
        token.cancelled().await;
        sandbox.stop().await;
        Ok(ExitCode::SUCCESS)
    })
}

pub(super) fn sandbox_options(port_base: u16, dir: PathBuf) -> SandboxOptions {
    SandboxOptions {
        sms_port: port_base + 100,
        smtp_port: port_base + 101,
        fcm_port: port_base + 102,
        ..SandboxOptions::in_dir(&dir)
    }
}

/// Every role in one process on a stack of its own, until a signal.
#[must_use]
pub fn run(options: Options) -> ExitCode {
    block_on(async move {
        let token = CancellationToken::new();
        let health = Health::new();
        let _signals = shutdown::listen(token.clone(), Arc::clone(&health), STOP_TIMEOUT)?;
        let mut config = Config::load(None).map_err(anyhow::Error::from)?;
        if options.demo && config.log.filter == Config::from_defaults().log.filter {
            // The table is for people; what is worth a warning still shows.
            "patient_notify=warn".clone_into(&mut config.log.filter);
        }
        telemetry::init(&config.log)?;
        metrics::init("dev", &config.metrics)?;
        let Some(starting) =
            token.run_until_cancelled(Environment::start(&options, config, health, token.clone())).await
        else {
            return Ok(ExitCode::SUCCESS);
        };
        let mut environment = starting?;
        let outcome = environment.run(&options, &token).await;
        environment.stop().await?;
        outcome
    })
}

impl Environment {
    async fn run(&mut self, options: &Options, token: &CancellationToken) -> anyhow::Result<ExitCode> {
        let mut code = ExitCode::SUCCESS;
        if options.demo {
            let demonstrated = token.run_until_cancelled(demo::run(self, options)).await;
            let Some(clean) = demonstrated.transpose()? else { return Ok(code) };
            if !clean {
                code = ExitCode::FAILURE;
            }
        }
        if options.once {
            return Ok(code);
        }
        self.say_where();
        self.wait(token).await?;
        Ok(code)
    }
}

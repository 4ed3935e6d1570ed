//! The command line: subcommands, their flags, and what runs them.
//!
//! Exit codes: 0 done; 1 a command found what it looks for (a difference, a
//! failed check) or failed; 64 usage or configuration; 69 something needed is
//! not available; 70 a bug or a hard stop.

use std::ffi::OsString;
use std::future::Future;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod batches;
pub mod cron;
pub mod callbacks;
pub mod dlq;
pub mod doctor;
pub mod jobs;
pub mod lag;
pub mod produce;
pub mod scaler;
pub mod schemas;
pub mod simulate;
pub mod topics;

use crate::config::Config;
use crate::dev;
use crate::record::migrate;
use crate::roles::{self, Context, EXIT_UNAVAILABLE, EXIT_USAGE, Unavailable};

/// Notification backend of a patient portal.
#[derive(Debug, Parser)]
#[command(name = "patient-notify", version, arg_required_else_help = true)]
pub struct Cli {
    /// Configuration file over the built-in defaults; also PATIENT_NOTIFY_CONFIG.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands: deployments first, then tools.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Deployment: the gRPC front.
    App,
    /// Deployment: test results to patients.
    ConsumerTestResultNotification,
    /// Deployment: requested notifications to patients.
    ConsumerNotification,
    /// Deployment: receipts, readings, opt-outs and cancellations.
    ConsumerNotificationUpdate,
    /// Deployment: deliveries that were deferred.
    WrkNotifications,
    /// Deployment: status changes to their topic and to callers, erasures, and the general queue.
    WrkDefault,
    /// Deployment: batches to their topic, at their rates.
    WrkBatchPublisher,
    /// Deployment: reminders of appointments and other jobs, when they are due.
    Cron {
        /// Instead: look at the jobs, or run one.
        #[command(subcommand)]
        command: Option<cron::CronCommand>,
    },
    /// Deployment: how many replicas the consumers need, for KEDA.
    Scaler {
        /// Instead: ask a running one.
        #[command(subcommand)]
        command: Option<scaler::ScalerCommand>,
    },
    /// Every role in one process, on a stack of its own.
    Dev(dev::Options),
    /// Stand-ins for the providers alone; prints where they listen.
    Sandbox(dev::SandboxFlags),
    /// Kafka, registry and PostgreSQL, for a command or until Ctrl-C.
    #[command(subcommand)]
    Stack(StackCommand),
    /// Bring the database's schema up to date.
    Migrate {
        /// Only say whether it is.
        #[arg(long)]
        check: bool,
    },
    /// Topics, their dead-letter topics, and the groups' first offsets.
    #[command(subcommand)]
    Topics(TopicsCommand),
    /// Subjects of the schema registry.
    #[command(subcommand)]
    Schemas(SchemasCommand),
    /// Dead letters: records that could never be processed.
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    /// Batches: how far they are, and whether they add up.
    #[command(subcommand)]
    Batches(batches::BatchesCommand),
    /// Jobs of the general queue.
    #[command(subcommand)]
    Jobs(jobs::JobsCommand),
    /// Signed calls to other backends: how they stand, and what was given up.
    #[command(subcommand)]
    Callbacks(callbacks::CallbacksCommand),
    /// Look whether all that the deployments need is there, and say what mends it.
    Doctor(doctor::Options),
    /// How far consumer groups are behind: messages, age, rates, time to drain, and how they stand.
    Lag(lag::Options),
    /// Simulate how replicas follow the load, by lag alone and by the scaler; no servers.
    Simulate(simulate::Options),
    /// Publish sample events as a laboratory would.
    Produce(produce::Options),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// `patient-notify topics …`
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum TopicsCommand {
    /// Say what differs from what they should be.
    Check,
    /// Make them so.
    Apply,
}

/// `patient-notify schemas …`
#[derive(Debug, Subcommand)]
pub enum SchemasCommand {
    /// Say what differs from this build's schemas.
    Check,
    /// Register this build's schemas; an incompatible one is refused.
    Apply,
    /// Say, without a registry, whether this build can read what an older one wrote.
    Compatible {
        /// Folder with the older schemas (its `avro/`).
        #[arg(long)]
        against: PathBuf,
    },
}

/// `patient-notify stack …`
#[derive(Debug, Subcommand)]
pub enum StackCommand {
    /// Keep the servers up until Ctrl-C.
    Up(dev::StackFlags),
    /// Keep the servers up for a command, which finds them in PATIENT_NOTIFY_TEST_….
    Run {
        /// Where and how.
        #[command(flatten)]
        flags: dev::StackFlags,
        /// The command and its arguments.
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

/// A command line that cannot be carried out as it stands. As a tool's error, it
/// makes the exit code 64.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Runs a command.
#[must_use]
pub fn run(Cli { config: file, command }: Cli) -> ExitCode {
    let file = file.as_deref();
    match command {
        Command::App => role("app", file, roles::app::run),
        Command::ConsumerTestResultNotification => {
            role("consumer-test-result-notification", file, roles::consumer_test_result_notification::run)
        }
        Command::ConsumerNotification => {
            role("consumer-notification", file, roles::consumer_notification::run)
        }
        Command::ConsumerNotificationUpdate => {
            role("consumer-notification-update", file, roles::consumer_notification_update::run)
        }
        Command::WrkNotifications => role("wrk-notifications", file, roles::wrk_notifications::run),
        Command::WrkDefault => role("wrk-default", file, roles::wrk_default::run),
        Command::WrkBatchPublisher => role("wrk-batch-publisher", file, roles::wrk_batch_publisher::run),
        Command::Cron { command: None } => role("cron", file, roles::cron::run),
        Command::Cron { command: Some(command) } => {
            tool(file, async move |config| cron::run(config, command).await)
        }
        Command::Scaler { command: None } => role("scaler", file, roles::scaler::run),
        Command::Scaler { command: Some(command) } => {
            tool(file, async move |config| scaler::run(config, command).await)
        }
        Command::Dev(options) => dev::run(options),
        Command::Sandbox(options) => dev::run_sandbox(options),
        Command::Stack(StackCommand::Up(flags)) => dev::stack_up(&flags),
        Command::Stack(StackCommand::Run { flags, command }) => dev::stack_run(&flags, command),
        Command::Migrate { check } => tool(file, async move |config| migrate(config, check).await),
        Command::Topics(TopicsCommand::Check) => tool(file, async |config| topics::check(config).await),
        Command::Topics(TopicsCommand::Apply) => tool(file, async |config| topics::apply(config).await),
        Command::Schemas(SchemasCommand::Check) => tool(file, async |config| schemas::check(config).await),
        Command::Schemas(SchemasCommand::Apply) => tool(file, async |config| schemas::apply(config).await),
        Command::Schemas(SchemasCommand::Compatible { against }) => report(schemas::compatible(&against)),
        Command::Dlq(command) => tool(file, async move |config| dlq::run(config, command).await),
        Command::Batches(command) => tool(file, async move |config| batches::run(config, command).await),
        Command::Jobs(command) => tool(file, async move |config| jobs::run(config, command).await),
        Command::Callbacks(command) => tool(file, async move |config| callbacks::run(config, command).await),
        Command::Doctor(options) => tool(file, async move |config| doctor::run(config, options).await),
        Command::Lag(options) => tool(file, async move |config| lag::run(config, options).await),
        Command::Simulate(options) => report(simulate::run(&options)),
        Command::Produce(options) => tool(file, async move |config| produce::run(config, options).await),
        Command::Config(command) => self::config(command, file),
    }
}

/// `patient-notify migrate`
async fn migrate(config: &Config, check: bool) -> anyhow::Result<()> {
    if check {
        let status = migrate::check(&config.postgres).await?;
        anyhow::ensure!(status.is_current(), "{status}; run `patient-notify migrate`");
        print(&format!("{status}\n"));
    } else {
        print(&format!("{}\n", migrate::run(&config.postgres).await?));
    }
    Ok(())
}

/// `patient-notify config …`
#[derive(Debug, Clone, Copy, Subcommand)]
pub enum ConfigCommand {
    /// Print what is in force and where each value comes from, secrets hidden.
    Show,
    /// Report every fault.
    Check,
}

/// Reads the command line.
///
/// # Errors
/// The exit code after a usage fault (64), `--help` or `--version` (0), all of
/// which have been printed.
pub fn parse() -> Result<Cli, ExitCode> {
    Cli::try_parse().map_err(|error| {
        // A closed output does not change how it ended.
        let _ = error.print();
        if error.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS }
    })
}

/// Runs a deployment's role until it is told to stop.
pub fn role<Role, Running>(name: &'static str, file: Option<&Path>, role: Role) -> ExitCode
where
    Role: FnOnce(Context) -> Running,
    Running: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    match load(file) {
        Ok(config) => roles::run_role(name, config, role),
        Err(code) => code,
    }
}

/// Runs a tool that needs the configuration and ends by itself. Ctrl-C ends it at once.
pub fn tool(file: Option<&Path>, tool: impl AsyncFnOnce(&Config) -> anyhow::Result<()>) -> ExitCode {
    let config = match load(file) {
        Ok(config) => config,
        Err(code) => return code,
    };
    let ended = crate::telemetry::init(&config.log)
        .map_err(anyhow::Error::from)
        .and_then(|()| tokio::runtime::Runtime::new()?.block_on(tool(&config)));
    report(ended)
}

/// The exit code of a tool; its error goes to stderr.
pub fn report(ended: anyhow::Result<()>) -> ExitCode {
    let Err(error) = ended else {
        return ExitCode::SUCCESS;
    };
    print_error(&format!("{error:#}"));
    if error.downcast_ref::<Unavailable>().is_some() {
        ExitCode::from(EXIT_UNAVAILABLE)
    } else if error.downcast_ref::<Usage>().is_some() {
        ExitCode::from(EXIT_USAGE)
    } else {
        ExitCode::FAILURE
    }
}

/// `patient-notify config show|check`
pub fn config(command: ConfigCommand, file: Option<&Path>) -> ExitCode {
    match (load(file), command) {
        (Ok(config), ConfigCommand::Show) => print(&config.show()),
        (Ok(_), ConfigCommand::Check) => print("the configuration has no fault\n"),
        (Err(code), _) => return code,
    }
    ExitCode::SUCCESS
}

/// The configuration in force, or the exit code after its faults were printed.
fn load(file: Option<&Path>) -> Result<Config, ExitCode> {
    Config::load(file).map_err(|faults| {
        print_error(&faults.to_string());
        ExitCode::from(EXIT_USAGE)
    })
}

/// Writes to stdout. A reader that has gone (`| head`) is no error.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

fn print_error(text: &str) {
    let _ = writeln!(io::stderr(), "patient-notify: {text}");
}

/// Rows under a head, each column as wide as its widest cell, the last one free.
fn columns<const N: usize>(head: [String; N], rows: Vec<[String; N]>) -> String {
    let all = || std::iter::once(&head).chain(&rows);
    let width = |column: usize| all().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in all() {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_configuration_file_can_stand_on_either_side() {
        for line in
            ["patient-notify --config x.toml config show", "patient-notify config show --config x.toml"]
        {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.config.as_deref(), Some(Path::new("x.toml")));
        }
    }

    #[test]
    fn a_tool_says_by_its_code_what_is_away() {
        let away = Err(anyhow::anyhow!("refused").context(Unavailable("kafka")));
        assert_eq!(report(away), ExitCode::from(EXIT_UNAVAILABLE));
        assert_eq!(report(Err(anyhow::anyhow!("2 topics differ"))), ExitCode::FAILURE);
        assert_eq!(report(Err(Usage("no such topic".to_owned()).into())), ExitCode::from(EXIT_USAGE));
        assert_eq!(report(Ok(())), ExitCode::SUCCESS);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);
        let text =
            columns(row(["A", "LONG", "C"]), vec![row(["1234", "x", ""]), row(["5", "y", "the rest"])]);
        assert_eq!(text, "A     LONG  C\n1234  x\n5     y     the rest\n");
    }
}

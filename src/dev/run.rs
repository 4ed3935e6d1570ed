//! Runs the stack for as long as a command, or a person, needs it.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::Signal;
use tokio::signal::unix::{SignalKind, signal};

use super::process::{guarded, send, spawn, wait};
use super::stack::{Stack, StackOptions};

/// How long the command may take to end after a signal.
const COMMAND_STOP_TIMEOUT: Duration = Duration::from_secs(10);
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Starts the stack, runs `command` with our standard streams and the stack's
/// addresses in `PATIENT_NOTIFY_TEST_…`, stops the stack, and passes the command's
/// exit code on. A signal ends both. Logs stay when the command failed.
pub async fn run_with_stack(options: StackOptions, command: Vec<OsString>) -> anyhow::Result<ExitCode> {
    let mut interrupts = Interrupts::new().context("cannot watch for signals")?;
    let Some(mut stack) = start(options, &mut interrupts).await? else {
        return Ok(ExitCode::from(Interrupts::EXIT_CODE));
    };
    let outcome = supervise(&stack, &command, &mut interrupts).await;
    let code = outcome.as_ref().map_or(1, |status| exit_code(*status));
    if code != 0 {
        stack.keep_data(true);
        eprintln!("stack: the servers' logs are in {}", stack.data_dir().display());
    }
    stack.stop().await?;
    outcome.map(|_| ExitCode::from(code))
}

/// Starts the stack, says where it is, and stops it at SIGINT, SIGTERM or SIGHUP.
pub async fn run_until_signal(options: StackOptions) -> anyhow::Result<ExitCode> {
    let mut interrupts = Interrupts::new().context("cannot watch for signals")?;
    let Some(stack) = start(options, &mut interrupts).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    println!("Kafka       {}", stack.brokers);
    println!("registry    {}", stack.registry_url);
    println!("PostgreSQL  {}", stack.postgres_url);
    println!("data, logs  {}", stack.data_dir().display());
    println!("Ctrl-C stops it.");
    let outcome = loop {
        tokio::select! {
            () = interrupts.next() => break Ok(ExitCode::SUCCESS),
            () = tokio::time::sleep(CHECK_INTERVAL) => if let Err(error) = stack.check().await {
                break Err(error.into());
            },
        }
    };
    stack.stop().await?;
    outcome
}

/// Nothing, when a signal came first.
async fn start(options: StackOptions, interrupts: &mut Interrupts) -> anyhow::Result<Option<Stack>> {
    let starting = Stack::start(options, |text| eprintln!("stack: {text}"));
    tokio::select! {
        stack = starting => Ok(Some(stack?)),
        () = interrupts.next() => Ok(None),
    }
}

async fn supervise(
    stack: &Stack,
    command: &[OsString],
    interrupts: &mut Interrupts,
) -> anyhow::Result<ExitStatus> {
    let mut child = spawn_command(stack, command)?;
    tokio::select! {
        status = finished(&mut child) => return status.context("cannot wait for the command"),
        () = interrupts.next() => {}
    }
    // All of its processes: `cargo test` would leave the tests that it runs.
    let ids = descendants(child.id());
    for id in &ids {
        // One that has gone by itself is no error.
        let _ = send(*id, Signal::SIGTERM);
    }
    let ended = wait(&mut child, COMMAND_STOP_TIMEOUT).await?;
    for id in ids.into_iter().filter(|id| ended.is_none() || *id != child.id()) {
        let _ = send(id, Signal::SIGKILL);
    }
    child.wait().context("cannot wait for the command")
}

fn spawn_command(stack: &Stack, command: &[OsString]) -> anyhow::Result<Child> {
    let name = command.first().context("no command was given: stack run -- COMMAND …")?;
    let mut child = guarded(Signal::SIGTERM, None);
    child
        .args(command)
        .env("PATIENT_NOTIFY_TEST_BROKERS", &stack.brokers)
        .env("PATIENT_NOTIFY_TEST_PROXIED_BROKERS", &stack.proxied_brokers)
        .env("PATIENT_NOTIFY_TEST_PROXY_TARGET", &stack.proxy_target)
        .env("PATIENT_NOTIFY_TEST_PROXY_PORT", stack.ports.kafka_proxy.to_string())
        .env("PATIENT_NOTIFY_TEST_REGISTRY_URL", &stack.registry_url)
        .env("PATIENT_NOTIFY_TEST_POSTGRES_URL", &stack.postgres_url)
        .stdin(Stdio::inherit());
    spawn(child).with_context(|| format!("cannot start {}", name.display()))
}

async fn finished(child: &mut Child) -> io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

/// A process and everything below it, as far as /proc shows.
fn descendants(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let id = found[next];
        let tasks = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        next += 1;
    }
    found
}

/// As a shell would say it.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    u8::try_from(code).unwrap_or(1)
}

/// The signals that ask us to end.
struct Interrupts([tokio::signal::unix::Signal; 3]);

impl Interrupts {
    /// What a shell reports for a process that Ctrl-C ended.
    const EXIT_CODE: u8 = 130;

    fn new() -> io::Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = kinds.map(signal);
        Ok(Self([interrupt?, terminate?, hangup?]))
    }

    async fn next(&mut self) {
        let Self([interrupt, terminate, hangup]) = self;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descendants_of_a_process_include_grandchildren() {
        let mut shell =
            std::process::Command::new("sh").args(["-c", "sh -c 'sleep 30 & wait' & wait"]).spawn().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        let ids = loop {
            let ids = descendants(shell.id());
            if ids.len() >= 3 || std::time::Instant::now() > deadline {
                break ids;
            }
            std::thread::yield_now();
        };
        for id in &ids {
            send(*id, Signal::SIGKILL).unwrap();
        }
        shell.wait().unwrap();
        assert_eq!(ids.len(), 3);
    }

    #[test]
    fn an_exit_code_is_what_a_shell_reports() {
        assert_eq!(exit_code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(exit_code(ExitStatus::from_raw(15)), 143);
    }
}

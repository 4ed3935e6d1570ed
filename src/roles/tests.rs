//! The harness around a role, in a process of its own: this test binary starts
//! itself, and `child` plays the role that the variable names.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::*;

const ROLE: &str = "PATIENT_NOTIFY_TEST_ROLE";

/// Not a test by itself: the process that the tests below watch.
#[test]
#[expect(clippy::disallowed_methods, clippy::exit, reason = "it plays a whole process")]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let mut config = Config::from_defaults();
    config.metrics.listen = std::env::var("PATIENT_NOTIFY_TEST_LISTEN").unwrap_or("127.0.0.1:0".to_owned());
    config.log.format = "json".to_owned();
    config.log.filter = "trace".to_owned();
    config.shutdown.timeout_ms = 300;
    let code = run_role("dummy", config, async move |context: Context| {
        context.health.add_readiness("dummy", || Ok(()));
        metrics::commit("ok");
        match role.as_str() {
            "clean" => {
                context.shutdown.cancelled().await;
                Ok(())
            }
            "once" => Ok(()),
            "unavailable" => Err(anyhow::anyhow!("connection refused").context(Unavailable("postgres"))),
            "panics" => {
                let number: Result<u32, _> = "CANARY".parse();
                number.map(|_| ()).unwrap();
                Ok(())
            }
            "literal" => panic!("a broken invariant"),
            "chatty" => {
                log::debug!(target: "tokio_postgres::query", "executing with parameters: CANARY");
                tracing::debug!(target: "hyper::proto", "header CANARY");
                log::warn!(target: "rdkafka", "broker is down");
                tracing::debug!("a batch of ours");
                Ok(())
            }
            // Blocks every worker of the runtime, and never ends.
            _ => loop {
                let _running = shutdown::running("poll loop");
                for _ in 0..64 {
                    tokio::spawn(async { std::thread::park() });
                }
                std::thread::park();
            },
        }
    });
    std::process::exit(if code == ExitCode::SUCCESS { 0 } else { code_of(code) });
}

/// `ExitCode` tells its number only to the system.
fn code_of(code: ExitCode) -> i32 {
    [EXIT_UNAVAILABLE, shutdown::EXIT_HARD]
        .into_iter()
        .find(|&n| ExitCode::from(n) == code)
        .map_or(1, i32::from)
}

struct Started {
    child: Child,
    address: String,
    log: BufReader<std::process::ChildStderr>,
}

fn start(role: &str, listen: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "roles::tests::child", "--nocapture"])
        .env(ROLE, role)
        .env("PATIENT_NOTIFY_TEST_LISTEN", listen)
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Starts a role and waits until it says where its probes are.
fn started(role: &str) -> Started {
    let mut child = start(role, "127.0.0.1:0").spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("\"metrics\"") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "the child has ended");
    }
    let event: serde_json::Value = serde_json::from_str(&line).unwrap();
    Started { child, address: event["metrics"].as_str().unwrap().to_owned(), log }
}

/// Runs a role to its end: exit code and log.
fn ended(role: &str) -> (i32, String) {
    let output = start(role, "127.0.0.1:0").output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

impl Started {
    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }

    fn end(mut self) -> (i32, String) {
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        (self.child.wait().unwrap().code().unwrap(), rest)
    }
}

#[test]
fn sigterm_ends_a_role_cleanly_and_probes_are_served_until_then() {
    let role = started("clean");
    assert!(role.get("/health/live").starts_with("HTTP/1.1 200"));
    while !role.get("/health/ready").starts_with("HTTP/1.1 200") {}
    let text = role.get("/metrics");
    assert!(text.contains("patient_notify_commits_total{result=\"ok\"} 1"), "{text}");
    assert!(text.contains("patient_notify_build_info{role=\"dummy\""), "{text}");
    role.signal(Signal::SIGTERM);
    let (code, log) = role.end();
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("SIGTERM") && log.contains("\"stopped\""), "{log}");
}

#[test]
fn a_role_that_is_done_ends_the_process_with_success() {
    assert_eq!(ended("once").0, 0);
}

#[test]
fn a_role_that_hangs_is_ended_hard_and_what_ran_is_named() {
    let role = started("hangs");
    role.signal(Signal::SIGTERM);
    let (code, log) = role.end();
    assert_eq!(code, 70, "{log}");
    assert!(
        log.contains("hard exit, shutdown.timeout_ms (300) is over; still running: dummy, poll loop"),
        "{log}"
    );
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let mut role = started("hangs");
    role.signal(Signal::SIGINT);
    let mut line = String::new();
    while !line.contains("SIGINT") {
        line.clear();
        assert!(role.log.read_line(&mut line).unwrap() > 0, "the child has ended");
    }
    role.signal(Signal::SIGINT);
    let (code, log) = role.end();
    assert_eq!(code, 70, "{log}");
    assert!(log.contains("hard exit, a second signal (SIGINT)"), "{log}");
}

#[test]
fn an_absent_dependency_has_an_exit_code_of_its_own() {
    let (code, log) = ended("unavailable");
    assert_eq!(code, 69, "{log}");
    assert!(log.contains("postgres is not available: connection refused"), "{log}");
}

#[test]
fn a_taken_probe_port_is_a_clear_error() {
    let holder = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let output = start("clean", &holder.local_addr().unwrap().to_string()).output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(69), "{log}");
    assert!(log.contains("PATIENT_NOTIFY_METRICS__LISTEN"), "{log}");
}

#[test]
fn a_panic_is_a_bug_and_its_formatted_text_is_withheld() {
    let (code, log) = ended("panics");
    assert_eq!(code, 70, "{log}");
    assert!(log.contains("src/roles/tests.rs:") && log.contains("withheld"), "{log}");
    let (code, log) = ended("literal");
    assert_eq!(code, 70, "{log}");
    assert!(log.contains("a broken invariant"), "{log}");
}

#[test]
fn libraries_do_not_log_below_info_whatever_the_filter_says() {
    let (code, log) = ended("chatty");
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("a batch of ours") && log.contains("broker is down"), "{log}");
    assert!(!log.contains("CANARY"), "{log}");
}

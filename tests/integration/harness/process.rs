//! A role as a process of its own: the real binary.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::eventually;

/// Longest wait for the end of a process that was asked to end.
const END_TIMEOUT: Duration = Duration::from_secs(60);
/// Lines of the log that a failed test shows.
const TAIL_LINES: usize = 60;

/// A running process; killed when it is dropped.
pub struct Process {
    role: &'static str,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts the binary with a configuration file and variables over it.
    pub(super) fn start(role: &'static str, config: &Path, log: PathBuf, variables: &[(&str, &str)]) -> Self {
        let output = File::create(&log).expect("the log file of a process");
        let mut command = tied(env!("CARGO_BIN_EXE_patient-notify"));
        command
            .arg(role)
            .env("PATIENT_NOTIFY_CONFIG", config)
            .env("PATIENT_NOTIFY_METRICS__LISTEN", "127.0.0.1:0")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(output)
            .process_group(0);
        let child = spawn(command);
        Self { role, child, log, ended: None }
    }

    /// Ends it as a crash would: it does nothing more.
    pub fn kill9(&mut self) {
        self.signal(Signal::SIGKILL);
        self.ended = Some(self.child.wait().expect("a child's status"));
    }

    /// Asks it to end, as Kubernetes does.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Waits for its end.
    pub async fn wait(&mut self) -> ExitStatus {
        let what = format!("{} ends", self.role);
        eventually(&what, END_TIMEOUT, async || self.status()).await
    }

    /// True until it has ended.
    pub fn is_running(&mut self) -> bool {
        self.status().is_none()
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until its log has this text. Panics when it ends before that.
    pub async fn wait_for_log(&mut self, text: &str, deadline: Duration) {
        let what = format!("{} logs {text:?}", self.role);
        eventually(&what, deadline, async || {
            let ended = self.status();
            let said = self.log().contains(text);
            assert!(said || ended.is_none(), "{} ended ({ended:?}) before it logged {text:?}", self.role);
            said
        })
        .await;
    }

    /// Partitions that are assigned to it now, by its log.
    pub fn assigned(&self) -> i64 {
        self.events().into_iter().fold(0, |assigned, event| {
            let number = |name: &str| event[name].as_i64().unwrap_or(0);
            match event["message"].as_str() {
                Some("partitions assigned") => number("assigned"),
                Some("partitions revoked") => assigned - number("partitions"),
                _ => assigned,
            }
        })
    }

    /// The lines of its log that are complete.
    pub fn events(&self) -> Vec<serde_json::Value> {
        self.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// How often it has logged a message that begins like this.
    pub fn logged(&self, message: &str) -> usize {
        let begins = |event: &serde_json::Value| {
            event["message"].as_str().is_some_and(|text| text.starts_with(message))
        };
        self.events().iter().filter(|event| begins(event)).count()
    }

    /// The value of a gauge or counter on its `/metrics`; 0 before it is there.
    /// `series` is the whole name with its labels.
    pub async fn metric(&mut self, series: &str) -> f64 {
        let address = self.metrics_address().await;
        let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build().expect("a client");
        let Ok(answer) = http.get(format!("http://{address}/metrics")).send().await else { return 0.0 };
        let text = answer.text().await.unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        value.unwrap_or(0.0)
    }

    /// Where its probes and metrics are, `host:port`. Waits until it says so.
    pub async fn metrics_address(&mut self) -> String {
        self.wait_for_log("\"metrics\":\"", Duration::from_secs(30)).await;
        let log = self.log();
        let (_, rest) = log.split_once("\"metrics\":\"").expect("just seen");
        rest.split('"').next().unwrap_or_default().to_owned()
    }

    fn status(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("a child's status");
        }
        self.ended
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).expect("a process id");
        if self.ended.is_none() {
            // One that has just gone by itself is found out by whoever waits for it.
            let _ = kill(Pid::from_raw(id), signal);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status().is_none() {
            self.kill9();
        }
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
            eprintln!("--- end of the log of {} ({:?}):\n{}", self.role, self.ended, tail.join("\n"));
        }
    }
}

/// A command that does not outlive this run, even if that is killed itself.
pub fn tied(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// Starts a [`tied`] command. The death signal is tied to the thread that made the child, and a test's thread
/// ends with its test: children are made by a thread that stays.
pub fn spawn(command: Command) -> Child {
    use std::sync::{Mutex, OnceLock, mpsc};
    type Order = (Command, mpsc::SyncSender<std::io::Result<Child>>);
    static SPAWNER: OnceLock<Mutex<mpsc::SyncSender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::sync_channel::<Order>(16);
        std::thread::spawn(move || {
            for (mut command, reply) in inbox {
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(orders)
    });
    let (reply, answer) = mpsc::sync_channel(1);
    spawner.lock().expect("nobody panics with it").send((command, reply)).expect("the thread that stays");
    answer.recv().expect("the thread that stays").expect("setpriv of util-linux, and the built binary")
}

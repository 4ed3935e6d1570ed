//! Child processes that cannot outlive us.
//!
//! The kernel sends a child its death signal when the *thread* that made it ends,
//! so one thread that lives as long as the process makes them all. `setpriv` asks
//! for the signal, since a change of user would clear one that we had asked for.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::Instant;

use super::error::StackError;

/// How often a child is asked whether it has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How often a dropped child is asked before it is killed: 2 s.
const DROP_POLLS: usize = 100;
/// How much of a log an error shows.
const TAIL_MAX_BYTES: u64 = 4_096;
const TAIL_MAX_LINES: usize = 20;

/// The three servers of the stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// The broker.
    Kafka,
    /// The schema registry.
    Registry,
    /// The database.
    Postgres,
}

impl Server {
    /// All of them, in the order in which they are stopped.
    pub const ALL: [Self; 3] = [Self::Registry, Self::Postgres, Self::Kafka];

    pub(super) fn log_name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka.log",
            Self::Registry => "registry.log",
            Self::Postgres => "postgres.log",
        }
    }

    /// Asks for an orderly end.
    fn stop_signal(self) -> Signal {
        match self {
            Self::Kafka | Self::Registry => Signal::SIGTERM,
            // "Fast": open sessions are ended, not awaited.
            Self::Postgres => Signal::SIGINT,
        }
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kafka => "Kafka",
            Self::Registry => "the schema registry",
            Self::Postgres => "PostgreSQL",
        })
    }
}

/// `setpriv`, told to send `death_signal` when we die and to drop root for `user`.
pub(super) fn guarded(death_signal: Signal, user: Option<(&str, &str)>) -> Command {
    let mut command = Command::new("setpriv");
    if let Some((user, group)) = user {
        command.args(["--reuid", user, "--regid", group, "--clear-groups"]);
    }
    let name = death_signal.as_str().trim_start_matches("SIG");
    command.args(["--pdeathsig", name, "--"]);
    command
}

/// Makes the child on the thread that lives as long as the process.
#[expect(
    clippy::disallowed_methods,
    reason = "whoever asks waits for the answer, so no more than one order a thread is queued"
)]
pub(super) fn spawn(command: Command) -> io::Result<Child> {
    type Order = (Command, mpsc::Sender<io::Result<Child>>);
    static SPAWNER: OnceLock<Option<mpsc::Sender<Order>>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        let work = move || {
            for (mut command, reply) in inbox {
                // Who asked may have gone; then the child's handle is dropped unread.
                let _ = reply.send(command.spawn());
            }
        };
        std::thread::Builder::new().name("dev-spawner".to_owned()).spawn(work).ok().map(|_| orders)
    });
    let gone = || io::Error::other("the thread that starts servers is not there");
    let (reply, answer) = mpsc::channel();
    spawner.as_ref().ok_or_else(gone)?.send((command, reply)).map_err(|_| gone())?;
    answer.recv().map_err(|_| gone())?
}

/// How to start one server.
pub(super) struct Launch {
    pub(super) server: Server,
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) data_dir: PathBuf,
    /// What the kernel sends when we die: the hardest signal that leaves nothing behind.
    pub(super) death_signal: Signal,
    /// User and group to become; only root can.
    pub(super) user: Option<(&'static str, &'static str)>,
}

/// A running server; killed when dropped.
#[derive(Debug)]
pub(super) struct Process {
    server: Server,
    child: Child,
    death_signal: Signal,
    log: PathBuf,
    log_start: u64,
}

impl Process {
    /// Starts it with an almost empty environment: the user's own `JAVA_TOOL_OPTIONS`
    /// or `PGDATA` must not change the stack.
    pub(super) fn start(launch: Launch) -> Result<Self, StackError> {
        let Launch { server, program, args, data_dir, death_signal, user } = launch;
        let log = data_dir.join(server.log_name());
        let (file, log_start) = open_log(&log).map_err(StackError::io("write", &log))?;
        let errors = file.try_clone().map_err(StackError::io("write", &log))?;
        let mut command = guarded(death_signal, user);
        command
            .arg(&program)
            .args(args)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .current_dir(&data_dir)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            // Not the terminal's group: on Ctrl-C we stop the servers, in order.
            .process_group(0);
        let child = spawn(command).map_err(StackError::io("start", &program))?;
        Ok(Self { server, child, death_signal, log, log_start })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// An error if the process has ended.
    pub(super) fn check_running(&mut self) -> Result<(), StackError> {
        match self.child.try_wait().map_err(StackError::io("wait for", &self.log))? {
            None => Ok(()),
            Some(status) => Err(self.exited(status)),
        }
    }

    fn exited(&self, status: ExitStatus) -> StackError {
        StackError::Exited { server: self.server, status, log: self.log.clone(), tail: self.log_tail() }
    }

    /// Waits until `ready` says yes; fails at once when the process ends.
    pub(super) async fn wait_ready(
        &mut self,
        timeout: Duration,
        mut ready: impl AsyncFnMut(&Self) -> bool,
    ) -> Result<(), StackError> {
        let deadline = Instant::now() + timeout;
        loop {
            self.check_running()?;
            if let Ok(true) = tokio::time::timeout_at(deadline, ready(self)).await {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(StackError::NotReady {
                    server: self.server,
                    timeout_s: timeout.as_secs(),
                    log: self.log.clone(),
                    tail: self.log_tail(),
                });
            }
            tokio::time::sleep(POLL_INTERVAL * 2).await;
        }
    }

    /// For a program that does one thing and ends.
    pub(super) async fn wait_success(mut self, timeout: Duration) -> Result<(), StackError> {
        match wait(&mut self.child, timeout).await.map_err(StackError::io("wait for", &self.log))? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.exited(status)),
            None => Err(StackError::NotReady {
                server: self.server,
                timeout_s: timeout.as_secs(),
                log: self.log.clone(),
                tail: self.log_tail(),
            }),
        }
    }

    /// Asks for an orderly end; after `timeout` the drop kills.
    pub(super) async fn stop(mut self, timeout: Duration) {
        self.signal(Signal::SIGCONT);
        self.signal(self.server.stop_signal());
        // Whether it ended in time or not, the drop leaves nothing.
        let _ = wait(&mut self.child, timeout).await;
    }

    pub(super) fn signal(&self, signal: Signal) {
        // The only error is that the process has gone, and that is noticed elsewhere.
        let _ = send(self.child.id(), signal);
    }

    /// Whether its log says `text`, since this start.
    pub(super) fn log_says(&self, text: &str) -> bool {
        let mut found = Vec::new();
        let read = File::open(&self.log).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.log_start))?;
            file.take(1 << 20).read_to_end(&mut found)
        });
        read.is_ok() && String::from_utf8_lossy(&found).contains(text)
    }

    fn log_tail(&self) -> String {
        tail(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(Some(_)) = self.child.try_wait() {
            return;
        }
        self.signal(self.death_signal);
        for _ in 0..DROP_POLLS {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            #[expect(clippy::disallowed_methods, reason = "a drop cannot await")]
            std::thread::sleep(POLL_INTERVAL);
        }
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process by its id.
pub(super) fn send(id: u32, signal: Signal) -> io::Result<()> {
    let id = i32::try_from(id).map_err(io::Error::other)?;
    kill(Pid::from_raw(id), signal).map_err(io::Error::from)
}

/// The child's status, or nothing when it still runs after `timeout`.
pub(super) async fn wait(child: &mut Child, timeout: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

fn open_log(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

fn tail(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_MAX_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_MAX_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(TAIL_MAX_LINES)..].join("\n"))
}

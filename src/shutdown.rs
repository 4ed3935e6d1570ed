//! From a signal to the end of the process.
//!
//! The first SIGINT or SIGTERM, or a role that cancels the token, asks everybody
//! to stop. A second signal, or `shutdown.timeout_ms` without an end, exits hard
//! and says what was still running.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::health::Health;

/// Exit code of a bug or of a stop that did not end in time (EX_SOFTWARE).
pub const EXIT_HARD: u8 = 70;

/// What runs, by name; read only for the line of a hard exit.
static RUNNING: Mutex<BTreeMap<&'static str, usize>> = Mutex::new(BTreeMap::new());

/// Stands for a piece of work that a stop waits for; ends with its drop.
#[derive(Debug)]
#[must_use = "the work counts as ended when this is dropped"]
pub struct Running(&'static str);

/// Names a piece of work that a stop waits for (a loop, a thread, a drain), so
/// that a hard exit can say that it was still running.
pub fn running(name: &'static str) -> Running {
    *RUNNING.lock().entry(name).or_default() += 1;
    Running(name)
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = RUNNING.lock();
        if let Some(count) = running.get_mut(self.0) {
            *count -= 1;
            if *count == 0 {
                running.remove(self.0);
            }
        }
    }
}

/// What is running now: `poll loop, claim loop (2)`.
#[must_use]
pub fn still_running() -> String {
    let running = RUNNING.lock();
    let names = running.iter().map(|(name, count)| match count {
        1 => (*name).to_owned(),
        _ => format!("{name} ({count})"),
    });
    names.collect::<Vec<_>>().join(", ")
}

/// Listens for signals until it is dropped.
///
/// It has a thread and a runtime of its own: a process whose workers are all
/// blocked can still be stopped.
#[derive(Debug)]
pub struct Listener {
    done: CancellationToken,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.done.cancel();
    }
}

/// Starts to listen. `token` is cancelled by the first signal, and watched: from
/// its cancellation on, by whomever, `timeout` runs. `health` becomes not ready.
///
/// # Errors
/// The system refuses a thread or a signal handler.
pub fn listen(token: CancellationToken, health: Arc<Health>, timeout: Duration) -> io::Result<Listener> {
    let done = CancellationToken::new();
    let listener = Listener { done: done.clone() };
    let (ready, is_ready) = mpsc::sync_channel(1);
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let started =
            tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
                let guard = runtime.enter();
                let signals = Signals::install()?;
                drop(guard);
                Ok((runtime, signals))
            });
        match started {
            Ok((runtime, signals)) => {
                // The caller waits for this answer and cannot be gone.
                let _ = ready.send(Ok(()));
                runtime.block_on(async {
                    tokio::select! {
                        () = done.cancelled() => (),
                        () = watch(signals, &token, &health, timeout) => (),
                    }
                });
            }
            Err(error) => {
                let _ = ready.send(Err(error));
            }
        }
    })?;
    is_ready.recv().unwrap_or_else(|_| Err(io::Error::other("the signal thread has ended")))?;
    Ok(listener)
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn install() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

async fn watch(mut signals: Signals, token: &CancellationToken, health: &Health, timeout: Duration) {
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    tokio::select! {
        name = signals.next() => tracing::info!(signal = name, timeout_ms, "stopping; a second signal exits at once"),
        () = token.cancelled() => tracing::info!(timeout_ms, "stopping"),
    }
    health.stopping();
    token.cancel();
    tokio::select! {
        name = signals.next() => exit_hard(&format!("a second signal ({name})")),
        () = tokio::time::sleep(timeout) => exit_hard(&format!("shutdown.timeout_ms ({timeout_ms}) is over")),
    }
}

#[expect(clippy::exit, reason = "the end of a process whose orderly end did not come")]
fn exit_hard(why: &str) -> ! {
    let running = still_running();
    let running = if running.is_empty() { "nothing that has a name" } else { &running };
    // Not through the log, whose layers may be what hangs; and a closed stderr must
    // not keep the process alive.
    let _ = writeln!(io::stderr(), "patient-notify: hard exit, {why}; still running: {running}");
    std::process::exit(i32::from(EXIT_HARD));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_has_a_name_until_it_is_dropped() {
        let first = running("test loop");
        let second = running("test loop");
        assert!(still_running().contains("test loop (2)"));
        drop(first);
        assert!(still_running().contains("test loop") && !still_running().contains("test loop ("));
        drop(second);
        assert!(!still_running().contains("test loop"));
    }

    #[tokio::test]
    async fn a_token_cancelled_from_within_makes_the_process_not_ready() {
        let (token, health) = (CancellationToken::new(), Health::new());
        health.add_readiness("always", || Ok(()));
        let _listener = listen(token.clone(), Arc::clone(&health), Duration::from_secs(60)).unwrap();
        assert_eq!(health.ready(), Ok(()));
        token.cancel();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        while health.ready().is_ok() {
            assert!(tokio::time::Instant::now() < deadline, "still ready");
            tokio::task::yield_now().await;
        }
    }
}

//! How a worker goes round: it looks, does what is due, and pauses until it looks again.
//!
//! One place says what happens when the database is away (wait), when an invariant is
//! broken (the process ends) and when a worker hangs (liveness fails).

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::metrics;
use crate::record::RecordError;

/// Pause while the database is away.
pub(super) const UNAVAILABLE_PAUSE: Duration = Duration::from_secs(1);
/// A turn is a few statements and publishes, each with a time-out of its own; one that
/// lasts longer hangs.
pub const TURN_TIME: Duration = Duration::from_secs(120);

/// One queue's work; any number of processes may go round.
pub trait Worker: Send + Sync + 'static {
    /// What it works on, for people: `"reminders"`.
    const NAME: &'static str;

    /// Looks once, and finishes what it began.
    ///
    /// Gives the pause until the next look. An unavailable database is an error like any
    /// other: it is said and tried again.
    fn turn(&self) -> impl Future<Output = Result<Duration, RecordError>> + Send;

    /// A turn that lasts longer than this hangs: the process asks to be restarted.
    fn turn_timeout(&self) -> Duration {
        TURN_TIME
    }
}

/// When a worker last came round.
#[derive(Debug, Clone)]
pub struct Turned(Arc<Mutex<Instant>>);

impl Default for Turned {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl Turned {
    /// It comes round now.
    pub fn now(&self) {
        *self.0.lock() = Instant::now();
    }

    /// The liveness check: an error once the last turn began longer than `limit` ago.
    ///
    /// # Errors
    /// A sentence for the probe.
    pub fn within(&self, limit: Duration) -> Result<(), String> {
        let age = self.0.lock().elapsed();
        if age < limit { Ok(()) } else { Err(format!("did not come round for {} s", age.as_secs())) }
    }
}

/// Goes round until `shutdown`; a turn that was begun is finished. A broken invariant
/// cancels `fatal`.
pub async fn go_round<W: Worker>(
    worker: W,
    turned: Turned,
    shutdown: CancellationToken,
    fatal: CancellationToken,
) {
    while !shutdown.is_cancelled() && !fatal.is_cancelled() {
        turned.now();
        let pause = match worker.turn().await {
            Ok(pause) => pause,
            Err(error @ RecordError::Unavailable(_)) => {
                metrics::unavailable("postgres");
                warn!(%error, queue = W::NAME, "the queue waits");
                UNAVAILABLE_PAUSE
            }
            Err(error @ RecordError::Bug(_)) => {
                error!(%error, queue = W::NAME, "the queue cannot be worked on; the process ends");
                fatal.cancel();
                return;
            }
        };
        shutdown.run_until_cancelled(tokio::time::sleep(pause)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_hangs_says_for_how_long() {
        let turned = Turned::default();
        assert_eq!(turned.within(Duration::from_secs(60)), Ok(()));
        *turned.0.lock() = Instant::now().checked_sub(Duration::from_secs(90)).unwrap();
        assert_eq!(turned.within(Duration::from_secs(60)), Err("did not come round for 90 s".to_owned()));
        turned.now();
        assert_eq!(turned.within(Duration::from_secs(60)), Ok(()));
    }
}

//! Erasures that a call did not finish, and a last look after each.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::metrics;
use crate::record::{RecordError, Store};

/// Pause between looks when nothing is due.
const PAUSE: Duration = Duration::from_secs(2);
/// How long one erasure is worked on before the next one has its turn.
const TURN: Duration = Duration::from_secs(5);

/// Goes on with erasures; any number of processes may.
pub struct ErasureWorker {
    /// The database.
    pub store: Store,
}

impl ErasureWorker {
    /// Runs until `shutdown`. A broken invariant cancels `fatal`.
    pub async fn run(self, shutdown: CancellationToken, fatal: CancellationToken) {
        let mut pause = PAUSE;
        while shutdown.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            pause = PAUSE;
            match self.store.go_on_erasing(TURN).await {
                Ok(true) => pause = Duration::ZERO,
                Ok(false) => {}
                Err(error @ RecordError::Unavailable(_)) => {
                    metrics::unavailable("postgres");
                    warn!(%error, "erasures wait");
                }
                Err(error @ RecordError::Bug(_)) => {
                    error!(%error, "erasures cannot go on; the process ends");
                    fatal.cancel();
                    return;
                }
            }
        }
    }
}

//! What a pause of a channel held goes out once the pause is over.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::metrics;
use crate::record::{RecordError, Store};

/// Pause between looks.
const PAUSE: Duration = Duration::from_secs(1);
/// Deliveries that one statement releases.
const LIMIT: i64 = 5000;

/// Runs until `shutdown`; any number of processes may. A broken invariant cancels `fatal`.
///
/// It looks again and again, because a sender that has not yet seen the end of a pause may
/// still hold a message for it.
pub async fn run(store: Store, shutdown: CancellationToken, fatal: CancellationToken) {
    while shutdown.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_some() {
        match store.release_paused(LIMIT).await {
            Ok(0) => {}
            Ok(released) => info!(released, "a channel is no longer paused: deliveries are due again"),
            Err(error @ RecordError::Unavailable(_)) => {
                metrics::unavailable("postgres");
                warn!(%error, "what a pause held waits");
            }
            Err(error @ RecordError::Bug(_)) => {
                error!(%error, "what a pause held cannot be released; the process ends");
                fatal.cancel();
                return;
            }
        }
    }
}

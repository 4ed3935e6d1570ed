//! What a pause of a channel held goes out once the pause is over.

use std::time::Duration;

use tracing::info;

use super::rounds::Worker;
use crate::record::{RecordError, Store};

/// Pause between looks.
const PAUSE: Duration = Duration::from_secs(1);
/// Deliveries that one statement releases.
const LIMIT: i64 = 5000;

/// Looks again and again, because a sender that has not yet seen the end of a pause may
/// still hold a message for it.
pub struct PausedWorker {
    /// The database.
    pub store: Store,
}

impl Worker for PausedWorker {
    const NAME: &'static str = "paused channels";

    async fn turn(&self) -> Result<Duration, RecordError> {
        let released = self.store.release_paused(LIMIT).await?;
        if released > 0 {
            info!(released, "a channel is no longer paused: deliveries are due again");
        }
        Ok(PAUSE)
    }
}

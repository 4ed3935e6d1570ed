//! Erasures that a call did not finish, and a last look after each.

use std::time::Duration;

use super::rounds::Worker;
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

impl Worker for ErasureWorker {
    const NAME: &'static str = "erasures";

    async fn turn(&self) -> Result<Duration, RecordError> {
        Ok(if self.store.go_on_erasing(TURN).await? { Duration::ZERO } else { PAUSE })
    }
}

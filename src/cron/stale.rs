//! `stale`: finds what has not moved on although it is long due, and says so. A queue's
//! own workers put it right; that it stays means that none of them is there.

use tracing::warn;

use super::{Job, Missed, Step, StepError};
use crate::record::Store;
use crate::record::stale::STALE;
use crate::record::ticks::Tick;

/// Counts what is overdue.
pub struct Stale {
    /// The database.
    pub store: Store,
}

impl Job for Stale {
    const NAME: &'static str = "stale";
    const MISSED: Missed = Missed::Skip;
    const COUNTS: &'static [&'static str] = &STALE;
    type Cursor = ();

    async fn step(&self, _: &Tick, (): &()) -> Result<Step<()>, StepError> {
        let counts: Vec<_> = STALE.into_iter().zip(self.store.stale_rows().await?).collect();
        for (what, rows) in counts.iter().filter(|(_, rows)| *rows > 0) {
            warn!(what, rows, "overdue: is anybody there who works on it?");
        }
        Ok(Step { next: None, counts })
    }
}

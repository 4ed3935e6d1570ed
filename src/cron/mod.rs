//! What is done at its time: one file a job. A schedule says when, the table of ticks
//! who: any number of replicas go round, and each tick is won once.
//!
//! A job works in steps. After each, its cursor is written down and the lease is held on
//! to; a runner that dies leaves both, and the next one goes on from there. So a step may
//! be done twice, and every job is made such that this changes nothing.

pub mod digest;
pub mod jobs;
pub mod retention;
pub mod runner;
pub mod schedule;
pub mod stale;

use std::future::Future;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::record::RecordError;
use crate::record::ticks::Tick;

/// What becomes of a tick that was due while nobody was there. Of several, only the
/// newest is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// It is run once, late.
    RunOnce,
    /// It is run once if it is not later than so many hours, and skipped otherwise.
    RunWithinHours(u32),
    /// It is skipped: the next one does as well.
    Skip,
}

/// A job of cron.
pub trait Job: Send + Sync + 'static {
    /// Its name, in the table, for people and as a metric label.
    const NAME: &'static str;
    /// What becomes of ticks that nobody ran in time.
    const MISSED: Missed;
    /// Words of what it counts.
    const COUNTS: &'static [&'static str];
    /// Where it stands between two steps.
    type Cursor: Serialize + DeserializeOwned + Default + Send + Sync;

    /// Does the next bounded piece of a tick: some statements, within a lease.
    fn step(
        &self,
        tick: &Tick,
        cursor: &Self::Cursor,
    ) -> impl Future<Output = Result<Step<Self::Cursor>, StepError>> + Send;
}

/// What a step did.
#[derive(Debug)]
pub struct Step<Cursor> {
    /// Where to go on; `None`: the tick is done.
    pub next: Option<Cursor>,
    /// What it did, by words of [`Job::COUNTS`].
    pub counts: Vec<(&'static str, u64)>,
}

/// Why a step could not be done.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The database.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Something else that is needed is away; the same step may succeed later.
    #[error("{dependency} is unavailable: {why}")]
    Away {
        /// What is away, a metric label.
        dependency: &'static str,
        /// In words that are safe to print.
        why: String,
    },
}

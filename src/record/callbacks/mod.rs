//! Callbacks to other backends: events, the ends that they go to, and what became of them.
//!
//! The events of a notification go out by sequence: one is taken only while no earlier
//! one is pending. An end that fails is tried with one event at a time, by one process.

mod claim;
mod endpoints;
mod outcome;
mod show;
mod sweep;

use std::time::Duration;

use crate::domain::StatusChanged;

pub use endpoints::KnownEndpoint;
pub use outcome::Retry;
pub use show::{CallbackDepth, EndpointState, Replay, Replayed, ShownEndpoint, list, replay};
pub use sweep::Parked;

/// Failures without a success between them after which an end is tried with one event
/// at a time only.
const FAILURES_MAX: i32 = 3;

/// An event that is ours to deliver until its claim runs out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallbackEvent {
    /// Who is called.
    pub caller: String,
    /// What is told.
    pub change: StatusChanged,
    /// Tries, this one included.
    pub attempt: i32,
    /// It is the one try that a failing end gets.
    pub probes: bool,
    epoch: i32,
}

/// How many events one end may get.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Room {
    /// Which end.
    pub caller: String,
    /// How many.
    pub events: usize,
}

/// Rows of one caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfCaller {
    /// Who.
    pub caller: String,
    /// How many.
    pub events: u64,
}

/// Which status changes become events: pairs of a caller and a notification's state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    pub(super) callers: Vec<String>,
    pub(super) states: Vec<&'static str>,
}

impl Wanted {
    /// A caller wants to know of these states.
    pub fn add(&mut self, caller: &str, states: impl IntoIterator<Item = crate::domain::State>) {
        for state in states {
            self.callers.push(caller.to_owned());
            self.states.push(state.as_str());
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn duration(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

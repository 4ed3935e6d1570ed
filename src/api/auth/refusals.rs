//! Refused calls: each is counted, some are logged.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Caller;
use super::methods::Method;
use crate::metrics;

/// Between two lines of the log: whoever is refused may try very often.
const LOG_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Default)]
struct State {
    logged_at: Option<Instant>,
    unlogged: u64,
}

/// What is told of refused calls.
#[derive(Default)]
pub(super) struct Refusals(Mutex<State>);

impl Refusals {
    /// A call was refused. Nothing of what it showed is told.
    pub(super) fn note(
        &self,
        method: &'static Method,
        reason: &'static str,
        caller: Option<&Caller>,
        address: Option<SocketAddr>,
    ) {
        metrics::call_refused(method.path, reason);
        let Some(unlogged) = self.turn(Instant::now()) else { return };
        let caller = caller.map(|caller| caller.name.as_str());
        let address = address.map(tracing::field::display);
        tracing::warn!(method = method.path, reason, caller, address, unlogged, "call refused");
    }

    /// How many were not logged before; `None`: this one is not logged either.
    fn turn(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        if state.logged_at.is_some_and(|at| now.saturating_duration_since(at) < LOG_INTERVAL) {
            state.unlogged += 1;
            return None;
        }
        state.logged_at = Some(now);
        Some(std::mem::take(&mut state.unlogged))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_a_line_a_second_that_counts_the_rest() {
        let (refusals, begin) = (Refusals::default(), Instant::now());
        assert_eq!(refusals.turn(begin), Some(0));
        assert!((0..7).all(|_| refusals.turn(begin).is_none()));
        assert_eq!(refusals.turn(begin + LOG_INTERVAL), Some(7));
    }
}

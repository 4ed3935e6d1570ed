//! The dead-letter breaker: rather than drain a topic into its dead letters, the
//! processor stops. Pure.

use std::collections::VecDeque;

/// When it opens.
#[derive(Debug, Clone, Copy)]
pub struct BreakerLimits {
    /// This many rejects in a row.
    pub consecutive: u64,
    /// Or this share of the window, in percent.
    pub ratio_percent: u64,
    /// Records that the share is taken of; none before it is full.
    pub window: usize,
}

/// Watches the last records of one processor.
#[derive(Debug)]
pub struct DeadLetterBreaker {
    limits: BreakerLimits,
    recent: VecDeque<bool>,
    rejected_in_window: u64,
    in_a_row: u64,
}

impl DeadLetterBreaker {
    /// Closed, with nothing seen.
    #[must_use]
    pub fn new(limits: BreakerLimits) -> Self {
        Self { limits, recent: VecDeque::with_capacity(limits.window), rejected_in_window: 0, in_a_row: 0 }
    }

    /// Records that were decoded; they cannot open it.
    pub fn observe_good(&mut self, records: usize) {
        for _ in 0..records {
            self.observe(false);
        }
    }

    /// One more record. True when the breaker opens by it; the record that opens
    /// it must not become a dead letter.
    pub fn observe(&mut self, rejected: bool) -> bool {
        self.in_a_row = if rejected { self.in_a_row + 1 } else { 0 };
        if self.recent.len() >= self.limits.window.max(1) && self.recent.pop_front() == Some(true) {
            self.rejected_in_window -= 1;
        }
        self.recent.push_back(rejected);
        self.rejected_in_window += u64::from(rejected);
        let full = self.recent.len() >= self.limits.window;
        let share_reached =
            self.rejected_in_window * 100 >= self.limits.ratio_percent * self.recent.len() as u64;
        self.in_a_row >= self.limits.consecutive || (rejected && full && share_reached)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> DeadLetterBreaker {
        DeadLetterBreaker::new(BreakerLimits { consecutive: 5, ratio_percent: 50, window: 10 })
    }

    #[test]
    fn a_run_of_rejects_opens_it() {
        let mut breaker = breaker();
        assert!((0..4).all(|_| !breaker.observe(true)));
        assert!(!breaker.observe(false));
        assert!((0..4).all(|_| !breaker.observe(true)));
        assert!(breaker.observe(true));
    }

    #[test]
    fn a_share_of_a_full_window_opens_it() {
        let mut breaker = breaker();
        let opened = (0..20).position(|at| breaker.observe(at % 2 == 0));
        assert_eq!(opened, Some(10), "the first reject after the window of ten is full");
    }

    #[test]
    fn a_few_bad_records_do_not() {
        let mut breaker = breaker();
        assert!((0..1000).all(|at| !breaker.observe(at % 4 == 0)));
    }
}

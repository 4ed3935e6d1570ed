//! How busy a processor is, and what it does when it is.
//!
//! A processor is busy while records wait in it: it takes no more than it can handle, so
//! what waits says that it is at its limit. What it does in a second that was busy through
//! and through is its true rate, as Kalavri et al. call it ("Three steps is all you need",
//! OSDI 2018): unlike the rate observed, it does not fall when there is little to do.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Records that were completed, over all partitions of a consumer.
#[derive(Debug, Default)]
pub struct Completed {
    since_commit: AtomicU64,
    ever: AtomicU64,
}

impl Completed {
    /// One more.
    pub(super) fn one(&self) {
        self.since_commit.fetch_add(1, Ordering::Relaxed);
        self.ever.fetch_add(1, Ordering::Relaxed);
    }

    /// Since the last commit was asked for.
    #[must_use]
    pub fn since_commit(&self) -> u64 {
        self.since_commit.load(Ordering::Relaxed)
    }

    /// Since the start.
    #[must_use]
    pub fn ever(&self) -> u64 {
        self.ever.load(Ordering::Relaxed)
    }

    /// A commit is asked for.
    pub(super) fn commit(&self) {
        self.since_commit.store(0, Ordering::Relaxed);
    }
}

/// Length of one slice.
const SLICE: Duration = Duration::from_secs(1);
/// Slices that the busy ratio and the true rate are taken over.
const SLICES: usize = 30;
/// A slice counts for the true rate when at least this share of it was busy.
const SATURATED: f64 = 0.9;

/// What the last slices say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Load {
    /// Share of the last 30 s in which records waited, 0 to 1.
    pub(super) ratio: f64,
    /// Records per second in the last 30 s that were busy through and through; `None`: there
    /// was no such second yet.
    pub(super) true_rate: Option<f64>,
}

/// Takes in, at every turn of the poll loop, whether records wait.
#[derive(Debug)]
pub(super) struct Busy {
    last: Instant,
    slice_began: Instant,
    slice_busy: Duration,
    slice_done: u64,
    /// Time busy and length of the last slices.
    slices: VecDeque<(Duration, Duration)>,
    /// Records and length of the last slices that were busy through and through.
    saturated: VecDeque<(u64, Duration)>,
}

impl Busy {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            last: now,
            slice_began: now,
            slice_busy: Duration::ZERO,
            slice_done: 0,
            slices: VecDeque::with_capacity(SLICES),
            saturated: VecDeque::with_capacity(SLICES),
        }
    }

    /// Takes in whether records wait now and how many were ever completed. Once a slice, it
    /// gives the load.
    #[expect(clippy::cast_precision_loss, reason = "records, far below 2^52")]
    pub(super) fn observe(&mut self, waiting: bool, done_ever: u64, now: Instant) -> Option<Load> {
        if waiting {
            self.slice_busy += now.duration_since(self.last);
        }
        self.last = now;
        let length = now.duration_since(self.slice_began);
        if length < SLICE {
            return None;
        }
        push(&mut self.slices, (self.slice_busy, length));
        if self.slice_busy.div_duration_f64(length) >= SATURATED {
            push(&mut self.saturated, (done_ever.saturating_sub(self.slice_done), length));
        }
        (self.slice_began, self.slice_busy, self.slice_done) = (now, Duration::ZERO, done_ever);

        let sum =
            |of: &dyn Fn(&(Duration, Duration)) -> Duration| self.slices.iter().map(of).sum::<Duration>();
        let (busy, whole) = (sum(&|slice| slice.0), sum(&|slice| slice.1));
        let done: u64 = self.saturated.iter().map(|slice| slice.0).sum();
        let time: Duration = self.saturated.iter().map(|slice| slice.1).sum();
        Some(Load {
            ratio: busy.div_duration_f64(whole),
            true_rate: (!time.is_zero()).then(|| done as f64 / time.as_secs_f64()),
        })
    }
}

fn push<T>(slices: &mut VecDeque<T>, one: T) {
    if slices.len() == SLICES {
        slices.pop_front();
    }
    slices.push_back(one);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Turns every 20 ms for so many seconds, with `done` more records at each; the last load.
    fn turns(busy: &mut Busy, from: Instant, seconds: u64, waiting: bool, done: &mut u64, each: u64) -> Load {
        let mut last = None;
        for turn in 1..=seconds * 50 {
            *done += each;
            last = busy.observe(waiting, *done, from + Duration::from_millis(turn * 20)).or(last);
        }
        last.unwrap()
    }

    #[test]
    fn an_idle_processor_has_no_true_rate_and_a_full_one_has_that_of_its_work() {
        let start = Instant::now();
        let (mut busy, mut done) = (Busy::new(start), 0);
        let idle = turns(&mut busy, start, 10, false, &mut done, 1);
        assert_eq!(idle, Load { ratio: 0.0, true_rate: None });
        let full = turns(&mut busy, start + Duration::from_secs(10), 10, true, &mut done, 8);
        assert!((full.ratio - 0.5).abs() < 0.01, "{full:?}");
        assert!((full.true_rate.unwrap() - 400.0).abs() < 1.0, "{full:?}");
        // With little to do afterwards the true rate stands; the ratio falls.
        let after = turns(&mut busy, start + Duration::from_secs(20), 40, false, &mut done, 1);
        assert_eq!((after.ratio, after.true_rate), (0.0, full.true_rate));
    }

    #[test]
    fn a_second_that_was_busy_in_part_counts_for_the_ratio_only() {
        let start = Instant::now();
        let mut busy = Busy::new(start);
        let mut last = None;
        for turn in 1..=500_u64 {
            let at = start + Duration::from_millis(turn * 20);
            last = busy.observe(turn % 2 == 0, turn, at).or(last);
        }
        let load = last.unwrap();
        assert!((load.ratio - 0.5).abs() < 0.01 && load.true_rate.is_none(), "{load:?}");
    }
}

//! How often somebody may come: a bucket a name, in this process.
//!
//! A bucket that is full again says nothing any more and is forgotten. When there
//! are too many others, the names that come last share one.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Names that have a bucket of their own.
const BUCKETS_MAX: usize = 10_000;
/// Name of the bucket of the others; nobody's.
const SHARED: &str = "";
/// Between two looks for buckets that are full again.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How fast a bucket fills, and what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rate {
    /// Calls a second.
    pub(super) per_second: NonZeroU32,
    /// Calls at once after a pause.
    pub(super) burst: u32,
}

struct Bucket {
    calls: f64,
    at: Instant,
    per_second: f64,
    burst: f64,
}

impl Bucket {
    fn fill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.calls = (self.calls + since * self.per_second).min(self.burst);
        self.at = now;
    }

    fn is_full_at(&self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.calls + since * self.per_second >= self.burst
    }
}

#[derive(Default)]
struct State {
    buckets: HashMap<String, Bucket>,
    swept_at: Option<Instant>,
}

/// The buckets of all names.
#[derive(Default)]
pub(super) struct Rates(Mutex<State>);

impl Rates {
    /// Takes a call out of the bucket of a name.
    ///
    /// # Errors
    /// When there is none: the time until there is one.
    pub(super) fn take(&self, name: &str, rate: Rate, now: Instant) -> Result<(), Duration> {
        let mut state = self.0.lock();
        let bucket = state.bucket(name, f64::from(rate.burst), now);
        // As it is configured now: it may have changed since the bucket was made.
        bucket.per_second = f64::from(rate.per_second.get());
        bucket.burst = f64::from(rate.burst);
        bucket.fill(now);
        if bucket.calls >= 1.0 {
            bucket.calls -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - bucket.calls) / bucket.per_second))
    }
}

impl State {
    fn bucket(&mut self, name: &str, burst: f64, now: Instant) -> &mut Bucket {
        // Not by `entry`, which would make a name of every call.
        let name = if self.buckets.contains_key(name) || self.has_room(now) { name } else { SHARED };
        if !self.buckets.contains_key(name) {
            let full = Bucket { calls: burst, at: now, per_second: 0.0, burst };
            self.buckets.insert(name.to_owned(), full);
        }
        self.buckets.get_mut(name).expect("it was there, or has just been put in")
    }

    fn has_room(&mut self, now: Instant) -> bool {
        if self.buckets.len() < BUCKETS_MAX {
            return true;
        }
        if self.swept_at.is_some_and(|at| now.saturating_duration_since(at) < SWEEP_INTERVAL) {
            return false;
        }
        self.swept_at = Some(now);
        self.buckets.retain(|_, bucket| !bucket.is_full_at(now));
        self.buckets.len() < BUCKETS_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate { per_second: NonZeroU32::new(per_second).unwrap(), burst }
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (rates, begin) = (Rates::default(), Instant::now());
        let take = |name: &str, after_ms| {
            rates.take(name, rate(10, 3), begin + Duration::from_millis(after_ms)).err()
        };
        for _ in 0..3 {
            assert!(take("portal", 0).is_none());
        }
        let pause = take("portal", 0).unwrap();
        assert!(pause <= Duration::from_millis(100) && pause > Duration::from_millis(99), "{pause:?}");
        assert!(take("laboratory", 0).is_none(), "a bucket a name");
        assert!(take("portal", 99).is_some() && take("portal", 101).is_none());
        let passed = (0..10).filter(|_| take("portal", 60_000).is_none()).count();
        assert_eq!(passed, 3, "a pause gives no more than the burst");
    }

    #[test]
    fn buckets_are_bounded_and_those_who_come_last_share_one() {
        let (rates, begin) = (Rates::default(), Instant::now());
        for n in 0..BUCKETS_MAX {
            rates.take(&format!("caller-{n}"), rate(1, 1), begin).unwrap();
        }
        rates.take("late-1", rate(1, 1), begin).unwrap();
        assert!(rates.take("late-2", rate(1, 1), begin).is_err(), "the shared bucket is empty");
        assert_eq!(rates.0.lock().buckets.len(), BUCKETS_MAX + 1);
        // All are full again and forgotten.
        rates.take("late-2", rate(1, 1), begin + Duration::from_secs(2)).unwrap();
        assert_eq!(rates.0.lock().buckets.len(), 1);
    }
}

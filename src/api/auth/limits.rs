//! How often a caller may call: a bucket a caller, in this process.
//!
//! A bucket that is full again says nothing any more and is forgotten. When there
//! are too many others, the callers that come last share one.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::api::error::ApiError;

/// Callers that have a bucket of their own.
const BUCKETS_MAX: usize = 10_000;
/// Name of the bucket of the others; no caller's.
const SHARED: &str = "";
/// Between two looks for buckets that are full again.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// What one caller may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Calls a second on this replica; `None`: as many as it likes.
    pub(super) calls_per_second: Option<NonZeroU32>,
    /// Calls at once after a pause.
    pub(super) calls_burst: u32,
    /// Notifications a day on all replicas; 0: as many as it likes.
    pub(super) notifications_per_day: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { calls_per_second: None, calls_burst: 1, notifications_per_day: 0 }
    }
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

/// The buckets of all callers.
#[derive(Default)]
pub(super) struct Rates(Mutex<State>);

impl Rates {
    /// Takes a call out of the caller's bucket.
    pub(super) fn take(&self, name: &str, limits: Limits, now: Instant) -> Result<(), ApiError> {
        let Some(per_second) = limits.calls_per_second else { return Ok(()) };
        let mut state = self.0.lock();
        let bucket = state.bucket(name, f64::from(limits.calls_burst), now);
        // As the table says now: it may have changed since the bucket was made.
        bucket.per_second = f64::from(per_second.get());
        bucket.burst = f64::from(limits.calls_burst);
        bucket.fill(now);
        if bucket.calls >= 1.0 {
            bucket.calls -= 1.0;
            return Ok(());
        }
        Err(ApiError::OverQuota {
            subject: name.to_owned(),
            limit: format!("{per_second} calls a second ({} at once)", limits.calls_burst),
            retry_after: Duration::from_secs_f64((1.0 - bucket.calls) / bucket.per_second),
        })
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

    fn limits(per_second: u32, burst: u32) -> Limits {
        Limits { calls_per_second: NonZeroU32::new(per_second), calls_burst: burst, notifications_per_day: 0 }
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (rates, begin) = (Rates::default(), Instant::now());
        let take = |name: &str, after_ms| {
            rates.take(name, limits(10, 3), begin + Duration::from_millis(after_ms)).err()
        };
        for _ in 0..3 {
            assert!(take("portal", 0).is_none());
        }
        match take("portal", 0).unwrap() {
            ApiError::OverQuota { subject, limit, retry_after } => {
                assert_eq!((subject.as_str(), limit.as_str()), ("portal", "10 calls a second (3 at once)"));
                assert!(retry_after <= Duration::from_millis(100) && retry_after > Duration::from_millis(99));
            }
            other => panic!("{other}"),
        }
        assert!(take("laboratory", 0).is_none(), "a bucket a caller");
        assert!(take("portal", 99).is_some() && take("portal", 101).is_none());
        let passed = (0..10).filter(|_| take("portal", 60_000).is_none()).count();
        assert_eq!(passed, 3, "a pause gives no more than the burst");
        assert!((0..100).all(|_| rates.take("free", Limits::default(), begin).is_ok()));
    }

    #[test]
    fn buckets_are_bounded_and_those_who_come_last_share_one() {
        let (rates, begin) = (Rates::default(), Instant::now());
        for n in 0..BUCKETS_MAX {
            rates.take(&format!("caller-{n}"), limits(1, 1), begin).unwrap();
        }
        rates.take("late-1", limits(1, 1), begin).unwrap();
        assert!(rates.take("late-2", limits(1, 1), begin).is_err(), "the shared bucket is empty");
        assert_eq!(rates.0.lock().buckets.len(), BUCKETS_MAX + 1);
        // All are full again and forgotten.
        rates.take("late-2", limits(1, 1), begin + Duration::from_secs(2)).unwrap();
        assert_eq!(rates.0.lock().buckets.len(), 1);
    }
}

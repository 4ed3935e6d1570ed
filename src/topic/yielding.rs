//! When bulk partitions rest for urgent work, and when they go on.

use std::time::{Duration, Instant};

/// Urgent work must have waited this long without a gap before bulk rests.
const RESTS_AFTER: Duration = Duration::from_millis(100);
/// And nothing may have waited for this long before bulk goes on.
const GOES_ON_AFTER: Duration = Duration::from_millis(200);

/// A switch with inertia. A pause makes librdkafka drop what it has fetched ahead,
/// so bulk must not be paused and resumed with every urgent record that comes.
#[derive(Debug, Default)]
pub(super) struct Yielding {
    rests: bool,
    /// Since when what was seen has differed from what is in force.
    differs_since: Option<Instant>,
}

impl Yielding {
    /// Whether bulk partitions are to rest, as it was seen last.
    pub(super) const fn rests(&self) -> bool {
        self.rests
    }

    /// Takes in what is seen now; true while bulk partitions are to rest.
    pub(super) fn observe(&mut self, pressed: bool, now: Instant) -> bool {
        if pressed == self.rests {
            self.differs_since = None;
            return self.rests;
        }
        let since = *self.differs_since.get_or_insert(now);
        let after = if self.rests { GOES_ON_AFTER } else { RESTS_AFTER };
        if now.duration_since(since) >= after {
            self.rests = pressed;
            self.differs_since = None;
        }
        self.rests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks every 20 ms, as the poll thread does, at what `pressed` says of each
    /// millisecond; how often the switch was thrown.
    fn turns(pressed: impl Fn(u64) -> bool) -> Vec<(u64, bool)> {
        let (mut yielding, begun) = (Yielding::default(), Instant::now());
        let mut thrown: Vec<(u64, bool)> = Vec::new();
        let mut last = false;
        for ms in (0..5000).step_by(20) {
            let rests = yielding.observe(pressed(ms), begun + Duration::from_millis(ms));
            if rests != last {
                thrown.push((ms, rests));
                last = rests;
            }
        }
        thrown
    }

    #[test]
    fn what_is_taken_in_time_throws_nothing() {
        assert_eq!(turns(|_| false), []);
        // With a gap in every 100 ms.
        assert_eq!(turns(|ms| ms % 100 < 80), []);
    }

    #[test]
    fn it_rests_after_a_wait_without_a_gap_and_goes_on_after_calm_without_a_gap() {
        assert_eq!(turns(|ms| (1000..2000).contains(&ms)), [(1100, true), (2200, false)]);
        // A record now and then while it rests does not let it flap.
        assert_eq!(turns(|ms| (1000..2000).contains(&ms) || (ms > 2000 && ms % 200 < 20)), [(1100, true)]);
    }
}

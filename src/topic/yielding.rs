//! When bulk partitions rest for urgent work, and when they go on.

use std::time::{Duration, Instant};

/// Urgent work must have waited this long without a gap before bulk rests: a
/// shorter wait is everyday, and with steady urgent traffic bulk has to move too.
const RESTS_AFTER: Duration = Duration::from_millis(100);
/// And no such wait may have been for this long before bulk goes on.
const GOES_ON_AFTER: Duration = Duration::from_millis(200);

/// A switch with inertia. A pause makes librdkafka drop what it has fetched ahead,
/// so bulk must not be paused and resumed with every urgent record that comes.
#[derive(Debug, Default)]
pub(super) struct Yielding {
    /// Since when every look has found pressure.
    pressed_since: Option<Instant>,
    /// When pressure was last found to have lasted.
    pressed_at: Option<Instant>,
}

impl Yielding {
    /// Takes in what is seen now; true while bulk partitions are to rest.
    pub(super) fn observe(&mut self, pressed: bool, now: Instant) -> bool {
        if pressed {
            let since = *self.pressed_since.get_or_insert(now);
            if now.duration_since(since) >= RESTS_AFTER {
                self.pressed_at = Some(now);
            }
        } else {
            self.pressed_since = None;
        }
        self.pressed_at.is_some_and(|at| now.duration_since(at) < GOES_ON_AFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks every 20 ms, as the poll thread does, at what `pressed` says of each
    /// millisecond; when the switch was thrown.
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
    fn it_rests_after_a_lasting_wait_and_goes_on_when_there_was_none_for_a_while() {
        let wait = |ms| (1000..2000).contains(&ms);
        assert_eq!(turns(wait), [(1100, true), (2180, false)]);
        // Short gaps while it rests do not let it flap.
        assert_eq!(turns(|ms| wait(ms) && ms % 300 < 280), [(1100, true), (2180, false)]);
        // Steady traffic that is kept up with afterwards does not hold it for ever.
        assert_eq!(turns(|ms| wait(ms) || (ms > 2000 && ms % 100 < 80)), [(1100, true), (2180, false)]);
    }
}

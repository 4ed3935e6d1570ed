//! When a failed attempt is tried again, and when it is given up.

use std::time::Duration;

use crate::config;
use crate::domain::Purpose;

/// Exponential back-off with equal jitter (Brooker, "Exponential Backoff And
/// Jitter", AWS Architecture Blog, 2015), bounded in each step and in total.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    initial: Duration,
    max: Duration,
    give_up_after: Duration,
    outcome_unknown_deadline: Duration,
    /// By purpose; zero: as above.
    outcome_unknown_deadlines: [(Purpose, Duration); Purpose::ALL.len()],
}

impl RetryPolicy {
    /// From `[retry]`.
    #[must_use]
    pub const fn new(config: &config::Retry) -> Self {
        Self {
            initial: Duration::from_millis(config.initial_ms),
            max: Duration::from_millis(config.max_ms),
            give_up_after: Duration::from_millis(config.give_up_after_ms),
            outcome_unknown_deadline: Duration::from_millis(config.outcome_unknown_deadline_ms),
            outcome_unknown_deadlines: [
                (Purpose::TestResult, Duration::from_millis(config.outcome_unknown_deadline_test_result_ms)),
                (
                    Purpose::AppointmentReminder,
                    Duration::from_millis(config.outcome_unknown_deadline_appointment_reminder_ms),
                ),
                (
                    Purpose::AppointmentConfirmation,
                    Duration::from_millis(config.outcome_unknown_deadline_appointment_confirmation_ms),
                ),
                (Purpose::General, Duration::from_millis(config.outcome_unknown_deadline_general_ms)),
                (Purpose::Campaign, Duration::from_millis(config.outcome_unknown_deadline_campaign_ms)),
            ],
        }
    }

    /// Pause after the attempt of this number (from 1); `None` when the delivery
    /// has been tried for as long as it may. `asked` is the provider's own wish,
    /// heeded up to the longest pause; `chance` lies in 0..1.
    #[must_use]
    pub fn pause(
        &self,
        attempt: u32,
        trying_for: Duration,
        asked: Option<Duration>,
        chance: f64,
    ) -> Option<Duration> {
        if trying_for >= self.give_up_after {
            return None;
        }
        let doubled = self.initial.saturating_mul(1 << attempt.saturating_sub(1).min(20));
        // Half of it is certain, so that a retry never comes at once.
        let ceiling = doubled.min(self.max);
        let jittered = ceiling.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0);
        Some(asked.map_or(jittered, |asked| asked.min(self.max).max(jittered)))
    }

    /// How long an unknown outcome may stay unknown.
    #[must_use]
    pub fn outcome_unknown_deadline(&self, purpose: Purpose) -> Duration {
        let own = self.outcome_unknown_deadlines.iter().find(|(of, _)| *of == purpose);
        own.map(|(_, deadline)| *deadline)
            .filter(|deadline| !deadline.is_zero())
            .unwrap_or(self.outcome_unknown_deadline)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn policy() -> RetryPolicy {
        RetryPolicy {
            initial: Duration::from_secs(5),
            max: Duration::from_secs(900),
            give_up_after: Duration::from_secs(86400),
            outcome_unknown_deadline: Duration::from_secs(600),
            outcome_unknown_deadlines: [
                (Purpose::TestResult, Duration::ZERO),
                (Purpose::AppointmentReminder, Duration::from_secs(300)),
                (Purpose::AppointmentConfirmation, Duration::ZERO),
                (Purpose::General, Duration::ZERO),
                (Purpose::Campaign, Duration::from_secs(3600)),
            ],
        }
    }

    #[test]
    fn a_purpose_has_its_own_deadline_or_the_common_one() {
        let seconds = |purpose| policy().outcome_unknown_deadline(purpose).as_secs();
        let all: Vec<u64> = Purpose::ALL.iter().map(|purpose| seconds(*purpose)).collect();
        assert_eq!(all, [600, 300, 600, 600, 3600]);
    }

    #[test]
    fn it_gives_up_after_its_time() {
        assert_eq!(policy().pause(9, Duration::from_secs(86400), None, 0.5), None);
    }

    #[test]
    fn the_providers_wish_is_heeded_up_to_the_longest_pause() {
        let minute = Duration::from_secs(60);
        assert_eq!(policy().pause(1, Duration::ZERO, Some(minute), 0.0), Some(minute));
        let day = Duration::from_secs(86400);
        assert_eq!(policy().pause(1, Duration::ZERO, Some(day), 0.0), Some(Duration::from_secs(900)));
    }

    proptest! {
        #[test]
        fn every_pause_is_bounded(attempt in 0_u32..u32::MAX, chance in 0.0_f64..1.0) {
            let pause = policy().pause(attempt, Duration::ZERO, None, chance).unwrap();
            prop_assert!(pause >= Duration::from_millis(2500) && pause <= Duration::from_secs(900));
        }
    }
}

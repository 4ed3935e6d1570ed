//! A circuit breaker: after enough failures in a row a provider is left alone
//! for a while, so that an outage costs no time-outs and does not grow the lag.
//!
//! Pure: the caller brings the clock and reports what came of each call.

use std::time::{Duration, Instant};

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Failures in a row that open it.
    pub failures: u32,
    /// First pause.
    pub pause_initial: Duration,
    /// Longest pause; each probe that fails doubles the pause up to here.
    pub pause_max: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { failures: 10, pause_initial: Duration::from_secs(1), pause_max: Duration::from_secs(30) }
    }
}

/// What a call may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Call the provider.
    Go,
    /// Call the provider; everything else waits for what comes of it.
    Probe,
    /// Do not call; ask again after this time.
    Refused {
        /// What is left of the pause.
        after: Duration,
    },
}

/// What came of a call, as far as a breaker cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The provider answered; what it said of the message does not matter.
    Answered,
    /// It was not reached, failed on its side, or did not answer.
    Failed,
    /// The call was given up by us before there was a result.
    Abandoned,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, pause: Duration },
    Probing { pause: Duration },
}

/// The state machine of one provider.
#[derive(Debug, Clone)]
pub struct Breaker {
    settings: Settings,
    state: State,
}

impl Breaker {
    /// A closed breaker.
    #[must_use]
    pub const fn new(settings: Settings) -> Self {
        Self { settings, state: State::Closed { failures: 0 } }
    }

    /// May a call start at `now`? A [`Admission::Probe`] must be followed by
    /// [`Breaker::record`], or no other call is admitted.
    pub fn admit(&mut self, now: Instant) -> Admission {
        match self.state {
            State::Closed { .. } => Admission::Go,
            State::Open { until, pause } if now >= until => {
                self.state = State::Probing { pause };
                Admission::Probe
            }
            State::Open { until, .. } => Admission::Refused { after: until - now },
            State::Probing { pause } => Admission::Refused { after: pause },
        }
    }

    /// Takes note of a call that was admitted. Calls that started before the
    /// breaker opened change nothing after it did: only a probe does.
    pub fn record(&mut self, admission: Admission, verdict: Verdict, now: Instant) {
        match (self.state, admission, verdict) {
            (State::Closed { .. }, _, Verdict::Answered) => self.state = State::Closed { failures: 0 },
            (State::Closed { failures }, _, Verdict::Failed) => {
                let failures = failures + 1;
                self.state = if failures >= self.settings.failures {
                    self.open(now, self.settings.pause_initial)
                } else {
                    State::Closed { failures }
                };
            }
            (State::Probing { .. }, Admission::Probe, Verdict::Answered) => {
                self.state = State::Closed { failures: 0 };
            }
            (State::Probing { pause }, Admission::Probe, Verdict::Failed) => {
                self.state = self.open(now, pause.saturating_mul(2));
            }
            (State::Probing { pause }, Admission::Probe, Verdict::Abandoned) => {
                self.state = State::Open { until: now, pause };
            }
            (State::Closed { .. }, _, Verdict::Abandoned)
            | (State::Open { .. }, _, _)
            | (State::Probing { .. }, Admission::Go | Admission::Refused { .. }, _) => {}
        }
    }

    /// What [`Breaker::admit`] would make a call wait, if it would refuse it.
    #[must_use]
    pub fn pause_left(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Open { until, .. } if now < until => Some(until - now),
            State::Probing { pause } => Some(pause),
            State::Closed { .. } | State::Open { .. } => None,
        }
    }

    /// True while calls are refused.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed { .. })
    }

    fn open(&self, now: Instant, pause: Duration) -> State {
        let pause = pause.min(self.settings.pause_max);
        State::Open { until: now + pause, pause }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings =
        Settings { failures: 3, pause_initial: Duration::from_secs(1), pause_max: Duration::from_secs(3) };

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::new(SETTINGS);
        for _ in 0..3 {
            assert_eq!(breaker.admit(now), Admission::Go);
            breaker.record(Admission::Go, Verdict::Failed, now);
        }
        breaker
    }

    #[test]
    fn it_opens_after_failures_in_a_row_only() {
        let now = Instant::now();
        let mut breaker = Breaker::new(SETTINGS);
        for _ in 0..10 {
            breaker.record(Admission::Go, Verdict::Failed, now);
            breaker.record(Admission::Go, Verdict::Failed, now);
            breaker.record(Admission::Go, Verdict::Answered, now);
        }
        assert!(!breaker.is_open());
        assert!(opened(now).is_open());
    }

    #[test]
    fn while_open_it_refuses_and_says_how_long() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + Duration::from_millis(400);
        assert_eq!(breaker.admit(later), Admission::Refused { after: Duration::from_millis(600) });
    }

    #[test]
    fn after_the_pause_one_probe_decides() {
        let now = Instant::now();
        let mut breaker = opened(now);
        let later = now + Duration::from_secs(1);
        assert_eq!(breaker.admit(later), Admission::Probe);
        assert_eq!(breaker.admit(later), Admission::Refused { after: Duration::from_secs(1) });
        breaker.record(Admission::Probe, Verdict::Answered, later);
        assert_eq!(breaker.admit(later), Admission::Go);
    }

    #[test]
    fn a_failed_probe_doubles_the_pause_up_to_its_bound() {
        let mut now = Instant::now();
        let mut breaker = opened(now);
        for pause_s in [1, 2, 3, 3] {
            now += Duration::from_secs(pause_s);
            assert_eq!(breaker.admit(now), Admission::Probe);
            breaker.record(Admission::Probe, Verdict::Failed, now);
        }
    }

    #[test]
    fn an_abandoned_probe_lets_the_next_call_probe() {
        let now = Instant::now() + Duration::from_secs(1);
        let mut breaker = opened(now - Duration::from_secs(1));
        assert_eq!(breaker.admit(now), Admission::Probe);
        breaker.record(Admission::Probe, Verdict::Abandoned, now);
        assert_eq!(breaker.admit(now), Admission::Probe);
    }

    #[test]
    fn late_results_of_older_calls_do_not_move_an_open_breaker() {
        let now = Instant::now();
        let mut breaker = opened(now);
        breaker.record(Admission::Go, Verdict::Answered, now);
        assert!(breaker.is_open());
        let later = now + Duration::from_secs(1);
        assert_eq!(breaker.admit(later), Admission::Probe);
        breaker.record(Admission::Go, Verdict::Failed, later);
        assert_eq!(breaker.admit(later), Admission::Refused { after: Duration::from_secs(1) });
    }
}

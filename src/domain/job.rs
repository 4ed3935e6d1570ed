//! Jobs of the general queue: their kinds, and what each kind declares of itself.

use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

super::notification::words! {
    /// What is to be done.
    JobKind {
        /// Everything that is kept of one patient is written down to be fetched.
        Export = "export",
        /// Dead letters of a topic are written to it once more.
        DeadLetterReplay = "dead_letter_replay",
        /// Devices that nobody has confirmed for long are taken out of use, and forgotten.
        PushTokenPrune = "push_token_prune",
        /// What jobs have left behind is removed when its time is over.
        JobPrune = "job_prune",
    }
}

super::notification::words! {
    /// Where a job stands.
    JobState {
        /// It waits for its time, or for a free process.
        Queued = "queued",
        /// A process works on it.
        Running = "running",
        /// It succeeded.
        Done = "done",
        /// It failed as often as it may: a person has to look.
        Parked = "parked",
        /// It is not wanted any more.
        Cancelled = "cancelled",
    }
}

/// What a kind of job declares of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobPlan {
    /// Attempts, at most; then it is parked.
    pub attempts_max: i32,
    /// Longest time of one attempt.
    pub timeout: Duration,
    /// Those with lower numbers go first.
    pub priority: i16,
    /// Jobs of the kind that one process works on side by side, so that long ones leave
    /// places to others.
    pub side_by_side_max: usize,
    /// It comes back by itself, this long after it last ended.
    pub repeat: Option<Duration>,
}

impl JobKind {
    /// What it declares of itself.
    #[must_use]
    pub const fn plan(self) -> JobPlan {
        match self {
            // Somebody waits for it, and it has a legal term.
            Self::Export => JobPlan {
                attempts_max: 5,
                timeout: MINUTE.saturating_mul(10),
                priority: 10,
                side_by_side_max: 2,
                repeat: None,
            },
            Self::DeadLetterReplay => JobPlan {
                attempts_max: 5,
                timeout: HOUR.saturating_mul(6),
                priority: 20,
                side_by_side_max: 2,
                repeat: None,
            },
            Self::PushTokenPrune => JobPlan {
                attempts_max: 5,
                timeout: HOUR,
                priority: 30,
                side_by_side_max: 1,
                repeat: Some(HOUR.saturating_mul(24)),
            },
            Self::JobPrune => JobPlan {
                attempts_max: 5,
                timeout: MINUTE.saturating_mul(10),
                priority: 30,
                side_by_side_max: 1,
                repeat: Some(MINUTE.saturating_mul(10)),
            },
        }
    }
}

impl JobState {
    /// Nothing more becomes of it, unless a person says so.
    #[must_use]
    pub const fn is_over(self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Done | Self::Parked | Self::Cancelled => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_an_end() {
        for kind in JobKind::ALL {
            let plan = kind.plan();
            assert!(plan.attempts_max > 0 && plan.timeout >= MINUTE && plan.side_by_side_max > 0, "{kind}");
            assert!(plan.repeat.is_none_or(|pause| pause >= MINUTE), "{kind}");
            assert_eq!(JobKind::parse(kind.as_str()), Some(*kind));
        }
    }
}

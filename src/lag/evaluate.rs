//! How a partition stands, judged by successive readings, after LinkedIn's Burrow: not one
//! lag against a limit, but whether the group moves. Burrow sees the time of each commit;
//! here only brokers are asked, so that a group that commits nothing new and one that has
//! left are told apart by the members.

use std::time::Duration;

use serde::Serialize;

use super::reading::{Ownership, PartitionReading};

/// How a partition stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// No record waits, or none for longer than a second, or no more than a second's work.
    Ok,
    /// Records wait, and commits move. The time to drain says whether they move enough.
    Lagging,
    /// The committed offset went back and has not come back to where it was.
    Rewound,
    /// Records wait, somebody reads the partition, and the committed offset does not move.
    Stalled,
    /// Records wait, and nobody reads the partition.
    Stopped,
}

impl State {
    /// As it is shown and labelled.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Lagging => "lagging",
            Self::Rewound => "rewound",
            Self::Stalled => "stalled",
            Self::Stopped => "stopped",
        }
    }
}

/// What is unusual about a partition's or a topic's offsets, whatever its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// The group has never committed here; it will begin where its `auto.offset.reset` says.
    NoCommits,
    /// The topic does not exist (any more).
    TopicMissing,
    /// Retention has deleted so many records before they were committed.
    RetentionLoss(i64),
    /// So many offsets after the committed one hold no record: compaction has removed them,
    /// or they mark transactions. They do not count as lag.
    Gap(i64),
    /// The committed offset is so far behind the end of the partition: the topic was deleted
    /// and made anew, or a commit is wrong.
    BeyondEnd(i64),
}

impl Finding {
    /// As it is shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoCommits => "no_commits",
            Self::TopicMissing => "topic_missing",
            Self::RetentionLoss(_) => "retention_loss",
            Self::Gap(_) => "gap",
            Self::BeyondEnd(_) => "beyond_end",
        }
    }
}

/// A partition at one moment of a window.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    pub(super) taken: Duration,
    pub(super) committed: Option<i64>,
    pub(super) lag: i64,
}

/// Ages up to this one are no lag yet: commits lag behind their records by about as much.
const FRESH_MS: u64 = 1000;

/// What is unusual in one reading.
pub(super) fn findings(one: &PartitionReading) -> Vec<Finding> {
    let mut found = Vec::new();
    if one.committed.is_none() {
        found.push(Finding::NoCommits);
    }
    if one.lost_records() > 0 {
        found.push(Finding::RetentionLoss(one.lost_records()));
    }
    if one.gap() > 0 {
        found.push(Finding::Gap(one.gap()));
    }
    match one.committed {
        Some(committed) if committed > one.high => found.push(Finding::BeyondEnd(committed - one.high)),
        _ => {}
    }
    found
}

/// The state of a partition. `history` is not empty, oldest first, and ends with `one`;
/// `processing_rate` is in records per second; a commit that has not moved for `stall_after`
/// is taken for one that does not move.
pub(super) fn state(
    one: &PartitionReading,
    history: &[Sample],
    processing_rate: Option<f64>,
    stall_after: Duration,
) -> State {
    let furthest = history.iter().filter_map(|sample| sample.committed).max();
    if furthest.is_some() && one.committed < furthest {
        return State::Rewound;
    }
    if one.lag_messages == 0 {
        return State::Ok;
    }
    if one.owner == Ownership::Nobody {
        return State::Stopped;
    }
    if unmoved_for(history) >= stall_after {
        return State::Stalled;
    }
    let is_fresh = one.oldest_age_ms.is_some_and(|age_ms| age_ms <= FRESH_MS);
    let is_small = processing_rate.is_some_and(|rate| backlog(one.lag_messages, rate) <= 0.0);
    if is_fresh || is_small { State::Ok } else { State::Lagging }
}

/// For how long records have waited without a commit that moved, at least.
fn unmoved_for(history: &[Sample]) -> Duration {
    let Some((now, before)) = history.split_last() else {
        return Duration::ZERO;
    };
    let since =
        before.iter().rev().take_while(|sample| sample.lag > 0 && sample.committed == now.committed).last();
    since.map_or(Duration::ZERO, |sample| now.taken.saturating_sub(sample.taken))
}

/// Of a lag, what is more than a second's work at this rate (records per second): so much is
/// on its way in a processor that keeps up.
#[expect(clippy::cast_precision_loss, reason = "records, far below 2^52")]
pub(super) fn backlog(lag: i64, processing_rate: f64) -> f64 {
    lag as f64 - processing_rate
}

/// Seconds until a lag is gone at these rates (records per second): 0 without a lag, infinite
/// when it does not go. A lag of at most a second's work is gone after its own work.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "records, far below 2^52")]
pub(super) fn drain_seconds(lag: i64, arrival_rate: f64, processing_rate: f64) -> f64 {
    let net = processing_rate - arrival_rate;
    if lag <= 0 {
        0.0
    } else if backlog(lag, processing_rate) <= 0.0 {
        lag as f64 / processing_rate
    } else if net > 0.0 {
        lag as f64 / net
    } else {
        f64::INFINITY
    }
}

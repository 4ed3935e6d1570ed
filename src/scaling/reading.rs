//! What is known of a group at one moment.

use std::time::Duration;

/// One look at a consumer group: what the brokers say, and what its pods say.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// When it was taken, by a clock that only goes forward; where it begins does not matter.
    pub at: Duration,
    /// Records a second that came in of late: over the last few seconds, in all partitions that
    /// are not stalled. It sees a jump before the partitions' longer means do. `None`: not known.
    pub arrival_now_per_s: Option<f64>,
    /// All partitions of all its topics.
    pub partitions: Vec<Partition>,
    /// Members of the group now.
    pub replicas: u32,
    /// Mean over the pods of what one handles while it is busy, in records a second. `None`:
    /// no pod tells it.
    pub true_rate_per_s: Option<f64>,
    /// A circuit to a provider is open: lag says nothing about pods.
    pub circuit_open: bool,
}

/// One partition, as the group stands in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Partition {
    /// Full topic name.
    pub topic: String,
    /// Its number in the topic.
    pub number: i32,
    /// Records that are not committed.
    pub lag: u64,
    /// Records a second that come in, as a mean over some readings. `None`: not known yet.
    pub arrival_per_s: Option<f64>,
    /// Age of the oldest of its uncommitted records, in seconds. `None`: there is none, or it
    /// is not known.
    pub oldest_age_s: Option<f64>,
    /// It does not move although somebody reads it: no number of pods helps.
    pub stalled: bool,
}

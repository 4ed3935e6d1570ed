//! One hour under one way to scale.

use std::collections::VecDeque;
use std::time::Duration;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::PARTITIONS;
use super::group::{Group, Lane};
use super::hpa::{Behavior, Hpa, SYNC_S};
use super::score::Score;
use super::trace::Trace;
use crate::scaling::{Decider, Partition, Reading, Settings};

/// The scaler reads the brokers so often (`scaler.interval_ms`).
const READ_EVERY_S: u32 = 2;
/// It answers an error when it has not read for so long (`scaler.stale_after_ms`).
const STALE_AFTER_S: u32 = 30;
/// Arrival is a mean over this time.
const SPAN_S: u32 = 30;
/// And over this time of late, for all partitions together.
const OF_LATE_S: u32 = 4;
/// A commit that has not moved for so long is that of a stalled partition.
const STALLED_AFTER_S: u32 = 30;
/// Points of a drawn line.
const POINTS: u32 = 240;

/// Who tells the HPA a number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Policy {
    /// KEDA's kafka trigger with this `lagThreshold`: the lag of all partitions, as it is when
    /// the HPA asks (`allowIdleConsumers`: it is not capped at the number of partitions).
    Kafka(u32),
    /// The external scaler.
    Scaler,
}

/// What is drawn of one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    pub(super) at: u32,
    pub(super) oldest_s: u32,
    pub(super) lag: u64,
    pub(super) pods: u32,
}

/// The scaler, with what it read.
struct Scaler {
    decider: Decider,
    highs: VecDeque<(u32, Vec<u64>)>,
    decided: Option<(u32, u32)>,
    noise: Xoshiro256PlusPlus,
}

impl Scaler {
    fn new(seed: u64) -> Self {
        Self {
            decider: Decider::new(Settings::results()),
            highs: VecDeque::new(),
            decided: None,
            noise: Xoshiro256PlusPlus::seed_from_u64(seed.rotate_left(17)),
        }
    }

    fn read(&mut self, at: u32, trace: Trace, group: &Group) {
        self.highs.push_back((at, group.lanes.iter().map(|lane| lane.high).collect()));
        while self.highs.front().is_some_and(|(then, _)| at - then > SPAN_S) {
            self.highs.pop_front();
        }
        let first = self.highs.front().filter(|(then, _)| *then < at);
        let partitions = group.lanes.iter().enumerate().map(|(index, lane)| Partition {
            topic: String::new(),
            number: i32::try_from(index).unwrap_or(i32::MAX),
            lag: lane.lag(),
            arrival_per_s: first.map(|(then, highs)| per_s(lane.high - highs[index], at - then)),
            oldest_age_s: lane.oldest().map(|arrived| f64::from(at - arrived)),
            stalled: stalled(lane, at),
        });
        let late = self.highs.iter().rev().find(|(then, _)| at - then >= OF_LATE_S);
        let arrived = |then: u32, highs: &[u64]| {
            let moving = group.lanes.iter().zip(highs).filter(|(lane, _)| !stalled(lane, at));
            per_s(moving.map(|(lane, high)| lane.high - high).sum(), at - then)
        };
        let noise = self.noise.random_range(0.95..1.05);
        let reading = Reading {
            at: Duration::from_secs(at.into()),
            arrival_now_per_s: late.map(|(then, highs)| arrived(*then, highs)),
            partitions: partitions.collect(),
            replicas: group.members(),
            true_rate_per_s: trace.told_per_s(at).map(|rate| rate * noise),
            circuit_open: false,
        };
        self.decided = Some((at, self.decider.decide(&reading).replicas));
    }

    /// What KEDA is told: replicas, with a target of one; an error when it is too old.
    fn tell(&self, at: u32) -> Option<(f64, f64)> {
        let (then, replicas) = self.decided?;
        (at - then <= STALE_AFTER_S).then_some((f64::from(replicas), 1.0))
    }
}

fn stalled(lane: &Lane, at: u32) -> bool {
    lane.lag() > 0 && lane.owner.is_some() && at - lane.moved_at > STALLED_AFTER_S
}

/// One run; `points`: whether it is to be drawn.
pub(super) fn run(trace: Trace, policy: Policy, seed: u64, points: bool) -> (Score, Vec<Point>) {
    let behavior = Behavior::DEPLOYED;
    let mut group = Group::new(trace, seed, at_first(trace, behavior));
    let mut hpa = Hpa::new(behavior);
    let mut scaler = Scaler::new(seed);
    let mut drawn = Vec::new();
    let looks_at = u32::try_from(seed % u64::from(SYNC_S)).unwrap_or(0);
    for at in 0..trace.seconds() {
        group.tick(at);
        if policy == Policy::Scaler && at % READ_EVERY_S == 0 && !trace.lag_unknown(at) {
            scaler.read(at, trace, &group);
        }
        if at % SYNC_S == looks_at {
            let metric = match policy {
                Policy::Kafka(_) if trace.lag_unknown(at) => None,
                Policy::Kafka(threshold) => Some((lag(&group), f64::from(threshold))),
                Policy::Scaler => scaler.tell(at),
            };
            let replicas = hpa.look(at, group.wanted, metric);
            group.scale(at, replicas);
        }
        if points && at % (trace.seconds() / POINTS) == 0 {
            drawn.push(point(at, trace, &group));
        }
    }
    (group.finish(trace.seconds()), drawn)
}

/// As many as what comes in at first needs, whoever scales.
fn at_first(trace: Trace, behavior: Behavior) -> u32 {
    let settings = Settings::results();
    let pods = trace.arrival_per_s(0) / (settings.planned_rate_per_s * settings.utilisation);
    (behavior.min..behavior.max).find(|replicas| f64::from(*replicas) >= pods).unwrap_or(behavior.max)
}

#[expect(clippy::cast_precision_loss, reason = "records, far below 2^52")]
fn lag(group: &Group) -> f64 {
    group.lanes.iter().map(Lane::lag).sum::<u64>() as f64
}

#[expect(clippy::cast_precision_loss, reason = "records, far below 2^52")]
fn per_s(records: u64, seconds: u32) -> f64 {
    records as f64 / f64::from(seconds)
}

fn point(at: u32, trace: Trace, group: &Group) -> Point {
    let counted = |index: &usize| Some(*index) != trace.left_out();
    let lanes = (0..PARTITIONS).filter(counted).map(|index| &group.lanes[index]);
    let oldest_s = lanes.clone().filter_map(|lane| lane.oldest().map(|arrived| at - arrived)).max();
    Point { at, oldest_s: oldest_s.unwrap_or(0), lag: lanes.map(Lane::lag).sum(), pods: group.pods() }
}

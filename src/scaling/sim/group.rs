//! A consumer group: partitions, pods, and who reads what.

use std::collections::VecDeque;

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

use super::PARTITIONS;
use super::score::Score;
use super::trace::Trace;

/// Seconds from the order of a pod until it is a member.
const START_S: std::ops::RangeInclusive<u32> = 12..=25;
/// Seconds for which a partition that changes its owner is not read.
const REBALANCE_S: std::ops::RangeInclusive<u32> = 3..=6;
/// Seconds from taking a record to its commit: a call, and the pause between commits.
const COMMIT_AFTER_S: u32 = 2;
/// Old pods go when all new ones have been ready for so long (`minReadySeconds`).
const READY_S: u32 = 15;

/// Records of one partition that came within one second.
#[derive(Debug, Clone, Copy)]
struct Batch {
    arrived: u32,
    count: u32,
}

/// A partition.
#[derive(Debug, Default)]
pub(super) struct Lane {
    waiting: VecDeque<Batch>,
    /// What is taken and not committed, with the second in which it was taken.
    taken: VecDeque<(u32, Batch)>,
    share: f64,
    carry: f64,
    /// Records that ever came.
    pub(super) high: u64,
    committed: u64,
    /// Last second in which the commit moved, or there was nothing to commit.
    pub(super) moved_at: u32,
    pub(super) owner: Option<u32>,
    paused_until: u32,
}

impl Lane {
    /// Records that are not committed.
    pub(super) fn lag(&self) -> u64 {
        self.high - self.committed
    }

    /// Second in which the oldest of them came.
    pub(super) fn oldest(&self) -> Option<u32> {
        let taken = self.taken.iter().map(|(_, batch)| batch.arrived).min();
        taken.into_iter().chain(self.waiting.front().map(|batch| batch.arrived)).min()
    }

    /// Up to so many records, the oldest first; how many there were.
    fn take(&mut self, at: u32, most: u32) -> u32 {
        let mut left = most;
        while left > 0 {
            let Some(front) = self.waiting.front_mut() else { break };
            let count = front.count.min(left);
            self.taken.push_back((at, Batch { count, ..*front }));
            left -= count;
            front.count -= count;
            if front.count == 0 {
                self.waiting.pop_front();
            }
        }
        most - left
    }

    /// What was not committed is read again.
    fn replay(&mut self) {
        while let Some((_, batch)) = self.taken.pop_back() {
            self.waiting.push_front(batch);
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Pod {
    id: u32,
    ready_at: u32,
    member: bool,
    /// It goes when the roll-out's new ones are ready.
    old: bool,
}

/// The group.
#[derive(Debug)]
pub(super) struct Group {
    trace: Trace,
    pub(super) lanes: Vec<Lane>,
    pods: Vec<Pod>,
    /// Replicas that there are to be.
    pub(super) wanted: u32,
    next_pod: u32,
    changed: bool,
    rebalance_until: u32,
    swell: f64,
    /// Kept between seconds so that none allocates.
    busy: Vec<usize>,
    of_load: Xoshiro256PlusPlus,
    of_pods: Xoshiro256PlusPlus,
    pub(super) score: Score,
}

impl Group {
    /// With so many pods that are members already.
    pub(super) fn new(trace: Trace, seed: u64, replicas: u32) -> Self {
        let mut of_load = Xoshiro256PlusPlus::seed_from_u64(seed);
        let weights: Vec<f64> =
            (0..PARTITIONS).map(|one| trace.weight(one) * of_load.random_range(0.9..1.1)).collect();
        let whole: f64 = weights.iter().sum();
        let lanes = weights.iter().map(|weight| Lane { share: weight / whole, ..Lane::default() });
        let pods = (0..replicas).map(|id| Pod { id, ready_at: 0, member: true, old: false });
        let mut group = Self {
            trace,
            lanes: lanes.collect(),
            pods: pods.collect(),
            wanted: replicas,
            next_pod: replicas,
            changed: false,
            rebalance_until: 0,
            swell: 0.0,
            busy: Vec::with_capacity(PARTITIONS),
            of_load,
            of_pods: Xoshiro256PlusPlus::seed_from_u64(!seed),
            score: Score::of_one(),
        };
        group.assign();
        group
    }

    /// Members now.
    pub(super) fn members(&self) -> u32 {
        self.pods.iter().map(|pod| u32::from(pod.member)).sum()
    }

    /// Pods now, those that start too.
    pub(super) fn pods(&self) -> u32 {
        u32::try_from(self.pods.len()).unwrap_or(u32::MAX)
    }

    /// One second.
    pub(super) fn tick(&mut self, at: u32) {
        self.arrive(at);
        self.roll(at);
        self.join(at);
        self.rebalance(at);
        self.handle(at);
        self.commit(at);
        self.score.replica_s += u64::from(self.pods());
    }

    /// From now on there are to be so many.
    pub(super) fn scale(&mut self, at: u32, replicas: u32) {
        for _ in self.wanted..replicas {
            self.start(at);
        }
        for _ in replicas..self.wanted {
            // The newest first, as Kubernetes chooses.
            if let Some(newest) = self.pods.iter().rposition(|pod| !pod.old) {
                self.stop(newest);
            }
        }
        self.wanted = replicas;
    }

    fn arrive(&mut self, at: u32) {
        self.swell = 0.97 * self.swell + self.of_load.random_range(-0.02..0.02);
        let whole = self.trace.arrival_per_s(at) * (1.0 + self.swell);
        for lane in &mut self.lanes {
            lane.carry += whole * lane.share * self.of_load.random_range(0.5..1.5);
            let count = floor(lane.carry);
            lane.carry -= f64::from(count);
            if count > 0 {
                lane.high += u64::from(count);
                lane.waiting.push_back(Batch { arrived: at, count });
            }
        }
    }

    /// All new ones first; when they are ready, all old ones go.
    fn roll(&mut self, at: u32) {
        if self.trace.deploys(at) {
            self.pods.iter_mut().for_each(|pod| pod.old = true);
            for _ in 0..self.wanted {
                self.start(at);
            }
        }
        let rolled = self.pods.iter().filter(|pod| !pod.old).all(|pod| pod.ready_at + READY_S <= at);
        while let Some(old) = self.pods.iter().position(|pod| pod.old).filter(|_| rolled) {
            self.stop(old);
        }
    }

    fn start(&mut self, at: u32) {
        let ready_at = at + self.of_pods.random_range(START_S);
        self.pods.push(Pod { id: self.next_pod, ready_at, member: false, old: false });
        self.next_pod += 1;
    }

    /// It leaves, and nobody reads what it read until the others have agreed.
    fn stop(&mut self, index: usize) {
        let pod = self.pods.remove(index);
        self.changed |= pod.member;
        for lane in self.lanes.iter_mut().filter(|lane| lane.owner == Some(pod.id)) {
            lane.owner = None;
            lane.replay();
        }
    }

    fn join(&mut self, at: u32) {
        for pod in self.pods.iter_mut().filter(|pod| !pod.member && pod.ready_at <= at) {
            pod.member = true;
            self.changed = true;
        }
    }

    /// Whoever comes or goes while they agree makes them agree once more.
    fn rebalance(&mut self, at: u32) {
        if !self.changed || at < self.rebalance_until {
            return;
        }
        self.changed = false;
        self.rebalance_until = at + self.of_pods.random_range(REBALANCE_S);
        self.score.rebalances += 1;
        let before: Vec<Option<u32>> = self.lanes.iter().map(|lane| lane.owner).collect();
        self.assign();
        for (lane, before) in self.lanes.iter_mut().zip(before) {
            if lane.owner != before {
                self.score.moved += 1;
                lane.paused_until = self.rebalance_until;
                lane.replay();
            }
        }
    }

    /// As even as can be, and as few moves as can be.
    fn assign(&mut self) {
        let mut members: Vec<(u32, usize)> =
            self.pods.iter().filter(|pod| pod.member).map(|pod| (pod.id, 0)).collect();
        if members.is_empty() {
            return;
        }
        for (id, owned) in &mut members {
            *owned = self.lanes.iter().filter(|lane| lane.owner == Some(*id)).count();
        }
        members.sort_by_key(|(id, owned)| (usize::MAX - *owned, *id));
        let (share, more) = (PARTITIONS / members.len(), PARTITIONS % members.len());
        for (index, (id, room)) in members.iter_mut().enumerate() {
            *room = share + usize::from(index < more);
            for lane in self.lanes.iter_mut().filter(|lane| lane.owner == Some(*id)) {
                if *room > 0 {
                    *room -= 1;
                } else {
                    lane.owner = None;
                }
            }
        }
        let mut free = members.iter().flat_map(|(id, room)| std::iter::repeat_n(*id, *room));
        for lane in &mut self.lanes {
            let known = lane.owner.is_some_and(|owner| members.iter().any(|(id, _)| *id == owner));
            if !known {
                lane.owner = free.next();
            }
        }
    }

    /// A pod shares what it can among its partitions that have work.
    fn handle(&mut self, at: u32) {
        let rate = self.trace.pod_per_s(at);
        let stuck = self.trace.stuck(at);
        let lanes = &mut self.lanes;
        for pod in self.pods.iter().filter(|pod| pod.member) {
            let mut left = floor(rate * self.of_pods.random_range(0.95..1.05));
            self.busy.clear();
            self.busy.extend((0..lanes.len()).filter(|index| {
                let lane = &lanes[*index];
                lane.owner == Some(pod.id) && lane.paused_until <= at && Some(*index) != stuck
            }));
            loop {
                self.busy.retain(|index| !lanes[*index].waiting.is_empty());
                let busy = u32::try_from(self.busy.len()).unwrap_or(u32::MAX);
                if busy == 0 || left == 0 {
                    break;
                }
                let each = (left / busy).max(1);
                for index in &self.busy {
                    left -= lanes[*index].take(at, each.min(left));
                }
            }
        }
    }

    fn commit(&mut self, at: u32) {
        let left_out = self.trace.left_out();
        for (index, lane) in self.lanes.iter_mut().enumerate() {
            while let Some((_, batch)) = lane.taken.pop_front_if(|(taken, _)| *taken + COMMIT_AFTER_S <= at) {
                lane.committed += u64::from(batch.count);
                lane.moved_at = at;
                if left_out != Some(index) {
                    self.score.handled(at - batch.arrived, batch.count);
                }
            }
            if lane.lag() == 0 {
                lane.moved_at = at;
            }
        }
    }

    /// What is left at the end counts as old as it is then.
    pub(super) fn finish(mut self, at: u32) -> Score {
        let left_out = self.trace.left_out();
        for (_, lane) in self.lanes.iter().enumerate().filter(|(index, _)| Some(*index) != left_out) {
            let taken = lane.taken.iter().map(|(_, batch)| batch);
            for batch in taken.chain(&lane.waiting) {
                self.score.handled(at - batch.arrived, batch.count);
            }
        }
        self.score
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
fn floor(records: f64) -> u32 {
    records as u32
}

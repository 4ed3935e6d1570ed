//! What there is to do: arrival and backlog, in records and in pods.

use super::reading::{Partition, Reading};
use super::settings::Settings;

/// A fullest partition that needs so much of a pod's rate leaves no room for others in it.
pub(super) const POD_FULL: f64 = 0.95;

/// A few seconds cannot be more than this multiple of a mean that they are part of, unless the
/// readings came irregularly.
const SURGE_MAX: f64 = 10.0;

/// What waits in the partitions that move, in records.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Backlog {
    /// Uncommitted records.
    pub(super) lag: f64,
    /// Of them, what is more than what is under way when nothing waits.
    pub(super) beyond_rest: f64,
    /// Records a second that come in; `None`: not known of any partition.
    pub(super) arrival_per_s: Option<f64>,
    /// Age of the oldest of them; `None`: none, or not known.
    pub(super) oldest_age_s: Option<f64>,
    /// At least half of the partitions are late: so all pods have work.
    pub(super) everywhere: bool,
}

impl Backlog {
    /// Of one reading, with what comes in times `surge`.
    #[expect(clippy::cast_precision_loss, reason = "records, far below 2^52")]
    pub(super) fn of(reading: &Reading, settings: &Settings, surge: f64) -> Self {
        let mut all = Self::default();
        let (mut moving, mut late) = (0_usize, 0_usize);
        for one in moving_partitions(reading) {
            moving += 1;
            all.lag += one.lag as f64;
            let beyond_rest = beyond_rest(one, settings, surge);
            all.beyond_rest += beyond_rest;
            let age_s = one.oldest_age_s.filter(|age_s| age_s.is_finite()).unwrap_or(0.0);
            late += usize::from(age_s > settings.objective_s / 2.0 && beyond_rest > 0.0);
            if let Some(arrival) = arrival(one) {
                *all.arrival_per_s.get_or_insert(0.0) += arrival * surge;
            }
            if one.oldest_age_s.is_some() {
                all.oldest_age_s = Some(all.oldest_age_s.unwrap_or(0.0).max(age_s));
            }
        }
        all.everywhere = moving > 0 && late * 2 >= moving;
        all
    }

    /// Whether pods must not be taken away: the oldest record has used up half of the
    /// objective, or more waits than twice of what is under way.
    pub(super) fn stands(&self, settings: &Settings) -> bool {
        let rest = self.arrival_per_s.unwrap_or(0.0) * settings.in_flight_s;
        self.oldest_age_s.is_some_and(|age_s| age_s > settings.objective_s / 2.0)
            || self.beyond_rest > rest.max(settings.planned_rate_per_s)
    }
}

/// What there is to do, in pods, before anything is rounded or bounded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Demand {
    /// For what comes in.
    pub(super) by_arrival: f64,
    /// For what waits.
    pub(super) by_backlog: f64,
    /// Of both, what single partitions want beyond one pod each: nothing to be had.
    pub(super) beyond_one_pod: f64,
    /// Partitions that move.
    pub(super) partitions: u32,
    /// Share of a pod's whole time that the fullest partition takes by its arrival.
    pub(super) hottest: f64,
    /// And a partition by its arrival in the mean.
    pub(super) mean: f64,
}

impl Demand {
    /// Of one reading, with a pod's rate in records a second and what comes in times `surge`.
    pub(super) fn of(reading: &Reading, settings: &Settings, rate_per_s: f64, surge: f64) -> Self {
        let mut demand = Self {
            by_arrival: 0.0,
            by_backlog: 0.0,
            beyond_one_pod: 0.0,
            partitions: 0,
            hottest: 0.0,
            mean: 0.0,
        };
        for one in moving_partitions(reading) {
            let arrival = arrival(one).unwrap_or(0.0) * surge;
            let by_arrival = arrival / (rate_per_s * settings.utilisation);
            let by_backlog = beyond_rest(one, settings, surge) / (rate_per_s * settings.catch_up_s);
            demand.by_arrival += by_arrival;
            demand.by_backlog += by_backlog;
            demand.beyond_one_pod += (by_arrival + by_backlog - 1.0).max(0.0);
            demand.partitions += 1;
            demand.hottest = demand.hottest.max(arrival / rate_per_s);
            demand.mean += arrival / rate_per_s;
        }
        demand.mean /= f64::from(demand.partitions.max(1));
        demand
    }

    /// Pods for all of it, without the rebalance.
    pub(super) fn pods(&self) -> f64 {
        self.by_arrival + self.by_backlog - self.beyond_one_pod
    }
}

/// Those for which a pod more does something.
pub(super) fn moving_partitions(reading: &Reading) -> impl Iterator<Item = &Partition> {
    reading.partitions.iter().filter(|one| !one.stalled)
}

fn arrival(one: &Partition) -> Option<f64> {
    one.arrival_per_s.filter(|arrival| arrival.is_finite() && *arrival >= 0.0)
}

/// Records of a partition that wait, beyond those that are under way when nothing waits.
#[expect(clippy::cast_precision_loss, reason = "records, far below 2^52")]
fn beyond_rest(one: &Partition, settings: &Settings, surge: f64) -> f64 {
    (one.lag as f64 - arrival(one).unwrap_or(0.0) * surge * settings.in_flight_s).max(0.0)
}

/// What came in of late as a multiple of the partitions' means together; 1 when it is not more.
/// How it is shared among the partitions is told by their means: a few seconds of one
/// partition say little.
pub(super) fn surge(reading: &Reading) -> f64 {
    let mean: f64 = moving_partitions(reading).filter_map(arrival).sum();
    let now = reading.arrival_now_per_s.filter(|now| now.is_finite() && mean > 0.0);
    now.map_or(1.0, |now| (now / mean).clamp(1.0, SURGE_MAX))
}

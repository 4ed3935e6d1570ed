//! Which counts are worth having: a pod more helps only if the fullest one gets fewer partitions.

use super::demand::{Demand, POD_FULL};

/// Partitions of the fullest pod when so many share them.
pub(super) fn largest_share(partitions: u32, replicas: u32) -> u32 {
    partitions.div_ceil(replicas.max(1))
}

/// Whether so many replicas carry so many pods' worth of work, when a pod may be above plan by
/// the share `band`.
pub(super) fn carries(demand: &Demand, pods: f64, replicas: u32, max: u32, band: f64) -> bool {
    if demand.partitions == 0 {
        return true;
    }
    let share = f64::from(largest_share(demand.partitions, replicas));
    share * pods / f64::from(demand.partitions) <= 1.0 + band
        && (hottest_pod(demand, replicas) <= POD_FULL || hottest_pod(demand, max) > POD_FULL)
}

/// The least count up to `max` that carries them; `max` when none does.
pub(super) fn least(demand: &Demand, pods: f64, max: u32) -> u32 {
    (1..max).find(|replicas| carries(demand, pods, *replicas, max, 0.0)).unwrap_or(max)
}

/// Share of its time that the pod with the fullest partition is busy with what comes in. Above
/// [`POD_FULL`] even at the most replicas, no count helps, and it counts for none.
fn hottest_pod(demand: &Demand, replicas: u32) -> f64 {
    let others = f64::from(largest_share(demand.partitions, replicas) - 1);
    demand.hottest + others * demand.mean
}

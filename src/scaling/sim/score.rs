//! What came of a run.

use super::OBJECTIVE_S;

/// Ages from here on count as this one, in seconds.
const AGE_MAX_S: usize = 4_000;

/// Of one run, or of many.
#[derive(Debug, Clone)]
pub(super) struct Score {
    /// Records by their age when they were committed, in seconds.
    ages: Vec<u64>,
    /// Seconds times pods.
    pub(super) replica_s: u64,
    /// Times that members of the group agreed anew.
    pub(super) rebalances: u64,
    /// Partitions that changed their owner.
    pub(super) moved: u64,
    /// Runs that are in it.
    pub(super) runs: u64,
}

impl Default for Score {
    fn default() -> Self {
        Self { ages: vec![0; AGE_MAX_S + 1], replica_s: 0, rebalances: 0, moved: 0, runs: 0 }
    }
}

impl Score {
    /// Of one run, in which nothing has happened yet.
    pub(super) fn of_one() -> Self {
        Self { runs: 1, ..Self::default() }
    }

    /// So many records were so old.
    pub(super) fn handled(&mut self, age_s: u32, count: u32) {
        self.ages[(age_s as usize).min(AGE_MAX_S)] += u64::from(count);
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.ages.iter_mut().zip(&other.ages).for_each(|(sum, more)| *sum += more);
        self.replica_s += other.replica_s;
        self.rebalances += other.rebalances;
        self.moved += other.moved;
        self.runs += other.runs;
    }

    pub(super) fn records(&self) -> u64 {
        self.ages.iter().sum()
    }

    /// The age that `per_cent` of the records do not exceed, in seconds.
    pub(super) fn age_s(&self, per_cent: u64) -> usize {
        let enough = (self.records() * per_cent).div_ceil(100);
        let mut so_far = 0;
        let reached = self.ages.iter().position(|count| {
            so_far += count;
            so_far >= enough
        });
        reached.unwrap_or(AGE_MAX_S)
    }

    /// Share of the records that were handled within the objective.
    #[expect(clippy::cast_precision_loss, reason = "records, far below 2^52")]
    pub(super) fn within(&self) -> f64 {
        self.ages[..=OBJECTIVE_S].iter().sum::<u64>() as f64 / self.records().max(1) as f64
    }

    /// A run's, in the mean.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub(super) fn replica_hours(&self) -> f64 {
        self.replica_s as f64 / 3_600.0 / self.runs.max(1) as f64
    }

    /// A run's, in the mean.
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub(super) fn mean(&self, count: u64) -> f64 {
        count as f64 / self.runs.max(1) as f64
    }
}

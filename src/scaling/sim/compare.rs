//! The kafka trigger as deployed, the best one there is, and the scaler.

use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use super::run::{Point, Policy, run};
use super::score::Score;
use super::trace::Trace;

/// `lagThreshold` as deployed.
pub(super) const DEPLOYED: u32 = 2_000;
/// Those that are tried.
const THRESHOLDS: [u32; 12] = [400, 600, 800, 1_000, 1_250, 1_500, 1_750, 2_000, 2_500, 3_000, 4_000, 6_000];

/// One way to scale, over all traces.
#[derive(Debug)]
pub(super) struct Result {
    pub(super) name: String,
    /// As [`Trace::ALL`].
    pub(super) by_trace: Vec<Score>,
    pub(super) total: Score,
}

/// A threshold that was tried.
#[derive(Debug)]
pub(super) struct Tried {
    pub(super) threshold: u32,
    pub(super) total: Score,
    /// Relative to the deployed one: 3 is as good, less is better.
    pub(super) cost: f64,
}

/// What came of all runs.
#[derive(Debug)]
pub struct Comparison {
    pub(super) seeds: u64,
    pub(super) tried: Vec<Tried>,
    pub(super) best: u32,
    /// As deployed, best, ours; on the seeds that the best was not looked for with.
    pub(super) results: Vec<Result>,
    /// The same hour of each trace under each of them.
    pub(super) drawn: Vec<Vec<Vec<Point>>>,
}

/// Looks for the best `lagThreshold` on the first half of the seeds and compares on the rest.
///
/// `seeds`: 2 or more; each is 11 traces, an hour or more each.
#[must_use]
pub fn compare(seeds: u64) -> Comparison {
    let half = seeds.max(2) / 2;
    let tried = tune(half);
    let best = tried
        .iter()
        .min_by(|one, other| one.cost.total_cmp(&other.cost))
        .map_or(DEPLOYED, |one| one.threshold);
    let policies = [Policy::Kafka(DEPLOYED), Policy::Kafka(best), Policy::Scaler];
    let names = ["kafka, as deployed".to_owned(), format!("kafka, best ({best})"), "scaler".to_owned()];
    let rest = half..seeds.max(2);
    let results = policies.iter().zip(names).map(|(policy, name)| over(*policy, rest.clone(), name));
    let results = results.collect();
    let drawn = Trace::ALL.map(|trace| policies.map(|policy| run(trace, policy, half, true).1).to_vec());
    Comparison { seeds, tried, best, results, drawn: drawn.to_vec() }
}

fn tune(seeds: u64) -> Vec<Tried> {
    let totals: Vec<(u32, Score)> = THRESHOLDS
        .iter()
        .map(|threshold| (*threshold, over(Policy::Kafka(*threshold), 0..seeds, String::new()).total))
        .collect();
    let deployed =
        totals.iter().find(|(threshold, _)| *threshold == DEPLOYED).map(|(_, score)| score.clone());
    let deployed = deployed.unwrap_or_default();
    let cost = |score: &Score| cost(score, &deployed);
    totals.into_iter().map(|(threshold, total)| Tried { threshold, cost: cost(&total), total }).collect()
}

/// p99 age, replica-hours and rebalances, each over that of `base`, added up.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(super) fn cost(score: &Score, base: &Score) -> f64 {
    score.age_s(99) as f64 / base.age_s(99).max(1) as f64
        + score.replica_s as f64 / base.replica_s.max(1) as f64
        + score.rebalances as f64 / base.rebalances.max(1) as f64
}

/// All traces with these seeds, on all cores.
fn over(policy: Policy, seeds: std::ops::Range<u64>, name: String) -> Result {
    let jobs: Vec<(usize, u64)> =
        (0..Trace::ALL.len()).flat_map(|trace| seeds.clone().map(move |seed| (trace, seed))).collect();
    let next = AtomicUsize::new(0);
    let by_trace = Mutex::new(vec![Score::default(); Trace::ALL.len()]);
    let work = || {
        while let Some((trace, seed)) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let (score, _) = run(Trace::ALL[*trace], policy, *seed, false);
            by_trace.lock().unwrap_or_else(std::sync::PoisonError::into_inner)[*trace].add(&score);
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(work);
        }
    });
    let by_trace = by_trace.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut total = Score::default();
    by_trace.iter().for_each(|score| total.add(score));
    Result { name, by_trace, total }
}

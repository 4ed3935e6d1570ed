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
const THRESHOLDS: [u32; 18] =
    [200, 300, 400, 500, 600, 650, 700, 750, 800, 850, 900, 1_000, 1_250, 1_500, 2_000, 2_500, 4_000, 6_000];

/// Replica-hours that the best may cost, over those of the deployed one.
const BUDGET: f64 = 1.05;

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
    /// It costs no more than [`BUDGET`] times the deployed one's replica-hours.
    pub(super) affordable: bool,
}

/// What came of all runs.
#[derive(Debug)]
pub struct Comparison {
    pub(super) seeds: u64,
    pub(super) tried: Vec<Tried>,
    pub(super) best: u32,
    /// As deployed, lowest p99 at any cost, best, ours; on the seeds that the best was not looked for with.
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
    let best = best_of(tried.iter().filter(|one| one.affordable));
    let dearest = best_of(tried.iter());
    let policies = [Policy::Kafka(DEPLOYED), Policy::Kafka(dearest), Policy::Kafka(best), Policy::Scaler];
    let names = [
        format!("kafka {DEPLOYED}, as deployed"),
        format!("kafka {dearest}, at any cost"),
        format!("kafka {best}, best"),
        "scaler".to_owned(),
    ];
    let rest = half..seeds.max(2);
    let results = policies.iter().zip(names).map(|(policy, name)| over(*policy, rest.clone(), name));
    let results = results.collect();
    let drawn = Trace::ALL.map(|trace| policies.map(|policy| run(trace, policy, half, true).1).to_vec());
    Comparison { seeds, tried, best, results, drawn: drawn.to_vec() }
}

/// The lowest p99 age, and of equals the fewest rebalances.
fn best_of<'a>(tried: impl Iterator<Item = &'a Tried>) -> u32 {
    let by = |one: &&Tried| (one.total.age_s(99), one.total.rebalances);
    tried.min_by_key(by).map_or(DEPLOYED, |one| one.threshold)
}

#[expect(clippy::cast_precision_loss, reason = "seconds, far below 2^52")]
fn tune(seeds: u64) -> Vec<Tried> {
    let total = |threshold| over(Policy::Kafka(threshold), 0..seeds, String::new()).total;
    let tried = THRESHOLDS.map(|threshold| (threshold, total(threshold)));
    let deployed = tried.iter().find(|(threshold, _)| *threshold == DEPLOYED);
    let most = deployed.map_or(f64::MAX, |(_, score)| score.replica_s as f64 * BUDGET);
    let judged = tried.iter().map(|(threshold, total)| Tried {
        threshold: *threshold,
        affordable: total.replica_s as f64 <= most,
        total: total.clone(),
    });
    judged.collect()
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

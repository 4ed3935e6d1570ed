//! The part of docs/autoscaling.md that a run writes.

use std::fmt::Write as _;

use super::compare::{Comparison, Result};
use super::score::Score;
use super::trace::Trace;

const BEGIN: &str = "<!-- simulate: begin; `make simulate` writes what follows -->";
const END: &str = "<!-- simulate: end -->";
const HEAD: &str = "| scaled by | p50 s | p95 s | p99 s | within 10 s | replica-hours | rebalances | partitions moved |\n\
                    |---|---:|---:|---:|---:|---:|---:|---:|\n";

/// The page with the generated part in the place of the one before.
///
/// # Errors
/// When the page has no such place.
pub fn put_into(page: &str, generated: &str) -> anyhow::Result<String> {
    let place = page.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = place.ok_or_else(|| anyhow::anyhow!("the page lacks the line {BEGIN} or {END}"))?;
    Ok(format!("{before}{BEGIN}\n\n{generated}\n{END}{after}"))
}

/// Tables and pictures.
#[must_use]
pub fn generated(comparison: &Comparison) -> String {
    let half = comparison.seeds.max(2) / 2;
    let mut text = format!(
        "### All traces together\n\nSeeds {half} to {}; a run's mean for hours, rebalances and moves, all \
         records together for ages.\n\n{HEAD}",
        comparison.seeds.max(2) - 1
    );
    for result in &comparison.results {
        row(&mut text, &result.name, &result.total);
    }
    aim(&mut text, &comparison.results);
    tuned(&mut text, comparison, half);
    text.push_str("\n### Trace by trace\n");
    for (index, trace) in Trace::ALL.iter().enumerate() {
        let name = trace.name();
        let _ = write!(
            text,
            "\n#### {name}\n\n{}.\n\n![{name}: oldest record, lag and pods over time](autoscaling/{name}.svg)\n\n{HEAD}",
            trace.in_words()
        );
        for result in &comparison.results {
            row(&mut text, &result.name, &result.by_trace[index]);
        }
    }
    text
}

fn row(text: &mut String, name: &str, score: &Score) {
    let _ = writeln!(
        text,
        "| {name} | {} | {} | {} | {:.2} % | {:.2} | {:.1} | {:.0} |",
        score.age_s(50),
        score.age_s(95),
        score.age_s(99),
        score.within() * 100.0,
        score.replica_hours(),
        score.mean(score.rebalances),
        score.mean(score.moved),
    );
}

/// What was aimed at, against the best threshold.
fn aim(text: &mut String, results: &[Result]) {
    let [_, dearest, best, ours] = results else { return };
    against(text, "the best threshold at the same cost", &best.total, &ours.total);
    against(text, "the one with the lowest p99 age at any cost", &dearest.total, &ours.total);
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn against(text: &mut String, whom: &str, best: &Score, ours: &Score) {
    let change = |ours: u64, best: u64| (ours as f64 / best.max(1) as f64 - 1.0) * 100.0;
    let met = |met: bool| if met { "met" } else { "**missed**" };
    let fewer = change(ours.rebalances, best.rebalances);
    let hours = change(ours.replica_s, best.replica_s);
    let _ = write!(
        text,
        "\nThe scaler against {whom}:\n\n| | aim | here | |\n|---|---|---|---|\n\
         | rebalances | −40 % | {fewer:+.1} % | {} |\n\
         | p99 age | no worse | {} s against {} s | {} |\n\
         | replica-hours | at most +5 % | {hours:+.1} % | {} |\n",
        met(fewer <= -40.0),
        ours.age_s(99),
        best.age_s(99),
        met(ours.age_s(99) <= best.age_s(99)),
        met(hours <= 5.0),
    );
}

fn tuned(text: &mut String, comparison: &Comparison, half: u64) {
    let _ = write!(
        text,
        "\n### The best threshold\n\nSeeds 0 to {}. The best has the lowest p99 age (of equals: the fewest \
         rebalances) of those that cost at most 5 % more replica-hours than the deployed 2,000: {}. Without \
         that bound the best is simply the most pods nearly all the time.\n\n\
         | lagThreshold | p99 s | within 10 s | replica-hours | rebalances | within +5 % |\n\
         |---:|---:|---:|---:|---:|---|\n",
        half - 1,
        comparison.best
    );
    for tried in &comparison.tried {
        let total = &tried.total;
        let _ = writeln!(
            text,
            "| {} | {} | {:.2} % | {:.2} | {:.1} | {} |",
            tried.threshold,
            total.age_s(99),
            total.within() * 100.0,
            total.replica_hours(),
            total.mean(total.rebalances),
            if tried.affordable { "yes" } else { "no" },
        );
    }
}

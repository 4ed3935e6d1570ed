//! What a claim costs where most of many rows are not due.

use std::time::{Duration, Instant};

use patient_notify::domain::{Channel, Urgency};
use patient_notify::record::{Owner, Store};

use crate::rows::{LEASE, Table};

/// Due rows among the others, at most; as after a night of quiet hours.
const DUE_MAX: u64 = 80_000;
const DUE_SHARE: u64 = 5;
const CLAIMS_MAX: usize = 300;
/// Rows of each channel that a claim has place for.
const PLACES: usize = 64;

/// Fills the table, prints the plan of the worker's claim, and times claims.
pub async fn claims(table: &Table, rows: u64) -> anyhow::Result<()> {
    let begun = Instant::now();
    let due_every = rows.div_ceil(DUE_MAX).max(DUE_SHARE);
    table.fill(rows, due_every).await?;
    println!("{rows} rows, {} of them due, filled in {:.0?}", rows / due_every, begun.elapsed());
    let store = Store::new(table.pool.clone(), Owner::new());
    let shares: Vec<_> = Channel::ALL.iter().map(|&channel| (channel, PLACES)).collect();
    // The first one reads the pages that it shows.
    store.explain_claim_due(Urgency::Normal, &shares, LEASE).await?;
    let plan = store.explain_claim_due(Urgency::Normal, &shares, LEASE).await?;
    println!("{}", plan.join("\n"));
    anyhow::ensure!(!plan.iter().any(|line| line.contains("Seq Scan")), "the claim reads a whole table");

    let mut times = Vec::new();
    let mut claimed = 0;
    // As many as leave rows of each urgency and channel for the last one.
    let kinds = (Urgency::ALL.len() * Channel::ALL.len()) as u64;
    let claims = usize::try_from(rows / due_every / kinds)? / PLACES * Urgency::ALL.len();
    for nth in 0..claims.min(CLAIMS_MAX) {
        let urgency = Urgency::ALL[nth % Urgency::ALL.len()];
        let begun = Instant::now();
        claimed += store.claim_due(urgency, &shares, LEASE).await?.len();
        times.push(begun.elapsed());
    }
    anyhow::ensure!(!times.is_empty(), "too few rows for a single claim");
    times.sort_unstable();
    let at = |percent: usize| milliseconds(times[(times.len() * percent / 100).min(times.len() - 1)]);
    println!(
        "{} claims, {claimed} rows: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        times.len(),
        at(50),
        at(99),
        at(100)
    );
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

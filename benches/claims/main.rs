//! How many due deliveries a second `wrk-notifications` claims, sends by an instant
//! provider and completes, beside a bare loop that claims with `SKIP LOCKED` and deletes
//! rows of the same table in the same run; then what a claim costs where most of many
//! rows are not due.
//!
//! `make bench` runs it on a stack of its own. Worker, bare loop and PostgreSQL share the
//! machine. `BENCH_DELIVERIES` sets how many are due in the first part (default 100,000),
//! `BENCH_DUE_ROWS` how many rows there are in the second one (default
//! 200,000; 0 leaves it out), `BENCH_ROUNDS` how often they take turns (default 3).

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench talks to a person and has no config"
)]

mod bare;
mod many;
mod rows;
#[path = "../shared/cpu.rs"]
mod cpu;
#[path = "../shared/stack.rs"]
mod stack;
mod worker;

use std::time::Duration;

use patient_notify::config::Config;
use patient_notify::metrics;
use patient_notify::record::pool;

use rows::Table;

fn setting(name: &str, default: u64) -> anyhow::Result<u64> {
    Ok(std::env::var(name).ok().map(|text| text.parse()).transpose()?.unwrap_or(default))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let deliveries = setting("BENCH_DELIVERIES", 100_000)?;
    let many_rows = setting("BENCH_DUE_ROWS", 200_000)?;
    let rounds = setting("BENCH_ROUNDS", 3)?;
    metrics::init("bench", &Config::from_defaults().metrics)?;
    let config = stack::prepare().await?;
    let table = Table::new(pool::pool(&config.postgres)?).await?;
    if deliveries > 0 && rounds > 0 {
        side_by_side(&config, &table, deliveries, rounds).await?;
    }
    if many_rows > 0 {
        many::claims(&table, many_rows).await?;
    }
    Ok(())
}

const BARE: [(&str, bare::Loop); 3] = [
    ("bare: claim and delete by one statement", bare::Loop::AtOnce),
    ("bare: claim by lease, then delete", bare::Loop::Leased),
    ("bare: claim by lease, then the worker's writes", bare::Loop::Written),
];

/// They take turns, so that what else the machine does meets all of them.
async fn side_by_side(config: &Config, table: &Table, deliveries: u64, rounds: u64) -> anyhow::Result<()> {
    let connections = worker::connections(config);
    let batch = worker::batch(config);
    println!(
        "{deliveries} due deliveries, 3 channels, 4 urgencies, {} cores, {rounds} rounds; \
         {connections} connections, batches of at most {batch}",
        std::thread::available_parallelism()?
    );
    let mut bare: Vec<Vec<Duration>> = vec![Vec::new(); BARE.len()];
    let mut of_worker = Vec::new();
    for _ in 0..rounds {
        for ((_, how), times) in BARE.iter().zip(&mut bare) {
            table.fill(deliveries, 1).await?;
            times.push(bare::run(table, *how, connections, batch).await?);
        }
        table.fill(deliveries, 1).await?;
        of_worker.push(worker::run(config, table, deliveries).await?);
    }
    let rate = |elapsed: &Duration| deliveries as f64 / elapsed.as_secs_f64();
    let ratio = |times: &[Duration]| {
        median(times.iter().zip(&of_worker).map(|(bare, ours)| rate(&ours.elapsed) / rate(bare)))
    };
    let ours = median(of_worker.iter().map(|run| rate(&run.elapsed)));
    println!("{:<46} {ours:>9.0} deliveries/s", "wrk-notifications, instant provider");
    for ((what, _), times) in BARE.iter().zip(&bare) {
        let of_it = median(times.iter().map(rate));
        println!("{what:<46} {of_it:>9.0} deliveries/s, of which the worker does {:.3}", ratio(times));
    }
    let transactions = median(of_worker.iter().map(|run| run.transactions as f64 / deliveries as f64));
    let cpu_us = median(of_worker.iter().map(|run| run.cpu.as_secs_f64() * 1e6 / deliveries as f64));
    println!(
        "the worker: {transactions:.4} transactions and {cpu_us:.0} µs of own CPU a delivery; its statements:"
    );
    println!("{}", worker::statements().join("\n"));
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

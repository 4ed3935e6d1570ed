//! What telemetry costs: the drain of `benches/drain` with an instant provider, once with all
//! of it on (measures scraped and pushed, lag read every 2 s, traces exported, JSON logs) and
//! once with none of it, in processes that take turns in one run.
//!
//! `make bench BENCH=overhead`. `BENCH_RESULTS` sets the number of test results (default
//! 200,000), `BENCH_ROUNDS` how often they take turns (default 3). Collector, consumer, broker
//! and PostgreSQL share the machine.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    reason = "a bench talks to a person and has no config"
)]

mod collector;
#[path = "../shared/cpu.rs"]
mod cpu;
mod drained;
#[path = "../shared/stack.rs"]
mod stack;
#[path = "../drain/world.rs"]
mod world;

use std::process::{Command, Stdio};

use anyhow::Context as _;

use collector::Collector;
use drained::Telemetry;

/// Says to the process of one drain what it has; it prints its figures.
const TELEMETRY: &str = "BENCH_TELEMETRY";

/// One drain.
#[derive(Debug, Clone, Copy)]
struct Run {
    rate: f64,
    cpu_us: f64,
}

fn setting(name: &str, default: u64) -> anyhow::Result<u64> {
    Ok(std::env::var(name).ok().map(|text| text.parse()).transpose()?.unwrap_or(default))
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let results = setting("BENCH_RESULTS", 200_000)?;
    match std::env::var(TELEMETRY).ok().as_deref() {
        Some("off") => drained::run(results, Telemetry::Off).await,
        Some(collector) => drained::run(results, Telemetry::To(collector.to_owned())).await,
        None => compare(results, setting("BENCH_ROUNDS", 3)?).await,
    }
}

async fn compare(results: u64, rounds: u64) -> anyhow::Result<()> {
    println!("{results} test results, {} cores, {rounds} rounds", std::thread::available_parallelism()?);
    let collector = Collector::start().await?;
    let (mut on, mut off) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        // Whoever is first finds the machine as the last round left it: they take turns at that, too.
        let mut order = [(&mut off, "off".to_owned()), (&mut on, collector.endpoint.clone())];
        if round % 2 == 1 {
            order.reverse();
        }
        for (runs, telemetry) in order {
            runs.push(tokio::task::spawn_blocking(move || process(&telemetry)).await??);
        }
    }
    let (spans, measures) = collector.received();
    anyhow::ensure!(spans > 0 && measures > 0, "nothing came to the collector: {spans} and {measures}");
    for (what, runs) in [("telemetry off", &off), ("telemetry on", &on)] {
        let rate = median(runs.iter().map(|run| run.rate));
        let cpu_us = median(runs.iter().map(|run| run.cpu_us));
        println!("{what:<16} {rate:>9.0}/s   own CPU {cpu_us:>4.0} µs a message");
    }
    let pairs = || on.iter().zip(&off);
    let cost = 1.0 - median(pairs().map(|(on, off)| on.rate / off.rate));
    let cpu = median(pairs().map(|(on, off)| on.cpu_us / off.cpu_us)) - 1.0;
    println!(
        "telemetry costs {:.1} % of the drain rate and {:.1} % of own CPU; {spans} spans and {measures} pushes came",
        cost * 100.0,
        cpu * 100.0
    );
    Ok(())
}

/// A process of its own: what is set up once cannot be taken away again.
fn process(telemetry: &str) -> anyhow::Result<Run> {
    let log = std::env::temp_dir().join(format!("patient-notify-bench-{}.log", std::process::id()));
    let output = Command::new(std::env::current_exe()?)
        .env(TELEMETRY, telemetry)
        .stdin(Stdio::null())
        .stderr(std::fs::File::create(&log)?)
        .output()?;
    let said = std::fs::read_to_string(&log)?;
    std::fs::remove_file(&log)?;
    anyhow::ensure!(output.status.success(), "a drain failed: {said}");
    let text = String::from_utf8(output.stdout)?;
    let mut numbers = text.split_whitespace().map(str::parse::<f64>);
    let mut next = || numbers.next().context("a drain printed no figures")?.context("no figure");
    Ok(Run { rate: next()?, cpu_us: next()? })
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

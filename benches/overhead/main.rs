//! What telemetry costs: the drain of `benches/drain` with an instant provider, once with all
//! of it on (measures scraped and pushed, lag read every 2 s, traces exported, JSON logs) and
//! once with none of it, in processes that take turns in one run.
//!
//! `make bench BENCH=overhead`. `BENCH_RESULTS` sets the number of test results (default
//! 200,000), `BENCH_ROUNDS` how often they take turns (default 3); `BENCH_PARTS=1` also drains with
//! each part of telemetry alone. Collector, consumer, broker
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
use drained::Part;

/// Says to the process of one drain what it has, by names, and where the collector is; it prints
/// its figures.
const PARTS_ON: &str = "BENCH_PARTS_ON";
const COLLECTOR: &str = "BENCH_COLLECTOR";

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
    match std::env::var(PARTS_ON).ok() {
        Some(names) => {
            let parts =
                Part::ALL.into_iter().filter(|part| names.split(',').any(|name| name == part.as_str()));
            drained::run(results, &parts.collect::<Vec<_>>(), &std::env::var(COLLECTOR)?).await
        }
        None => compare(results, setting("BENCH_ROUNDS", 3)?, setting("BENCH_PARTS", 0)? > 0).await,
    }
}

/// A way of telling, and what was measured with it.
struct Way {
    name: &'static str,
    parts: Vec<&'static str>,
    runs: Vec<Run>,
}

impl Way {
    fn new(name: &'static str, parts: &[Part]) -> Self {
        Self { name, parts: parts.iter().map(|part| part.as_str()).collect(), runs: Vec::new() }
    }
}

async fn compare(results: u64, rounds: u64, each: bool) -> anyhow::Result<()> {
    println!("{results} test results, {} cores, {rounds} rounds", std::thread::available_parallelism()?);
    let collector = Collector::start().await?;
    let mut ways = vec![Way::new("off", &[]), Way::new("on", &Part::ALL)];
    if each {
        ways.extend(Part::ALL.iter().map(|part| Way::new(part.as_str(), std::slice::from_ref(part))));
    }
    for _ in 0..rounds {
        for way in &mut ways {
            let (parts, endpoint) = (way.parts.join(","), collector.endpoint.clone());
            way.runs.push(tokio::task::spawn_blocking(move || process(&parts, &endpoint)).await??);
        }
        // Whoever is first finds the machine as the last round left it: they take turns at that, too.
        ways.rotate_left(1);
    }
    let (spans, pushes) = collector.received();
    anyhow::ensure!(spans > 0 && pushes > 0, "nothing came to the collector: {spans} and {pushes}");
    let off = ways.iter().position(|way| way.parts.is_empty()).context("there is one without")?;
    let off = ways.swap_remove(off);
    println!("{:<14} {:>9.0}/s   own CPU {:>4.1} µs a message", "telemetry off", rate(&off), cpu_us(&off));
    for way in &ways {
        let pairs = || way.runs.iter().zip(&off.runs);
        let cost = 1.0 - median(pairs().map(|(on, off)| on.rate / off.rate));
        let cpu = median(pairs().map(|(on, off)| on.cpu_us / off.cpu_us)) - 1.0;
        println!(
            "{:<14} {:>9.0}/s   own CPU {:>4.1} µs a message: costs {:.1} % of the rate, {:.1} % of own CPU",
            way.name,
            rate(way),
            cpu_us(way),
            cost * 100.0,
            cpu * 100.0
        );
    }
    println!("the collector got {spans} spans and {pushes} pushes");
    Ok(())
}

fn rate(way: &Way) -> f64 {
    median(way.runs.iter().map(|run| run.rate))
}

fn cpu_us(way: &Way) -> f64 {
    median(way.runs.iter().map(|run| run.cpu_us))
}

/// A process of its own: what is set up once cannot be taken away again.
fn process(parts: &str, collector: &str) -> anyhow::Result<Run> {
    let log = std::env::temp_dir().join(format!("patient-notify-bench-{}.log", std::process::id()));
    let output = Command::new(std::env::current_exe()?)
        .env(PARTS_ON, parts)
        .env(COLLECTOR, collector)
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

//! How fast the spine drains a topic, beside what the parts can do alone in the
//! same run: raw librdkafka consume, and COPY into the same tables.
//!
//! `make bench` runs it on a stack of its own. `BENCH_RESULTS` sets the number of
//! test results (default 200,000).

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench talks to a person and has no config"
)]

mod baseline;
#[path = "../shared/cpu.rs"]
mod cpu;
#[path = "../shared/stack.rs"]
mod stack;
mod stub;
mod world;

use std::net::SocketAddr;
use std::time::Duration;

use patient_notify::config::Config;
use patient_notify::deliver::Providers;

use world::{Drained, World};

/// Latency of the HTTP stub, as a text message gateway may have it.
const STUB_LATENCY: Duration = Duration::from_millis(50);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let results: u64 =
        std::env::var("BENCH_RESULTS").ok().map(|text| text.parse()).transpose()?.unwrap_or(200_000);
    println!("{results} test results, {} cores", std::thread::available_parallelism()?);

    let world = World::new(results).await?;
    let consume = baseline::raw_consume(&world)?;
    line("raw librdkafka consume", results, consume, None);
    let copy = baseline::copy(&world, results).await?;
    line("COPY into the same four tables", results, copy, None);

    let instant = world.drain(Providers::instant()).await?;
    line("drain, instant in-process provider", results, instant.elapsed, Some(&instant));
    ratios(&instant, consume, copy);

    let world = World::new(results).await?;
    let stub = stub::Stub::start(STUB_LATENCY).await?;
    let providers = Providers::from_config(&with_sms(&world.config, stub.address()))?;
    let http = world.drain(providers).await?;
    line("drain, HTTP stub that answers in 50 ms", results, http.elapsed, Some(&http));
    ratios(&http, consume, copy);
    anyhow::ensure!(
        stub.received() == results,
        "the stub was called {} times for {results} results",
        stub.received()
    );
    println!("stub: each result once");
    Ok(())
}

/// The configuration with this gateway for text messages, and nothing else.
fn with_sms(config: &Config, address: SocketAddr) -> Config {
    let mut config = config.clone();
    config.sms.base_url = format!("http://{address}");
    config.email.enabled = false;
    config.push.enabled = false;
    config
}

fn rate(results: u64, elapsed: Duration) -> f64 {
    results as f64 / elapsed.as_secs_f64()
}

fn line(what: &str, results: u64, elapsed: Duration, drained: Option<&Drained>) {
    let cpu = drained.map_or_else(String::new, |drained| {
        format!("   own CPU {:>4.0} µs a message", drained.cpu.as_secs_f64() * 1e6 / results as f64)
    });
    println!("{what:<42} {:>9.0}/s {:>7.1} s{cpu}", rate(results, elapsed), elapsed.as_secs_f64());
}

fn ratios(drained: &Drained, consume: Duration, copy: Duration) {
    let of = |base: Duration| base.as_secs_f64() / drained.elapsed.as_secs_f64();
    println!("{:<42} {:>9.3} of consume, {:.3} of COPY", "", of(consume), of(copy));
}

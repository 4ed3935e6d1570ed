//! One drain in this process, with telemetry or without.

use std::time::Duration;

use patient_notify::config::Config;
use patient_notify::deliver::Providers;
use patient_notify::health::Health;
use patient_notify::{metrics, telemetry, trace};

use crate::world::World;

/// As Prometheus does it.
const SCRAPE_INTERVAL: Duration = Duration::from_secs(15);
const ROLE: &str = "bench";

/// What a process tells of itself. Without any of it there are no instruments and no log, and
/// the lag is read as seldom as can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Instruments, scraped.
    Measures,
    /// The lag of owned partitions, as often as by default.
    Lag,
    /// Measures to a collector.
    Push,
    /// Spans to a collector.
    Traces,
    /// JSON lines.
    Log,
}

impl Part {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Measures, Self::Lag, Self::Push, Self::Traces, Self::Log];

    /// As it is shown and passed on.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Measures => "measures",
            Self::Lag => "lag",
            Self::Push => "push",
            Self::Traces => "traces",
            Self::Log => "log",
        }
    }
}

/// Drains, and prints records a second and own CPU in microseconds a record.
pub async fn run(results: u64, parts: &[Part], collector: &str) -> anyhow::Result<()> {
    let mut world = World::new(results).await?;
    let traces = switch_on(&mut world.config, parts, collector).await?;
    let drained = world.drain(Providers::instant()).await?;
    let each_us = drained.cpu.as_secs_f64() * 1e6 / results as f64;
    println!("{} {each_us}", results as f64 / drained.elapsed.as_secs_f64());
    // Exporters wait for a runtime, which must not wait for them.
    tokio::task::spawn_blocking(move || {
        traces.end();
        metrics::end();
    })
    .await?;
    Ok(())
}

async fn switch_on(config: &mut Config, parts: &[Part], collector: &str) -> anyhow::Result<trace::Traces> {
    let has = |part| parts.contains(&part);
    if !has(Part::Lag) {
        config.metrics.lag_interval_ms = 60_000;
    }
    if has(Part::Log) {
        config.log.format = "json".to_owned();
        telemetry::init(&config.log)?;
    }
    if has(Part::Push) {
        config.metrics.otlp_endpoint = collector.to_owned();
    }
    if has(Part::Traces) {
        config.traces.otlp_endpoint = collector.to_owned();
    }
    if has(Part::Measures) || has(Part::Push) {
        metrics::init(ROLE, &config.metrics)?;
        scrape().await?;
    }
    Ok(trace::start(ROLE, &config.traces)?)
}

/// Until the process ends.
async fn scrape() -> anyhow::Result<()> {
    let probes = telemetry::serve_metrics("127.0.0.1:0", Health::new()).await?;
    let page = format!("http://{}/metrics", probes.address());
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(SCRAPE_INTERVAL);
        let _served = probes;
        loop {
            tick.tick().await;
            if let Ok(answer) = reqwest::get(&page).await {
                drop(answer.bytes().await);
            }
        }
    });
    Ok(())
}

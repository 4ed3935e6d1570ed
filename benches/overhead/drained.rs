//! One drain in this process, with telemetry or without.

use std::time::Duration;

use patient_notify::deliver::Providers;
use patient_notify::health::Health;
use patient_notify::{metrics, telemetry, trace};

use crate::world::World;

/// As Prometheus does it.
const SCRAPE_INTERVAL: Duration = Duration::from_secs(15);
const ROLE: &str = "bench";

/// What a process tells of itself.
pub enum Telemetry {
    /// Nothing: no instruments, no log; the lag is read as seldom as can be set.
    Off,
    /// All of it, with spans and measures to the collector there.
    To(String),
}

/// Drains, and prints records a second and own CPU in microseconds a record.
pub async fn run(results: u64, telemetry: Telemetry) -> anyhow::Result<()> {
    let mut world = World::new(results).await?;
    let traces = match telemetry {
        Telemetry::Off => {
            world.config.metrics.lag_interval_ms = 60_000;
            None
        }
        Telemetry::To(collector) => Some(switch_on(&mut world, collector).await?),
    };
    let drained = world.drain(Providers::instant()).await?;
    let each_us = drained.cpu.as_secs_f64() * 1e6 / results as f64;
    println!("{} {each_us}", results as f64 / drained.elapsed.as_secs_f64());
    if let Some(traces) = traces {
        // Exporters wait for a runtime, which must not wait for them.
        tokio::task::spawn_blocking(move || {
            traces.end();
            metrics::end();
        })
        .await?;
    }
    Ok(())
}

async fn switch_on(world: &mut World, collector: String) -> anyhow::Result<trace::Traces> {
    let config = &mut world.config;
    config.log.format = "json".to_owned();
    config.metrics.otlp_endpoint.clone_from(&collector);
    config.traces.otlp_endpoint = collector;
    config.metrics.listen = "127.0.0.1:0".to_owned();
    telemetry::init(&config.log)?;
    metrics::init(ROLE, &config.metrics)?;
    let probes = telemetry::serve_metrics(&config.metrics.listen, Health::new()).await?;
    let page = format!("http://{}/metrics", probes.address());
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(SCRAPE_INTERVAL);
        // It serves until the process ends.
        let _probes = probes;
        loop {
            tick.tick().await;
            if let Ok(answer) = reqwest::get(&page).await {
                drop(answer.bytes().await);
            }
        }
    });
    Ok(trace::start(ROLE, &config.traces)?)
}

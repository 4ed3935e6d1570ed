//! How many recipients a second the publisher hands to the brokers, beside a raw
//! librdkafka producer that writes the same bytes in the same run.
//!
//! `make bench` runs it on a stack of its own. Publisher, PostgreSQL and the brokers share
//! the machine. `BENCH_RECIPIENTS` sets the size of a batch (default 300,000).

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench talks to a person and has no config"
)]

mod publisher;
mod raw;
#[path = "../shared/stack.rs"]
mod stack;

use std::time::Duration;

use patient_notify::topic::names::NOTIFICATIONS_BULK;

/// Rounds; the two take turns, so that what else the machine does meets both.
const ROUNDS: usize = 3;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let recipients: i64 =
        std::env::var("BENCH_RECIPIENTS").ok().map(|text| text.parse()).transpose()?.unwrap_or(300_000);
    println!(
        "{recipients} recipients with a variable each, acks=all, {} cores, {ROUNDS} rounds",
        std::thread::available_parallelism()?
    );
    let config = stack::prepare().await?;
    let topic = NOTIFICATIONS_BULK.full_name(&config.kafka.topic_prefix);
    let publisher = publisher::Publisher::new(&config)?;
    let (mut of_raw, mut of_publisher) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let batch = publisher.prepare(&format!("round-{round}"), recipients).await?;
        let payloads = publisher.payloads(batch).await?;
        of_raw.push(raw::produce(&config.kafka, &topic, payloads).await?);
        of_publisher.push(publisher.publish(batch).await?);
    }
    let rate = |elapsed: &Duration| recipients as f64 / elapsed.as_secs_f64();
    let ratios = of_raw.iter().zip(&of_publisher).map(|(raw, ours)| rate(ours) / rate(raw)).collect();
    line("raw librdkafka, the same bytes", median(of_raw.iter().map(rate).collect()));
    line("batch publisher, one process", median(of_publisher.iter().map(rate).collect()));
    println!("{:<34} {:>9.3} of the raw one (median of {ROUNDS} pairs)", "", median(ratios));
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn line(what: &str, rate: f64) {
    println!("{what:<34} {rate:>9.0} recipients/s");
}

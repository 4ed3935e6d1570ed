//! How many Sends a second the front takes over, with how much waiting, beside a
//! bare tonic handler that awaits the same produce, in the same run.
//!
//! `make bench` runs it on a stack of its own. Callers, both servers and the brokers
//! share the machine. Both get the same requests, the token too, which the bare one does
//! not look at: what differs is the server. `BENCH_SECONDS` sets the length of one round
//! (default 6).

#![allow(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a bench talks to a person and has no config"
)]

mod bare;
mod callers;
mod front;
#[path = "../shared/stack.rs"]
mod stack;
mod token;

use std::time::Duration;

use callers::{Callers, Round};

/// Calls under way at once.
const CONCURRENT: [usize; 2] = [64, 512];
/// Rounds of each server at each concurrency; the two take turns, so that what else
/// the machine does meets both.
const ROUNDS: usize = 5;
/// Before the first round: connections, caches, the registry's schema.
const WARM_UP: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let seconds: u64 = std::env::var("BENCH_SECONDS").ok().map(|text| text.parse()).transpose()?.unwrap_or(6);
    let round = Duration::from_secs(seconds);
    println!("Send, acks=all, {} cores, rounds of {seconds} s", std::thread::available_parallelism()?);
    let config = stack::prepare().await?;
    let front = front::Front::start(config.clone()).await?;
    let bare = bare::start(&config).await?;
    let to_front = Callers::new(front.address, &front.token).await?;
    let to_bare = Callers::new(bare, &front.token).await?;
    for concurrent in CONCURRENT {
        to_bare.run(concurrent, WARM_UP).await?;
        to_front.run(concurrent, WARM_UP).await?;
        let (mut of_bare, mut of_front) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            of_bare.push(to_bare.run(concurrent, round).await?);
            of_front.push(to_front.run(concurrent, round).await?);
        }
        let ratios = of_front.iter().zip(&of_bare).map(|(front, bare)| front.rate / bare.rate).collect();
        let (bare, front) = (middle(of_bare), middle(of_front));
        line(&format!("bare handler, {concurrent} calls at once"), &bare);
        line(&format!("front, {concurrent} calls at once"), &front);
        println!("{:<32} {:>9.3} of the bare one (median of {ROUNDS} pairs)", "", median(ratios));
    }
    front.stop().await
}

/// The round with the median rate.
fn middle(mut rounds: Vec<Round>) -> Round {
    rounds.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    rounds.swap_remove(rounds.len() / 2)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn line(what: &str, round: &Round) {
    println!(
        "{what:<32} {:>9.0}/s   p50 {:>6.1} ms   p99 {:>6.1} ms",
        round.rate,
        round.p50.as_secs_f64() * 1e3,
        round.p99.as_secs_f64() * 1e3
    );
}

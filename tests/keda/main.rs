//! The manifests of `deploy/` on a real control plane with KEDA: backlogs move the replicas of
//! all three consumers from least to most and back, and faults do not.
//!
//! `make test-keda` builds the control plane once and runs this; `make test-keda
//! ARGS=--with-consumers` also closes the loop: a process for each pod, so that lag falls
//! because pods came. It takes half an hour, and the machine for itself.

#![allow(clippy::unwrap_used, reason = "a test that fails by a panic says where")]
#![allow(missing_docs, reason = "what a test promises is its name")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it prints its timelines")]

mod backlog;
mod bed;
mod closed_loop;
mod external;
mod faults;
#[path = "../integration/harness/mod.rs"]
mod harness;
mod manifests;
mod node;
mod open_loop;
mod timeline;
mod workload;

use std::time::Instant;

use bed::Bed;
use harness::{BrokerProxy, World, free_address};
use manifests::{Addresses, Manifests};

/// What the scenarios run on.
pub struct Stage {
    /// Topics, database, providers.
    world: World,
    /// The way from KEDA to the brokers.
    broker: BrokerProxy,
    /// The control plane.
    bed: Bed,
    /// What is applied to it.
    manifests: Manifests,
    /// Where KEDA asks for our scaler.
    scaler: String,
}

/// What may follow `make test-keda ARGS=`.
const WITH_CONSUMERS: &str = "--with-consumers";
/// Only scenarios whose name has this in it.
const ONLY: &str = "--only=";

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = args.iter().find(|arg| *arg != WITH_CONSUMERS && !arg.starts_with(ONLY)) {
        eprintln!("what is {unknown}? There are {WITH_CONSUMERS} and {ONLY}NAME");
        std::process::exit(64);
    }
    let only = args.iter().find_map(|arg| arg.strip_prefix(ONLY)).unwrap_or("");
    let with_consumers = args.iter().any(|arg| arg == WITH_CONSUMERS);

    let stage = Stage::set().await;
    let mut passed = 0;
    macro_rules! scenario {
        ($name:literal, $run:expr) => {
            if $name.contains(only) {
                println!("\n== {}", $name);
                let begun = Instant::now();
                $run.await;
                println!("== {}: passed, {:.0} s", $name, begun.elapsed().as_secs_f64());
                passed += 1;
            }
        };
    }
    scenario!("webhooks refuse what cannot work", faults::webhooks_refuse(&stage));
    scenario!("lag moves all four", open_loop::lag_moves_all_four(&stage));
    scenario!("no stranding below the most", open_loop::no_stranding(&stage));
    scenario!("no commits yet", faults::no_commits_yet(&stage));
    scenario!("the broker is away and comes back", faults::broker_away(&stage));
    scenario!("our scaler is away and comes back", external::away_and_back(&stage));
    if with_consumers {
        scenario!("closed loop: results", closed_loop::results(&stage));
        scenario!("closed loop: requests", closed_loop::requests(&stage));
        scenario!("closed loop: updates", closed_loop::updates(&stage));
    }
    println!("\n{passed} passed, 0 failed");
}

impl Stage {
    async fn set() -> Self {
        let begun = Instant::now();
        let world = World::as_deployed().await;
        let broker = BrokerProxy::start().await;
        let bed = Bed::start(&world.dir().join("bed")).await;
        println!("the control plane is up: {:.0} s", begun.elapsed().as_secs_f64());
        let scaler = free_address();
        let addresses = Addresses {
            brokers: &world.addresses.proxied_brokers,
            database: &format!("{}?sslmode=disable", world.config.postgres.url.expose()),
            scaler: &scaler,
        };
        let manifests = Manifests::new(&world.dir().join("manifests"), &addresses);
        bed.apply_objects(&manifests.system(&bed));
        bed.apply_objects(&manifests.scaling(&bed, "simple"));
        println!("{}", bed.kubectl(&["-n", bed::NAMESPACE, "get", "deployments,scaledobjects"]));
        Self { world, broker, bed, manifests, scaler }
    }
}

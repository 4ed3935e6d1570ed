//! The loop from lag to replicas, simulated in steps of a second: brokers, pods that start,
//! cooperative rebalances, the HPA's arithmetic, and what tells it a number.
//!
//! The same seed gives the same hour: randomness comes from xoshiro256++, whose numbers are the
//! same on every machine, and the hour's load does not depend on who scales.

mod compare;
mod group;
mod hpa;
mod page;
mod plot;
mod run;
mod score;
mod trace;

pub use compare::{Comparison, compare};
pub use page::{generated, put_into};
pub use plot::plots;

/// Partitions of the simulated topic, as of `pat.test-results.v1`.
const PARTITIONS: usize = 60;
/// Seconds within which a record is to be handled.
const OBJECTIVE_S: usize = 10;

#[cfg(test)]
mod tests;

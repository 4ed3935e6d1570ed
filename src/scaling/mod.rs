//! How many replicas a consumer group needs, and why.
//!
//! [`Decider`] turns what is known of a group at one moment ([`Reading`]) into a number of
//! replicas and its [`Explanation`]. Pure: no clock, no network; the time comes with the
//! reading. Who reads the brokers and answers KEDA is elsewhere.

mod decide;
mod demand;
mod explanation;
mod quantum;
mod rate;
mod reading;
mod settings;
pub mod sim;

pub use decide::{Decider, Decision};
pub use explanation::{Bound, Explanation, Reason};
pub use rate::RateSource;
pub use reading::{Partition, Reading};
pub use settings::Settings;

#[cfg(test)]
mod tests;

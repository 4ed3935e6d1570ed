//! How far consumer groups are behind: read from any Kafka-compatible cluster with
//! nothing but its address and the group's name, and judged.
//!
//! [`Reader`] asks the brokers; it joins no group and commits nothing. What it gives back
//! ([`GroupReading`]) goes into a [`Window`], which makes rates of successive readings and
//! says of each partition how it stands ([`State`]). The window is pure: no clock, no
//! network.

mod broker;
mod evaluate;
mod owned;
mod reader;
mod reading;
mod retention;
mod window;

pub use evaluate::{Finding, State};
pub use owned::watch;
pub use reader::{ReadError, Reader};
pub use reading::{GroupReading, Ownership, PartitionReading, Retention};
pub use window::{GroupStanding, PartitionStanding, TopicStanding, Window};

#[cfg(test)]
mod tests;

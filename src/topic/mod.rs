//! The Kafka edge: consumer, ledger, producer, dead letters, administration.
//! Beside it, only
//! [`crate::lag`] imports rdkafka.

pub mod access;
pub mod admin;
pub mod busy;
pub mod client;
pub mod consumer;
pub mod dead_letter;
pub mod dlq;
pub mod encoder;
mod evolution;
mod group;
pub mod intake;
pub mod lag;
pub mod members;
pub mod ledger;
pub mod names;
mod offsets;
pub mod partition;
mod poll;
pub mod producer;
pub mod progress;
mod registry;
pub mod sample;
pub mod schemas;
pub mod tail;
mod yielding;

pub use consumer::{Consumer, ConsumerError, Options as ConsumerOptions};
pub use dead_letter::{DeadLetters, Origin};
pub use intake::Intake;
pub use names::dlq_of;
pub use partition::{Partition, Record, Ticket};

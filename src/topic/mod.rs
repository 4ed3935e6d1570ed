//! The Kafka edge: consumer, ledger, producer, dead letters, administration.
//! The only room that imports rdkafka.

pub mod admin;
pub mod client;
pub mod consumer;
pub mod dead_letter;
pub mod intake;
pub mod lag;
pub mod ledger;
pub mod names;
pub mod partition;
pub mod producer;
pub mod registry;
pub mod schemas;

pub use consumer::{Consumer, ConsumerError, Options as ConsumerOptions};
pub use dead_letter::{DeadLetters, Origin};
pub use intake::Intake;
pub use partition::{Partition, Record, Ticket};

//! The Kafka edge: consumer, ledger, producer, dead letters, administration.
//! The only room that imports rdkafka.

pub mod admin;
pub mod client;
pub mod dead_letter;
pub mod encoder;
mod evolution;
pub mod names;
mod offsets;
pub mod producer;
mod registry;
pub mod sample;
pub mod schemas;

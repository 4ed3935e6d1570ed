//! The Kafka edge: consumer, ledger, producer, dead letters, administration.
//! The only room that imports rdkafka.

pub mod admin;
pub mod dead_letter;
pub mod names;
pub mod producer;
pub mod schemas;

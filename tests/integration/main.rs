//! What the system promises, on real servers: Kafka, a schema registry,
//! PostgreSQL, and providers on real sockets. One module a promise.
//!
//! `make test` starts the servers and runs this; by hand:
//! `patient-notify stack run --free-ports -- cargo test --test integration`.

#![allow(clippy::unwrap_used, reason = "a test that fails by a panic says where")]
#![allow(missing_docs, reason = "what a test promises is its name")]

mod harness;
mod smoke;

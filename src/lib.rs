//! patient-notify: Avro events in, one message per patient and meaning out.
//!
//! # Life of a message
//!
//! ```text
//! topic → decode → plan → claim → deliver → record → commit
//! ```
//!
//! 1. [`topic`]: the poll thread hands a record to its partition's bounded queue.
//! 2. [`decode`]: registry id → writer's schema → [`domain::Event`]. What cannot be
//!    decoded becomes a dead letter, with its raw bytes.
//! 3. [`plan`]: event + recipients' facts + now → who, which channels, when, until
//!    when; or why not. Pure.
//! 4. [`record`]: one statement a batch claims what is new.
//! 5. [`dispatch`] and [`deliver`]: the provider's call, concurrently across keys, in
//!    order within one.
//! 6. [`record`] again: outcomes in batches, with the status change for the outbox.
//! 7. [`topic`] again: the contiguous prefix of done offsets is committed.
//!
//! [`processor`] is the spine that runs these steps, [`roles`] wires one deployment
//! each, [`workers`] own what was deferred, [`cron`] does what its schedule says, [`api`]
//! is the gRPC front. [`scaling`] decides how many replicas the consumers need, and
//! [`scaler`] tells it.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that fails by a panic says where"))]

pub mod topic;
pub mod decode;
pub mod plan;
pub mod deliver;
pub mod record;
pub mod dispatch;
pub mod processor;
pub mod api;
pub mod workers;
pub mod cron;
pub mod scaling;
pub mod scaler;
pub mod roles;
pub mod domain;

pub mod config;
pub mod health;
pub mod lag;
pub mod metrics;
pub mod shutdown;
pub mod telemetry;
pub mod trace;

pub mod cli;
pub mod dev;
pub mod sandbox;

/// For every program of this crate. A call of the front is some two hundred small
/// allocations, made on one thread and given back on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

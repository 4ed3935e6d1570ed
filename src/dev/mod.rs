//! What development and tests run on: real servers as child processes.
//!
//! [`Stack`] starts Apache Kafka, a schema registry and PostgreSQL from the tools
//! folder that `make deps` fills, on loopback only, and leaves no process behind.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to the person who started it")]

mod command;
mod data_dir;
mod demo;
mod environment;
mod error;
mod kafka;
mod ports;
mod postgres;
mod process;
mod registry;
mod reporting;
mod run;
mod stack;
mod tools;

pub use command::{Options, SandboxFlags, StackFlags, run, run_sandbox, stack_run, stack_up};
pub use error::{StackError, TakenPort};
pub use ports::Ports;
pub use process::Server;
pub use reporting::{Reporting, Stopped, Told};
pub use run::{run_until_signal, run_with_stack};
pub use stack::{Stack, StackOptions};
pub use tools::{Tools, default_data_dir, default_tools_dir};

//! Reads the consumers' groups, decides how many replicas they need ([`crate::scaling`]), and
//! answers KEDA and operators.
//!
//! One [`watch`] a deployment reads the brokers and the pods and keeps the decision in force in
//! [`Decisions`]; [`serve`] only looks there, so an answer takes no time and asks nobody. A
//! reading that is too old is an error for KEDA, never a number: the HPA then keeps what
//! there is.

mod decisions;
mod deployments;
mod pods;
mod server;
mod watcher;

/// What `build.rs` makes of `proto/keda` and `proto/patientnotify/scaling`.
pub mod proto {
    /// KEDA's contract.
    #[allow(
        clippy::all,
        clippy::too_many_lines,
        clippy::allow_attributes_without_reason,
        missing_docs,
        reason = "lints are for code that people write"
    )]
    pub mod externalscaler {
        tonic::include_proto!("externalscaler");
    }

    /// Our own.
    #[allow(
        clippy::all,
        clippy::too_many_lines,
        clippy::allow_attributes_without_reason,
        missing_docs,
        reason = "lints are for code that people write"
    )]
    pub mod v1 {
        tonic::include_proto!("patientnotify.scaling.v1");
    }

    /// Both, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/scaler_descriptors.bin"));
}

pub use decisions::{Decisions, InForce};
pub use deployments::{Deployment, Lane, deployments};
pub use pods::{Pods, PodsError, Told};
pub use server::{ServeError, Serving, serve};
pub use watcher::watch;

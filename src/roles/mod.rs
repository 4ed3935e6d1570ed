//! One file a deployment; the only place of wiring.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::health::Health;

/// What every role gets.
#[derive(Clone)]
pub struct Context {
    /// What is in force.
    pub config: Arc<Config>,
    /// Where the role registers its probes.
    pub health: Arc<Health>,
    /// Cancelled when the process has to stop.
    pub shutdown: CancellationToken,
}

//! The next channel is begun where evidence is overdue: not sent, not delivered, or not
//! read within the time that `[escalation]` sets.

use std::time::Duration;

use tracing::info;

use super::rounds::Worker;
use crate::metrics;
use crate::plan::EscalationPolicy;
use crate::record::{RecordError, Store};

/// Notifications that one transaction looks at.
const LIMIT: usize = 200;

/// Any number of processes may run it: each row is looked at by one.
pub struct EscalationWorker {
    /// The database.
    pub store: Store,
    /// How long evidence is waited for.
    pub policy: EscalationPolicy,
    /// Pause between looks when nothing is due.
    pub poll_interval: Duration,
}

impl Worker for EscalationWorker {
    const NAME: &'static str = "escalations";

    async fn turn(&self) -> Result<Duration, RecordError> {
        let escalated = self.store.escalate(&self.policy, i64::try_from(LIMIT).unwrap_or(i64::MAX)).await?;
        for (channel, reason) in &escalated.begun {
            metrics::escalated(*channel, reason.as_str());
        }
        if !escalated.begun.is_empty() {
            info!(begun = escalated.begun.len(), "next channels are begun: evidence is overdue");
        }
        Ok(if escalated.looked < LIMIT { self.poll_interval } else { Duration::ZERO })
    }
}

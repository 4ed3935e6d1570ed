//! The debt of one record that became several deliveries (patient and proxies):
//! its ticket is settled when the last of them is recorded.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::OwnedSemaphorePermit;

use crate::dispatch::{MayBegin, OnRecorded};
use crate::domain::Outcome;
use crate::metrics;
use crate::topic::Ticket;

/// Counts a record that is done.
pub(super) fn count(topic: &str, outcome: Outcome) {
    metrics::records(topic, outcome.as_str(), 1);
    if let Outcome::Ignored(reason) = outcome {
        metrics::ignored(topic, reason, 1);
    }
}

struct Debt {
    ticket: Ticket,
    /// A place in the in-flight budget, given back with the debt.
    _permit: OwnedSemaphorePermit,
    remaining: usize,
}

/// Shared by the deliveries of one record.
pub struct Pending {
    debt: Mutex<Option<Debt>>,
    partition: Arc<crate::topic::Partition>,
}

impl Pending {
    /// A debt of `deliveries`, at least one.
    #[must_use]
    pub fn new(ticket: Ticket, permit: OwnedSemaphorePermit, deliveries: usize) -> Arc<Self> {
        metrics::in_flight(1);
        let partition = Arc::clone(ticket.partition());
        Arc::new(Self {
            debt: Mutex::new(Some(Debt { ticket, _permit: permit, remaining: deliveries.max(1) })),
            partition,
        })
    }

    /// What a delivery asks before it begins.
    #[must_use]
    pub fn may_begin(self: &Arc<Self>) -> MayBegin {
        let partition = Arc::clone(&self.partition);
        Box::new(move || !partition.is_closing())
    }

    /// What a delivery calls when it is recorded.
    #[must_use]
    pub fn on_recorded(self: &Arc<Self>) -> OnRecorded {
        let pending = Arc::clone(self);
        Box::new(move |outcome| pending.one_recorded(outcome))
    }

    fn one_recorded(&self, outcome: Outcome) {
        let mut held = self.debt.lock();
        if let Some(debt) = held.as_mut() {
            debt.remaining -= 1;
            if debt.remaining > 0 {
                return;
            }
        }
        if let Some(debt) = held.take() {
            metrics::in_flight(-1);
            count(&self.partition.topic, outcome);
            debt.ticket.complete();
        }
    }
}

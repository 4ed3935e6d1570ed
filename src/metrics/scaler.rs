//! What the scaler has decided, as it is at each scrape: a reason that is no longer in force has
//! no series.

use std::collections::BTreeMap;

use opentelemetry::metrics::AsyncInstrument;
use parking_lot::RwLock;

use super::word;

/// The deployments that are decided on.
static DECISIONS: RwLock<BTreeMap<&'static str, Told>> = RwLock::new(BTreeMap::new());

#[derive(Debug, Clone, Copy, Default)]
struct Told {
    decided: Option<(u32, &'static str)>,
    stale: bool,
}

/// So many replicas were decided for a deployment, for this reason (a word that is known
/// beforehand).
pub fn scaler_decision(deployment: &'static str, replicas: u32, reason: &'static str) {
    DECISIONS.write().entry(deployment).or_default().decided = Some((replicas, reason));
}

/// Whether what is known of a deployment is too old to go by.
pub fn scaler_stale(deployment: &'static str, stale: bool) {
    DECISIONS.write().entry(deployment).or_default().stale = stale;
}

pub(super) fn observe_replicas(instrument: &dyn AsyncInstrument<f64>) {
    for (deployment, told) in DECISIONS.read().iter() {
        if let Some((replicas, _)) = told.decided {
            instrument.observe(f64::from(replicas), &[word("deployment", deployment)]);
        }
    }
}

pub(super) fn observe_reason(instrument: &dyn AsyncInstrument<f64>) {
    for (deployment, told) in DECISIONS.read().iter() {
        if let Some((_, reason)) = told.decided {
            instrument.observe(1.0, &[word("deployment", deployment), word("reason", reason)]);
        }
    }
}

pub(super) fn observe_stale(instrument: &dyn AsyncInstrument<f64>) {
    for (deployment, told) in DECISIONS.read().iter() {
        instrument.observe(f64::from(u8::from(told.stale)), &[word("deployment", deployment)]);
    }
}

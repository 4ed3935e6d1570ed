//! Which providers are left alone after failures, as it is at each scrape: a process whose
//! work has gone elsewhere calls nobody, and would say for ever that a circuit is open.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use opentelemetry::metrics::AsyncInstrument;
use parking_lot::RwLock;

use super::word;
use crate::domain::Channel;

/// How much longer than it refuses calls a circuit is told to be open: longer than a probe
/// takes that ends its pause, so that an outage is one, and not one a probe.
const PROBE: Duration = Duration::from_secs(30);

/// Until when a channel's circuit refuses calls; `None`: it is closed.
static CIRCUITS: RwLock<BTreeMap<&'static str, Option<Instant>>> = RwLock::new(BTreeMap::new());

/// A channel's circuit refuses calls for so long from now; `None`: it is closed.
pub fn circuit(channel: Channel, refuses_for: Option<Duration>) {
    let until = refuses_for.map(|time| Instant::now() + time);
    CIRCUITS.write().insert(channel.as_str(), until);
}

pub(super) fn observe(instrument: &dyn AsyncInstrument<f64>) {
    let now = Instant::now();
    for (channel, until) in CIRCUITS.read().iter() {
        instrument.observe(f64::from(u8::from(is_open(*until, now))), &[word("channel", channel)]);
    }
}

fn is_open(until: Option<Instant>, now: Instant) -> bool {
    until.is_some_and(|until| now < until + PROBE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circuit_that_nobody_probes_is_not_told_for_ever() {
        let now = Instant::now();
        assert!(!is_open(None, now));
        assert!(is_open(Some(now + Duration::from_secs(1)), now));
        assert!(is_open(Some(now), now + PROBE / 2), "its probe is under way");
        assert!(!is_open(Some(now), now + PROBE));
    }
}

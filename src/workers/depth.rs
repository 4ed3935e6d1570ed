//! Tells how much is due, and for how long the oldest has been: what alerts look at, and
//! what a queue is scaled on.

use std::collections::HashSet;
use std::time::Duration;

use parking_lot::Mutex;

use super::rounds::Worker;
use crate::metrics;
use crate::record::{Depth, RecordError, Store};

/// Pause between looks.
const PAUSE: Duration = Duration::from_secs(5);

/// Tells the depth of every queue; each process that runs it tells the same.
pub struct DepthWorker {
    store: Store,
    /// What was told to be more than nothing, as queue and urgency.
    told: Mutex<HashSet<(String, String)>>,
}

impl DepthWorker {
    /// Nothing was told yet.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self { store, told: Mutex::default() }
    }
}

impl Worker for DepthWorker {
    const NAME: &'static str = "due depth";

    async fn turn(&self) -> Result<Duration, RecordError> {
        let mut depths = self.store.depths().await?;
        let callbacks = self.store.callback_depth().await?;
        if let Some(oldest) = callbacks.oldest {
            let (queue, urgency) = ("callbacks".to_owned(), "none".to_owned());
            depths.push(Depth { queue, urgency, due: callbacks.due, oldest });
        }
        let mut told = self.told.lock();
        let emptied: Vec<_> = told
            .iter()
            .filter(|(queue, urgency)| {
                !depths.iter().any(|depth| (&depth.queue, &depth.urgency) == (queue, urgency))
            })
            .cloned()
            .collect();
        for (queue, urgency) in emptied {
            metrics::due_depth(&queue, &urgency, 0, Duration::ZERO);
            told.remove(&(queue, urgency));
        }
        for depth in depths {
            let due = u64::try_from(depth.due).unwrap_or(0);
            metrics::due_depth(&depth.queue, &depth.urgency, due, depth.oldest);
            told.insert((depth.queue, depth.urgency));
        }
        Ok(PAUSE)
    }
}

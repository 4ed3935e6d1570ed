//! Updates that came before what they are about: looked at again until they match
//! or have waited long enough.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::warn;

use super::rounds::Worker;
use crate::decode::Decoder;
use crate::domain::{NotificationUpdate, Redacted};
use crate::metrics;
use crate::record::{Applied, RecordError, Store, Update};

/// Pause between looks.
const PAUSE: Duration = Duration::from_millis(500);
/// Updates that one look takes.
const LIMIT: usize = 200;
/// How often those that have long expired are forgotten, and how many at once.
const PRUNE_INTERVAL: Duration = Duration::from_secs(60);
const PRUNE_LIMIT: usize = 10_000;
/// A look that died is taken over after this long.
const LEASE: Duration = Duration::from_secs(30);

/// Looks at kept updates again; any number of processes may.
pub struct UnmatchedWorker {
    store: Store,
    decoder: Decoder,
    expiry: Duration,
    /// When those that have long expired were last forgotten.
    pruned: Mutex<Option<Instant>>,
}

impl Worker for UnmatchedWorker {
    const NAME: &'static str = "unmatched updates";

    async fn turn(&self) -> Result<Duration, RecordError> {
        let prunes = {
            let mut pruned = self.pruned.lock();
            let due = pruned.is_none_or(|at| at.elapsed() >= PRUNE_INTERVAL);
            if due {
                *pruned = Some(Instant::now());
            }
            due
        };
        self.look(prunes).await?;
        Ok(PAUSE)
    }
}

impl UnmatchedWorker {
    /// Looks at what waits no longer than `expiry`.
    #[must_use]
    pub fn new(store: Store, decoder: Decoder, expiry: Duration) -> Self {
        Self { store, decoder, expiry, pruned: Mutex::new(None) }
    }

    async fn look(&self, prunes: bool) -> Result<(), RecordError> {
        if prunes {
            self.store.prune_unmatched(PRUNE_LIMIT).await?;
        }
        let due = self.store.unmatched_due(LIMIT, LEASE).await?;
        if due.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.decoder.prepare(due.iter().map(|payload| payload.expose().as_slice())).await
        {
            metrics::unavailable("registry");
            warn!(%error, "unmatched updates wait");
            return Ok(());
        }
        let updates: Vec<(NotificationUpdate, &Redacted<Vec<u8>>)> = due
            .iter()
            .filter_map(|payload| match self.decoder.decode_update(Some(payload.expose())) {
                Ok(update) => Some((update, payload)),
                // It was decoded when it came: its schema has been removed since.
                Err(error) => {
                    warn!(%error, "a kept update can no longer be decoded");
                    None
                }
            })
            .collect();
        let batch: Vec<Update<'_>> = updates
            .iter()
            .map(|(update, payload)| Update { update, payload: Redacted::new(payload.expose()) })
            .collect();
        let applied = self.store.apply(&batch, self.expiry).await?;
        for ((update, _), applied) in updates.iter().zip(applied) {
            if applied != Applied::Unmatched {
                metrics::update(update.fact.as_str(), applied.as_str());
            }
            if applied == Applied::Expired {
                crate::processor::unmatched_expired(update);
            }
        }
        Ok(())
    }
}

//! Updates that came before what they are about: looked at again until they match
//! or have waited long enough.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

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
    /// The database.
    pub store: Store,
    /// Bytes → update.
    pub decoder: Decoder,
    /// How long an update may wait.
    pub expiry: Duration,
}

impl UnmatchedWorker {
    /// Runs until `shutdown`. A broken invariant cancels `fatal`.
    pub async fn run(self, shutdown: CancellationToken, fatal: CancellationToken) {
        let mut pruned: Option<Instant> = None;
        while shutdown.run_until_cancelled(tokio::time::sleep(PAUSE)).await.is_some() {
            let prunes = pruned.is_none_or(|at| at.elapsed() >= PRUNE_INTERVAL);
            if prunes {
                pruned = Some(Instant::now());
            }
            match self.look(prunes).await {
                Ok(()) => {}
                Err(error @ RecordError::Unavailable(_)) => {
                    metrics::unavailable("postgres");
                    warn!(%error, "unmatched updates wait");
                }
                Err(error @ RecordError::Bug(_)) => {
                    error!(%error, "unmatched updates cannot be looked at; the process ends");
                    fatal.cancel();
                    return;
                }
            }
        }
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

//! Outcomes that are not written as they are: something else may have a say in
//! the state (a receipt, a cancellation, a delivery beside it), or the outcome
//! tells something of the address or of the recipient's will.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use jiff::Timestamp;

use super::aftermath::{Aftermath, Word};
use super::cases;
use super::error::RecordError;
use super::outcome::Recorded;
use super::store::Store;
use crate::domain::{DeliveryId, NotificationId, Own, Reason};
use crate::metrics;

impl Recorded {
    /// True when it tells more than the state of its delivery.
    #[must_use]
    pub const fn tells_more(&self) -> bool {
        matches!(self.reason, Reason::InvalidAddress | Reason::TokenInvalid | Reason::OptedOut)
    }
}

impl Store {
    /// As [`Store::record`], for deliveries in whose state others have a say: the
    /// outcome is folded into what else is known, and the notification's state
    /// follows from all of its deliveries.
    ///
    /// # Errors
    /// As [`RecordError`] tells; then nothing of the batch is recorded.
    pub async fn record_folded(&self, batch: &[&Recorded]) -> Result<HashSet<DeliveryId>, RecordError> {
        let begun = Instant::now();
        let mut client = self.client().await?;
        let tx = client.transaction().await.map_err(RecordError::at("record_folded_begin"))?;
        let mut ids: Vec<NotificationId> = batch.iter().map(|one| one.notification_id).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut known = cases::load(&tx, &ids).await?;
        let mut outcomes = HashMap::with_capacity(batch.len());
        let update_ids: Vec<String> =
            batch.iter().map(|one| format!("provider:{}", one.delivery_id)).collect();
        let mut aftermath = Aftermath::default();
        for (one, update_id) in batch.iter().zip(&update_ids) {
            let Some(case) = known.get_mut(&one.notification_id) else { continue };
            let own = Own {
                owner: self.owner.0,
                epoch: one.epoch,
                state: one.state,
                reason: one.reason,
                due_after: one.due_after,
            };
            if !case.record(one.delivery_id, own) {
                continue;
            }
            outcomes.insert(one.delivery_id, *one);
            match one.reason {
                Reason::InvalidAddress | Reason::TokenInvalid => {
                    aftermath.retire(one.delivery_id, one.reason, Timestamp::now());
                }
                Reason::OptedOut => aftermath.consent(Word {
                    recipient_id: case.recipient_id,
                    channel: case.channel_of(one.delivery_id),
                    purpose: None,
                    granted: false,
                    at: Timestamp::now(),
                    recorded_by: one.provider.unwrap_or("provider"),
                    how: "refused_by_provider",
                    update_id,
                }),
                _ => {}
            }
        }
        cases::write(&tx, "deliver", &known, &outcomes).await?;
        aftermath.write(&tx).await?;
        tx.commit().await.map_err(RecordError::at("record_folded_commit"))?;
        metrics::statement("record_folded", batch.len(), begun.elapsed());
        Ok(outcomes.into_keys().collect())
    }
}

//! Outcomes that are not written as they are: something else may have a say in
//! the state (a receipt, a cancellation, a delivery beside it), or the outcome
//! tells something of the address or of the recipient's will.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use uuid::Uuid;

use super::aftermath::{Aftermath, Word};
use super::cases::{self, query};
use super::error::RecordError;
use super::outcome::Recorded;
use super::store::Store;
use crate::domain::{DeliveryId, NotificationId, Own, Reason};
use crate::metrics;
use crate::plan::EscalationPolicy;

const WATCH: &str = "
INSERT INTO escalation (notification_id, look_at)
SELECT notification_id, now() + look_after_ms * interval '1 millisecond'
  FROM unnest($1::uuid[], $2::bigint[]) AS i (notification_id, look_after_ms)
ON CONFLICT (notification_id) DO NOTHING";

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
    pub async fn record_folded(
        &self,
        batch: &[&Recorded],
        policy: &EscalationPolicy,
    ) -> Result<HashSet<DeliveryId>, RecordError> {
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
        watch(&tx, &outcomes, policy).await?;
        aftermath.write(&tx).await?;
        tx.commit().await.map_err(RecordError::at("record_folded_commit"))?;
        metrics::statement("record_folded", batch.len(), begun.elapsed());
        Ok(outcomes.into_keys().collect())
    }
}

/// Those of whose outcomes evidence is missing are looked at again.
async fn watch(
    tx: &Transaction<'_>,
    outcomes: &HashMap<DeliveryId, &Recorded>,
    policy: &EscalationPolicy,
) -> Result<(), RecordError> {
    let looks = outcomes.values().filter_map(|one| Some((one.notification_id.0, one.look_after_ms(policy)?)));
    let (ids, after): (Vec<Uuid>, Vec<i64>) = looks.unzip();
    if !ids.is_empty() {
        query(tx, "escalation_watch", WATCH, &[&ids, &after]).await?;
    }
    Ok(())
}

//! What came of deliveries, a batch at a time. The delivery, its notification,
//! the why-log and the outbox change in one statement.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::error::RecordError;
use super::store::Store;
use crate::domain::{Channel, DeliveryId, NotificationId, Reason, State};
use crate::metrics;
use crate::plan::{EscalationPolicy, Evidence};

/// What came of one claimed delivery.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Which delivery.
    pub delivery_id: DeliveryId,
    /// Of which notification.
    pub notification_id: NotificationId,
    /// The claim under which it was worked on.
    pub epoch: i32,
    /// Its new state.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// State of the notification; differs from the delivery's when another
    /// channel follows.
    pub notification_state: State,
    /// Provider calls that count as attempts.
    pub attempts: i32,
    /// True when a repetition would be a new message to the provider.
    pub new_group: bool,
    /// When somebody has to look at it next; `None`: never.
    pub due_after: Option<Duration>,
    /// Who carried it.
    pub provider: Option<&'static str>,
    /// The provider's id of the message.
    pub provider_message_id: Option<String>,
    /// The channel that follows, due at once.
    pub next: Option<NextDelivery>,
    /// What decides whether another channel is begun although this one has not failed;
    /// `None`: there is no other.
    pub evidence: Option<Evidence>,
}

impl Recorded {
    /// After what time it is looked at whether evidence is missing, in milliseconds.
    pub(super) fn look_after_ms(&self, policy: &EscalationPolicy) -> Option<i64> {
        let after = policy.look_after(self.evidence?, self.state, self.reason)?;
        Some(i64::try_from(after.as_millis()).unwrap_or(i64::MAX))
    }
}

/// The next channel of the plan.
#[derive(Debug, Clone, Copy)]
pub struct NextDelivery {
    /// Derived from notification and channel.
    pub delivery_id: DeliveryId,
    /// Which channel.
    pub channel: Channel,
    /// Its place in the plan.
    pub position: i16,
}

/// A lease that was lost records nothing. One that ran out while nobody else took
/// the row may still say the truth: owner and epoch are unchanged then.
///
/// The rows are locked by id before any is changed, as whoever folds updates does: an
/// UPDATE alone takes them in the order of its plan, and the two block each other.
const RECORD: &str = "
WITH input AS (
    SELECT * FROM unnest(
        $1::uuid[], $2::int[], $3::text[], $4::text[], $5::text[], $6::int[], $7::bool[], $8::bigint[],
        $9::text[], $10::text[], $11::uuid[], $12::text[], $13::smallint[], $15::bigint[]
    ) AS t (delivery_id, epoch, state, reason, notification_state, attempts, new_group, due_after_ms,
            provider, provider_message_id, next_id, next_channel, next_position, look_after_ms)
), ours AS MATERIALIZED (
    SELECT i.*
      FROM delivery d JOIN input i USING (delivery_id)
     WHERE d.owner = $14::uuid
       AND d.epoch = i.epoch
       AND d.state = 'dispatching'
       AND NOT d.folded
     ORDER BY d.delivery_id
       FOR UPDATE OF d
), done AS (
    UPDATE delivery d
       SET state = i.state,
           reason = i.reason,
           attempt = d.attempt + i.attempts,
           attempt_group = d.attempt_group + CASE WHEN i.new_group THEN 1 ELSE 0 END,
           owner = CASE WHEN i.state = 'outcome_unknown' THEN d.owner END,
           -- What a pause holds is found by this, see `pauses`.
           due_at = greatest(now() + i.due_after_ms * interval '1 millisecond',
                             CASE WHEN i.reason = 'channel_paused' THEN d.expires_at END),
           unknown_since = CASE WHEN i.state = 'outcome_unknown' THEN coalesce(d.unknown_since, now()) END,
           provider = coalesce(i.provider, d.provider),
           provider_message_id = coalesce(i.provider_message_id, d.provider_message_id),
           sent_at = CASE WHEN i.state = 'sent' THEN coalesce(d.sent_at, now()) ELSE d.sent_at END,
           updated_at = now()
      FROM ours i
     WHERE d.delivery_id = i.delivery_id
       AND d.owner = $14::uuid
       AND d.epoch = i.epoch
       AND d.state = 'dispatching'
       AND NOT d.folded
    RETURNING d.delivery_id, d.notification_id, d.recipient_id, d.channel, d.urgency, d.expires_at,
              i.state, i.reason, i.notification_state, i.next_id, i.next_channel, i.next_position, i.look_after_ms
), watched AS (
    INSERT INTO escalation (notification_id, look_at)
    SELECT notification_id, now() + look_after_ms * interval '1 millisecond'
      FROM done WHERE look_after_ms IS NOT NULL
    ON CONFLICT (notification_id) DO NOTHING
), follow AS (
    INSERT INTO delivery (delivery_id, notification_id, recipient_id, channel, position, urgency, state,
            reason, due_at, expires_at)
    SELECT next_id, notification_id, recipient_id, next_channel, next_position, urgency, 'queued', reason,
           now(), expires_at
      FROM done WHERE next_id IS NOT NULL
    ON CONFLICT (delivery_id) DO NOTHING
), moved AS (
    UPDATE notification n
       SET state = d.notification_state, reason = d.reason, sequence = n.sequence + 1, updated_at = now()
      FROM done d
     WHERE n.notification_id = d.notification_id
    RETURNING n.notification_id, n.patient_id, n.recipient_id, n.purpose, n.sequence, n.state, n.reason,
              n.caller, d.channel
), explained AS (
    INSERT INTO why (notification_id, step, state, reason, channel)
    SELECT notification_id, 'deliver', state, reason, channel FROM done
), announced AS (
    INSERT INTO outbox (notification_id, patient_id, recipient_id, purpose, sequence, state, reason, channel,
            caller)
    SELECT notification_id, patient_id, recipient_id, purpose, sequence, state, reason, channel, caller
      FROM moved
)
SELECT delivery_id FROM done";

impl Store {
    /// Records a batch. Returns the deliveries that were recorded. Of the others,
    /// either somebody else has a say in their state ([`Store::record_folded`]
    /// records those), or the claim is no longer ours.
    ///
    /// Neither a delivery nor a notification may occur twice in one batch. `policy` says
    /// which of them are looked at again for evidence.
    ///
    /// # Errors
    /// As [`RecordError`] tells. After an answer that was lost, the repetition
    /// finds its rows recorded and returns them as lost.
    pub async fn record(
        &self,
        batch: &[&Recorded],
        policy: &EscalationPolicy,
    ) -> Result<HashSet<DeliveryId>, RecordError> {
        let begun = Instant::now();
        let client = self.client().await?;
        let statement = client.prepare_cached(RECORD).await.map_err(RecordError::at("record"))?;
        let words = |of: fn(&Recorded) -> &str| batch.iter().map(|one| of(one)).collect::<Vec<_>>();
        let ids: Vec<Uuid> = batch.iter().map(|one| one.delivery_id.0).collect();
        let epochs: Vec<i32> = batch.iter().map(|one| one.epoch).collect();
        let attempts: Vec<i32> = batch.iter().map(|one| one.attempts).collect();
        let new_groups: Vec<bool> = batch.iter().map(|one| one.new_group).collect();
        let due: Vec<Option<i64>> = batch
            .iter()
            .map(|one| one.due_after.map(|after| i64::try_from(after.as_millis()).unwrap_or(i64::MAX)))
            .collect();
        let providers: Vec<Option<&str>> = batch.iter().map(|one| one.provider).collect();
        let message_ids: Vec<Option<&str>> =
            batch.iter().map(|one| one.provider_message_id.as_deref()).collect();
        let next_ids: Vec<Option<Uuid>> =
            batch.iter().map(|one| one.next.map(|next| next.delivery_id.0)).collect();
        let next_channels: Vec<Option<&str>> =
            batch.iter().map(|one| one.next.map(|next| next.channel.as_str())).collect();
        let next_positions: Vec<Option<i16>> =
            batch.iter().map(|one| one.next.map(|next| next.position)).collect();
        let looks: Vec<Option<i64>> = batch.iter().map(|one| one.look_after_ms(policy)).collect();
        let rows = client
            .query(
                &statement,
                &[
                    &ids,
                    &epochs,
                    &words(|one| one.state.as_str()),
                    &words(|one| one.reason.as_str()),
                    &words(|one| one.notification_state.as_str()),
                    &attempts,
                    &new_groups,
                    &due,
                    &providers,
                    &message_ids,
                    &next_ids,
                    &next_channels,
                    &next_positions,
                    &self.owner.0,
                    &looks,
                ],
            )
            .await
            .map_err(RecordError::at("record"))?;
        metrics::statement("record", batch.len(), begun.elapsed());
        rows.iter().map(|row| Ok(DeliveryId(row.try_get(0)?))).collect()
    }
}

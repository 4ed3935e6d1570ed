//! The claim: one statement makes a batch of notifications ours, or shows that
//! somebody was there first.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use uuid::Uuid;

use super::error::RecordError;
use super::store::Store;
use crate::domain::{
    Channel, DeliveryId, NotificationId, Purpose, Reason, RecipientId, Redacted, State, Urgency,
};
use crate::metrics;

/// One notification to claim.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Derived from its meaning: the row that decides.
    pub notification_id: NotificationId,
    /// Whom it is about.
    pub patient_id: String,
    /// Who gets it.
    pub recipient_id: RecipientId,
    /// What for.
    pub purpose: Purpose,
    /// How soon.
    pub urgency: Urgency,
    /// Where it stands after the claim.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// SHA-256 of what was asked.
    pub fingerprint: [u8; 32],
    /// Who asked.
    pub caller: Option<String>,
    /// Order of the plan.
    pub channels: Vec<Channel>,
    /// Locale of the words.
    pub locale: String,
    /// Template variables as JSON; `None`: there are none.
    pub variables_json: Option<Redacted<String>>,
    /// The record that it came from.
    pub source: Source,
    /// Too late to be useful.
    pub expires_at: Timestamp,
    /// The first delivery; `None` when nothing is to be sent.
    pub delivery: Option<FirstDelivery>,
}

/// Where a record came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Full topic name.
    pub topic: std::sync::Arc<str>,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// The record's time stamp.
    pub published_at: Timestamp,
}

/// The delivery that a claim begins with.
#[derive(Debug, Clone)]
pub struct FirstDelivery {
    /// Derived from notification and channel.
    pub delivery_id: DeliveryId,
    /// First of the plan.
    pub channel: Channel,
    /// Where to.
    pub address: Redacted<String>,
    /// `None`: it is dispatched at once, under our lease. Otherwise: when it is due.
    pub due_at: Option<Timestamp>,
}

/// Rows of a batch are inserted in the order of their ids: two batches that share
/// some can then not wait for each other in a circle.
const CLAIM: &str = "
WITH input AS (
    SELECT * FROM unnest(
        $1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bytea[],
        $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::int[], $15::bigint[],
        $16::timestamptz[], $17::timestamptz[], $18::uuid[], $19::text[], $20::text[], $21::timestamptz[]
    ) AS t (notification_id, patient_id, recipient_id, purpose, urgency, state, reason, fingerprint,
            caller, channels, locale, variables, source_topic, source_partition, source_offset,
            published_at, expires_at, delivery_id, channel, address, due_at)
), claimed AS (
    INSERT INTO notification (notification_id, patient_id, recipient_id, purpose, urgency, state, reason,
            fingerprint, caller, channels, locale, variables, source_topic, source_partition, source_offset,
            published_at, expires_at)
    SELECT notification_id, patient_id, recipient_id, purpose, urgency, state, reason,
            fingerprint, caller, string_to_array(channels, ','), locale, variables::jsonb, source_topic,
            source_partition, source_offset, published_at, expires_at
      FROM input
    ON CONFLICT (notification_id) DO NOTHING
    RETURNING notification_id
), delivered AS (
    INSERT INTO delivery (delivery_id, notification_id, recipient_id, channel, position, urgency, state,
            reason, address, epoch, owner, due_at, first_attempt_at, expires_at)
    SELECT delivery_id, notification_id, recipient_id, channel, 0, urgency, state, reason, address,
           CASE WHEN due_at IS NULL THEN $24::int ELSE 0 END,
           CASE WHEN due_at IS NULL THEN $22::uuid END,
           coalesce(due_at, now() + $23::bigint * interval '1 millisecond'),
           CASE WHEN due_at IS NULL THEN now() END,
           expires_at
      FROM input JOIN claimed USING (notification_id)
     WHERE delivery_id IS NOT NULL
), explained AS (
    INSERT INTO why (notification_id, step, state, reason, channel)
    SELECT notification_id, 'plan', state, reason, channel
      FROM input JOIN claimed USING (notification_id)
), announced AS (
    INSERT INTO outbox (notification_id, patient_id, recipient_id, purpose, sequence, state, reason, channel,
            caller)
    SELECT notification_id, patient_id, recipient_id, purpose, 1, state, reason, channel, caller
      FROM input JOIN claimed USING (notification_id)
)
SELECT notification_id FROM claimed";

/// Rows that an attempt at this very batch claimed, whose answer was lost.
const CLAIMED_BEFORE: &str = "
SELECT notification_id FROM delivery
 WHERE delivery_id = ANY($1) AND owner = $2 AND epoch = $3 AND state = 'dispatching'";

impl Store {
    /// Claims a batch. The ids that come back are new and ours; what does not come
    /// back exists already, and is somebody's.
    ///
    /// Deliveries without a due time are ours to send for `lease`. Their epoch is
    /// `batch`, a number that this owner gives to no other batch. Ids must be
    /// unique within the batch.
    ///
    /// # Errors
    /// As [`RecordError`] tells; then nothing of the batch is claimed, or, when the
    /// answer was lost, all of it: [`Store::claimed_before`] tells.
    pub async fn claim(
        &self,
        claims: &mut [Claim],
        batch: i32,
        lease: Duration,
    ) -> Result<HashSet<NotificationId>, RecordError> {
        let begun = Instant::now();
        claims.sort_unstable_by_key(|claim| claim.notification_id);
        let client = self.client().await?;
        let statement = client.prepare_cached(CLAIM).await.map_err(RecordError::at("claim"))?;

        let uuids = |of: fn(&Claim) -> Uuid| claims.iter().map(of).collect::<Vec<_>>();
        let words = |of: fn(&Claim) -> &str| claims.iter().map(of).collect::<Vec<_>>();
        let channels: Vec<String> = claims
            .iter()
            .map(|claim| claim.channels.iter().map(|c| c.as_str()).collect::<Vec<_>>().join(","))
            .collect();
        let fingerprints: Vec<&[u8]> = claims.iter().map(|claim| claim.fingerprint.as_slice()).collect();
        let callers: Vec<Option<&str>> = claims.iter().map(|claim| claim.caller.as_deref()).collect();
        let variables: Vec<Option<&str>> = claims
            .iter()
            .map(|claim| claim.variables_json.as_ref().map(|json| json.expose().as_str()))
            .collect();
        let partitions: Vec<i32> = claims.iter().map(|claim| claim.source.partition).collect();
        let offsets: Vec<i64> = claims.iter().map(|claim| claim.source.offset).collect();
        let published: Vec<Timestamp> = claims.iter().map(|claim| claim.source.published_at).collect();
        let expires: Vec<Timestamp> = claims.iter().map(|claim| claim.expires_at).collect();
        let deliveries: Vec<_> = claims.iter().map(|claim| claim.delivery.as_ref()).collect();
        let delivery_ids: Vec<_> = deliveries.iter().map(|d| d.map(|d| d.delivery_id.0)).collect();
        let delivery_channels: Vec<_> = deliveries.iter().map(|d| d.map(|d| d.channel.as_str())).collect();
        let addresses: Vec<_> = deliveries.iter().map(|d| d.map(|d| d.address.expose().as_str())).collect();
        let due: Vec<_> = deliveries.iter().map(|d| d.and_then(|d| d.due_at)).collect();
        let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);

        let rows = client
            .query(
                &statement,
                &[
                    &uuids(|c| c.notification_id.0),
                    &words(|c| c.patient_id.as_str()),
                    &uuids(|c| c.recipient_id.0),
                    &words(|c| c.purpose.as_str()),
                    &words(|c| c.urgency.as_str()),
                    &words(|c| c.state.as_str()),
                    &words(|c| c.reason.as_str()),
                    &fingerprints,
                    &callers,
                    &channels,
                    &words(|c| c.locale.as_str()),
                    &variables,
                    &words(|c| &c.source.topic),
                    &partitions,
                    &offsets,
                    &published,
                    &expires,
                    &delivery_ids,
                    &delivery_channels,
                    &addresses,
                    &due,
                    &self.owner.0,
                    &lease_ms,
                    &batch,
                ],
            )
            .await
            .map_err(RecordError::at("claim"))?;
        metrics::statement("claim", claims.len(), begun.elapsed());
        rows.iter().map(|row| Ok(NotificationId(row.try_get(0)?))).collect()
    }

    /// After a claim whose answer was lost: the notifications whose deliveries that
    /// claim made ours after all.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn claimed_before(
        &self,
        claims: &[Claim],
        batch: i32,
    ) -> Result<HashSet<NotificationId>, RecordError> {
        let client = self.client().await?;
        let ids: Vec<Uuid> =
            claims.iter().filter_map(|claim| claim.delivery.as_ref()).map(|d| d.delivery_id.0).collect();
        let rows = client
            .query(CLAIMED_BEFORE, &[&ids, &self.owner.0, &batch])
            .await
            .map_err(RecordError::at("claimed_before"))?;
        rows.iter().map(|row| Ok(NotificationId(row.try_get(0)?))).collect()
    }
}

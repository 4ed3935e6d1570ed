//! The claim: one statement makes a batch of notifications ours, or shows that
//! somebody was there first.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::error::RecordError;
use super::store::Store;
use crate::domain::{
    Channel, DeliveryId, NotificationId, Purpose, Reason, RecipientId, Redacted, State, Strategy, Urgency,
};
use crate::metrics;
use crate::trace::TraceContext;

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
    /// How they are used.
    pub strategy: Strategy,
    /// Locale of the words.
    pub locale: String,
    /// Template variables as JSON; `None`: there are none.
    pub variables_json: Option<Redacted<String>>,
    /// The record that it came from.
    pub source: Source,
    /// Too late to be useful.
    pub expires_at: Timestamp,
    /// The deliveries that it begins with; none when nothing is to be sent.
    pub deliveries: Vec<FirstDelivery>,
}

/// Where a record came from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    /// Full topic name.
    pub topic: std::sync::Arc<str>,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// The record's time stamp.
    pub published_at: Timestamp,
    /// To which trace it belongs, by its `traceparent`.
    pub trace: Option<TraceContext>,
}

/// A delivery that a claim begins with.
#[derive(Debug, Clone)]
pub struct FirstDelivery {
    /// Derived from notification and channel.
    pub delivery_id: DeliveryId,
    /// Its way.
    pub channel: Channel,
    /// Its place in the plan.
    pub position: i16,
    /// Where to.
    pub address: Redacted<String>,
    /// `None`: it is dispatched at once, under our lease. Otherwise: when it is due.
    pub due_at: Option<Timestamp>,
}

/// Rows of a batch are inserted in the order of their ids: two batches that share
/// some can then not wait for each other in a circle.
///
/// A cancellation that overtook its request waits in `unmatched_update`. Its
/// notification is claimed as cancelled, without deliveries, and the cancellation has
/// done its work. Of one that is committed while this runs nothing is seen; it stays,
/// and is looked at again.
///
/// A recipient who was erased since the facts were read is claimed for as suppressed,
/// and nothing of the content is kept. Of an erasure that is committed while this runs
/// nothing is seen; it looks once more for what came in that moment.
///
/// Where deliveries run side by side, each of them has a say in the notification's
/// state: theirs are folded from the beginning.
const CLAIM: &str = "
WITH input AS (
    SELECT * FROM unnest(
        $1::uuid[], $2::text[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::text[], $8::bytea[],
        $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::int[],
        $16::bigint[], $17::timestamptz[], $18::timestamptz[], $19::text[], $30::text[]
    ) AS t (notification_id, patient_id, recipient_id, purpose, urgency, state, reason, fingerprint,
            caller, channels, strategy, locale, variables, source_topic, source_partition, source_offset,
            published_at, expires_at, channel, traceparent)
), begun AS (
    SELECT * FROM unnest(
        $20::uuid[], $21::uuid[], $22::text[], $23::smallint[], $24::text[], $25::timestamptz[], $26::bool[]
    ) AS t (delivery_id, notification_id, channel, position, address, due_at, folded)
), called_off AS (
    SELECT u.notification_id, min(u.source) AS source
      FROM unmatched_update u JOIN input i USING (notification_id)
     WHERE u.kind = 'cancelled' AND u.next_look_at IS NOT NULL AND u.notification_id = ANY($1)
       AND (u.caller IS NULL OR u.caller = i.caller)
     GROUP BY u.notification_id
), gone AS (
    SELECT recipient_id FROM recipient WHERE recipient_id = ANY($3) AND erased_at IS NOT NULL
), decided AS (
    SELECT input.*, state IN ('dispatching', 'held') AND called_off.source IS NOT NULL AS cancelled,
           called_off.source AS cancelled_by,
           state IN ('dispatching', 'held') AND recipient_id IN (SELECT recipient_id FROM gone) AS erased
      FROM input LEFT JOIN called_off USING (notification_id)
), claimed AS (
    INSERT INTO notification (notification_id, patient_id, recipient_id, purpose, urgency, state, reason,
            fingerprint, caller, channels, strategy, locale, variables, source_topic, source_partition,
            source_offset, published_at, expires_at, traceparent, cancelled_at, cancelled_by)
    SELECT notification_id, patient_id, recipient_id, purpose, urgency,
            CASE WHEN cancelled THEN 'cancelled' WHEN erased THEN 'suppressed' ELSE state END,
            CASE WHEN cancelled THEN 'cancelled' WHEN erased THEN 'erased' ELSE reason END,
            fingerprint, caller, string_to_array(channels, ','), strategy, locale,
            CASE WHEN NOT erased THEN variables::jsonb END,
            source_topic, source_partition, source_offset, published_at, expires_at, traceparent,
            CASE WHEN cancelled THEN now() END, CASE WHEN cancelled THEN cancelled_by END
      FROM decided
     ORDER BY notification_id
    ON CONFLICT (notification_id) DO NOTHING
    RETURNING notification_id, patient_id, recipient_id, purpose, urgency, state, reason, caller, expires_at
), matched AS (
    DELETE FROM unmatched_update u USING claimed c
     WHERE u.notification_id = c.notification_id AND u.kind = 'cancelled' AND u.next_look_at IS NOT NULL
       AND (u.caller IS NULL OR u.caller = c.caller)
    RETURNING u.notification_id, u.source
), delivered AS (
    INSERT INTO delivery (delivery_id, notification_id, recipient_id, channel, position, urgency, state,
            reason, address, epoch, owner, due_at, first_attempt_at, expires_at, folded)
    SELECT b.delivery_id, notification_id, c.recipient_id, b.channel, b.position, c.urgency, c.state,
           c.reason, b.address,
           CASE WHEN b.due_at IS NULL THEN $29::int ELSE 0 END,
           CASE WHEN b.due_at IS NULL THEN $27::uuid END,
           coalesce(b.due_at, now() + $28::bigint * interval '1 millisecond'),
           CASE WHEN b.due_at IS NULL THEN now() END,
           c.expires_at, b.folded
      FROM begun b JOIN claimed c USING (notification_id)
     WHERE c.state NOT IN ('cancelled', 'suppressed')
), news AS (
    SELECT c.notification_id, c.patient_id, c.recipient_id, c.purpose, c.state, c.reason, c.caller,
           CASE WHEN c.state NOT IN ('cancelled', 'suppressed') THEN i.channel END AS channel
      FROM input i JOIN claimed c USING (notification_id)
), explained AS (
    INSERT INTO why (notification_id, step, state, reason, channel, detail)
    SELECT notification_id, 'plan', state, reason, channel,
           CASE WHEN state = 'cancelled'
                THEN (SELECT 'by ' || min(source) FROM matched m WHERE m.notification_id = n.notification_id) END
      FROM news n
), announced AS (
    INSERT INTO outbox (notification_id, patient_id, recipient_id, purpose, sequence, state, reason, channel,
            caller)
    SELECT notification_id, patient_id, recipient_id, purpose, 1, state, reason, channel, caller FROM news
)
SELECT notification_id, state FROM claimed";

/// Rows that an attempt at this very batch claimed, whose answer was lost.
const CLAIMED_BEFORE: &str = "
SELECT DISTINCT notification_id, state FROM delivery
 WHERE delivery_id = ANY($1) AND owner = $2 AND epoch = $3 AND state = 'dispatching'";

/// What became of the notifications that a claim made ours.
pub type Claimed = HashMap<NotificationId, State>;

impl Store {
    /// Claims a batch. The ids that come back are new and ours, each with the state
    /// that it was given: the claim's own, `cancelled` where a cancellation was there
    /// first, `suppressed` where an erasure was. What does not come back exists
    /// already, and is somebody's.
    ///
    /// Deliveries without a due time are ours to send for `lease`, unless their
    /// notification is cancelled or suppressed. Their epoch is `batch`, a number that
    /// this owner gives to no other batch. Ids must be unique within the batch.
    ///
    /// # Errors
    /// As [`RecordError`] tells; then nothing of the batch is claimed, or, when the
    /// answer was lost, all of it: [`Store::claimed_before`] tells.
    pub async fn claim(
        &self,
        claims: &mut [Claim],
        batch: i32,
        lease: Duration,
    ) -> Result<Claimed, RecordError> {
        let begun = Instant::now();
        claims.sort_unstable_by_key(|claim| claim.notification_id);
        let client = self.client().await?;
        let statement = client.prepare_cached(CLAIM).await.map_err(RecordError::at("claim"))?;

        let uuids = |of: fn(&Claim) -> Uuid| claims.iter().map(of).collect::<Vec<_>>();
        let words = |of: fn(&Claim) -> &str| claims.iter().map(of).collect::<Vec<_>>();
        let times = |of: fn(&Claim) -> Timestamp| claims.iter().map(of).collect::<Vec<_>>();
        let channels: Vec<String> = claims.iter().map(channel_list).collect();
        let fingerprints: Vec<&[u8]> = claims.iter().map(|claim| claim.fingerprint.as_slice()).collect();
        let callers: Vec<Option<&str>> = claims.iter().map(|claim| claim.caller.as_deref()).collect();
        let variables: Vec<Option<&str>> = claims
            .iter()
            .map(|claim| claim.variables_json.as_ref().map(|json| json.expose().as_str()))
            .collect();
        let partitions: Vec<i32> = claims.iter().map(|claim| claim.source.partition).collect();
        let offsets: Vec<i64> = claims.iter().map(|claim| claim.source.offset).collect();
        let only_channels: Vec<Option<&str>> = claims.iter().map(only_channel).collect();
        let traces: Vec<Option<String>> =
            claims.iter().map(|claim| claim.source.trace.map(|trace| trace.to_string())).collect();
        let rows = Deliveries::of(claims);
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
                    &words(|c| c.strategy.as_str()),
                    &words(|c| c.locale.as_str()),
                    &variables,
                    &words(|c| &c.source.topic),
                    &partitions,
                    &offsets,
                    &times(|c| c.source.published_at),
                    &times(|c| c.expires_at),
                    &only_channels,
                    &rows.ids,
                    &rows.notifications,
                    &rows.channels,
                    &rows.positions,
                    &rows.addresses,
                    &rows.due,
                    &rows.folded,
                    &self.owner.0,
                    &lease_ms,
                    &batch,
                    &traces,
                ],
            )
            .await
            .map_err(RecordError::at("claim"))?;
        metrics::statement("claim", claims.len(), begun.elapsed());
        rows.iter().map(claimed).collect()
    }

    /// After a claim whose answer was lost: the notifications whose deliveries that
    /// claim made ours after all.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn claimed_before(&self, claims: &[Claim], batch: i32) -> Result<Claimed, RecordError> {
        let client = self.client().await?;
        let ids = Deliveries::of(claims).ids;
        let rows = client
            .query(CLAIMED_BEFORE, &[&ids, &self.owner.0, &batch])
            .await
            .map_err(RecordError::at("claimed_before"))?;
        rows.iter().map(claimed).collect()
    }
}

fn claimed(row: &Row) -> Result<(NotificationId, State), RecordError> {
    let state: &str = row.try_get(1)?;
    let state =
        State::parse(state).ok_or_else(|| RecordError::bug("a claim came back in an unknown state"))?;
    Ok((NotificationId(row.try_get(0)?), state))
}

fn channel_list(claim: &Claim) -> String {
    claim.channels.iter().map(|channel| channel.as_str()).collect::<Vec<_>>().join(",")
}

/// The channel that a claim is about, where it is one.
fn only_channel(claim: &Claim) -> Option<&'static str> {
    match claim.deliveries.as_slice() {
        [only] => Some(only.channel.as_str()),
        _ => None,
    }
}

/// The deliveries of a batch by column.
#[derive(Default)]
struct Deliveries<'a> {
    ids: Vec<Uuid>,
    notifications: Vec<Uuid>,
    channels: Vec<&'static str>,
    positions: Vec<i16>,
    addresses: Vec<&'a str>,
    due: Vec<Option<Timestamp>>,
    folded: Vec<bool>,
}

impl<'a> Deliveries<'a> {
    fn of(claims: &'a [Claim]) -> Self {
        let mut all = Self::default();
        for claim in claims {
            for one in &claim.deliveries {
                all.ids.push(one.delivery_id.0);
                all.notifications.push(claim.notification_id.0);
                all.channels.push(one.channel.as_str());
                all.positions.push(one.position);
                all.addresses.push(one.address.expose().as_str());
                all.due.push(one.due_at);
                all.folded.push(claim.deliveries.len() > 1);
            }
        }
        all
    }
}

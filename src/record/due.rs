//! Deliveries that wait for a worker: held until a time, queued, to be retried,
//! of unknown outcome, or claimed by an owner that died.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_postgres::Row;

use super::error::RecordError;
use super::store::Store;
use super::traces;
use crate::domain::{
    Channel, DeliveryId, NotificationId, PatientId, Purpose, RecipientId, Redacted, State, Strategy, Urgency,
};
use crate::metrics;
use crate::trace::TraceContext;

/// A due delivery that is ours now.
#[derive(Debug, Clone)]
pub struct DueDelivery {
    /// Which delivery.
    pub delivery_id: DeliveryId,
    /// Of which notification.
    pub notification_id: NotificationId,
    /// The claim.
    pub epoch: i32,
    /// The state that it was taken from.
    pub was: State,
    /// Whom it is about.
    pub patient_id: PatientId,
    /// Who gets it.
    pub recipient_id: RecipientId,
    /// What for.
    pub purpose: Purpose,
    /// How soon.
    pub urgency: Urgency,
    /// This delivery's channel.
    pub channel: Channel,
    /// Its place in the plan.
    pub position: i16,
    /// The plan's channels.
    pub channels: Vec<Channel>,
    /// How they are used.
    pub strategy: Strategy,
    /// Where it was last sent to, if it was.
    pub address: Option<Redacted<String>>,
    /// Locale of the words.
    pub locale: String,
    /// Template variables.
    pub variables: Redacted<Vec<(String, String)>>,
    /// Attempts so far.
    pub attempt: i32,
    /// Key to the provider within one group of attempts.
    pub attempt_group: i32,
    /// How long it has been tried, by the database's clock.
    pub trying_for: Duration,
    /// How long its outcome has been unknown.
    pub unknown_for: Option<Duration>,
    /// The first provider call may have begun at this time.
    pub first_attempt_at: Timestamp,
    /// Too late to be useful.
    pub expires_at: Timestamp,
    /// The source record's time stamp.
    pub published_at: Timestamp,
    /// True when `expires_at` has passed, by the database's clock.
    pub expired: bool,
    /// True when its caller took the notification back.
    pub cancelled: bool,
    /// True when its recipient is known to have it already.
    pub reached: bool,
    /// To which trace it belongs.
    pub trace: TraceContext,
}

/// The oldest of each channel, in the order of publication, so that one recipient's
/// messages keep theirs. `SKIP LOCKED` lets any number of workers share the queue without waiting.
///
/// How many rows a share comes to is not known when the statement is planned, and guessed from
/// how many are due: with many it would read the whole table to update a few. Their ids as an
/// array make it look each of them up, however many are due.
pub(super) const CLAIM_DUE: &str = "
WITH due AS MATERIALIZED (
    SELECT oldest.delivery_id, oldest.state
      FROM unnest($1::text[], $4::bigint[]) AS share (channel, places)
     CROSS JOIN LATERAL (
           SELECT d.delivery_id, d.state FROM delivery d
            WHERE d.channel = share.channel AND d.urgency = $5 AND d.due_at <= now()
            ORDER BY d.due_at
            LIMIT share.places
              FOR UPDATE SKIP LOCKED) AS oldest
), ours AS (
    UPDATE delivery d
       SET state = 'dispatching', owner = $2::uuid, epoch = d.epoch + 1,
           due_at = now() + $3::bigint * interval '1 millisecond',
           first_attempt_at = coalesce(d.first_attempt_at, now()), updated_at = now()
      FROM due
     WHERE d.delivery_id = ANY (ARRAY(SELECT delivery_id FROM due))
       AND d.delivery_id = due.delivery_id
    RETURNING d.*, due.state AS was
)
SELECT o.delivery_id, o.notification_id, o.epoch, o.was, n.patient_id, n.recipient_id, n.purpose, n.urgency,
       o.channel, o.position, n.channels, n.strategy, o.address, n.locale, n.variables, o.attempt, o.attempt_group,
       (extract(epoch FROM now() - o.first_attempt_at) * 1000)::bigint AS trying_for_ms,
       (extract(epoch FROM now() - o.unknown_since) * 1000)::bigint AS unknown_for_ms,
       o.first_attempt_at, o.expires_at, n.published_at, n.traceparent, o.expires_at <= now() AS expired,
       n.cancelled_at IS NOT NULL AS cancelled,
       n.engagement IS NOT NULL OR (n.strategy = 'in_order' AND n.state = 'delivered'
           AND n.escalated_why IS DISTINCT FROM 'not_read_in_time') AS reached
  FROM ours o JOIN notification n USING (notification_id)
 ORDER BY n.published_at, n.source_partition, n.source_offset";

/// Where there is something to claim, found by one entry of the index each.
const DUE_KINDS: &str = "
SELECT urgencies.urgency, channels.channel
  FROM unnest($1::text[]) AS channels (channel)
 CROSS JOIN unnest($2::text[]) AS urgencies (urgency)
 CROSS JOIN LATERAL (
       SELECT FROM delivery d
        WHERE d.channel = channels.channel AND d.urgency = urgencies.urgency AND d.due_at <= now()
        ORDER BY d.due_at LIMIT 1) AS oldest";

const SET_ADDRESS: &str = "
UPDATE delivery d SET address = i.address
  FROM unnest($1::uuid[], $2::text[]) AS i (delivery_id, address)
 WHERE d.delivery_id = i.delivery_id AND d.owner = $3::uuid";

/// Asked a channel and an urgency, as the index has them.
const DUE_WITHIN: &str = "
SELECT count(*)
  FROM unnest($2::text[]) AS channels (channel)
 CROSS JOIN unnest($3::text[]) AS urgencies (urgency)
 CROSS JOIN LATERAL (
       SELECT FROM delivery d
        WHERE d.channel = channels.channel AND d.urgency = urgencies.urgency
          AND d.due_at <= now() + $1::bigint * interval '1 millisecond') AS due";

/// Arguments of [`CLAIM_DUE`].
pub(super) struct Shares {
    pub(super) channels: Vec<&'static str>,
    pub(super) places: Vec<i64>,
    pub(super) lease_ms: i64,
}

impl Shares {
    pub(super) fn new(shares: &[(Channel, usize)], lease: Duration) -> Self {
        Self {
            channels: shares.iter().map(|(channel, _)| channel.as_str()).collect(),
            places: shares.iter().map(|(_, places)| i64::try_from(*places).unwrap_or(i64::MAX)).collect(),
            lease_ms: i64::try_from(lease.as_millis()).unwrap_or(i64::MAX),
        }
    }
}

impl Store {
    /// Urgencies and channels of which something is due: most turns of a worker find one or
    /// two, and need not ask for the others.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn due_kinds(&self) -> Result<Vec<(Urgency, Channel)>, RecordError> {
        const NAME: &str = "due_kinds";
        let begun = Instant::now();
        let client = self.client().await?;
        let statement = client.prepare_cached(DUE_KINDS).await.map_err(RecordError::at(NAME))?;
        let channels: Vec<&str> = Channel::ALL.iter().map(|channel| channel.as_str()).collect();
        let urgencies: Vec<&str> = Urgency::ALL.iter().map(|urgency| urgency.as_str()).collect();
        let rows = client.query(&statement, &[&channels, &urgencies]).await.map_err(RecordError::at(NAME))?;
        metrics::statement(NAME, rows.len(), begun.elapsed());
        let kind = |row| Ok((word(row, "urgency", Urgency::parse)?, word(row, "channel", Channel::parse)?));
        rows.iter().map(kind).collect()
    }

    /// Claims due rows of an urgency for `lease`: of each channel as many as its share says.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn claim_due(
        &self,
        urgency: Urgency,
        shares: &[(Channel, usize)],
        lease: Duration,
    ) -> Result<Vec<DueDelivery>, RecordError> {
        const NAME: &str = "claim_due";
        let begun = Instant::now();
        let client = self.client().await?;
        let statement = client.prepare_cached(CLAIM_DUE).await.map_err(RecordError::at(NAME))?;
        let shares = Shares::new(shares, lease);
        let rows = client
            .query(
                &statement,
                &[&shares.channels, &self.owner.0, &shares.lease_ms, &shares.places, &urgency.as_str()],
            )
            .await
            .map_err(RecordError::at(NAME))?;
        metrics::statement(NAME, rows.len(), begun.elapsed());
        rows.iter().map(due_delivery).collect()
    }

    /// Writes down where deliveries of ours are about to be sent to, so that a
    /// look-up after a crash asks for the right address.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn set_addresses(
        &self,
        addresses: &[(DeliveryId, Redacted<String>)],
    ) -> Result<(), RecordError> {
        let client = self.client().await?;
        let statement = client.prepare_cached(SET_ADDRESS).await.map_err(RecordError::at("set_address"))?;
        let ids: Vec<_> = addresses.iter().map(|(id, _)| id.0).collect();
        let texts: Vec<&str> = addresses.iter().map(|(_, address)| address.expose().as_str()).collect();
        client
            .execute(&statement, &[&ids, &texts, &self.owner.0])
            .await
            .map_err(RecordError::at("set_address"))?;
        Ok(())
    }

    /// Deliveries that somebody has to look at within this time.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn due_within(&self, time: Duration) -> Result<i64, RecordError> {
        let client = self.client().await?;
        let time_ms = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let channels: Vec<&str> = Channel::ALL.iter().map(|channel| channel.as_str()).collect();
        let urgencies: Vec<&str> = Urgency::ALL.iter().map(|urgency| urgency.as_str()).collect();
        let row = client
            .query_one(DUE_WITHIN, &[&time_ms, &channels, &urgencies])
            .await
            .map_err(RecordError::at("due_within"))?;
        Ok(row.try_get(0)?)
    }
}

fn word<T>(row: &Row, column: &str, parse: fn(&str) -> Option<T>) -> Result<T, RecordError> {
    let text: &str = row.try_get(column)?;
    parse(text)
        .ok_or_else(|| RecordError::bug(format!("{column} holds a word that this version does not know")))
}

fn millis(value: i64) -> Duration {
    Duration::from_millis(u64::try_from(value).unwrap_or(0))
}

fn due_delivery(row: &Row) -> Result<DueDelivery, RecordError> {
    let patient: &str = row.try_get("patient_id")?;
    let channels: Vec<&str> = row.try_get("channels")?;
    let variables: Option<serde_json::Value> = row.try_get("variables")?;
    Ok(DueDelivery {
        delivery_id: DeliveryId(row.try_get("delivery_id")?),
        notification_id: NotificationId(row.try_get("notification_id")?),
        epoch: row.try_get("epoch")?,
        was: word(row, "was", State::parse)?,
        patient_id: PatientId::parse(patient)
            .ok_or_else(|| RecordError::bug("notification.patient_id is not an opaque identifier"))?,
        recipient_id: RecipientId(row.try_get("recipient_id")?),
        purpose: word(row, "purpose", Purpose::parse)?,
        urgency: word(row, "urgency", Urgency::parse)?,
        channel: word(row, "channel", Channel::parse)?,
        position: row.try_get("position")?,
        channels: channels.into_iter().filter_map(Channel::parse).collect(),
        strategy: word(row, "strategy", Strategy::parse)?,
        address: row.try_get::<_, Option<String>>("address")?.map(Redacted::new),
        locale: row.try_get("locale")?,
        variables: Redacted::new(pairs(variables)),
        attempt: row.try_get("attempt")?,
        attempt_group: row.try_get("attempt_group")?,
        trying_for: millis(row.try_get("trying_for_ms")?),
        unknown_for: row.try_get::<_, Option<i64>>("unknown_for_ms")?.map(millis),
        first_attempt_at: row.try_get("first_attempt_at")?,
        expires_at: row.try_get("expires_at")?,
        published_at: row.try_get("published_at")?,
        expired: row.try_get("expired")?,
        cancelled: row.try_get("cancelled")?,
        reached: row.try_get("reached")?,
        trace: traces::of_row(row)?,
    })
}

/// The variables as they were written: an object of strings.
fn pairs(json: Option<serde_json::Value>) -> Vec<(String, String)> {
    let Some(serde_json::Value::Object(map)) = json else { return Vec::new() };
    map.into_iter()
        .filter_map(|(name, value)| match value {
            serde_json::Value::String(text) => Some((name, text)),
            _ => None,
        })
        .collect()
}

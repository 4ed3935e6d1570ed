//! Counts over all notifications: for reports of the demo and for tests that
//! compare the database with what providers saw.

use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::error::RecordError;
use super::store::Store;
use crate::domain::{Channel, DeliveryId, Engagement, NotificationId, PatientId, Reason, State, Urgency};

/// Notifications of one state and reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateCount {
    /// Where they stand.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// How many.
    pub count: i64,
}

/// Notifications of one source topic, state and reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceCount {
    /// Full name of the topic.
    pub source_topic: String,
    /// Where they stand.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// The most that their recipients did; `None`: nothing that is known.
    pub engagement: Option<Engagement>,
    /// How many.
    pub count: i64,
}

/// Whose a message is that a provider speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addressee {
    /// Which delivery.
    pub delivery_id: DeliveryId,
    /// The provider's id of the message, once it is recorded.
    pub provider_message_id: Option<String>,
    /// Of which notification.
    pub notification_id: NotificationId,
    /// Whom it is about.
    pub patient_id: PatientId,
    /// Who was written to, by the portal's identifier.
    pub recipient: String,
}

/// One delivery, without its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryLine {
    /// Which delivery.
    pub delivery_id: DeliveryId,
    /// Of which notification.
    pub notification_id: NotificationId,
    /// The most that is known to have been done with the notification.
    pub engagement: Option<Engagement>,
    /// Full name of the topic that its notification came from.
    pub source_topic: String,
    /// Which way.
    pub channel: Channel,
    /// Its place in the plan; from 0.
    pub position: i16,
    /// Where it stands.
    pub state: State,
    /// How urgent.
    pub urgency: Urgency,
    /// True when the plan held it back at first.
    pub was_held: bool,
    /// The source record's time stamp.
    pub published_at: Timestamp,
}

const STATES: &str = "
SELECT state, reason, count(*) AS count FROM notification GROUP BY state, reason ORDER BY state, reason";

const DELIVERIES: &str = "
SELECT d.delivery_id, d.notification_id, n.engagement, n.source_topic, d.channel, d.position, d.state, d.urgency, n.published_at,
       EXISTS (SELECT FROM why w WHERE w.notification_id = d.notification_id
                  AND w.step = 'plan' AND w.state = 'held') AS was_held
  FROM delivery d JOIN notification n USING (notification_id)";

const BY_SOURCE: &str = "
SELECT source_topic, state, reason, engagement, count(*) AS count
  FROM notification GROUP BY source_topic, state, reason, engagement ORDER BY source_topic, state, reason";

const ADDRESSEES: &str = "
SELECT d.delivery_id, d.provider_message_id, d.notification_id, n.patient_id, r.external_id
  FROM delivery d JOIN notification n USING (notification_id)
  JOIN recipient r ON r.recipient_id = d.recipient_id
 WHERE d.delivery_id = ANY ($1) OR d.provider_message_id = ANY ($2)";

const STATES_OF: &str = "
SELECT notification_id, state, reason FROM notification WHERE notification_id = ANY ($1)";

const UNMATCHED: &str = "SELECT count(*) FROM unmatched_update WHERE next_look_at IS NOT NULL";

const SOURCES: &str = "
SELECT DISTINCT source_partition, source_offset FROM notification WHERE source_topic = $1";

fn engagement(row: &Row) -> Result<Option<Engagement>, RecordError> {
    let unknown = || RecordError::bug("notification holds a word that this version does not know");
    let word: Option<&str> = row.try_get("engagement")?;
    word.map(|word| Engagement::parse(word).ok_or_else(unknown)).transpose()
}

impl Store {
    /// Notifications by state and reason.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn count_states(&self) -> Result<Vec<StateCount>, RecordError> {
        let client = self.client().await?;
        let rows = client.query(STATES, &[]).await.map_err(RecordError::at("count_states"))?;
        rows.iter()
            .map(|row| {
                let unknown =
                    || RecordError::bug("notification holds a word that this version does not know");
                Ok(StateCount {
                    state: State::parse(row.try_get("state")?).ok_or_else(unknown)?,
                    reason: Reason::parse(row.try_get("reason")?).ok_or_else(unknown)?,
                    count: row.try_get("count")?,
                })
            })
            .collect()
    }

    /// Notifications by source topic, state, reason and engagement.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn count_by_source(&self) -> Result<Vec<SourceCount>, RecordError> {
        let client = self.client().await?;
        let rows = client.query(BY_SOURCE, &[]).await.map_err(RecordError::at("count_by_source"))?;
        rows.iter()
            .map(|row| {
                let unknown =
                    || RecordError::bug("notification holds a word that this version does not know");
                Ok(SourceCount {
                    source_topic: row.try_get("source_topic")?,
                    state: State::parse(row.try_get("state")?).ok_or_else(unknown)?,
                    reason: Reason::parse(row.try_get("reason")?).ok_or_else(unknown)?,
                    engagement: engagement(row)?,
                    count: row.try_get("count")?,
                })
            })
            .collect()
    }

    /// Whose these messages are, by our ids and by the providers'; those that are
    /// known so far, in no order.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn addressees(
        &self,
        deliveries: &[DeliveryId],
        provider_message_ids: &[String],
    ) -> Result<Vec<Addressee>, RecordError> {
        let client = self.client().await?;
        let ids: Vec<Uuid> = deliveries.iter().map(|id| id.0).collect();
        let rows = client.query(ADDRESSEES, &[&ids, &provider_message_ids]).await;
        rows.map_err(RecordError::at("addressees"))?
            .iter()
            .map(|row| {
                let unknown = || RecordError::bug("notification holds an identifier of another form");
                Ok(Addressee {
                    delivery_id: DeliveryId(row.try_get(0)?),
                    provider_message_id: row.try_get(1)?,
                    notification_id: NotificationId(row.try_get(2)?),
                    patient_id: PatientId::parse(row.try_get(3)?).ok_or_else(unknown)?,
                    recipient: row.try_get(4)?,
                })
            })
            .collect()
    }

    /// Every delivery. For a demo's or a test's database, not for a production one.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn all_deliveries(&self) -> Result<Vec<DeliveryLine>, RecordError> {
        let client = self.client().await?;
        let rows = client.query(DELIVERIES, &[]).await.map_err(RecordError::at("all_deliveries"))?;
        rows.iter()
            .map(|row| {
                let unknown = || RecordError::bug("delivery holds a word that this version does not know");
                Ok(DeliveryLine {
                    delivery_id: DeliveryId(row.try_get("delivery_id")?),
                    notification_id: NotificationId(row.try_get("notification_id")?),
                    engagement: engagement(row)?,
                    source_topic: row.try_get("source_topic")?,
                    channel: Channel::parse(row.try_get("channel")?).ok_or_else(unknown)?,
                    position: row.try_get("position")?,
                    state: State::parse(row.try_get("state")?).ok_or_else(unknown)?,
                    urgency: Urgency::parse(row.try_get("urgency")?).ok_or_else(unknown)?,
                    was_held: row.try_get("was_held")?,
                    published_at: row.try_get("published_at")?,
                })
            })
            .collect()
    }

    /// Where these notifications stand, and why; those that exist, in no order.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn states_of(
        &self,
        notifications: &[NotificationId],
    ) -> Result<Vec<(NotificationId, State, Reason)>, RecordError> {
        let client = self.client().await?;
        let ids: Vec<Uuid> = notifications.iter().map(|id| id.0).collect();
        let rows = client.query(STATES_OF, &[&ids]).await.map_err(RecordError::at("states_of"))?;
        rows.iter()
            .map(|row| {
                let unknown =
                    || RecordError::bug("notification holds a word that this version does not know");
                Ok((
                    NotificationId(row.try_get(0)?),
                    State::parse(row.try_get(1)?).ok_or_else(unknown)?,
                    Reason::parse(row.try_get(2)?).ok_or_else(unknown)?,
                ))
            })
            .collect()
    }

    /// Updates that wait for what they are about.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn unmatched_waiting(&self) -> Result<i64, RecordError> {
        let client = self.client().await?;
        let row = client.query_one(UNMATCHED, &[]).await.map_err(RecordError::at("unmatched_waiting"))?;
        Ok(row.try_get(0)?)
    }

    /// Partition and offset of every record of a topic that became a notification.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn sources(&self, topic: &str) -> Result<Vec<(i32, i64)>, RecordError> {
        let client = self.client().await?;
        let rows = client.query(SOURCES, &[&topic]).await.map_err(RecordError::at("sources"))?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }
}

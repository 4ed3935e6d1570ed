//! Counts over all notifications: for reports of the demo and for tests that
//! compare the database with what providers saw.

use jiff::Timestamp;

use super::error::RecordError;
use super::store::Store;
use crate::domain::{Channel, DeliveryId, Reason, State, Urgency};

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

/// One delivery, without its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryLine {
    /// Which delivery.
    pub delivery_id: DeliveryId,
    /// Which way.
    pub channel: Channel,
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
SELECT d.delivery_id, d.channel, d.state, d.urgency, n.published_at,
       EXISTS (SELECT FROM why w WHERE w.notification_id = d.notification_id
                  AND w.step = 'plan' AND w.state = 'held') AS was_held
  FROM delivery d JOIN notification n USING (notification_id)";

const SOURCES: &str = "
SELECT DISTINCT source_partition, source_offset FROM notification WHERE source_topic = $1";

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
                    channel: Channel::parse(row.try_get("channel")?).ok_or_else(unknown)?,
                    state: State::parse(row.try_get("state")?).ok_or_else(unknown)?,
                    urgency: Urgency::parse(row.try_get("urgency")?).ok_or_else(unknown)?,
                    was_held: row.try_get("was_held")?,
                    published_at: row.try_get("published_at")?,
                })
            })
            .collect()
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

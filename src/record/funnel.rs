//! How far the newest notifications have come, for people who watch: by purpose, and by channel
//! and provider.

use std::collections::BTreeMap;
use std::time::Instant;

use deadpool_postgres::Pool;
use uuid::Uuid;

use super::error::RecordError;
use crate::domain::{Channel, DeliveryId, Engagement, NotificationId, Purpose, State};
use crate::metrics;

/// Notifications of one purpose that are looked at, at most: the newest.
pub const LOOKED_MAX: i64 = 2_000;
/// How far back.
pub const HOURS: i32 = 1;

/// The newest of each purpose, by the index on their contents.
const NEWEST: &str = "
SELECT purposes.purpose, n.notification_id, n.state, n.reason, n.engagement, n.channels
  FROM unnest($1::text[]) AS purposes (purpose)
 CROSS JOIN LATERAL (
       SELECT notification_id, state, reason, engagement, channels FROM notification n
        WHERE n.purpose = purposes.purpose AND NOT n.contents_erased
          AND n.accepted_at > now() - $2 * interval '1 hour'
        ORDER BY n.accepted_at DESC LIMIT $3) AS n";

const DELIVERIES: &str = "
SELECT channel, coalesce(provider, '') AS provider, state, count(*) AS count
  FROM delivery WHERE delivery_id = ANY ($1) GROUP BY 1, 2, 3";

/// What came of the newest notifications.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Funnel {
    /// By purpose.
    pub purposes: BTreeMap<String, Steps>,
    /// By channel and provider (empty: none was called yet), deliveries by state.
    pub channels: BTreeMap<(String, String), BTreeMap<String, i64>>,
}

/// Of one purpose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Steps {
    /// Taken over.
    pub accepted: i64,
    /// A provider took them, whatever came then.
    pub sent: i64,
    /// They reached a device or a mailbox.
    pub delivered: i64,
    /// Their recipients opened them.
    pub read: i64,
    /// They are under way or wait.
    pub waiting: i64,
    /// They were never sent, by reason.
    pub suppressed: BTreeMap<String, i64>,
    /// They failed.
    pub failed: i64,
}

/// Looks at the newest notifications, at most [`LOOKED_MAX`] a purpose of the last [`HOURS`].
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn newest(pool: &Pool) -> Result<Funnel, RecordError> {
    let begun = Instant::now();
    let client = pool.get().await?;
    let purposes: Vec<&str> = Purpose::ALL.iter().map(|purpose| purpose.as_str()).collect();
    let statement = client.prepare_cached(NEWEST).await.map_err(RecordError::at("funnel"))?;
    let rows = client
        .query(&statement, &[&purposes, &f64::from(HOURS), &LOOKED_MAX])
        .await
        .map_err(RecordError::at("funnel"))?;
    let mut funnel = Funnel::default();
    let mut deliveries = Vec::with_capacity(rows.len());
    for row in &rows {
        let steps = funnel.purposes.entry(row.try_get("purpose")?).or_default();
        let engagement: Option<&str> = row.try_get("engagement")?;
        steps.take(row.try_get("state")?, row.try_get("reason")?, engagement);
        let channels: Vec<&str> = row.try_get("channels")?;
        let id = NotificationId(row.try_get::<_, Uuid>("notification_id")?);
        let planned = channels.into_iter().filter_map(Channel::parse);
        deliveries.extend(planned.map(|channel| DeliveryId::for_channel(id, channel).0));
    }
    let statement = client.prepare_cached(DELIVERIES).await.map_err(RecordError::at("funnel_deliveries"))?;
    let found =
        client.query(&statement, &[&deliveries]).await.map_err(RecordError::at("funnel_deliveries"))?;
    for row in &found {
        let of = funnel.channels.entry((row.try_get("channel")?, row.try_get("provider")?)).or_default();
        of.insert(row.try_get("state")?, row.try_get("count")?);
    }
    metrics::statement("funnel", rows.len(), begun.elapsed());
    Ok(funnel)
}

impl Steps {
    fn take(&mut self, state: &str, reason: &str, engagement: Option<&str>) {
        self.accepted += 1;
        // Whoever was shown a message has got it, even if nobody said so.
        let engagement = engagement.and_then(Engagement::parse);
        let read = engagement.is_some_and(|most| most >= Engagement::Read);
        let delivered = engagement.is_some() || state == State::Delivered.as_str();
        let sent = delivered || state == State::Sent.as_str();
        self.read += i64::from(read);
        self.delivered += i64::from(delivered);
        self.sent += i64::from(sent);
        if sent {
            return;
        }
        match State::parse(state) {
            Some(State::Suppressed | State::Expired | State::Cancelled) => {
                *self.suppressed.entry(reason.to_owned()).or_default() += 1;
            }
            Some(state) if state.is_terminal() => self.failed += 1,
            _ => self.waiting += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_notification_is_in_every_step_that_it_came_to() {
        let mut steps = Steps::default();
        for (state, reason, engagement) in [
            ("queued", "none", None),
            ("sent", "none", None),
            ("delivered", "none", None),
            ("sent", "none", Some("read")),
            ("suppressed", "no_consent", None),
            ("permanent_failure", "invalid_address", None),
        ] {
            steps.take(state, reason, engagement);
        }
        assert_eq!(
            steps,
            Steps {
                accepted: 6,
                sent: 3,
                delivered: 2,
                read: 1,
                waiting: 1,
                suppressed: BTreeMap::from([("no_consent".to_owned(), 1)]),
                failed: 1,
            }
        );
    }
}

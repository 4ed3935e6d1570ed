//! To which traces notifications belong.

use std::collections::HashMap;

use uuid::Uuid;

use super::error::RecordError;
use super::store::Store;
use crate::domain::{DeliveryId, DeliveryRef, Fact, NotificationId, NotificationUpdate};
use crate::trace::{self, TraceContext};

/// As updates name them: by delivery, by the provider's message, or themselves.
const TRACES: &str = "
SELECT n.notification_id, n.traceparent, d.delivery_id, NULL AS provider_message_id
  FROM delivery d JOIN notification n USING (notification_id) WHERE d.delivery_id = ANY($1)
UNION ALL
SELECT n.notification_id, n.traceparent, NULL, d.provider_message_id
  FROM delivery d JOIN notification n USING (notification_id) WHERE d.provider_message_id = ANY($2)
UNION ALL
SELECT notification_id, traceparent, NULL, NULL FROM notification WHERE notification_id = ANY($3)";

/// What an update is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum About {
    Delivery(DeliveryRef),
    Notification(NotificationId),
}

fn about(update: &NotificationUpdate) -> Option<About> {
    match &update.fact {
        Fact::Receipt { delivery, .. } => Some(About::Delivery(delivery.clone())),
        Fact::Engaged { notification_id, .. } | Fact::Cancelled { notification_id, .. } => {
            Some(About::Notification(*notification_id))
        }
        Fact::Consent { .. } | Fact::Unknown => None,
    }
}

/// The trace of a row's notification, from its columns `notification_id` and `traceparent`.
pub(super) fn of_row(row: &tokio_postgres::Row) -> Result<TraceContext, RecordError> {
    let given: Option<&str> = row.try_get("traceparent")?;
    let given = given.and_then(|text| TraceContext::parse(text.as_bytes()));
    Ok(trace::of_notification(NotificationId(row.try_get("notification_id")?), given))
}

impl Store {
    /// The notification and the trace of each of these updates; `None` where what it is
    /// about is not known, or is no notification.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn traces_of<'a>(
        &self,
        updates: impl Iterator<Item = &'a NotificationUpdate>,
    ) -> Result<Vec<Option<(NotificationId, TraceContext)>>, RecordError> {
        let wanted: Vec<Option<About>> = updates.map(about).collect();
        let (mut ids, mut messages, mut notifications) = (Vec::new(), Vec::new(), Vec::new());
        for one in wanted.iter().flatten() {
            match one {
                About::Delivery(DeliveryRef::Id(id)) => ids.push(id.0),
                About::Delivery(DeliveryRef::ProviderMessage(message)) => messages.push(message.as_str()),
                About::Notification(id) => notifications.push(id.0),
            }
        }
        let at = RecordError::at("traces_of");
        let client = self.client().await?;
        let statement = client.prepare_cached(TRACES).await.map_err(&at)?;
        let rows = client.query(&statement, &[&ids, &messages, &notifications]).await.map_err(&at)?;
        let mut found = HashMap::with_capacity(rows.len());
        for row in &rows {
            let id = NotificationId(row.try_get("notification_id")?);
            let delivery: Option<Uuid> = row.try_get("delivery_id")?;
            let message: Option<String> = row.try_get("provider_message_id")?;
            let named = match (delivery, message) {
                (Some(delivery), _) => About::Delivery(DeliveryRef::Id(DeliveryId(delivery))),
                (None, Some(message)) => About::Delivery(DeliveryRef::ProviderMessage(message)),
                (None, None) => About::Notification(id),
            };
            found.insert(named, (id, of_row(row)?));
        }
        Ok(wanted.iter().map(|one| found.get(one.as_ref()?).copied()).collect())
    }
}

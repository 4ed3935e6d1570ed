//! Updates that tests are made of.

use jiff::Timestamp;
use patient_notify::domain::{
    Channel, DeliveryId, DeliveryRef, Engagement, Fact, NotificationId, NotificationUpdate, ReceiptStatus,
};
use uuid::Uuid;

use super::people::patient;

fn update(source: &str, fact: Fact) -> NotificationUpdate {
    NotificationUpdate {
        update_id: Uuid::new_v4().to_string(),
        occurred_at: Timestamp::now(),
        source: source.to_owned(),
        patient_id: None,
        fact,
    }
}

/// The notification that [`super::request`] with this key asks for.
pub fn notification_of(key: &str) -> NotificationId {
    NotificationId::for_request("test", key)
}

/// Its delivery on a channel.
pub fn delivery_of(key: &str, channel: Channel) -> DeliveryId {
    DeliveryId::for_channel(notification_of(key), channel)
}

/// A provider's word about a delivery.
pub fn receipt(delivery: DeliveryId, status: ReceiptStatus) -> NotificationUpdate {
    receipt_for(DeliveryRef::Id(delivery), status, None)
}

/// The same, with the provider's code.
pub fn receipt_for(delivery: DeliveryRef, status: ReceiptStatus, code: Option<&str>) -> NotificationUpdate {
    update("provider", Fact::Receipt { delivery, status, code: code.map(str::to_owned) })
}

/// A recipient did something with a notification.
pub fn engaged(key: &str, engagement: Engagement) -> NotificationUpdate {
    update("portal", Fact::Engaged { notification_id: notification_of(key), engagement })
}

/// The caller takes a notification back.
pub fn cancelled(key: &str) -> NotificationUpdate {
    update("test", Fact::Cancelled { notification_id: notification_of(key), caller: None })
}

/// The n-th patient says yes or no to a channel, for every purpose.
pub fn consent(number: u64, channel: Channel, granted: bool) -> NotificationUpdate {
    let recipient = patient(number).as_str().to_owned();
    update("twilio", Fact::Consent { recipient, channel: Some(channel), purpose: None, granted })
}

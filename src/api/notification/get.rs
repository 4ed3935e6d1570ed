//! `Get`: what is recorded.

use crate::api::auth::{Caller, Scope};
use crate::api::convert::{
    channel_to, engagement_to, purpose_to, receipt_status_to, state_to, strategy_to, timestamp_to, urgency_to,
};
use crate::api::error::ApiError;
use crate::api::proto;
use crate::api::validate::Violations;
use crate::domain::NotificationId;
use crate::record::read::{DeliveryView, NotificationView, WhyLine};

/// Which notification a call is about.
pub(super) fn wanted(text: &str) -> Result<NotificationId, ApiError> {
    let mut faults = Violations::default();
    let id = faults.notification_id("notification_id", text);
    faults.finish()?;
    Ok(id)
}

/// May this caller see what `of` asked for? (`None`: nobody did.)
pub(super) fn sees(caller: &Caller, of: Option<&str>) -> bool {
    caller.may(Scope::NotificationsAll) || of == Some(caller.name.as_str())
}

/// A notification that the caller may see. Others are not there.
pub(super) fn seen_by(caller: &Caller, view: NotificationView) -> Result<NotificationView, ApiError> {
    if sees(caller, view.caller.as_deref()) { Ok(view) } else { Err(ApiError::NotFound("notification")) }
}

/// What the caller is shown.
pub(super) fn answer(mut view: NotificationView) -> proto::NotificationServiceGetResponse {
    let why = std::mem::take(&mut view.why).into_iter().map(why_entry).collect();
    proto::NotificationServiceGetResponse { notification: Some(notification(view)), why }
}

/// The contract's form of a notification.
pub(super) fn notification(view: NotificationView) -> proto::Notification {
    let (engagement, engaged_at) = view.engagement.unzip();
    proto::Notification {
        notification_id: view.id.to_string(),
        patient_id: view.patient_id.as_str().to_owned(),
        purpose: purpose_to(view.purpose).into(),
        urgency: urgency_to(view.urgency).into(),
        state: state_to(view.state).into(),
        reason: view.reason.as_str().to_owned(),
        sequence: view.sequence,
        published_at: Some(timestamp_to(view.published_at)),
        accepted_at: Some(timestamp_to(view.accepted_at)),
        expires_at: Some(timestamp_to(view.expires_at)),
        updated_at: Some(timestamp_to(view.updated_at)),
        strategy: strategy_to(view.strategy).into(),
        deliveries: view.deliveries.into_iter().map(delivery).collect(),
        engagement: engagement.map_or(proto::Engagement::Unspecified, engagement_to).into(),
        engaged_at: engaged_at.map(timestamp_to),
        cancelled_at: view.cancelled_at.map(timestamp_to),
    }
}

fn delivery(view: DeliveryView) -> proto::Delivery {
    let (receipt, receipt_at) = view.receipt.map(|receipt| (receipt.status, receipt.at)).unzip();
    proto::Delivery {
        delivery_id: view.id.to_string(),
        channel: channel_to(view.channel).into(),
        state: state_to(view.state).into(),
        reason: view.reason.as_str().to_owned(),
        attempts: view.attempts,
        provider: view.provider.unwrap_or_default(),
        provider_message_id: view.provider_message_id.unwrap_or_default(),
        created_at: Some(timestamp_to(view.created_at)),
        first_attempt_at: view.first_attempt_at.map(timestamp_to),
        due_at: view.due_at.map(timestamp_to),
        updated_at: Some(timestamp_to(view.updated_at)),
        receipt: receipt.map_or(proto::ReceiptStatus::Unspecified, receipt_status_to).into(),
        receipt_at: receipt_at.map(timestamp_to),
    }
}

/// The contract's form of a line of the why-log.
pub(super) fn why_entry(line: WhyLine) -> proto::WhyEntry {
    proto::WhyEntry {
        at: Some(timestamp_to(line.at)),
        step: line.step,
        state: state_to(line.state).into(),
        reason: line.reason.as_str().to_owned(),
        channel: line.channel.map_or(proto::Channel::Unspecified, channel_to).into(),
        detail: line.detail.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_sees_ones_own_and_with_the_scope_everybodys() {
        let own = Caller::new("portal".to_owned(), vec![Scope::NotificationsRead]);
        assert!(sees(&own, Some("portal")));
        assert!(!sees(&own, Some("scheduling")) && !sees(&own, None));
        let all = Caller::new("support".to_owned(), vec![Scope::NotificationsAll]);
        assert!(sees(&all, Some("portal")) && sees(&all, None));
    }

    #[test]
    fn a_notification_is_named_by_a_uuid() {
        let id = NotificationId::for_request("local", "key-1");
        assert_eq!(wanted(&id.to_string()).unwrap(), id);
        assert!(wanted("").is_err() && wanted("key-1").is_err());
    }
}

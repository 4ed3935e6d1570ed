//! `Get`: what is recorded, and the wait for what was taken over a moment ago.

use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::time::{Instant, sleep, timeout_at};

use crate::api::convert::{
    channel_to, engagement_to, purpose_to, receipt_status_to, state_to, strategy_to, timestamp_to, urgency_to,
};
use crate::api::error::ApiError;
use crate::api::proto;
use crate::api::token::{Awaited, Token};
use crate::api::validate::Violations;
use crate::domain::NotificationId;
use crate::record::read::{self, DeliveryView, NotificationView, WhyLine};

/// Pause between looks at the database for a notification that is on its way: it
/// doubles, with jitter, up to the greater one.
const LOOK_INITIAL: Duration = Duration::from_millis(10);
const LOOK_MAX: Duration = Duration::from_millis(250);

/// Which notification a Get is about, and what to wait for.
pub(super) fn wanted(
    message: &proto::NotificationServiceGetRequest,
) -> Result<(NotificationId, Option<Awaited>), ApiError> {
    let mut faults = Violations::default();
    let id = faults.notification_id("notification_id", &message.notification_id);
    let text = message.consistency_token.as_deref().filter(|text| !text.is_empty());
    let token = text.map(Token::from_text);
    let known = !matches!(token, Some(None));
    faults.require(known, "consistency_token", "must be one that this service answered");
    faults.finish()?;
    Ok((id, token.flatten().map(|token| token.awaited)))
}

/// Looks until what is awaited can be seen; `None` when it cannot by `until`.
pub(super) async fn read_when_there(
    pool: &Pool,
    id: NotificationId,
    awaited: Awaited,
    until: Instant,
) -> Result<Option<NotificationView>, ApiError> {
    let mut pause = LOOK_INITIAL;
    loop {
        match timeout_at(until, read::notification(pool, id)).await {
            Ok(Ok(Some(view))) if shows(&view, awaited) => return Ok(Some(view)),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => return Ok(None),
        }
        let left = until.saturating_duration_since(Instant::now());
        if left <= LOOK_INITIAL {
            return Ok(None);
        }
        // The last look is shortly before the end, not a whole pause before it.
        sleep(pause.mul_f64(rand::random_range(0.5..1.0)).min(left - LOOK_INITIAL)).await;
        pause = (pause * 2).min(LOOK_MAX);
    }
}

/// Once a record was processed, what it brings can be seen for ever.
fn shows(view: &NotificationView, awaited: Awaited) -> bool {
    match awaited {
        Awaited::Notification => true,
        Awaited::Cancelled => view.cancelled_at.is_some(),
        Awaited::Engaged(engagement) => view.engagement.is_some_and(|(known, _)| known >= engagement),
    }
}

/// What the caller is shown.
pub(super) fn answer(view: NotificationView) -> proto::NotificationServiceGetResponse {
    let (engagement, engaged_at) = view.engagement.unzip();
    let why = view.why.into_iter().map(why_entry).collect();
    let notification = proto::Notification {
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
    };
    proto::NotificationServiceGetResponse { notification: Some(notification), why }
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

fn why_entry(line: WhyLine) -> proto::WhyEntry {
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
    use crate::api::token::Position;

    #[test]
    fn a_get_needs_a_uuid_and_a_token_of_ours() {
        let get = |id: &str, token: Option<&str>| {
            wanted(&proto::NotificationServiceGetRequest {
                notification_id: id.into(),
                consistency_token: token.map(str::to_owned),
            })
        };
        let id = NotificationId::for_request("local", "key-1");
        let text = id.to_string();
        assert_eq!(get(&text, None).unwrap(), (id, None));
        assert_eq!(get(&text, Some("")).unwrap(), (id, None));
        let position = Position { topic: "t".into(), partition: 0, offset: 0 };
        let token = Token { position, awaited: Awaited::Cancelled }.to_text();
        assert_eq!(get(&text, Some(&token)).unwrap(), (id, Some(Awaited::Cancelled)));
        assert!(get("", None).is_err());
        assert!(get(&text, Some("x")).is_err());
    }
}

//! From a plan to the row that claims it.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;

use crate::domain::{DeliveryId, Event, Redacted, State};
use crate::plan::{Decision, Planned};
use crate::record::{Claim, FirstDelivery, Source};
use crate::topic::Record;

/// The record's time stamp.
pub(super) fn published_at(record: &Record) -> Timestamp {
    Timestamp::from_millisecond(record.timestamp_ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// Where a record came from.
pub(super) fn source_of(record: &Record) -> Source {
    let partition = record.ticket.partition();
    Source {
        topic: Arc::clone(&partition.topic),
        partition: partition.partition,
        offset: record.ticket.offset(),
        published_at: published_at(record),
    }
}

/// The claim of one planned notification.
pub(super) fn claim_of(plan: &Planned, source: Source, event: &Event) -> Claim {
    let due_at = match plan.decision {
        Decision::Hold { until, .. } => Some(until),
        Decision::Dispatch | Decision::Suppress(_) | Decision::Expire => None,
    };
    let state = match plan.decision {
        Decision::Dispatch => State::Dispatching,
        Decision::Hold { .. } => State::Held,
        Decision::Suppress(_) => State::Suppressed,
        Decision::Expire => State::Expired,
    };
    let sends = matches!(plan.decision, Decision::Dispatch | Decision::Hold { .. });
    let delivery = match (sends, plan.channels.first(), &plan.address) {
        (true, Some(&channel), Some(address)) => Some(FirstDelivery {
            delivery_id: DeliveryId::for_channel(plan.notification_id, channel),
            channel,
            address: address.clone(),
            due_at,
        }),
        _ => None,
    };
    Claim {
        notification_id: plan.notification_id,
        patient_id: plan.patient_id.as_str().to_owned(),
        recipient_id: plan.recipient_id,
        purpose: plan.purpose,
        urgency: plan.urgency,
        state,
        reason: plan.decision.reason(),
        fingerprint: fingerprint(event),
        caller: plan.caller.clone(),
        channels: plan.channels.clone(),
        locale: plan.locale.clone(),
        variables_json: variables_json(plan.variables.expose()),
        source,
        expires_at: plan.expires_at,
        delivery,
    }
}

/// SHA-256 of what a request asks for, without the time of asking: the same key
/// with another fingerprint is another request under a key that is taken.
fn fingerprint(event: &Event) -> [u8; 32] {
    let text = match event {
        Event::TestResult(result) => format!(
            "{}\n{}\n{}\n{:?}\n{}",
            result.result_id,
            result.version,
            result.patient_id.as_str(),
            result.urgency,
            result.available_at
        ),
        Event::Notification(request) => format!(
            "{}\n{:?}\n{}\n{}\n{:?}\n{:?}\n{:?}\n{:?}",
            request.patient_id.as_str(),
            request.recipient,
            request.purpose,
            request.urgency,
            request.channels,
            request.send_at,
            request.expires_at,
            request.variables.expose(),
        ),
    };
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    bytes
}

fn variables_json(variables: &[(String, String)]) -> Option<Redacted<String>> {
    if variables.is_empty() {
        return None;
    }
    let map: serde_json::Map<String, serde_json::Value> =
        variables.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    Some(Redacted::new(serde_json::Value::Object(map).to_string()))
}

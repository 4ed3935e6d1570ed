//! From a plan to the row that claims it.

use std::sync::Arc;

use jiff::Timestamp;

use crate::domain::{DeliveryId, Redacted, State};
use crate::plan::{Decision, Planned};
use crate::record::{Claim, FirstDelivery, Source};
use crate::topic::Record;
use crate::trace::{TRACEPARENT, TraceContext};

/// The record's time stamp.
pub(super) fn published_at(record: &Record) -> Timestamp {
    Timestamp::from_millisecond(record.timestamp_ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// To which trace a record says that it belongs.
pub(super) fn trace_of(record: &Record) -> Option<TraceContext> {
    record.header(TRACEPARENT).and_then(TraceContext::parse)
}

/// Where a record came from.
pub(super) fn source_of(record: &Record) -> Source {
    let partition = record.ticket.partition();
    Source {
        topic: Arc::clone(&partition.topic),
        partition: partition.partition,
        offset: record.ticket.offset(),
        published_at: published_at(record),
        trace: trace_of(record),
    }
}

/// The claim of one planned notification. `fingerprint`: of the event.
#[must_use]
pub fn claim_of(plan: &Planned, source: Source, fingerprint: [u8; 32]) -> Claim {
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
    let deliveries = plan.begins().map(|(position, channel, address)| FirstDelivery {
        delivery_id: DeliveryId::for_channel(plan.notification_id, channel),
        channel,
        position,
        address: address.clone(),
        due_at,
    });
    Claim {
        notification_id: plan.notification_id,
        patient_id: plan.patient_id.as_str().to_owned(),
        recipient_id: plan.recipient_id,
        purpose: plan.purpose,
        urgency: plan.urgency,
        state,
        reason: plan.decision.reason(),
        fingerprint,
        caller: plan.caller.clone(),
        channels: plan.channels.clone(),
        strategy: plan.strategy,
        locale: plan.locale.clone(),
        // Of what is not sent, nothing is kept that nobody needs.
        variables_json: match plan.decision {
            Decision::Dispatch | Decision::Hold { .. } => variables_json(plan.variables.expose()),
            Decision::Suppress(_) | Decision::Expire => None,
        },
        source,
        expires_at: plan.expires_at,
        deliveries: deliveries.collect(),
    }
}

fn variables_json(variables: &[(String, String)]) -> Option<Redacted<String>> {
    if variables.is_empty() {
        return None;
    }
    let map: serde_json::Map<String, serde_json::Value> =
        variables.iter().map(|(name, value)| (name.clone(), value.clone().into())).collect();
    Some(Redacted::new(serde_json::Value::Object(map).to_string()))
}

//! What becomes known later: one transaction a batch, then every record is done.

use std::sync::Arc;
use std::time::SystemTime;

use tracing::warn;

use super::batch::{Decoded, all_closing, release};
use super::retry::Retry;
use super::{Shared, Updates};
use crate::domain::{Fact, NotificationUpdate, Outcome, Reason, Redacted};
use crate::metrics;
use crate::record::{Applied, RecordError, Update};
use crate::trace::{self, Kind, Span};

/// Folds what was decoded into what is recorded.
pub(super) async fn process(shared: &Arc<Shared>, flow: &Updates, decoded: Vec<Decoded<NotificationUpdate>>) {
    let begun = SystemTime::now();
    let Some(applied) = apply(shared, flow, &decoded).await else { return release(decoded) };
    shared.breaker.lock().observe_good(decoded.len());
    if trace::is_on() {
        traced(shared, &decoded, &applied, begun).await;
    }
    for (one, applied) in decoded.into_iter().zip(applied) {
        let outcome = match applied {
            Applied::Changed => Outcome::Done,
            Applied::Nothing => Outcome::Ignored(Reason::Duplicate),
            Applied::Refused => Outcome::Ignored(Reason::CancelRefused),
            Applied::Unknown => Outcome::Ignored(Reason::UnknownUpdate),
            Applied::Unmatched => Outcome::Ignored(Reason::Unmatched),
            Applied::Expired => {
                expired(&one.event);
                Outcome::Ignored(Reason::Unmatched)
            }
        };
        metrics::records(&one.record.ticket.partition().topic, outcome.as_str(), 1);
        metrics::update(one.event.fact.as_str(), applied.as_str());
        one.record.ticket.complete();
    }
}

/// A span for each update of a known notification, in its trace. Without the database
/// there is none: nothing waits for it.
async fn traced(
    shared: &Shared,
    decoded: &[Decoded<NotificationUpdate>],
    applied: &[Applied],
    begun: SystemTime,
) {
    let updates = decoded.iter().map(|one| &one.event);
    let Ok(about) = shared.parts.store.traces_of(updates).await else { return };
    for ((one, applied), about) in decoded.iter().zip(applied).zip(about) {
        let Some((notification_id, trace)) = about else { continue };
        let span = Span::begin(one.event.fact.as_str(), Kind::Consumer, trace)
            .since(begun)
            .with("messaging.system", "kafka")
            .with_text("messaging.destination.name", &one.record.ticket.partition().topic)
            .with_text("notification_id", &notification_id)
            .with("outcome", applied.as_str());
        match &one.event.fact {
            Fact::Receipt { status, .. } => span.with("receipt", status.as_str()).end(),
            _ => span.end(),
        }
    }
}

/// Says that an update has waited in vain.
pub(crate) fn expired(update: &NotificationUpdate) {
    warn!(
        update_id = update.update_id,
        source = update.source,
        kind = update.fact.as_str(),
        reason = %Reason::Unmatched,
        "an update was never matched by what it is about; it is kept in unmatched_update and not looked at again"
    );
}

/// `None`: interrupted while the database was away, or a bug.
async fn apply(
    shared: &Shared,
    flow: &Updates,
    decoded: &[Decoded<NotificationUpdate>],
) -> Option<Vec<Applied>> {
    let updates: Vec<Update<'_>> = decoded
        .iter()
        .map(|one| Update {
            update: &one.event,
            payload: Redacted::new(one.record.payload.as_ref().map_or(&[], |bytes| bytes.expose())),
        })
        .collect();
    let mut retry = Retry::new(shared, "postgres");
    loop {
        match shared.parts.store.apply(&updates, flow.unmatched_expiry).await {
            Ok(applied) => return Some(applied),
            Err(error @ RecordError::Bug(_)) => {
                shared.bug(&error);
                return None;
            }
            Err(error) => {
                if !retry.again(&error, all_closing(decoded)).await {
                    return None;
                }
            }
        }
    }
}

//! What becomes known later: one transaction a batch, then every record is done.

use std::sync::Arc;

use tracing::warn;

use super::batch::{Decoded, all_closing, release};
use super::retry::Retry;
use super::{Shared, Updates};
use crate::domain::{NotificationUpdate, Outcome, Reason, Redacted};
use crate::metrics;
use crate::record::{Applied, RecordError, Update};

/// Folds what was decoded into what is recorded.
pub(super) async fn process(shared: &Arc<Shared>, flow: &Updates, decoded: Vec<Decoded<NotificationUpdate>>) {
    let Some(applied) = apply(shared, flow, &decoded).await else { return release(decoded) };
    shared.breaker.lock().observe_good(decoded.len());
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

//! Cancellations by callers who did not ask for the notification: the why-log says
//! that somebody tried, and nothing else changes.

use deadpool_postgres::Transaction;
use uuid::Uuid;

use super::cases::query;
use super::error::RecordError;
use crate::domain::NotificationId;

/// Lines of the why-log about refusals that one notification gets, at most: a
/// caller that never stops must not fill it.
const NOTED_MAX: i64 = 20;

/// A cancellation that does not count.
pub(super) struct Refusal<'a> {
    /// What it is about.
    pub(super) notification_id: NotificationId,
    /// Who tried.
    pub(super) by: &'a str,
}

/// One line a notification and caller, however often the caller tries.
const NOTE: &str = "
INSERT INTO why (notification_id, step, state, reason, detail)
SELECT n.notification_id, 'update', n.state, 'cancel_refused', i.detail
  FROM (SELECT DISTINCT notification_id, detail FROM unnest($1::uuid[], $2::text[]) AS t (notification_id, detail)) i
  JOIN notification n USING (notification_id)
 WHERE NOT EXISTS (SELECT FROM why w WHERE w.notification_id = i.notification_id
                      AND w.reason = 'cancel_refused' AND w.detail = i.detail)
   AND (SELECT count(*) FROM why w
         WHERE w.notification_id = i.notification_id AND w.reason = 'cancel_refused') < $3";

/// Writes refusals down. The notifications are locked by the transaction.
pub(super) async fn note(tx: &Transaction<'_>, refusals: &[Refusal<'_>]) -> Result<(), RecordError> {
    if refusals.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = refusals.iter().map(|one| one.notification_id.0).collect();
    let details: Vec<String> = refusals.iter().map(|one| format!("by {}", one.by)).collect();
    query(tx, "note_refusals", NOTE, &[&ids, &details, &NOTED_MAX]).await?;
    Ok(())
}

//! Taking events that are due, for as long as a call may last.

use std::time::Duration;

use tokio_postgres::Row;

use super::{CallbackEvent, FAILURES_MAX, Room, millis};
use crate::domain::{Channel, NotificationId, PatientId, Purpose, Reason, RecipientId, State, StatusChanged};
use crate::record::{RecordError, Store};

/// Ends that fail come first, with one event each and one process each: their rows are
/// locked until it is known whether they have one. Then the others, in any order, so that
/// none is always last when there is not enough room for all.
const CLAIM: &str = "
WITH asked AS (SELECT * FROM unnest($1::text[], $2::bigint[]) AS a (caller, room)),
probed AS MATERIALIZED (
    SELECT e.caller FROM callback_endpoint e JOIN asked a ON a.caller = e.caller
     WHERE e.disabled_at IS NULL AND e.failures >= $3 AND e.probe_at <= now()
       FOR UPDATE OF e SKIP LOCKED
), turns AS MATERIALIZED (
    SELECT caller, 1::bigint AS room, true AS probes FROM probed
    UNION ALL
    SELECT e.caller, a.room, false FROM callback_endpoint e JOIN asked a ON a.caller = e.caller
     WHERE e.disabled_at IS NULL AND e.failures < $3
), due AS MATERIALIZED (
    SELECT d.notification_id, d.sequence, t.caller, t.probes
      FROM (SELECT * FROM turns ORDER BY probes DESC, random()) AS t
     CROSS JOIN LATERAL (
        SELECT c.notification_id, c.sequence FROM callback_event c
         WHERE c.caller = t.caller AND c.state = 'pending' AND c.due_at <= now()
           AND NOT EXISTS (
               SELECT FROM callback_event b
                WHERE b.notification_id = c.notification_id AND b.sequence < c.sequence
                  AND b.state = 'pending')
         ORDER BY c.due_at LIMIT t.room
           FOR UPDATE OF c SKIP LOCKED) AS d
     LIMIT $4
), probing AS (
    UPDATE callback_endpoint e SET probe_at = now() + $5::bigint * interval '1 millisecond'
      FROM due WHERE due.probes AND e.caller = due.caller
)
UPDATE callback_event c
   SET owner = $6, epoch = c.epoch + 1, attempts = c.attempts + 1,
       due_at = now() + $5::bigint * interval '1 millisecond'
  FROM due
 WHERE c.notification_id = due.notification_id AND c.sequence = due.sequence
RETURNING c.caller, c.notification_id, c.patient_id, c.recipient_id, c.purpose, c.sequence, c.status,
          c.reason, c.channel, c.changed_at, c.attempts, c.epoch, due.probes";

impl Store {
    /// Takes events that are due, at most `limit` and as many an end as it has room for.
    /// They are ours for `lease`.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn claim_callbacks(
        &self,
        rooms: &[Room],
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<CallbackEvent>, RecordError> {
        let at = RecordError::at("callback_claim");
        let client = self.client().await?;
        let statement = client.prepare_cached(CLAIM).await.map_err(&at)?;
        let callers: Vec<&str> = rooms.iter().map(|room| room.caller.as_str()).collect();
        let room: Vec<i64> =
            rooms.iter().map(|room| i64::try_from(room.events).unwrap_or(i64::MAX)).collect();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = client
            .query(&statement, &[&callers, &room, &FAILURES_MAX, &limit, &millis(lease), &self.owner.0])
            .await
            .map_err(&at)?;
        rows.iter().map(event).collect()
    }
}

fn event(row: &Row) -> Result<CallbackEvent, RecordError> {
    let unknown = |column: &str| RecordError::bug(format!("callback_event.{column} holds an unknown word"));
    let channel: Option<&str> = row.try_get("channel")?;
    let caller: String = row.try_get("caller")?;
    let change = StatusChanged {
        notification_id: NotificationId(row.try_get("notification_id")?),
        patient_id: PatientId::parse(row.try_get("patient_id")?).ok_or_else(|| unknown("patient_id"))?,
        recipient_id: RecipientId(row.try_get("recipient_id")?),
        purpose: Purpose::parse(row.try_get("purpose")?).ok_or_else(|| unknown("purpose"))?,
        sequence: row.try_get("sequence")?,
        state: State::parse(row.try_get("status")?).ok_or_else(|| unknown("status"))?,
        reason: Reason::parse(row.try_get("reason")?).ok_or_else(|| unknown("reason"))?,
        channel: channel.map(|word| Channel::parse(word).ok_or_else(|| unknown("channel"))).transpose()?,
        caller: Some(caller.clone()),
        changed_at: row.try_get("changed_at")?,
    };
    Ok(CallbackEvent {
        caller,
        change,
        attempt: row.try_get("attempts")?,
        probes: row.try_get("probes")?,
        epoch: row.try_get("epoch")?,
    })
}

//! Status changes on their way to `pat.notification-status.v1`.
//!
//! One relay at a time reads the oldest rows, publishes them in order and deletes
//! them: at least once, in order a notification. What a caller wants to be called back
//! about becomes an event in the same statement.

use tokio_postgres::Row;

use super::callbacks::Wanted;
use super::error::RecordError;
use super::store::Store;
use super::traces;
use crate::domain::{Channel, NotificationId, PatientId, Purpose, Reason, RecipientId, State, StatusChanged};
use crate::trace::TraceContext;

/// A status change that is not published yet.
#[derive(Debug, Clone)]
pub struct OutboxRow {
    /// Order of publication.
    pub outbox_id: i64,
    /// What changed.
    pub change: StatusChanged,
    /// To which trace it belongs.
    pub trace: TraceContext,
}

/// Key of the advisory lock that the one active relay holds (any constant will do).
const RELAY_LOCK: i64 = 0x7061_745f_7265_6c61;

const PUBLISHED: &str = "
WITH gone AS (
    DELETE FROM outbox WHERE outbox_id = ANY($1)
    RETURNING notification_id, sequence, caller, patient_id, recipient_id, purpose, state, reason, channel,
              changed_at
)
INSERT INTO callback_event (notification_id, sequence, caller, patient_id, recipient_id, purpose, status, reason,
        channel, changed_at)
SELECT g.notification_id, g.sequence, g.caller, g.patient_id, g.recipient_id, g.purpose, g.state, g.reason,
       g.channel, g.changed_at
  FROM gone g JOIN unnest($2::text[], $3::text[]) AS w (caller, state)
    ON w.caller = g.caller AND w.state = g.state";

/// A session that is the one active relay while it lives.
pub struct Relay {
    client: deadpool_postgres::Client,
}

impl Store {
    /// Becomes the relay, unless another process is.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn become_relay(&self) -> Result<Option<Relay>, RecordError> {
        let client = self.client().await?;
        let row = client
            .query_one("SELECT pg_try_advisory_lock($1)", &[&RELAY_LOCK])
            .await
            .map_err(RecordError::at("relay_lock"))?;
        Ok(row.try_get::<_, bool>(0)?.then_some(Relay { client }))
    }
}

impl Relay {
    /// The oldest changes, in order.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn oldest(&self, limit: usize) -> Result<Vec<OutboxRow>, RecordError> {
        let statement = self
            .client
            .prepare_cached(
                "SELECT outbox_id, notification_id, patient_id, recipient_id, purpose, sequence, state, reason,
                        channel, caller, changed_at,
                        (SELECT n.traceparent FROM notification n
                          WHERE n.notification_id = o.notification_id) AS traceparent
                   FROM outbox o ORDER BY outbox_id LIMIT $1",
            )
            .await
            .map_err(RecordError::at("outbox_oldest"))?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows =
            self.client.query(&statement, &[&limit]).await.map_err(RecordError::at("outbox_oldest"))?;
        rows.iter().map(outbox_row).collect()
    }

    /// Takes changes that the broker has acknowledged out of the outbox, and keeps those
    /// that are wanted as events of callbacks: both or neither, so each becomes one once.
    ///
    /// # Errors
    /// As [`RecordError`] tells; then they are published again.
    pub async fn published(&self, ids: &[i64], wanted: &Wanted) -> Result<(), RecordError> {
        let at = RecordError::at("outbox_published");
        let statement = self.client.prepare_cached(PUBLISHED).await.map_err(&at)?;
        self.client.execute(&statement, &[&ids, &wanted.callers, &wanted.states]).await.map_err(&at)?;
        Ok(())
    }

    /// Lets another process be the relay. The connection is closed rather than
    /// pooled, so that no lock can be left on it.
    pub fn resign(self) {
        drop(deadpool_postgres::Object::take(self.client));
    }
}

fn outbox_row(row: &Row) -> Result<OutboxRow, RecordError> {
    let unknown = |column: &str| RecordError::bug(format!("outbox.{column} holds an unknown word"));
    let channel: Option<&str> = row.try_get("channel")?;
    let change = StatusChanged {
        notification_id: NotificationId(row.try_get("notification_id")?),
        patient_id: PatientId::parse(row.try_get("patient_id")?).ok_or_else(|| unknown("patient_id"))?,
        recipient_id: RecipientId(row.try_get("recipient_id")?),
        purpose: Purpose::parse(row.try_get("purpose")?).ok_or_else(|| unknown("purpose"))?,
        sequence: row.try_get("sequence")?,
        state: State::parse(row.try_get("state")?).ok_or_else(|| unknown("state"))?,
        reason: Reason::parse(row.try_get("reason")?).ok_or_else(|| unknown("reason"))?,
        channel: channel.map(|word| Channel::parse(word).ok_or_else(|| unknown("channel"))).transpose()?,
        caller: row.try_get("caller")?,
        changed_at: row.try_get("changed_at")?,
    };
    Ok(OutboxRow { outbox_id: row.try_get("outbox_id")?, change, trace: traces::of_row(row)? })
}

//! Notifications whose evidence is overdue: the next channel is begun in the transaction
//! that looked.

use std::collections::HashMap;
use std::time::Instant;

use jiff::Timestamp;
use uuid::Uuid;

use super::cases::{self, query};
use super::error::RecordError;
use super::store::Store;
use crate::domain::{Channel, Escalation, NotificationId, Reason};
use crate::metrics;
use crate::plan::EscalationPolicy;

/// Rows first, then their cases. Whoever records an outcome has its delivery locked when
/// it adds a row, and waits for none that is locked here.
const DUE: &str = "
SELECT notification_id, now() AS now FROM escalation
 WHERE look_at <= now() ORDER BY look_at LIMIT $1 FOR UPDATE SKIP LOCKED";

const LOOK_LATER: &str = "
UPDATE escalation e SET look_at = i.look_at
  FROM unnest($1::uuid[], $2::timestamptz[]) AS i (notification_id, look_at)
 WHERE e.notification_id = i.notification_id";

const FORGET: &str = "DELETE FROM escalation WHERE notification_id = ANY($1)";

/// What a look came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Escalated {
    /// Notifications that were looked at.
    pub looked: usize,
    /// Channels that were begun, with the reasons.
    pub begun: Vec<(Channel, Reason)>,
}

impl Store {
    /// Looks at up to `limit` notifications whose time has come, and begins the next
    /// channel of those whose evidence is overdue.
    ///
    /// # Errors
    /// As [`RecordError`] tells; then nothing was begun.
    pub async fn escalate(&self, policy: &EscalationPolicy, limit: i64) -> Result<Escalated, RecordError> {
        let begun = Instant::now();
        let mut client = self.client().await?;
        let tx = client.transaction().await.map_err(RecordError::at("escalate_begin"))?;
        let rows = query(&tx, "escalate_due", DUE, &[&limit]).await?;
        let Some(first) = rows.first() else { return Ok(Escalated::default()) };
        let now: Timestamp = first.try_get("now")?;
        let ids: Vec<NotificationId> = rows
            .iter()
            .map(|row| Ok(NotificationId(row.try_get("notification_id")?)))
            .collect::<Result<_, RecordError>>()?;
        let mut known = cases::load(&tx, &ids).await?;
        let mut escalated = Escalated { looked: ids.len(), begun: Vec::new() };
        let (mut later, mut at): (Vec<Uuid>, Vec<Timestamp>) = (Vec::new(), Vec::new());
        for case in known.values_mut() {
            let Some(newest) = case.newest() else { continue };
            let windows = policy.windows(case.urgency, newest.channel);
            let next = match case.escalation(windows, now) {
                Escalation::Begin(reason) => {
                    case.escalate(reason);
                    let channel = case.newest().map_or(Channel::Sms, |leg| leg.channel);
                    escalated.begun.push((channel, reason));
                    case.escalation(policy.windows(case.urgency, channel), now)
                }
                other => other,
            };
            if let Escalation::LookAt(time) = next {
                later.push(case.notification_id.0);
                at.push(time);
            }
        }
        cases::write(&tx, "escalate", &known, &HashMap::new()).await?;
        query(&tx, "escalate_later", LOOK_LATER, &[&later, &at]).await?;
        let over: Vec<Uuid> = ids.iter().map(|id| id.0).filter(|id| !later.contains(id)).collect();
        query(&tx, "escalate_forget", FORGET, &[&over]).await?;
        tx.commit().await.map_err(RecordError::at("escalate_commit"))?;
        metrics::statement("escalate", ids.len(), begun.elapsed());
        Ok(escalated)
    }
}

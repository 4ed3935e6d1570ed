//! Replays of dead letters by a job: one a topic at a time.

use deadpool_postgres::Pool;
use serde::{Deserialize, Serialize};

use super::audit::{self, AuditEntry};
use super::error::RecordError;
use super::jobs::{self, Enqueued, NewJob};
use crate::domain::job::JobKind;

/// Longest subject of an audit line, in bytes.
const SUBJECT_MAX_BYTES: usize = 64;

/// What is to be replayed: the arguments of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayOrder {
    /// Full name of the dead-letter topic.
    pub topic: String,
    /// Only those with this reason.
    pub reason: Option<String>,
    /// Only those that were on this partition of their own topic.
    pub partition: Option<i32>,
    /// How many at most; `None`: all.
    pub limit: Option<u64>,
    /// How many a second at most.
    pub rate_per_s: u32,
}

/// Asks for a replay. While one of the same topic has not ended, it is that one, whatever
/// it was asked with. What is new leaves an audit line.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn ask(pool: &Pool, order: &ReplayOrder, caller: &str) -> Result<Enqueued, RecordError> {
    let at = RecordError::at("replay_ask");
    let arguments =
        serde_json::to_value(order).map_err(|_| RecordError::bug("a replay's order is no JSON"))?;
    let mut client = pool.get().await?;
    let tx = client.transaction().await.map_err(&at)?;
    let job = NewJob {
        kind: JobKind::DeadLetterReplay,
        key: &order.topic,
        arguments: &arguments,
        requested_by: caller,
    };
    let asked = jobs::enqueue(&tx, job).await?;
    if asked.is_new {
        let subject = &order.topic[..order.topic.floor_char_boundary(SUBJECT_MAX_BYTES)];
        let detail = asked.job_id.to_string();
        let entry = AuditEntry {
            caller,
            action: "OperationsService/StartReplay",
            subject_kind: "dead_letter",
            subject,
            detail: Some(&detail),
        };
        audit::append(&tx, &entry).await?;
    }
    tx.commit().await.map_err(&at)?;
    Ok(asked)
}

//! Batches on their way to the broker: any number of publishers take turns, and the
//! cursor in the batch's row says how far they are.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::batches::{self, BatchView};
use super::error::RecordError;
use super::store::Store;
use crate::domain::{BatchId, PatientId, Redacted};
use crate::metrics;

/// A recipient to be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NextRow {
    /// Its number in the upload.
    pub row: i64,
    /// Whom it is about.
    pub patient_id: PatientId,
    /// One recipient of the patient; `None`: the patient.
    pub recipient: Option<String>,
    /// Over those of the batch.
    pub variables: Redacted<BTreeMap<String, String>>,
}

/// How a publisher's turn at a batch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnEnd {
    /// It is looked at again at this time, or at once if that has passed.
    Again(Timestamp),
    /// Every recipient is published.
    Done,
    /// Its time is over.
    Expired,
}

// A batch in whose turn its publisher died is due again when the lease ends.
const CLAIM: &str = "
WITH due AS (
    SELECT batch_id, look_at FROM batch
     WHERE look_at <= now()
     ORDER BY look_at
     LIMIT $1
       FOR UPDATE SKIP LOCKED
)
UPDATE batch SET look_at = now() + $2::bigint * interval '1 millisecond'
  FROM due
 WHERE batch.batch_id = due.batch_id
RETURNING batch.batch_id, due.look_at AS was_due";

const NEXT: &str = "
SELECT row_no, patient_id, recipient, variables FROM batch_recipient
 WHERE batch_id = $1 AND row_no > $2 ORDER BY row_no LIMIT $3";

// The cursor moves only from where this turn found it, so that a turn which was
// overtaken counts nothing twice. What the broker has counts also in a batch that was
// paused or cancelled meanwhile. Every five seconds the younger mark becomes the older
// one, from which the rate is measured; after a time without turns both are new.
const ADVANCE: &str = "
UPDATE batch
   SET published_to = $3, rows_published = rows_published + $4,
       mark_rows = CASE WHEN next_mark_at > now() - interval '5 seconds' THEN mark_rows
                        WHEN next_mark_at > now() - interval '30 seconds' THEN next_mark_rows
                        ELSE rows_published + $4 END,
       mark_at = CASE WHEN next_mark_at > now() - interval '5 seconds' THEN mark_at
                      WHEN next_mark_at > now() - interval '30 seconds' THEN next_mark_at ELSE now() END,
       next_mark_rows = CASE WHEN next_mark_at > now() - interval '5 seconds' THEN next_mark_rows
                             ELSE rows_published + $4 END,
       next_mark_at = CASE WHEN next_mark_at > now() - interval '5 seconds' THEN next_mark_at ELSE now() END,
       state = CASE WHEN state = 'running' THEN $5 ELSE state END,
       look_at = CASE WHEN state = 'running' THEN $6::timestamptz END,
       ended_at = CASE WHEN state = 'running' AND $5 <> 'running' THEN now() ELSE ended_at END,
       updated_at = CASE WHEN state = 'running' AND $5 <> 'running' THEN now() ELSE updated_at END
 WHERE batch_id = $1 AND published_to = $2";

impl Store {
    /// Claims running batches whose turn it is, with the time at which it was.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn due_batches(
        &self,
        limit: i64,
        lease: Duration,
    ) -> Result<Vec<(BatchView, Timestamp)>, RecordError> {
        let at = RecordError::at("batches_claim");
        let client = self.client().await?;
        let statement = client.prepare_cached(CLAIM).await.map_err(&at)?;
        let lease_ms = i64::try_from(lease.as_millis()).unwrap_or(i64::MAX);
        let rows = client.query(&statement, &[&limit, &lease_ms]).await.map_err(&at)?;
        let mut due = Vec::with_capacity(rows.len());
        for row in &rows {
            let batch = batches::one(&client, BatchId(row.get(0)), None, "").await?;
            due.extend(batch.map(|batch| (batch, row.get(1))));
        }
        Ok(due)
    }

    /// The next recipients of a batch after a row.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn next_rows(&self, id: BatchId, after: i64, limit: i64) -> Result<Vec<NextRow>, RecordError> {
        let at = RecordError::at("batch_next");
        let begun = Instant::now();
        let client = self.client().await?;
        let statement = client.prepare_cached(NEXT).await.map_err(&at)?;
        let rows = client.query(&statement, &[&id.0, &after, &limit]).await.map_err(&at)?;
        metrics::statement("batch_next", rows.len(), begun.elapsed());
        rows.iter().map(next).collect()
    }

    /// Ends a turn: moves the cursor from where it was found to the last row that is
    /// acknowledged. False: another publisher has moved it since, and nothing is written.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn end_batch_turn(
        &self,
        batch: &BatchView,
        published_to: i64,
        published: i64,
        end: TurnEnd,
    ) -> Result<bool, RecordError> {
        let at = RecordError::at("batch_advance");
        let (state, look_at) = match end {
            TurnEnd::Again(time) => ("running", Some(time)),
            TurnEnd::Done => ("done", None),
            TurnEnd::Expired => ("cancelled", None),
        };
        let mut client = self.client().await?;
        let transaction = client.transaction().await.map_err(&at)?;
        let statement = transaction.prepare_cached(ADVANCE).await.map_err(&at)?;
        let moved = transaction
            .execute(
                &statement,
                &[&batch.id.0, &batch.published_to, &published_to, &published, &state, &look_at],
            )
            .await
            .map_err(&at)?;
        if moved > 0 && look_at.is_none() {
            let detail = if end == TurnEnd::Done { "done" } else { "expired" };
            batches::log(&transaction, PUBLISHER, "batch/publish", batch.id, Some(detail)).await?;
        }
        transaction.commit().await.map_err(&at)?;
        Ok(moved > 0)
    }
}

/// Who ends a batch, for the audit log.
const PUBLISHER: &str = "wrk-batch-publisher";

pub(super) fn next(row: &Row) -> Result<NextRow, RecordError> {
    let variables: Option<Json<BTreeMap<String, String>>> = row.get("variables");
    Ok(NextRow {
        row: row.get("row_no"),
        patient_id: PatientId::parse(row.get("patient_id"))
            .ok_or_else(|| RecordError::bug("a batch's patient has an unusable identifier"))?,
        recipient: row.get("recipient"),
        variables: Redacted::new(variables.map(|Json(all)| all).unwrap_or_default()),
    })
}

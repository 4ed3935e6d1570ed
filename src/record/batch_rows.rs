//! Recipients of batches: a chunk of an upload is one transaction.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use deadpool_postgres::{Pool, Transaction};
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::batches::{self, BatchView, By, FAULTS_MAX, FaultView};
use super::error::RecordError;
use crate::domain::batch::{BatchAction, BatchState};
use crate::domain::{BatchId, NotificationId, PatientId, Redacted};
use crate::metrics;

/// Rows of one batch, at most.
pub const ROWS_MAX: i64 = 10_000_000;

/// A recipient to be added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRow {
    /// Whom it is about.
    pub patient_id: PatientId,
    /// One recipient of the patient; `None`: the patient.
    pub recipient: Option<String>,
    /// Over those of the batch.
    pub variables: Redacted<BTreeMap<String, String>>,
}

/// The form of an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form<'a> {
    /// Rows.
    Rows,
    /// A CSV file.
    Csv {
        /// Its columns.
        header: &'a [String],
        /// Where the chunk's last row ends, in bytes from the file's begin.
        end: i64,
    },
}

/// A piece of an upload.
#[derive(Debug, Clone)]
pub struct Chunk<'a> {
    /// Number of the first row, from 1.
    pub first_row: i64,
    /// The rows in order; a reason in place of one that cannot be used.
    pub rows: Vec<Result<NewRow, String>>,
    /// What the upload is; `None` for a chunk that has nothing but its end.
    pub form: Option<Form<'a>>,
    /// The first chunk of its call.
    pub begins: bool,
    /// There are no more to come.
    pub last: bool,
}

/// How a chunk ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Added {
    /// As the batch is now, and which rows of the chunk were not stored.
    Stored(Box<BatchView>, Vec<FaultView>),
    /// There is no such batch of this owner.
    NotFound,
    /// It takes no more recipients.
    State(BatchState),
    /// The chunk begins after the place to which this batch came.
    Gap(Box<BatchView>),
    /// The batch has recipients that were uploaded in another form.
    Form,
    /// It would have more than [`ROWS_MAX`] rows.
    TooLarge,
}

/// Adds a chunk of recipients as a whole; rows that were received already are passed over.
///
/// # Errors
/// As [`RecordError`] tells; nothing of the chunk is stored then, or, where the commit's
/// answer was lost, all of it: the same chunk again is harmless.
pub async fn add(pool: &Pool, id: BatchId, chunk: &Chunk<'_>, by: By<'_>) -> Result<Added, RecordError> {
    let at = RecordError::at("batch_add");
    let begun = Instant::now();
    let mut client = pool.get().await?;
    let transaction = client.transaction().await.map_err(&at)?;
    let Some(stored) = batches::one(&transaction, id, by.owner, "FOR UPDATE").await? else {
        return Ok(Added::NotFound);
    };
    let action = if chunk.last { BatchAction::Complete } else { BatchAction::Upload };
    let Some(next) = stored.state.after(action) else {
        return Ok(Added::State(stored.state));
    };
    let known = stored.rows_received + 1 - chunk.first_row;
    if chunk.form.is_some() && known < 0 {
        return Ok(Added::Gap(Box::new(stored)));
    }
    if !fits(&stored, chunk.form) {
        return Ok(Added::Form);
    }
    let known = usize::try_from(known).unwrap_or(0).min(chunk.rows.len());
    let rows = &chunk.rows[known..];
    if !rows.is_empty() && stored.state == BatchState::Ready {
        return Ok(Added::State(stored.state));
    }
    if stored.rows_received + count(rows.len()) > ROWS_MAX {
        return Ok(Added::TooLarge);
    }
    let faults = insert(&transaction, &stored, rows).await?;
    note(&transaction, &stored, &faults).await?;
    progress(&transaction, &stored, next, rows.len(), &faults, chunk.form).await?;
    if chunk.begins || next != stored.state {
        batches::log(&transaction, by.caller, by.action, id, Some(next.as_str())).await?;
    }
    let stored = batches::one(&transaction, id, by.owner, "").await?;
    transaction.commit().await.map_err(&at)?;
    metrics::statement("batch_add", rows.len(), begun.elapsed());
    Ok(stored.map_or(Added::NotFound, |view| Added::Stored(Box::new(view), faults)))
}

/// One form a batch; of a file, one header, and no row that somebody else's call has
/// added in between.
fn fits(stored: &BatchView, form: Option<Form<'_>>) -> bool {
    match (form, &stored.csv_header) {
        (None, _) | (Some(Form::Rows), None) => true,
        (Some(Form::Rows), Some(_)) => false,
        (Some(Form::Csv { header, end }), Some(known)) => header == known && end >= stored.bytes_received,
        (Some(Form::Csv { .. }), None) => stored.rows_received == 0,
    }
}

fn count(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

// In the order of ids, so that two uploads do not wait in a circle for the unique index.
const INSERT: &str = "
INSERT INTO batch_recipient (batch_id, row_no, patient_id, recipient, notification_id, variables)
SELECT $1, row_no, patient_id, recipient, notification_id, variables
  FROM UNNEST($2::bigint[], $3::text[], $4::text[], $5::uuid[], $6::jsonb[])
       AS new (row_no, patient_id, recipient, notification_id, variables)
 ORDER BY notification_id, row_no
ON CONFLICT (notification_id) DO NOTHING
RETURNING row_no";

/// Stores what can be stored; gives the rest, in order.
async fn insert(
    transaction: &Transaction<'_>,
    batch: &BatchView,
    rows: &[Result<NewRow, String>],
) -> Result<Vec<FaultView>, RecordError> {
    let at = RecordError::at("batch_add");
    let numbered = || (batch.rows_received + 1..).zip(rows);
    let usable: Vec<(i64, &NewRow)> =
        numbered().filter_map(|(number, row)| Some((number, row.as_ref().ok()?))).collect();
    let numbers: Vec<i64> = usable.iter().map(|(number, _)| *number).collect();
    let patients: Vec<&str> = usable.iter().map(|(_, row)| row.patient_id.as_str()).collect();
    let recipients: Vec<Option<&str>> = usable.iter().map(|(_, row)| row.recipient.as_deref()).collect();
    let id = |row: &NewRow| {
        let (patient, recipient) = (row.patient_id.as_str(), row.recipient.as_deref());
        NotificationId::for_batch(&batch.made.caller, batch.id, patient, recipient).0
    };
    let ids: Vec<Uuid> = usable.iter().map(|(_, row)| id(row)).collect();
    let variables: Vec<Option<Json<&BTreeMap<String, String>>>> = usable
        .iter()
        .map(|(_, row)| Some(row.variables.expose()).filter(|all| !all.is_empty()).map(Json))
        .collect();
    let statement = transaction.prepare_cached(INSERT).await.map_err(&at)?;
    let stored = transaction
        .query(&statement, &[&batch.id.0, &numbers, &patients, &recipients, &ids, &variables])
        .await
        .map_err(&at)?;
    let stored: HashSet<i64> = stored.iter().map(|row| row.get(0)).collect();
    let fault = |(row, given): (i64, &Result<NewRow, String>)| match given {
        Err(reason) => Some(FaultView { row, doubled: false, reason: reason.clone() }),
        Ok(_) if stored.contains(&row) => None,
        Ok(_) => Some(FaultView { row, doubled: true, reason: "its recipient is there already".to_owned() }),
    };
    Ok(numbered().filter_map(fault).collect())
}

const NOTE: &str = "
INSERT INTO batch_fault (batch_id, row_no, doubled, reason)
SELECT $1, * FROM UNNEST($2::bigint[], $3::boolean[], $4::text[])";

/// Keeps the first faults of a batch.
async fn note(
    transaction: &Transaction<'_>,
    batch: &BatchView,
    faults: &[FaultView],
) -> Result<(), RecordError> {
    let at = RecordError::at("batch_faults");
    let room = FAULTS_MAX - batch.rows_doubled - batch.rows_rejected;
    let kept = &faults[..faults.len().min(usize::try_from(room).unwrap_or(0))];
    if kept.is_empty() {
        return Ok(());
    }
    let numbers: Vec<i64> = kept.iter().map(|fault| fault.row).collect();
    let doubled: Vec<bool> = kept.iter().map(|fault| fault.doubled).collect();
    let reasons: Vec<&str> = kept.iter().map(|fault| fault.reason.as_str()).collect();
    let statement = transaction.prepare_cached(NOTE).await.map_err(&at)?;
    transaction.execute(&statement, &[&batch.id.0, &numbers, &doubled, &reasons]).await.map_err(&at)?;
    Ok(())
}

const PROGRESS: &str = "
UPDATE batch
   SET state = $2, rows_received = rows_received + $3, rows_stored = rows_stored + $3 - $4 - $5,
       rows_doubled = rows_doubled + $4, rows_rejected = rows_rejected + $5,
       csv_header = coalesce($6, csv_header), bytes_received = greatest(bytes_received, $7), updated_at = now()
 WHERE batch_id = $1";

async fn progress(
    transaction: &Transaction<'_>,
    batch: &BatchView,
    next: BatchState,
    received: usize,
    faults: &[FaultView],
    form: Option<Form<'_>>,
) -> Result<(), RecordError> {
    let at = RecordError::at("batch_progress");
    let doubled = count(faults.iter().filter(|fault| fault.doubled).count());
    let rejected = count(faults.len()) - doubled;
    let (header, end) = match form {
        Some(Form::Csv { header, end }) => (Some(header), end),
        Some(Form::Rows) | None => (None, 0),
    };
    let statement = transaction.prepare_cached(PROGRESS).await.map_err(&at)?;
    transaction
        .execute(
            &statement,
            &[&batch.id.0, &next.as_str(), &count(received), &doubled, &rejected, &header, &end],
        )
        .await
        .map_err(&at)?;
    Ok(())
}

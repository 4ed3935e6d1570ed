//! Batches: made, steered and looked at. Their recipients are in `batch_rows`.

use std::collections::BTreeMap;

use deadpool_postgres::{GenericClient, Pool};
use jiff::Timestamp;
use jiff::civil::Time;
use tokio_postgres::Row;
use tokio_postgres::types::Json;

use super::audit::{self, AuditEntry};
use super::error::RecordError;
use crate::domain::batch::{BatchAction, BatchState, SendWindow};
use crate::domain::{BatchId, Channel, Purpose, Redacted};

/// Faults that are kept and shown of a batch, at most.
pub const FAULTS_MAX: i64 = 1000;

/// A batch to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBatch {
    /// Whose it is.
    pub caller: String,
    /// The caller's key.
    pub idempotency_key: String,
    /// For people.
    pub name: String,
    /// What it is for.
    pub purpose: Purpose,
    /// In order; empty: each recipient's own.
    pub channels: Vec<Channel>,
    /// Common to all recipients.
    pub variables: Redacted<BTreeMap<String, String>>,
    /// Recipients a second.
    pub rate_per_s: i32,
    /// When it may be published; `None`: always.
    pub window: Option<SendWindow>,
    /// From this time on it is useless.
    pub expires_at: Timestamp,
}

/// A batch as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchView {
    /// Derived from caller and key.
    pub id: BatchId,
    /// What it was made with.
    pub made: NewBatch,
    /// Where it stands.
    pub state: BatchState,
    /// Rows that were looked at.
    pub rows_received: i64,
    /// Recipients that it has.
    pub rows_stored: i64,
    /// Rows whose recipient was there already.
    pub rows_doubled: i64,
    /// Rows that could not be used.
    pub rows_rejected: i64,
    /// Columns of the CSV file; `None`: none was uploaded.
    pub csv_header: Option<Vec<String>>,
    /// Bytes of the CSV file, to the end of its last row that was looked at.
    pub bytes_received: i64,
    /// Number of the last row whose request is acknowledged, as are all before it.
    pub published_to: i64,
    /// Recipients whose request is acknowledged.
    pub rows_published: i64,
    /// Recipients a second over the last five to ten seconds; `None`: it does not run, or
    /// has only begun.
    pub measured_per_s: Option<f64>,
    /// Creation.
    pub created_at: Timestamp,
    /// First start.
    pub started_at: Option<Timestamp>,
    /// When it was done or cancelled.
    pub ended_at: Option<Timestamp>,
    /// Last change.
    pub updated_at: Timestamp,
    /// True when `expires_at` has passed, by the database's clock.
    pub expired: bool,
}

/// A row that was not stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultView {
    /// Its number, from 1.
    pub row: i64,
    /// Its recipient is there already.
    pub doubled: bool,
    /// Why, without a value of the row.
    pub reason: String,
}

/// Who may see a batch: its owner, or (`None`) anybody who may see everybody's.
pub type Owner<'a> = Option<&'a str>;

pub(super) const SELECT: &str = "
SELECT batch_id, caller, idempotency_key, name, purpose, channels, variables, rate_per_s, window_start, window_end,
       window_zone, expires_at, state, rows_received, rows_stored, rows_doubled, rows_rejected, csv_header,
       bytes_received, published_to, rows_published, created_at, started_at, ended_at, updated_at,
       CASE WHEN state = 'running' AND mark_at < now() - CASE WHEN rows_published > mark_rows
                 THEN interval '1 second' ELSE interval '5 seconds' END
            THEN ((rows_published - mark_rows) / extract(epoch FROM now() - mark_at))::double precision
       END AS measured_per_s,
       expires_at <= now() AS expired
  FROM batch";

const CREATE: &str = "
INSERT INTO batch (batch_id, caller, idempotency_key, name, purpose, channels, variables, rate_per_s, window_start,
                   window_end, window_zone, expires_at, state)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, 'draft')
ON CONFLICT (batch_id) DO NOTHING";

/// Makes a batch; one of the same caller and key that is there already stays. The
/// answer is the stored one: compare its content.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn create(pool: &Pool, batch: &NewBatch) -> Result<BatchView, RecordError> {
    let at = RecordError::at("batch_create");
    let id = BatchId::for_key(&batch.caller, &batch.idempotency_key);
    let mut client = pool.get().await?;
    let transaction = client.transaction().await.map_err(&at)?;
    let statement = transaction.prepare_cached(CREATE).await.map_err(&at)?;
    let channels: Vec<&str> = batch.channels.iter().map(|channel| channel.as_str()).collect();
    let window = batch.window.as_ref();
    let new = transaction
        .execute(
            &statement,
            &[
                &id.0,
                &batch.caller,
                &batch.idempotency_key,
                &batch.name,
                &batch.purpose.as_str(),
                &channels,
                &Json(batch.variables.expose()),
                &batch.rate_per_s,
                &window.map(|window| window.start),
                &window.map(|window| window.end),
                &window.map(|window| window.time_zone.as_str()),
                &batch.expires_at,
            ],
        )
        .await
        .map_err(&at)?;
    if new > 0 {
        log(&transaction, &batch.caller, "BatchService/Create", id, None).await?;
    }
    let stored = one(&transaction, id, None, "").await?;
    transaction.commit().await.map_err(&at)?;
    stored.ok_or_else(|| RecordError::bug("a batch was made and is not there"))
}

/// How an action ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Acted {
    /// As it is stored now.
    Stored(Box<BatchView>),
    /// It was so already; as it is stored.
    Already(Box<BatchView>),
    /// There is no such batch of this owner.
    NotFound,
    /// It is in a state in which this cannot be done.
    State(BatchState),
    /// Its time has passed.
    Expired,
    /// It has no recipients.
    Empty,
    /// It has this many recipients.
    SizeDiffers(i64),
}

const ACT: &str = "
UPDATE batch
   SET state = $2, updated_at = now(), look_at = CASE WHEN $2 = 'running' THEN now() END,
       mark_rows = rows_published, mark_at = now(), next_mark_rows = rows_published, next_mark_at = now(),
       started_at = CASE WHEN $2 = 'running' THEN coalesce(started_at, now()) ELSE started_at END,
       ended_at = CASE WHEN $2 IN ('done', 'cancelled') THEN now() ELSE ended_at END
 WHERE batch_id = $1";

/// Who steers a batch, and by which call.
#[derive(Debug, Clone, Copy)]
pub struct By<'a> {
    /// Who calls.
    pub caller: &'a str,
    /// Whose batches the caller may steer.
    pub owner: Owner<'a>,
    /// Service and method, for the audit log.
    pub action: &'static str,
}

/// Does something to a batch; `recipients` is how many the caller believes it has,
/// where that has to be right.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn act(
    pool: &Pool,
    id: BatchId,
    action: BatchAction,
    recipients: Option<i64>,
    by: By<'_>,
) -> Result<Acted, RecordError> {
    let at = RecordError::at("batch_act");
    let mut client = pool.get().await?;
    let transaction = client.transaction().await.map_err(&at)?;
    let Some(stored) = one(&transaction, id, by.owner, "FOR UPDATE").await? else {
        return Ok(Acted::NotFound);
    };
    let Some(next) = stored.state.after(action) else {
        return Ok(Acted::State(stored.state));
    };
    if recipients.is_some_and(|believed| believed != stored.rows_stored) {
        return Ok(Acted::SizeDiffers(stored.rows_stored));
    }
    if next == stored.state {
        return Ok(Acted::Already(Box::new(stored)));
    }
    if next == BatchState::Running && stored.expired {
        return Ok(Acted::Expired);
    }
    if next == BatchState::Running && stored.rows_stored == 0 {
        return Ok(Acted::Empty);
    }
    let statement = transaction.prepare_cached(ACT).await.map_err(&at)?;
    transaction.execute(&statement, &[&id.0, &next.as_str()]).await.map_err(&at)?;
    log(&transaction, by.caller, by.action, id, Some(next.as_str())).await?;
    let stored = one(&transaction, id, by.owner, "").await?;
    transaction.commit().await.map_err(&at)?;
    Ok(stored.map_or(Acted::NotFound, |view| Acted::Stored(Box::new(view))))
}

pub(super) async fn log(
    client: &impl GenericClient,
    caller: &str,
    action: &'static str,
    id: BatchId,
    detail: Option<&str>,
) -> Result<(), RecordError> {
    let subject = id.to_string();
    let entry = AuditEntry { caller, action, subject_kind: "batch", subject: &subject, detail };
    audit::append(client, &entry).await
}

/// One batch.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn get(pool: &Pool, id: BatchId, owner: Owner<'_>) -> Result<Option<BatchView>, RecordError> {
    one(&pool.get().await?, id, owner, "").await
}

pub(super) async fn one(
    client: &impl GenericClient,
    id: BatchId,
    owner: Owner<'_>,
    lock: &'static str,
) -> Result<Option<BatchView>, RecordError> {
    let at = RecordError::at("batch_get");
    let text = format!("{SELECT} WHERE batch_id = $1 AND caller = coalesce($2, caller) {lock}");
    let statement = client.prepare_cached(&text).await.map_err(&at)?;
    let row = client.query_opt(&statement, &[&id.0, &owner]).await.map_err(&at)?;
    row.as_ref().map(view).transpose()
}

const FAULTS: &str =
    "SELECT row_no, doubled, reason FROM batch_fault WHERE batch_id = $1 ORDER BY row_no LIMIT $2";

/// The first rows of a batch that were not stored.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn faults(pool: &Pool, id: BatchId) -> Result<Vec<FaultView>, RecordError> {
    let at = RecordError::at("batch_faults");
    let client = pool.get().await?;
    let statement = client.prepare_cached(FAULTS).await.map_err(&at)?;
    let rows = client.query(&statement, &[&id.0, &FAULTS_MAX]).await.map_err(&at)?;
    let fault = |row: &Row| FaultView { row: row.get(0), doubled: row.get(1), reason: row.get(2) };
    Ok(rows.iter().map(fault).collect())
}

const LIST: &str = "
 WHERE ($1::text IS NULL OR caller = $1) AND ($2::text IS NULL OR state = $2)
   AND (created_at, batch_id) < (coalesce($3::timestamptz, 'infinity'), $4)
 ORDER BY created_at DESC, batch_id DESC LIMIT $5";

/// Batches, newest first.
#[derive(Debug, Clone, Copy)]
pub struct ListQuery<'a> {
    /// Whose.
    pub owner: Owner<'a>,
    /// In which state; `None`: all.
    pub state: Option<BatchState>,
    /// Made before this one.
    pub after: Option<(Timestamp, BatchId)>,
    /// At most so many.
    pub limit: i64,
}

/// See [`ListQuery`].
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn list(pool: &Pool, query: &ListQuery<'_>) -> Result<Vec<BatchView>, RecordError> {
    let at = RecordError::at("batch_list");
    let client = pool.get().await?;
    let statement = client.prepare_cached(&format!("{SELECT}{LIST}")).await.map_err(&at)?;
    let state = query.state.map(BatchState::as_str);
    let (after, after_id) = query.after.unzip();
    let after_id = after_id.map_or_else(uuid::Uuid::max, |id| id.0);
    let rows = client
        .query(&statement, &[&query.owner, &state, &after, &after_id, &query.limit])
        .await
        .map_err(&at)?;
    rows.iter().map(view).collect()
}

fn view(row: &Row) -> Result<BatchView, RecordError> {
    let channels: Vec<&str> = row.get("channels");
    let channel = |text: &&str| Channel::parse(text).ok_or_else(|| RecordError::bug("an unknown channel"));
    let bounds: (Option<Time>, Option<Time>) = (row.get("window_start"), row.get("window_end"));
    let window = bounds.0.zip(bounds.1).zip(row.get::<_, Option<String>>("window_zone"));
    let Json(variables) = row.get::<_, Json<BTreeMap<String, String>>>("variables");
    Ok(BatchView {
        id: BatchId(row.get("batch_id")),
        made: NewBatch {
            caller: row.get("caller"),
            idempotency_key: row.get("idempotency_key"),
            name: row.get("name"),
            purpose: word(row, "purpose", Purpose::parse)?,
            channels: channels.iter().map(channel).collect::<Result<_, _>>()?,
            variables: Redacted::new(variables),
            rate_per_s: row.get("rate_per_s"),
            window: window.map(|((start, end), time_zone)| SendWindow { start, end, time_zone }),
            expires_at: row.get("expires_at"),
        },
        state: word(row, "state", BatchState::parse)?,
        rows_received: row.get("rows_received"),
        rows_stored: row.get("rows_stored"),
        rows_doubled: row.get("rows_doubled"),
        rows_rejected: row.get("rows_rejected"),
        csv_header: row.get("csv_header"),
        bytes_received: row.get("bytes_received"),
        published_to: row.get("published_to"),
        rows_published: row.get("rows_published"),
        measured_per_s: row.get("measured_per_s"),
        created_at: row.get("created_at"),
        started_at: row.get("started_at"),
        ended_at: row.get("ended_at"),
        updated_at: row.get("updated_at"),
        expired: row.get("expired"),
    })
}

fn word<T>(row: &Row, column: &str, parse: fn(&str) -> Option<T>) -> Result<T, RecordError> {
    let text: &str = row.get(column);
    parse(text).ok_or_else(|| RecordError::bug(format!("column {column} has an unknown word")))
}

//! Exports: all that is kept of one patient, as lines of JSON in bounded pieces.
//!
//! One transaction sees everything as of one moment and writes the pieces, so an export
//! is there whole or not at all. It holds the export's own row: an erasure, which takes
//! the row away, waits for the end of it, and takes the pieces along.
//!
//! What a proxy of the patient is called and may hear is about the patient. Where a
//! proxy is written to is not: it is left out. So is what an erased recipient's
//! notifications still have for as long as their erasure goes on.

mod lines;

use std::time::{Duration, Instant};

use deadpool_postgres::{Pool, Transaction};
use serde_json::json;
use tokio_postgres::IsolationLevel;
use uuid::Uuid;

use super::audit::{self, AuditEntry};
use super::cases::query;
use super::error::RecordError;
use super::job_turns::millis;
use super::jobs::{self, Enqueued, NewJob};
use super::store::Store;
use crate::domain::job::{JobKind, JobState};
use crate::domain::{PatientId, Redacted};
use crate::metrics;

pub use lines::Section;

/// How long an export can be fetched.
pub const KEPT: Duration = Duration::from_secs(24 * 3600);
/// Bytes of a piece, but for its last line.
const CHUNK_BYTES: usize = 256 * 1024;
/// Pieces of one export: 1 GiB.
const CHUNKS_MAX: i32 = 4096;
/// Exports that one statement removes.
const EXPIRED_MAX: i64 = 20;

/// Namespace of the keys of export jobs.
const KEYS: Uuid = Uuid::from_u128(0x8c35_51f2_6a4e_4b0d_9a57_1f4f_0d6f_b3c1);

const KNOWN: &str = "
SELECT EXISTS (SELECT FROM visibility WHERE patient_id = $1)
    OR EXISTS (SELECT FROM notification WHERE patient_id = $1)
    OR EXISTS (SELECT FROM appointment WHERE patient_id = $1)";

const ASK: &str = "INSERT INTO export (job_id, patient_id, caller) VALUES ($1, $2, $3)";

/// Asks for an export of a patient; `None`: nothing is kept of such a patient. While one
/// that the same caller asked for has not ended, it is that one.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn ask(pool: &Pool, patient: &PatientId, caller: &str) -> Result<Option<Enqueued>, RecordError> {
    let at = RecordError::at("export_ask");
    let mut client = pool.get().await?;
    let tx = client.transaction().await.map_err(&at)?;
    let known = query(&tx, "export_known", KNOWN, &[&patient.as_str()]).await?;
    if !known.first().is_some_and(|row| row.get(0)) {
        return Ok(None);
    }
    // Operators see keys: this one leads neither to the patient nor to the caller.
    let key = Uuid::new_v5(&KEYS, format!("{caller}\n{}", patient.as_str()).as_bytes()).to_string();
    let job = NewJob { kind: JobKind::Export, key: &key, arguments: &json!({}), requested_by: caller };
    let asked = jobs::enqueue(&tx, job).await?;
    if asked.is_new {
        query(&tx, "export_ask", ASK, &[&asked.job_id, &patient.as_str(), &caller]).await?;
    }
    let detail = asked.job_id.to_string();
    note(&tx, caller, "RecipientService/Export", patient.as_str(), &detail).await?;
    tx.commit().await.map_err(&at)?;
    Ok(Some(asked))
}

async fn note(
    tx: &Transaction<'_>,
    caller: &str,
    action: &'static str,
    patient: &str,
    detail: &str,
) -> Result<(), RecordError> {
    let (subject_kind, detail) = ("patient", Some(detail));
    audit::append(tx, &AuditEntry { caller, action, subject_kind, subject: patient, detail }).await
}

/// What becomes of a wish to fetch an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fetch {
    /// It has so many pieces.
    Ready(i32),
    /// Its job stands there.
    NotReady(JobState),
    /// Its time is over, or the patient was erased.
    Gone,
    /// The caller asked for no such export.
    NotFound,
}

const OPEN: &str = "
SELECT j.state, e.patient_id, e.chunks, coalesce(e.expires_at <= now(), false) AS expired
  FROM job j LEFT JOIN export e USING (job_id)
 WHERE j.job_id = $1 AND j.kind = $2 AND j.requested_by = $3";

/// Begins to fetch an export that the caller asked for. That it was is written down.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn open(pool: &Pool, job_id: Uuid, caller: &str) -> Result<Fetch, RecordError> {
    let at = RecordError::at("export_open");
    let mut client = pool.get().await?;
    let tx = client.transaction().await.map_err(&at)?;
    let rows = query(&tx, "export_open", OPEN, &[&job_id, &JobKind::Export.as_str(), &caller]).await?;
    let Some(row) = rows.first() else { return Ok(Fetch::NotFound) };
    let patient: Option<&str> = row.try_get("patient_id")?;
    let Some(patient) = patient else { return Ok(Fetch::Gone) };
    let state = jobs::word(row, "state", JobState::parse)?;
    let chunks: Option<i32> = row.try_get("chunks")?;
    let chunks = match chunks {
        Some(_) if row.try_get("expired")? => return Ok(Fetch::Gone),
        Some(chunks) => chunks,
        None => return Ok(Fetch::NotReady(state)),
    };
    note(&tx, caller, "RecipientService/DownloadExport", patient, &job_id.to_string()).await?;
    tx.commit().await.map_err(&at)?;
    Ok(Fetch::Ready(chunks))
}

const CHUNK: &str = "
SELECT c.content FROM export_chunk c JOIN export e USING (job_id)
 WHERE c.job_id = $1 AND c.chunk_no = $2 AND e.expires_at > now()";

/// One piece of an export; `None`: it is gone.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn chunk(
    pool: &Pool,
    job_id: Uuid,
    chunk_no: i32,
) -> Result<Option<Redacted<String>>, RecordError> {
    let at = RecordError::at("export_chunk");
    let client = pool.get().await?;
    let statement = client.prepare_cached(CHUNK).await.map_err(&at)?;
    let row = client.query_opt(&statement, &[&job_id, &chunk_no]).await.map_err(&at)?;
    row.map(|row| Ok(Redacted::new(row.try_get("content")?))).transpose()
}

/// What came of writing an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It can be fetched.
    Whole {
        /// Pieces.
        chunks: i32,
        /// Lines of all pieces.
        lines: i64,
    },
    /// Nobody wants it any more: the patient was erased.
    Gone,
    /// It would have more than 1 GiB.
    TooLarge,
}

const HOLD: &str = "SELECT patient_id FROM export WHERE job_id = $1 FOR UPDATE";

const CLEAR: &str = "DELETE FROM export_chunk WHERE job_id = $1";

const SEAL: &str = "
UPDATE export
   SET chunks = $2, lines = $3, expires_at = now() + $4::bigint * interval '1 millisecond'
 WHERE job_id = $1";

const EXPIRED: &str = "
DELETE FROM export WHERE job_id IN (
    SELECT job_id FROM export WHERE expires_at <= now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)";

impl Store {
    /// Writes all that is kept of the export's patient; what an earlier attempt wrote is
    /// replaced.
    ///
    /// # Errors
    /// As [`RecordError`] tells; then nothing is written.
    pub async fn write_export(&self, job_id: Uuid) -> Result<Written, RecordError> {
        let at = RecordError::at("export_write");
        let begun = Instant::now();
        let mut client = self.client().await?;
        let tx = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .start()
            .await
            .map_err(&at)?;
        let held = query(&tx, "export_hold", HOLD, &[&job_id]).await?;
        let Some(row) = held.first() else { return Ok(Written::Gone) };
        let patient: Redacted<String> = Redacted::new(row.try_get("patient_id")?);
        query(&tx, "export_clear", CLEAR, &[&job_id]).await?;
        let mut out = Pieces { tx: &tx, job_id, piece: String::new(), chunks: 0, lines: 0 };
        if !lines::write_all(&mut out, patient.expose()).await? {
            return Ok(Written::TooLarge);
        }
        let (chunks, lines) = (out.chunks, out.lines);
        query(&tx, "export_seal", SEAL, &[&job_id, &chunks, &lines, &millis(KEPT)]).await?;
        tx.commit().await.map_err(&at)?;
        metrics::statement("export_write", usize::try_from(lines).unwrap_or(0), begun.elapsed());
        Ok(Written::Whole { chunks, lines })
    }

    /// Removes some exports whose time is over. How many; 0: there are no more.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn remove_expired_exports(&self) -> Result<u64, RecordError> {
        let at = RecordError::at("export_remove");
        let client = self.client().await?;
        let statement = client.prepare_cached(EXPIRED).await.map_err(&at)?;
        client.execute(&statement, &[&EXPIRED_MAX]).await.map_err(&at)
    }
}

const ADD: &str = "INSERT INTO export_chunk (job_id, chunk_no, content) VALUES ($1, $2, $3)";

/// An export that is being written: a piece in memory, the others in their table.
struct Pieces<'a> {
    tx: &'a Transaction<'a>,
    job_id: Uuid,
    piece: String,
    chunks: i32,
    lines: i64,
}

impl Pieces<'_> {
    /// Adds a line. False: there are too many.
    async fn add(&mut self, line: &str) -> Result<bool, RecordError> {
        self.piece.push_str(line);
        self.piece.push('\n');
        self.lines += 1;
        if self.piece.len() >= CHUNK_BYTES { self.flush().await } else { Ok(true) }
    }

    async fn flush(&mut self) -> Result<bool, RecordError> {
        if self.piece.is_empty() {
            return Ok(true);
        }
        if self.chunks >= CHUNKS_MAX {
            return Ok(false);
        }
        self.chunks += 1;
        query(self.tx, "export_add", ADD, &[&self.job_id, &self.chunks, &self.piece]).await?;
        self.piece.clear();
        Ok(true)
    }
}

//! Checks of batches: one row says how far a check is and what it has counted.

use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::batch_publish::{self, NextRow};
use super::batches::{self, Acted, BatchView, By, Owner};
use super::error::RecordError;
use super::store::Store;
use crate::domain::batch::BatchState;
use crate::domain::{BatchId, State};
use crate::metrics;

/// Rows without a notification that a check names, at most.
const NAMED_MAX: i64 = 100;

/// A check as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckView {
    /// What is missing is published again.
    pub repair: bool,
    /// When it was asked for.
    pub asked_at: Timestamp,
    /// When it was done; `None`: it goes on.
    pub finished_at: Option<Timestamp>,
    /// Recipients that the batch had by its own word when the check began, and how many
    /// of them it said to be published; `None`: it has not begun.
    pub said: Option<(i64, i64)>,
    /// Recipients that are there.
    pub rows: i64,
    /// Of them, those up to the batch's last published row.
    pub rows_published: i64,
    /// Of these, those whose notification has ended.
    pub ended: i64,
    /// Those whose notification has not.
    pub open: i64,
    /// Those without a notification.
    pub missing: i64,
    /// Of the missing ones, those that were published again.
    pub republished: i64,
    /// Numbers of the first missing ones.
    pub first_missing: Vec<i64>,
}

impl CheckView {
    /// True when it is done and everything adds up; false when not; `None`: it goes on.
    #[must_use]
    pub fn adds_up(&self) -> Option<bool> {
        let (stored, published) = self.said.filter(|_| self.finished_at.is_some())?;
        Some(
            self.rows == stored
                && self.rows_published == published
                && self.ended + self.open == self.rows_published
                && self.missing == 0,
        )
    }
}

/// A check that a worker goes on with.
#[derive(Debug, Clone)]
pub struct DueCheck {
    /// The batch as it is now.
    pub batch: BatchView,
    /// As [`CheckView::repair`].
    pub repair: bool,
    /// The last row that was published when the check began; `None`: it has not.
    pub published_to: Option<i64>,
    /// Where the topic ended then, a partition; `None`: not known yet.
    pub ends: Option<Vec<i64>>,
    /// True when the consumers have read so far.
    pub topic_passed: bool,
    /// The last row that was looked at.
    pub checked_to: i64,
}

/// What one page of rows has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Number of its last row; `None`: there are no more.
    pub last: Option<i64>,
    /// As [`CheckView::rows`], as are the next ones.
    pub rows: i64,
    /// See `rows`.
    pub published: i64,
    /// See `rows`.
    pub ended: i64,
    /// See `rows`.
    pub open: i64,
    /// Numbers of the rows that miss their notification.
    pub missing: Vec<i64>,
}

// One that goes on stays, unless a repair is asked for that it does not make.
const ASK: &str = "
INSERT INTO batch_check AS old (batch_id, repair, asked_by) VALUES ($1, $2, $3)
ON CONFLICT (batch_id) DO UPDATE
SET repair = excluded.repair, asked_by = excluded.asked_by, asked_at = now(), published_to = NULL, published = NULL,
    stored = NULL, ends = NULL, topic_passed = false, checked_to = 0, rows = 0, rows_published = 0, ended = 0,
    open = 0, missing = 0, republished = 0, first_missing = '{}', look_at = now(), finished_at = NULL
WHERE old.finished_at IS NOT NULL OR (excluded.repair AND NOT old.repair)";

/// Asks for a check of a batch whose upload is complete; one that goes on stays.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn ask(pool: &Pool, id: BatchId, repair: bool, by: By<'_>) -> Result<Acted, RecordError> {
    let at = RecordError::at("batch_check_ask");
    let mut client = pool.get().await?;
    let transaction = client.transaction().await.map_err(&at)?;
    let Some(stored) = batches::one(&transaction, id, by.owner, "").await? else {
        return Ok(Acted::NotFound);
    };
    let repairable = matches!(stored.state, BatchState::Running | BatchState::Done);
    if matches!(stored.state, BatchState::Draft | BatchState::Uploading) || (repair && !repairable) {
        return Ok(Acted::State(stored.state));
    }
    if repair && stored.expired {
        return Ok(Acted::Expired);
    }
    let statement = transaction.prepare_cached(ASK).await.map_err(&at)?;
    let asked = transaction.execute(&statement, &[&id.0, &repair, &by.caller]).await.map_err(&at)?;
    if asked > 0 {
        let detail = if repair { "check and repair" } else { "check" };
        batches::log(&transaction, by.caller, by.action, id, Some(detail)).await?;
    }
    transaction.commit().await.map_err(&at)?;
    Ok(Acted::Stored(Box::new(stored)))
}

const VIEW: &str = "
SELECT c.repair, c.asked_at, c.finished_at, c.stored, c.published, c.rows, c.rows_published, c.ended, c.open, c.missing,
       c.republished, c.first_missing
  FROM batch_check c JOIN batch b USING (batch_id)
 WHERE c.batch_id = $1 AND b.caller = coalesce($2, b.caller)";

/// The newest check of a batch; `None`: there was none.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn newest(pool: &Pool, id: BatchId, owner: Owner<'_>) -> Result<Option<CheckView>, RecordError> {
    let at = RecordError::at("batch_check_get");
    let client = pool.get().await?;
    let statement = client.prepare_cached(VIEW).await.map_err(&at)?;
    let row = client.query_opt(&statement, &[&id.0, &owner]).await.map_err(&at)?;
    Ok(row.as_ref().map(view))
}

fn view(row: &Row) -> CheckView {
    let said: (Option<i64>, Option<i64>) = (row.get("stored"), row.get("published"));
    CheckView {
        repair: row.get("repair"),
        asked_at: row.get("asked_at"),
        finished_at: row.get("finished_at"),
        said: said.0.zip(said.1),
        rows: row.get("rows"),
        rows_published: row.get("rows_published"),
        ended: row.get("ended"),
        open: row.get("open"),
        missing: row.get("missing"),
        republished: row.get("republished"),
        first_missing: row.get("first_missing"),
    }
}

const CLAIM: &str = "
WITH due AS (
    SELECT batch_id FROM batch_check WHERE look_at <= now() ORDER BY look_at LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE batch_check c SET look_at = now() + $1::bigint * interval '1 millisecond'
  FROM due
 WHERE c.batch_id = due.batch_id
RETURNING c.batch_id, c.repair, c.published_to, c.ends, c.topic_passed, c.checked_to";

// What the batch says of itself is one row: its figures belong together.
const BEGIN: &str = "
UPDATE batch_check c
   SET published_to = b.published_to, published = b.rows_published, stored = b.rows_stored, look_at = now()
  FROM batch b
 WHERE c.batch_id = $1 AND b.batch_id = $1 AND c.published_to IS NULL AND c.finished_at IS NULL";

const ENDS: &str = "
UPDATE batch_check SET ends = $2, look_at = now() WHERE batch_id = $1 AND ends IS NULL AND published_to IS NOT NULL";

const PASSED: &str =
    "UPDATE batch_check SET topic_passed = true, look_at = now() WHERE batch_id = $1 AND ends IS NOT NULL";

const PUT_OFF: &str = "
UPDATE batch_check SET look_at = now() + $2::bigint * interval '1 millisecond'
 WHERE batch_id = $1 AND finished_at IS NULL";

const PAGE: &str = "
WITH page AS (
    SELECT row_no, notification_id FROM batch_recipient
     WHERE batch_id = $1 AND row_no > $2 ORDER BY row_no LIMIT $4
)
SELECT max(p.row_no) AS last, count(*) AS rows, count(*) FILTER (WHERE p.row_no <= $3) AS published,
       count(*) FILTER (WHERE p.row_no <= $3 AND n.state = ANY ($5)) AS ended,
       count(*) FILTER (WHERE p.row_no <= $3 AND n.state <> ALL ($5)) AS open,
       coalesce(array_agg(p.row_no ORDER BY p.row_no)
                FILTER (WHERE p.row_no <= $3 AND n.state IS NULL), '{}') AS missing
  FROM page p LEFT JOIN notification n USING (notification_id)";

const ROWS: &str = "
SELECT row_no, patient_id, recipient, variables FROM batch_recipient
 WHERE batch_id = $1 AND row_no = ANY ($2) ORDER BY row_no";

// Counted once: the page follows the one before it.
const ADVANCE: &str = "
UPDATE batch_check
   SET checked_to = coalesce($3::bigint, checked_to), rows = rows + $4, rows_published = rows_published + $5,
       ended = ended + $6, open = open + $7, missing = missing + cardinality($8::bigint[]),
       republished = republished + $9, first_missing = (first_missing || $8::bigint[])[1:$10::bigint],
       look_at = CASE WHEN $3 IS NOT NULL THEN now() END,
       finished_at = CASE WHEN $3::bigint IS NULL THEN now() END
 WHERE batch_id = $1 AND checked_to = $2 AND topic_passed AND finished_at IS NULL";

impl Store {
    /// Claims a check that somebody must go on with.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn due_check(&self, lease: Duration) -> Result<Option<DueCheck>, RecordError> {
        let at = RecordError::at("batch_check_claim");
        let client = self.client().await?;
        let statement = client.prepare_cached(CLAIM).await.map_err(&at)?;
        let Some(row) = client.query_opt(&statement, &[&millis(lease)]).await.map_err(&at)? else {
            return Ok(None);
        };
        let batch = batches::one(&client, BatchId(row.get("batch_id")), None, "").await?;
        Ok(batch.map(|batch| DueCheck {
            batch,
            repair: row.get("repair"),
            published_to: row.get("published_to"),
            ends: row.get("ends"),
            topic_passed: row.get("topic_passed"),
            checked_to: row.get("checked_to"),
        }))
    }

    /// Notes what the batch says of itself.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn begin_check(&self, id: BatchId) -> Result<(), RecordError> {
        let client = self.client().await?;
        client.execute(BEGIN, &[&id.0]).await.map_err(RecordError::at("batch_check_begin"))?;
        Ok(())
    }

    /// Notes where the topic ended after [`Store::begin_check`], a partition each.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn note_ends(&self, id: BatchId, ends: &[i64]) -> Result<(), RecordError> {
        let client = self.client().await?;
        client.execute(ENDS, &[&id.0, &ends]).await.map_err(RecordError::at("batch_check_ends"))?;
        Ok(())
    }

    /// Notes that the consumers have read the topic so far.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn note_topic_passed(&self, id: BatchId) -> Result<(), RecordError> {
        let client = self.client().await?;
        client.execute(PASSED, &[&id.0]).await.map_err(RecordError::at("batch_check_passed"))?;
        Ok(())
    }

    /// Lets a check wait.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn put_off_check(&self, id: BatchId, pause: Duration) -> Result<(), RecordError> {
        let client = self.client().await?;
        let at = RecordError::at("batch_check_put_off");
        client.execute(PUT_OFF, &[&id.0, &millis(pause)]).await.map_err(at)?;
        Ok(())
    }

    /// Counts the rows after one; `published_to`: the last one that should have a
    /// notification.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn check_page(
        &self,
        id: BatchId,
        after: i64,
        published_to: i64,
        limit: i64,
    ) -> Result<Page, RecordError> {
        let at = RecordError::at("batch_check_page");
        let begun = Instant::now();
        let ends: Vec<&str> =
            State::ALL.iter().filter(|state| state.is_terminal()).map(|state| state.as_str()).collect();
        let client = self.client().await?;
        let statement = client.prepare_cached(PAGE).await.map_err(&at)?;
        let row = client
            .query_one(&statement, &[&id.0, &after, &published_to, &limit, &ends])
            .await
            .map_err(&at)?;
        let page = Page {
            last: row.get("last"),
            rows: row.get("rows"),
            published: row.get("published"),
            ended: row.get("ended"),
            open: row.get("open"),
            missing: row.get("missing"),
        };
        metrics::statement("batch_check_page", usize::try_from(page.rows).unwrap_or(0), begun.elapsed());
        Ok(page)
    }

    /// Rows by their numbers.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn rows_of(&self, id: BatchId, numbers: &[i64]) -> Result<Vec<NextRow>, RecordError> {
        let at = RecordError::at("batch_check_rows");
        let client = self.client().await?;
        let rows = client.query(ROWS, &[&id.0, &numbers]).await.map_err(&at)?;
        rows.iter().map(batch_publish::next).collect()
    }

    /// Adds a page to its check; after the last one the check is done. Nothing is added
    /// twice.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn end_check_page(
        &self,
        check: &DueCheck,
        page: &Page,
        republished: i64,
    ) -> Result<(), RecordError> {
        let at = RecordError::at("batch_check_advance");
        let client = self.client().await?;
        let statement = client.prepare_cached(ADVANCE).await.map_err(&at)?;
        client
            .execute(
                &statement,
                &[
                    &check.batch.id.0,
                    &check.checked_to,
                    &page.last,
                    &page.rows,
                    &page.published,
                    &page.ended,
                    &page.open,
                    &page.missing,
                    &republished,
                    &NAMED_MAX,
                ],
            )
            .await
            .map_err(&at)?;
        Ok(())
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

//! Running batches → `pat.notifications-bulk.v1`, in the order of their rows, at the
//! rate of each.
//!
//! A batch is published in turns of a quarter of a second. After each the cursor moves to
//! the last row before the first that was not acknowledged. A publisher that dies in its
//! turn leaves the cursor where it was: the next one publishes these rows again, under the
//! same keys, which are the same notifications.

mod ahead;
pub mod check;
pub mod produce;

use std::sync::Arc;
use std::time::Duration;

use futures::future::{join, try_join_all};
use jiff::{SignedDuration, Timestamp};
use tracing::warn;

use self::ahead::Ahead;
use self::produce::RowProducer;
use super::rounds::{TURN_TIME, Worker};
use crate::metrics;
use crate::record::batch_publish::{NextRow, TurnEnd};
use crate::record::batches::BatchView;
use crate::record::{RecordError, Store};

/// Turns a second: a pause takes effect within one.
const TURNS_PER_S: i64 = 4;
/// Rows of one turn, at most.
const TURN_ROWS_MAX: i64 = 25_000;
/// What is not handed to the broker after this time is left to the next turn, so that a
/// pause takes effect within a second also where the broker is slow.
const TURN_PRODUCE_TIME: Duration = Duration::from_millis(500);
/// Batches that one process publishes side by side.
const BATCHES_MAX: i64 = 8;
/// Pause before a batch whose rows could not be published is looked at again.
const PUBLISH_PAUSE: Duration = Duration::from_secs(1);
/// What is left of a lease for moving the cursor.
const RECORD_TIME: Duration = Duration::from_secs(5);

/// Publishes running batches; any number of processes may.
pub struct BatchPublisher {
    store: Store,
    rows: Arc<RowProducer>,
    /// Pause between looks when it is no batch's turn.
    poll_interval: Duration,
    ahead: Ahead,
}

impl Worker for BatchPublisher {
    const NAME: &'static str = "batches";

    async fn turn(&self) -> Result<Duration, RecordError> {
        self.ahead.prune();
        let next = self.publish_due().await?;
        Ok(next.map_or(self.poll_interval, |next| next.min(self.poll_interval)))
    }

    fn turn_timeout(&self) -> Duration {
        TURN_TIME.saturating_add(self.rows.publish_timeout)
    }
}

impl BatchPublisher {
    /// One that looks every `poll_interval` when it is no batch's turn.
    #[must_use]
    pub fn new(store: Store, rows: Arc<RowProducer>, poll_interval: Duration) -> Self {
        Self { store, rows, poll_interval, ahead: Ahead::default() }
    }

    /// Publishes of each batch whose turn it is; how long until the next one's turn.
    async fn publish_due(&self) -> Result<Option<Duration>, RecordError> {
        let lease = self.rows.publish_timeout.saturating_add(TURN_PRODUCE_TIME + RECORD_TIME);
        let due = self.store.due_batches(BATCHES_MAX, lease).await?;
        let ends = try_join_all(due.iter().map(|(batch, was_due)| self.publish(batch, *was_due))).await?;
        let now = Timestamp::now();
        let next = ends.into_iter().filter_map(|end| match end {
            TurnEnd::Again(time) => Some(Duration::try_from(time.duration_since(now)).unwrap_or_default()),
            TurnEnd::Done | TurnEnd::Expired => None,
        });
        Ok(next.min())
    }

    async fn publish(&self, batch: &BatchView, was_due: Timestamp) -> Result<TurnEnd, RecordError> {
        let now = Timestamp::now();
        if batch.expired || batch.made.expires_at.as_millisecond() <= now.as_millisecond() {
            return self.end(batch, batch.published_to, 0, TurnEnd::Expired).await;
        }
        if let Some(opens) = batch.made.window.as_ref().and_then(|window| window.opens_at(now)) {
            return self.end(batch, batch.published_to, 0, TurnEnd::Again(opens)).await;
        }
        let wanted = share(batch.made.rate_per_s);
        let rows = match self.ahead.take(batch.id, batch.published_to) {
            Some(rows) => rows,
            None => self.store.next_rows(batch.id, batch.published_to, wanted).await?,
        };
        let is_last = count(rows.len()) < wanted;
        let (produced, ()) = join(
            self.rows.produce(batch, &rows, now, TURN_PRODUCE_TIME),
            self.read_ahead(batch, rows.last().filter(|_| !is_last), wanted),
        )
        .await;
        let acknowledged = produced.acknowledged;
        metrics::batch_published(acknowledged as u64);
        let published_to = acknowledged.checked_sub(1).map_or(batch.published_to, |last| rows[last].row);
        let published = count(acknowledged);
        let end = if produced.failed {
            TurnEnd::Again(later(now, PUBLISH_PAUSE))
        } else if acknowledged == rows.len() && is_last {
            TurnEnd::Done
        } else {
            TurnEnd::Again(next_turn(was_due, published, batch.made.rate_per_s, now))
        };
        self.end(batch, published_to, published, end).await
    }

    /// Reads the rows of the next turn while those of this one are published. What cannot
    /// be read now is read when its turn has come.
    async fn read_ahead(&self, batch: &BatchView, last: Option<&NextRow>, wanted: i64) {
        let Some(last) = last else { return };
        match self.store.next_rows(batch.id, last.row, wanted).await {
            Ok(rows) => self.ahead.put(batch.id, last.row, rows),
            Err(error) => warn!(%error, "the next rows of a batch could not be read ahead"),
        }
    }

    async fn end(
        &self,
        batch: &BatchView,
        published_to: i64,
        published: i64,
        end: TurnEnd,
    ) -> Result<TurnEnd, RecordError> {
        if !self.store.end_batch_turn(batch, published_to, published, end).await? {
            warn!(batch = %batch.id, "a turn at a batch lasted longer than its lease");
        }
        Ok(end)
    }
}

/// Rows of one turn.
fn share(rate_per_s: i32) -> i64 {
    (i64::from(rate_per_s) / TURNS_PER_S).clamp(1, TURN_ROWS_MAX)
}

fn count(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

/// When the next turn is: so many rows later at the rate, counted from when this one was
/// due. What was missed by more than a turn is not made up for by a burst.
fn next_turn(was_due: Timestamp, published: i64, rate_per_s: i32, now: Timestamp) -> Timestamp {
    let micros = published.saturating_mul(1_000_000) / i64::from(rate_per_s.max(1));
    let step = SignedDuration::from_micros(micros);
    let due = was_due.checked_add(step).unwrap_or(now);
    due.max(now.checked_sub(step).unwrap_or(now))
}

fn later(now: Timestamp, pause: Duration) -> Timestamp {
    now.checked_add(pause).unwrap_or(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_keep_the_rate_and_make_up_for_no_more_than_one() {
        let at = |ms: i64| Timestamp::from_millisecond(1_800_000_000_000 + ms).unwrap();
        assert_eq!([share(1), share(3), share(100), share(10_000)], [1, 1, 25, 2500]);
        assert_eq!(share(i32::MAX), TURN_ROWS_MAX);
        // Due at 0, done at 40 ms: the next one is due at 250 ms, not at 290.
        assert_eq!(next_turn(at(0), 25, 100, at(40)), at(250));
        assert_eq!(next_turn(at(0), 1, 1, at(40)), at(1000));
        // Late by ten seconds: one turn is made up for.
        assert_eq!(next_turn(at(0), 25, 100, at(10_000)), at(9_750));
    }
}

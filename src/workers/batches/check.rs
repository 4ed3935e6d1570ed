//! Checks of batches: does what was uploaded, published and became a notification add up?
//!
//! A check waits until the consumers have committed past everything that the publisher
//! had handed to the broker when it began; only then can a row without a notification be
//! said to be missing. It goes through the rows in pages, each in one statement with its
//! figures, so that one that was killed goes on where it was. What is missing can be
//! published again, under the same key: where the notification is only late, it is the
//! same one.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tracing::warn;

use super::produce::RowProducer;
use crate::config;
use crate::metrics;
use crate::record::batch_checks::{DueCheck, Page};
use crate::record::batches::BatchView;
use crate::record::{RecordError, Store};
use crate::topic::lag::{self, PartitionLag};
use crate::topic::names::NOTIFICATIONS_BULK;
use crate::workers::rounds::Worker;

/// Rows of one page.
const PAGE_ROWS: i64 = 5000;
/// Pause between looks at the topic, and after something was away.
const TOPIC_PAUSE: Duration = Duration::from_secs(1);
/// Pause between looks for checks.
const POLL: Duration = Duration::from_secs(1);
/// Longest time for one page or one look at the topic.
const LEASE: Duration = Duration::from_secs(60);

/// Goes through checks that were asked for; any number of processes may.
pub struct BatchChecker {
    /// The database.
    pub store: Store,
    /// Publishes what is missing.
    pub rows: Arc<RowProducer>,
    /// Brokers, and the prefix of the topics.
    pub kafka: config::Kafka,
}

impl Worker for BatchChecker {
    const NAME: &'static str = "checks of batches";

    async fn turn(&self) -> Result<Duration, RecordError> {
        let Some(check) = self.store.due_check(LEASE.saturating_add(self.rows.publish_timeout)).await? else {
            return Ok(POLL);
        };
        let Some(published_to) = check.published_to else {
            self.store.begin_check(check.batch.id).await?;
            return Ok(Duration::ZERO);
        };
        if !check.topic_passed {
            self.look_at_topic(&check).await?;
            return Ok(Duration::ZERO);
        }
        let page = self.store.check_page(check.batch.id, check.checked_to, published_to, PAGE_ROWS).await?;
        let Some(republished) = self.repair(&check, &page).await? else {
            self.store.put_off_check(check.batch.id, TOPIC_PAUSE).await?;
            return Ok(Duration::ZERO);
        };
        self.store.end_check_page(&check, &page, republished).await?;
        Ok(Duration::ZERO)
    }
}

impl BatchChecker {
    /// Notes where the topic ended when the check began, or whether it was read so far.
    async fn look_at_topic(&self, check: &DueCheck) -> Result<(), RecordError> {
        let id = check.batch.id;
        let Some(partitions) = self.partitions().await else {
            return self.store.put_off_check(id, TOPIC_PAUSE).await;
        };
        let Some(ends) = &check.ends else {
            let ends: Vec<i64> = partitions.iter().map(|one| one.high).collect();
            return self.store.note_ends(id, &ends).await;
        };
        if passed(&partitions, ends) {
            self.store.note_topic_passed(id).await
        } else {
            self.store.put_off_check(id, TOPIC_PAUSE).await
        }
    }

    /// The bulk topic's partitions in order; `None`: the brokers do not answer.
    async fn partitions(&self) -> Option<Vec<PartitionLag>> {
        let kafka = self.kafka.clone();
        let read = tokio::task::spawn_blocking(move || {
            let group = NOTIFICATIONS_BULK.full_group(&kafka.topic_prefix).unwrap_or_default();
            lag::read(&kafka, &group, &[NOTIFICATIONS_BULK.full_name(&kafka.topic_prefix)])
        });
        match read.await {
            Ok(Ok(mut partitions)) => {
                partitions.sort_by_key(|one| one.partition);
                Some(partitions)
            }
            Ok(Err(error)) => {
                metrics::unavailable("kafka");
                warn!(%error, "a check of a batch waits for the brokers");
                None
            }
            Err(error) => {
                warn!(%error, "a check of a batch waits: the look at the brokers ended early");
                None
            }
        }
    }

    /// Publishes again what a page misses, if that is wanted and the batch still may; how
    /// many. `None`: something is away.
    async fn repair(&self, check: &DueCheck, page: &Page) -> Result<Option<i64>, RecordError> {
        let now = Timestamp::now();
        if page.missing.is_empty() || !check.repair || !may_publish(&check.batch, now) {
            return Ok(Some(0));
        }
        let rows = self.store.rows_of(check.batch.id, &page.missing).await?;
        let produced = self.rows.produce(&check.batch, &rows, now, LEASE / 2).await;
        let whole = !produced.failed && produced.acknowledged == rows.len();
        Ok(whole.then(|| i64::try_from(rows.len()).unwrap_or(i64::MAX)))
    }
}

/// Nothing of a batch that is held back, cancelled or useless is published.
fn may_publish(batch: &BatchView, now: Timestamp) -> bool {
    use crate::domain::batch::BatchState::{Done, Running};
    matches!(batch.state, Running | Done)
        && !batch.expired
        && batch.made.expires_at.as_millisecond() > now.as_millisecond()
}

/// True when the group has committed everything before these ends, a partition each.
fn passed(partitions: &[PartitionLag], ends: &[i64]) -> bool {
    partitions.len() >= ends.len()
        && partitions.iter().zip(ends).all(|(one, &end)| one.committed.unwrap_or(0).max(one.low) >= end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topic_has_passed_when_every_partition_has() {
        let partition =
            |committed, low| PartitionLag { topic: "t".to_owned(), partition: 0, committed, low, high: 100 };
        assert!(passed(&[partition(Some(7), 0), partition(None, 0)], &[7, 0]));
        assert!(passed(&[partition(Some(7), 9)], &[9]), "what is deleted is not read any more");
        assert!(!passed(&[partition(Some(6), 0)], &[7]));
        assert!(!passed(&[partition(None, 0)], &[7]));
        assert!(!passed(&[], &[7]), "the brokers do not show it");
    }
}

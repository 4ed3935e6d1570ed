//! How much is due in each queue, and for how long the oldest has been.

use std::time::{Duration, Instant};

use super::error::RecordError;
use super::store::Store;
use crate::domain::{Channel, Urgency};
use crate::metrics;

/// Due rows that are counted of a queue, of deliveries a channel and an urgency: more are
/// said to be so many.
pub const COUNTED_MAX: i64 = 10_000;

/// A queue whose depth is told; each has an index on the time at which its rows are due.
struct Queue {
    name: &'static str,
    table: &'static str,
    /// When a row is due.
    due_at: &'static str,
    /// The column of the urgency, or of what stands in its place.
    urgency: &'static str,
}

/// Deliveries, a channel and an urgency as their index has them. What waits in `held` for
/// a pause, an embargo or quiet hours is not due, and neither is what a provider's outage put
/// off: more processes would not send it sooner.
const DELIVERIES: &str = "
SELECT 'deliveries' AS queue, urgencies.urgency, count(*) AS due,
       extract(epoch FROM now() - min(due.due_at))::float8 AS age_s
  FROM unnest($1::text[]) AS channels (channel)
 CROSS JOIN unnest($2::text[]) AS urgencies (urgency)
 CROSS JOIN LATERAL (
       SELECT d.due_at FROM delivery d
        WHERE d.channel = channels.channel AND d.urgency = urgencies.urgency AND d.due_at <= now()
        ORDER BY d.due_at LIMIT $3) AS due
 GROUP BY urgencies.urgency";

/// For a queue that knows no urgency.
const NONE: &str = "'none'::text";

/// The other queues.
const QUEUES: [Queue; 8] = [
    Queue { name: "escalations", table: "escalation", due_at: "look_at", urgency: NONE },
    Queue { name: "reminders", table: "appointment_reminder", due_at: "look_at", urgency: NONE },
    Queue { name: "batches", table: "batch", due_at: "look_at", urgency: NONE },
    Queue { name: "batch_checks", table: "batch_check", due_at: "look_at", urgency: NONE },
    Queue { name: "outbox", table: "outbox", due_at: "changed_at", urgency: NONE },
    Queue { name: "unmatched_updates", table: "unmatched_update", due_at: "next_look_at", urgency: NONE },
    Queue { name: "erasures", table: "erasure", due_at: "next_look_at", urgency: NONE },
    // Their kind stands in place of an urgency.
    Queue { name: "jobs", table: "job", due_at: "look_at", urgency: "kind" },
];

impl Queue {
    /// Reads as many entries of an index as are counted.
    fn statement(&self) -> String {
        let Self { name, table, due_at, urgency } = self;
        // The outbox is read in the order of its key, which is that of its times.
        let order = if *name == "outbox" { "outbox_id" } else { due_at };
        format!(
            "SELECT '{name}' AS queue, urgency, count(*) AS due,
                    extract(epoch FROM now() - min(due_at))::float8 AS age_s
               FROM (SELECT {urgency} AS urgency, {due_at} AS due_at FROM {table}
                      WHERE {due_at} <= now() ORDER BY {order} LIMIT {COUNTED_MAX}) AS due
              GROUP BY urgency"
        )
    }
}

/// Due rows of a queue and urgency.
#[derive(Debug, Clone, PartialEq)]
pub struct Depth {
    /// Which queue: a word of ours.
    pub queue: String,
    /// Of which urgency, of jobs of which kind; `none` where a queue knows none.
    pub urgency: String,
    /// How many, up to [`COUNTED_MAX`] a queue.
    pub due: i64,
    /// For how long the oldest has been due, by the database's clock.
    pub oldest: Duration,
}

impl Store {
    /// Queues in which something is due.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn depths(&self) -> Result<Vec<Depth>, RecordError> {
        let begun = Instant::now();
        let others = QUEUES.iter().map(Queue::statement);
        let text =
            std::iter::once(DELIVERIES.to_owned()).chain(others).collect::<Vec<_>>().join(" UNION ALL ");
        let channels: Vec<&str> = Channel::ALL.iter().map(|channel| channel.as_str()).collect();
        let urgencies: Vec<&str> = Urgency::ALL.iter().map(|urgency| urgency.as_str()).collect();
        let client = self.client().await?;
        let statement = client.prepare_cached(&text).await.map_err(RecordError::at("depths"))?;
        let rows = client
            .query(&statement, &[&channels, &urgencies, &COUNTED_MAX])
            .await
            .map_err(RecordError::at("depths"))?;
        metrics::statement("depths", rows.len(), begun.elapsed());
        rows.iter()
            .map(|row| {
                let age_s: f64 = row.try_get("age_s")?;
                Ok(Depth {
                    queue: row.try_get("queue")?,
                    urgency: row.try_get("urgency")?,
                    due: row.try_get("due")?,
                    oldest: Duration::try_from_secs_f64(age_s.max(0.0)).unwrap_or_default(),
                })
            })
            .collect()
    }
}

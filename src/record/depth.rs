//! How much is due in each queue, and for how long the oldest has been.

use std::time::{Duration, Instant};

use super::error::RecordError;
use super::store::Store;
use crate::metrics;

/// Due rows of one queue that are counted: more are said to be so many.
pub const COUNTED_MAX: i64 = 10_000;

/// A queue whose depth is told; each has an index on the time at which its rows are due.
struct Queue {
    name: &'static str,
    table: &'static str,
    /// When a row is due.
    due_at: &'static str,
    /// Which rows; it has to be the condition of the index.
    condition: &'static str,
    /// The column of the urgency; an expression without one for a queue that knows none.
    urgency: &'static str,
}

/// What waits in `held` for a pause, an embargo or quiet hours is not due, and neither is
/// what a provider's outage put off: more processes would not send it sooner.
const QUEUES: [Queue; 8] = [
    Queue {
        name: "deliveries",
        table: "delivery",
        due_at: "due_at",
        condition: "urgency <> 'bulk'",
        urgency: "urgency",
    },
    Queue {
        name: "deliveries",
        table: "delivery",
        due_at: "due_at",
        condition: "urgency = 'bulk'",
        urgency: "urgency",
    },
    Queue { name: "reminders", table: "appointment_reminder", due_at: "look_at", ..Queue::PLAIN },
    Queue { name: "batches", table: "batch", due_at: "look_at", ..Queue::PLAIN },
    Queue { name: "outbox", table: "outbox", due_at: "changed_at", ..Queue::PLAIN },
    Queue { name: "unmatched_updates", table: "unmatched_update", due_at: "next_look_at", ..Queue::PLAIN },
    Queue { name: "erasures", table: "erasure", due_at: "next_look_at", ..Queue::PLAIN },
    // Their kind stands in place of an urgency.
    Queue { name: "jobs", table: "job", due_at: "look_at", urgency: "kind", ..Queue::PLAIN },
];

impl Queue {
    const PLAIN: Self = Self { name: "", table: "", due_at: "", condition: "true", urgency: "'none'::text" };

    /// Reads as many entries of an index as are counted.
    fn statement(&self) -> String {
        let Self { name, table, due_at, condition, urgency } = self;
        // The outbox is read in the order of its key, which is that of its times.
        let order = if *name == "outbox" { "outbox_id" } else { due_at };
        format!(
            "SELECT '{name}' AS queue, urgency, count(*) AS due,
                    extract(epoch FROM now() - min(due_at))::float8 AS age_s
               FROM (SELECT {urgency} AS urgency, {due_at} AS due_at FROM {table}
                      WHERE {due_at} <= now() AND {condition} ORDER BY {order} LIMIT {COUNTED_MAX}) AS due
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
        let text = QUEUES.iter().map(Queue::statement).collect::<Vec<_>>().join(" UNION ALL ");
        let client = self.client().await?;
        let statement = client.prepare_cached(&text).await.map_err(RecordError::at("depths"))?;
        let rows = client.query(&statement, &[]).await.map_err(RecordError::at("depths"))?;
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

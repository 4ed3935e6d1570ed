//! What has stayed where it should have moved on long ago.

use super::error::RecordError;
use super::store::Store;
use crate::domain::{Channel, Urgency};

/// What is looked for, in the order of [`Store::stale_rows`].
pub const STALE: [&str; 6] = ["dispatching", "senders", "reminders", "batches", "erasures", "updates"];

/// Rows of a kind are counted up to here: more says no more.
pub const STALE_COUNTED_MAX: i64 = 10_000;

// A lease or a due time that is over by ten minutes: nobody works on that queue. A
// sender reports every few seconds, and is forgotten after an hour. Deliveries are looked
// for a channel and an urgency, as their index has them.
const COUNT: &str = "
SELECT (SELECT count(*) FROM (
        SELECT FROM unnest($2::text[]) AS channels (channel)
         CROSS JOIN unnest($3::text[]) AS urgencies (urgency)
         CROSS JOIN LATERAL (
               SELECT FROM delivery d
                WHERE d.channel = channels.channel AND d.urgency = urgencies.urgency
                  AND d.due_at < now() - interval '10 minutes' AND d.state = 'dispatching' LIMIT $1) AS left_behind
         LIMIT $1) AS counted),
       (SELECT count(*) FROM (SELECT FROM sender WHERE seen_at < now() - interval '1 minute' LIMIT $1) s),
       (SELECT count(*) FROM (SELECT FROM appointment_reminder
         WHERE look_at < now() - interval '10 minutes' LIMIT $1) r),
       (SELECT count(*) FROM (SELECT FROM batch WHERE look_at < now() - interval '10 minutes' LIMIT $1) b),
       (SELECT count(*) FROM (SELECT FROM erasure WHERE next_look_at < now() - interval '10 minutes' LIMIT $1) e),
       (SELECT count(*) FROM (SELECT FROM unmatched_update
         WHERE next_look_at < now() - interval '10 minutes' LIMIT $1) u)";

impl Store {
    /// How many rows of each kind of [`STALE`] are overdue, each at most
    /// [`STALE_COUNTED_MAX`].
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn stale_rows(&self) -> Result<[u64; STALE.len()], RecordError> {
        let client = self.client().await?;
        let channels: Vec<&str> = Channel::ALL.iter().map(|channel| channel.as_str()).collect();
        let urgencies: Vec<&str> = Urgency::ALL.iter().map(|urgency| urgency.as_str()).collect();
        let row = client
            .query_one(COUNT, &[&STALE_COUNTED_MAX, &channels, &urgencies])
            .await
            .map_err(RecordError::at("stale_rows"))?;
        let mut counts = [0; STALE.len()];
        for (index, count) in counts.iter_mut().enumerate() {
            *count = u64::try_from(row.try_get::<_, i64>(index)?).unwrap_or(0);
        }
        Ok(counts)
    }
}

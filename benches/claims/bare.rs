//! A queue on the same rows with nothing around it.

use std::time::{Duration, Instant};

use deadpool_postgres::Object;
use tokio::task::JoinSet;

use crate::rows::Table;

/// How it takes rows out.
#[derive(Clone, Copy)]
pub enum Loop {
    /// Claimed and deleted by one statement.
    AtOnce,
    /// Claimed for a lease by one statement, deleted by another one: who sends in between
    /// must not keep a transaction open for as long.
    Leased,
    /// As [`Loop::Leased`], and in place of the deletion it writes what the worker writes: the
    /// outcome, the notification's state, a line of the why-log and a status change.
    Written,
}

/// A batch of any channel and urgency, in the order of the index that the worker claims by.
macro_rules! oldest {
    () => {
        "ARRAY(SELECT delivery_id FROM delivery
                WHERE channel = $1 AND urgency = $2 AND due_at <= now()
                ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED)"
    };
}
const DELETE: &str = concat!("DELETE FROM delivery WHERE delivery_id = ANY(", oldest!(), ") RETURNING *");
const CLAIM: &str = concat!(
    "UPDATE delivery SET state = 'dispatching', owner = $4::uuid, epoch = epoch + 1,
            due_at = now() + interval '1 hour'
      WHERE delivery_id = ANY(",
    oldest!(),
    ") RETURNING *"
);
const DELETE_CLAIMED: &str = "DELETE FROM delivery WHERE delivery_id = ANY($1::uuid[]) AND owner = $2::uuid";

const WRITE_CLAIMED: &str = "
WITH done AS (
    UPDATE delivery SET state = 'sent', owner = NULL, due_at = NULL, sent_at = now(), updated_at = now()
     WHERE delivery_id = ANY($1::uuid[]) AND owner = $2::uuid
    RETURNING notification_id, channel
), moved AS (
    UPDATE notification n SET state = 'sent', sequence = n.sequence + 1, updated_at = now()
      FROM done WHERE n.notification_id = done.notification_id
    RETURNING n.*, done.channel
), explained AS (
    INSERT INTO why (notification_id, step, state, reason, channel)
    SELECT notification_id, 'deliver', 'sent', 'none', channel FROM done
)
INSERT INTO outbox (notification_id, patient_id, recipient_id, purpose, sequence, state, reason, channel)
SELECT notification_id, patient_id, recipient_id, purpose, sequence, state, reason, channel FROM moved";

const CHANNELS: [&str; 3] = ["sms", "email", "push"];
const URGENCIES: [&str; 4] = ["critical", "high", "normal", "bulk"];

/// Leaves nothing due, by loops side by side, one a connection; the time that it takes.
pub async fn run(table: &Table, how: Loop, connections: usize, batch: usize) -> anyhow::Result<Duration> {
    let batch = i64::try_from(batch)?;
    let mut clients = Vec::new();
    for _ in 0..connections {
        clients.push(table.pool.get().await?);
    }
    let begun = Instant::now();
    let mut loops = JoinSet::new();
    for client in clients {
        loops.spawn(empty(client, how, batch));
    }
    while let Some(ended) = loops.join_next().await {
        ended??;
    }
    let elapsed = begun.elapsed();
    let left = table.count("delivery WHERE due_at IS NOT NULL").await?;
    anyhow::ensure!(left == 0, "the bare loop left {left} rows");
    Ok(elapsed)
}

async fn empty(client: Object, how: Loop, batch: i64) -> anyhow::Result<()> {
    let owner = uuid::Uuid::new_v4();
    let end = if matches!(how, Loop::Written) { WRITE_CLAIMED } else { DELETE_CLAIMED };
    for urgency in URGENCIES {
        for channel in CHANNELS {
            loop {
                let taken = match how {
                    Loop::AtOnce => {
                        let delete = client.prepare_cached(DELETE).await?;
                        client.query(&delete, &[&channel, &urgency, &batch]).await?.len()
                    }
                    Loop::Leased | Loop::Written => {
                        let claim = client.prepare_cached(CLAIM).await?;
                        let rows = client.query(&claim, &[&channel, &urgency, &batch, &owner]).await?;
                        let ids: Vec<uuid::Uuid> =
                            rows.iter().map(|row| row.try_get("delivery_id")).collect::<Result<_, _>>()?;
                        let end = client.prepare_cached(end).await?;
                        client.execute(&end, &[&ids, &owner]).await?;
                        ids.len()
                    }
                };
                if taken == 0 {
                    break;
                }
            }
        }
    }
    Ok(())
}

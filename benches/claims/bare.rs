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

const CHANNELS: [&str; 3] = ["sms", "email", "push"];
const URGENCIES: [&str; 4] = ["critical", "high", "normal", "bulk"];

/// Empties the table by loops side by side, one a connection; the time that it takes.
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
    anyhow::ensure!(table.count("delivery").await? == 0, "the bare loop left rows");
    Ok(elapsed)
}

async fn empty(client: Object, how: Loop, batch: i64) -> anyhow::Result<()> {
    let owner = uuid::Uuid::new_v4();
    for urgency in URGENCIES {
        for channel in CHANNELS {
            loop {
                let taken = match how {
                    Loop::AtOnce => {
                        let delete = client.prepare_cached(DELETE).await?;
                        client.query(&delete, &[&channel, &urgency, &batch]).await?.len()
                    }
                    Loop::Leased => {
                        let claim = client.prepare_cached(CLAIM).await?;
                        let rows = client.query(&claim, &[&channel, &urgency, &batch, &owner]).await?;
                        let ids: Vec<uuid::Uuid> =
                            rows.iter().map(|row| row.try_get("delivery_id")).collect::<Result<_, _>>()?;
                        let delete = client.prepare_cached(DELETE_CLAIMED).await?;
                        client.execute(&delete, &[&ids, &owner]).await?;
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

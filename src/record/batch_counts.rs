//! What became of a batch's messages. Counting reads a hundred thousand index entries,
//! so that what was counted a moment ago is told again.

use deadpool_postgres::{GenericClient, Pool};
use jiff::Timestamp;
use tokio_postgres::Row;

use super::error::RecordError;
use crate::domain::{BatchId, State};

/// Messages whose states are counted for one answer, at most.
pub const ENDED_MAX: i64 = 50_000;
/// Up to so many are counted for each answer.
const SMALL: i64 = 1000;

/// What became of messages.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ended {
    /// How many are in which state.
    pub states: Vec<(State, i64)>,
    /// True: the numbers are scaled from [`ENDED_MAX`] messages.
    pub estimated: bool,
    /// When they were counted; `None`: nothing was published yet, or somebody counts for
    /// the first time right now.
    pub counted_at: Option<Timestamp>,
}

// Evenly spread row numbers, each found by its key: an answer costs the same for any
// size of a batch.
const COUNT: &str = "
SELECT n.state, count(*)
  FROM generate_series(1::bigint, $2::bigint, $3::bigint) AS looked(row_no)
  JOIN batch_recipient b ON b.batch_id = $1 AND b.row_no = looked.row_no
  JOIN notification n USING (notification_id)
 GROUP BY n.state ORDER BY n.state";

const KNOWN: &str = "
SELECT counted_at, estimated, states, counts, counted_at > now() - interval '10 seconds' AS fresh
  FROM batch_count WHERE batch_id = $1";

// One counts at a time, over all replicas; the others tell what is known.
const TURN: &str = "SELECT pg_try_advisory_xact_lock(hashtextextended('batch_count:' || $1, 0))";

const KEEP: &str = "
INSERT INTO batch_count (batch_id, counted_at, estimated, states, counts) VALUES ($1, now(), $2, $3, $4)
ON CONFLICT (batch_id) DO UPDATE
SET counted_at = excluded.counted_at, estimated = excluded.estimated, states = excluded.states,
    counts = excluded.counts
RETURNING counted_at";

/// What became of the messages up to a row, by state, at most some seconds ago.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn ended(pool: &Pool, id: BatchId, published_to: i64) -> Result<Ended, RecordError> {
    let at = RecordError::at("batch_ended");
    if published_to <= 0 {
        return Ok(Ended::default());
    }
    let mut client = pool.get().await?;
    if published_to <= SMALL {
        let (states, estimated) = count(&client, id, published_to).await?;
        return Ok(Ended { states, estimated, counted_at: Some(Timestamp::now()) });
    }
    let statement = client.prepare_cached(KNOWN).await.map_err(&at)?;
    let row = client.query_opt(&statement, &[&id.0]).await.map_err(&at)?;
    let (known, fresh) = match &row {
        Some(row) => (of_row(row)?, row.get("fresh")),
        None => (Ended::default(), false),
    };
    if fresh {
        return Ok(known);
    }
    let transaction = client.transaction().await.map_err(&at)?;
    let statement = transaction.prepare_cached(TURN).await.map_err(&at)?;
    if !transaction.query_one(&statement, &[&id.to_string()]).await.map_err(&at)?.get::<_, bool>(0) {
        return Ok(known);
    }
    let (states, estimated) = count(&transaction, id, published_to).await?;
    let words: Vec<&str> = states.iter().map(|(state, _)| state.as_str()).collect();
    let counts: Vec<i64> = states.iter().map(|(_, count)| *count).collect();
    let statement = transaction.prepare_cached(KEEP).await.map_err(&at)?;
    let row = transaction.query_one(&statement, &[&id.0, &estimated, &words, &counts]).await.map_err(&at)?;
    transaction.commit().await.map_err(&at)?;
    Ok(Ended { states, estimated, counted_at: Some(row.get(0)) })
}

async fn count(
    client: &impl GenericClient,
    id: BatchId,
    published_to: i64,
) -> Result<(Vec<(State, i64)>, bool), RecordError> {
    let at = RecordError::at("batch_ended");
    let step = (published_to - 1) / ENDED_MAX + 1;
    let statement = client.prepare_cached(COUNT).await.map_err(&at)?;
    let rows = client.query(&statement, &[&id.0, &published_to, &step]).await.map_err(&at)?;
    let counts = rows.iter().map(|row| Ok((word(row.get(0))?, row.get::<_, i64>(1) * step)));
    Ok((counts.collect::<Result<_, RecordError>>()?, step > 1))
}

fn of_row(row: &Row) -> Result<Ended, RecordError> {
    let (states, counts): (Vec<&str>, Vec<i64>) = (row.get("states"), row.get("counts"));
    let states = states.into_iter().zip(counts).map(|(state, count)| Ok((word(state)?, count)));
    Ok(Ended {
        states: states.collect::<Result<_, RecordError>>()?,
        estimated: row.get("estimated"),
        counted_at: Some(row.get("counted_at")),
    })
}

fn word(state: &str) -> Result<State, RecordError> {
    State::parse(state).ok_or_else(|| RecordError::bug("a count of a batch has an unknown state"))
}

//! How much callers have asked for a day, over all replicas.

use deadpool_postgres::Pool;
use jiff::civil::Date;

use super::error::RecordError;

/// In the order of the keys, so that replicas do not lock in a circle.
const ADD: &str = "
INSERT INTO caller_quota AS q (day, caller, notifications)
SELECT day, caller, notifications
  FROM unnest($1::date[], $2::text[], $3::bigint[]) AS i (day, caller, notifications)
 ORDER BY day, caller
    ON CONFLICT (day, caller) DO UPDATE SET notifications = q.notifications + excluded.notifications
RETURNING day, caller, notifications";

const FORGET: &str = "DELETE FROM caller_quota WHERE day < $1";

/// What a caller has asked for on a day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The day, UTC.
    pub day: Date,
    /// The caller's name.
    pub caller: String,
    /// How many notifications; of what is added also less than none, when some were
    /// given back.
    pub notifications: i64,
}

/// Adds what was counted here, one entry a day and caller, and gives what all
/// replicas have counted together.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn add(pool: &Pool, counted: &[Asked]) -> Result<Vec<Asked>, RecordError> {
    let client = pool.get().await?;
    let statement = client.prepare_cached(ADD).await.map_err(RecordError::at("quota_add"))?;
    let days: Vec<Date> = counted.iter().map(|one| one.day).collect();
    let callers: Vec<&str> = counted.iter().map(|one| one.caller.as_str()).collect();
    let notifications: Vec<i64> = counted.iter().map(|one| one.notifications).collect();
    let rows = client
        .query(&statement, &[&days, &callers, &notifications])
        .await
        .map_err(RecordError::at("quota_add"))?;
    rows.iter()
        .map(|row| {
            Ok(Asked {
                day: row.try_get("day")?,
                caller: row.try_get("caller")?,
                notifications: row.try_get("notifications")?,
            })
        })
        .collect()
}

/// Forgets what lies before a day.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn forget(pool: &Pool, before: Date) -> Result<u64, RecordError> {
    let client = pool.get().await?;
    let statement = client.prepare_cached(FORGET).await.map_err(RecordError::at("quota_forget"))?;
    client.execute(&statement, &[&before]).await.map_err(RecordError::at("quota_forget"))
}

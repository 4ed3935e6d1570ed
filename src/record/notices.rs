//! Notices of appointments leave in the order of the changes that they tell of.

use deadpool_postgres::Pool;

use super::error::RecordError;

const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('notice:' || $1, 0))";

const NEWEST: &str = "SELECT notice_version FROM appointment WHERE appointment_id = $1";

/// Does something while no later change of an appointment can be told of: notices leave
/// in the order of their versions, also at two replicas. `None`: there is a later one,
/// and nothing was done. It holds a connection meanwhile.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn while_newest<T>(
    pool: &Pool,
    appointment_id: &str,
    notice_version: i64,
    tell: impl Future<Output = T> + Send,
) -> Result<Option<T>, RecordError> {
    let at = RecordError::at("appointment_notice");
    let mut client = pool.get().await?;
    let transaction = client.transaction().await.map_err(&at)?;
    let lock = transaction.prepare_cached(LOCK).await.map_err(&at)?;
    transaction.execute(&lock, &[&appointment_id]).await.map_err(&at)?;
    let statement = transaction.prepare_cached(NEWEST).await.map_err(&at)?;
    let row = transaction.query_opt(&statement, &[&appointment_id]).await.map_err(&at)?;
    let newest = row.is_some_and(|row| row.get::<_, i64>(0) == notice_version);
    let told = if newest { Some(tell.await) } else { None };
    transaction.commit().await.map_err(&at)?;
    Ok(told)
}

//! What the database says of itself when somebody asks whether we can work with it.

use jiff::Timestamp;

use super::error::RecordError;
use super::store::Store;

/// Tables of ours on which this user lacks one of the four rights. `refinery`'s own is
/// read only by whoever does not migrate.
const DIAGNOSE: &str = "
SELECT current_setting('server_version') AS version, pg_is_in_recovery() AS standby,
       (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS now_ms,
       ARRAY(SELECT c.relname::text FROM pg_class c
              WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p')
                AND c.relname <> 'refinery_schema_history'
                AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
                         AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'))
              ORDER BY c.relname) AS denied";

/// What there is to know of the database before any work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    /// PostgreSQL's version, for example `18.6`.
    pub version: String,
    /// It is a standby: nothing can be written.
    pub standby: bool,
    /// Its clock less ours, in milliseconds, give or take `answered_ms`.
    pub clock_ahead_ms: i64,
    /// How long it took to answer, in milliseconds.
    pub answered_ms: i64,
    /// Tables on which this user may not do everything.
    pub denied: Vec<String>,
}

impl Store {
    /// Asks the database about itself; changes nothing.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn diagnose(&self) -> Result<Diagnosis, RecordError> {
        let at = RecordError::at("diagnose");
        let client = self.client().await?;
        let asked = Timestamp::now();
        let row = client.query_one(DIAGNOSE, &[]).await.map_err(at)?;
        let answered_ms = Timestamp::now().as_millisecond() - asked.as_millisecond();
        let now_ms: i64 = row.get("now_ms");
        Ok(Diagnosis {
            version: row.get("version"),
            standby: row.get("standby"),
            clock_ahead_ms: now_ms - (asked.as_millisecond() + answered_ms / 2),
            answered_ms,
            denied: row.get("denied"),
        })
    }
}

//! The schema: migrations that are part of the program, applied under a lock.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use tokio_postgres::{Client, NoTls};

use super::error::RecordError;
use super::pool::driver_config;
use crate::config;

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// Key of the advisory lock that lets one process migrate at a time ("patnotif").
const LOCK_KEY: i64 = 0x7061_746e_6f74_6966;
/// How long a process waits for another one's migration.
const LOCK_WAIT: Duration = Duration::from_secs(300);
/// Longest wait of a migration's statement for a table's lock: traffic queues up
/// behind such a wait, so it is short, and the migration can be repeated.
const TABLE_LOCK_WAIT: Duration = Duration::from_secs(10);

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Migrations that this run applied, for example `V2__notifications`.
    pub applied: Vec<String>,
    /// Version of the schema now.
    pub version: i32,
}

/// How the database's schema relates to this program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Migrations of this program that the database lacks; empty: the schema is current.
    pub missing: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.applied.as_slice() {
            [] => write!(f, "the schema is current (version {})", self.version),
            applied => write!(f, "applied {}; the schema is at version {}", applied.join(", "), self.version),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.missing.as_slice() {
            [] => f.write_str("the schema is current"),
            missing => write!(f, "the database lacks {}", missing.join(", ")),
        }
    }
}

impl Status {
    /// True when this program can run on the schema. A newer schema is fine:
    /// migrations expand first and contract only when no program needs the old form.
    #[must_use]
    pub const fn is_current(&self) -> bool {
        self.missing.is_empty()
    }
}

/// Applies what is missing. Several processes may run it at once: one does the
/// work, the others wait for it (at most five minutes) and find nothing to do.
///
/// # Errors
/// `Unavailable` when the database is away or the lock was not to be had; `Bug` when
/// a migration fails or one that was applied has been changed since.
pub async fn run(config: &config::Postgres) -> Result<Report, RecordError> {
    let mut client = connect(config).await?;
    client
        .batch_execute(&format!(
            "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0; \
             SET lock_timeout = {}; SELECT pg_advisory_lock({LOCK_KEY}); SET lock_timeout = {}",
            LOCK_WAIT.as_millis(),
            TABLE_LOCK_WAIT.as_millis()
        ))
        .await
        .map_err(RecordError::at("migration_lock"))?;
    // The lock ends with the connection, whatever happens from here on.
    let report = embedded::migrations::runner()
        // An older program must not fail on a newer schema.
        .set_abort_missing(false)
        .run_async(&mut client)
        .await
        .map_err(from_refinery)?;
    let version = embedded::migrations::runner()
        .get_last_applied_migration_async(&mut client)
        .await
        .map_err(from_refinery)?
        .map_or(0, |last| last.version());
    Ok(Report { applied: report.applied_migrations().iter().map(ToString::to_string).collect(), version })
}

/// Looks whether the schema has everything that this program needs; changes nothing.
///
/// # Errors
/// `Unavailable` when the database is away.
pub async fn check(config: &config::Postgres) -> Result<Status, RecordError> {
    let client = connect(config).await?;
    let known: bool = client
        .query_one("SELECT to_regclass('refinery_schema_history') IS NOT NULL", &[])
        .await
        .map_err(RecordError::at("migration_check"))?
        .get(0);
    let applied: BTreeSet<i32> = if known {
        client
            .query("SELECT version FROM refinery_schema_history", &[])
            .await
            .map_err(RecordError::at("migration_check"))?
            .iter()
            .map(|row| row.get(0))
            .collect()
    } else {
        BTreeSet::new()
    };
    // They are embedded by name, V10 before V2; they run by number, and are told so.
    let runner = embedded::migrations::runner();
    let mut missing: Vec<_> =
        runner.get_migrations().iter().filter(|migration| !applied.contains(&migration.version())).collect();
    missing.sort_by_key(|migration| migration.version());
    Ok(Status { missing: missing.into_iter().map(ToString::to_string).collect() })
}

/// One connection outside of the pool; it closes when the client is dropped.
async fn connect(config: &config::Postgres) -> Result<Client, RecordError> {
    let (client, connection) = driver_config(config)?.connect(NoTls).await?;
    // Its error reaches the client's pending call as "connection closed".
    tokio::spawn(connection);
    Ok(client)
}

/// The migrations are ours and hold no patient's data, so the server's sentence may
/// be shown; without it a faulty migration could not be mended.
fn from_refinery(error: refinery::Error) -> RecordError {
    if let refinery::error::Kind::Connection(_, source) = error.kind()
        && let Some(driver) = source.downcast_ref::<tokio_postgres::Error>()
    {
        let lost = driver.is_closed() || driver.as_db_error().is_none();
        let sentence = driver.as_db_error().map_or_else(|| driver.to_string(), |db| db.message().to_owned());
        let what = format!("migration failed: {sentence}");
        return if lost { RecordError::unavailable(what) } else { RecordError::bug(what) };
    }
    RecordError::bug(format!("migration failed: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_embedded_one_by_one_without_a_gap() {
        // One below what a database has is never applied to it.
        let runner = embedded::migrations::runner();
        let mut versions: Vec<i32> =
            runner.get_migrations().iter().map(refinery::Migration::version).collect();
        versions.sort_unstable();
        let wanted: Vec<i32> = (1..).take(versions.len()).collect();
        assert!(!versions.is_empty());
        assert_eq!(versions, wanted);
    }
}

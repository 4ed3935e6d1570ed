//! What can go wrong at the database, told apart by what to do about it.
//!
//! The server's own words are kept out: its messages and DETAIL lines quote values
//! of parameters, and those may be health information. What is kept is what an
//! operator needs: which statement, the SQLSTATE and the name of the constraint,
//! table or column.

use std::error::Error as _;
use std::fmt;

use deadpool_postgres::PoolError;
use deadpool_postgres::TimeoutType;
use tokio_postgres::error::{DbError, SqlState};

/// A database call that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The database cannot be used right now: nothing is wrong with the call, the
    /// same call may succeed later. Offsets stay, callers are asked to come back.
    #[error("database is unavailable: {0}")]
    Unavailable(Failure),
    /// The statement, its parameters or the schema are wrong; repeating is useless.
    #[error("database refused a statement, which is a bug or a missing migration: {0}")]
    Bug(Failure),
}

/// Where and how a database call failed, in words that are safe to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The statement's name, where it is known.
    pub statement: Option<&'static str>,
    /// SQLSTATE, where the server answered.
    pub sqlstate: Option<String>,
    /// Our words.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(state) = &self.sqlstate {
            write!(f, " (SQLSTATE {state})")?;
        }
        if let Some(statement) = self.statement {
            write!(f, ", in statement {statement}")?;
        }
        Ok(())
    }
}

impl RecordError {
    /// The database cannot be used right now.
    #[must_use]
    pub fn unavailable(what: impl Into<String>) -> Self {
        Self::Unavailable(Failure {
            statement: None,
            sqlstate: None,
            what: what.into(),
        })
    }

    /// A broken invariant: a row that should not be, a word that nobody knows.
    #[must_use]
    pub fn bug(what: impl Into<String>) -> Self {
        Self::Bug(Failure {
            statement: None,
            sqlstate: None,
            what: what.into(),
        })
    }

    /// Converts a driver's error and names the statement:
    /// `client.execute(…).await.map_err(RecordError::at("claim"))?`.
    pub fn at(statement: &'static str) -> impl Fn(tokio_postgres::Error) -> Self {
        move |error| Self::from(error).in_statement(statement)
    }

    /// Names the statement in which it happened.
    #[must_use]
    pub fn in_statement(mut self, statement: &'static str) -> Self {
        let (Self::Unavailable(failure) | Self::Bug(failure)) = &mut self;
        failure.statement = Some(statement);
        self
    }

    /// True when the same call may succeed later.
    #[must_use]
    pub const fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl From<tokio_postgres::Error> for RecordError {
    fn from(error: tokio_postgres::Error) -> Self {
        if let Some(db) = error.as_db_error() {
            return from_server(db);
        }
        let io = error
            .source()
            .and_then(|source| source.downcast_ref::<std::io::Error>());
        // The driver's own sentence names positions and columns, never values; its
        // source may quote a value, unless it comes from the operating system.
        let what = match io {
            Some(io) => format!("{error}: {}", io.kind()),
            None => error.to_string(),
        };
        let failure = Failure {
            statement: None,
            sqlstate: None,
            what,
        };
        if error.is_closed() || io.is_some() || is_connection_trouble(&failure.what) {
            Self::Unavailable(failure)
        } else {
            Self::Bug(failure)
        }
    }
}

/// The driver keeps its kinds to itself; these sentences are the kinds that have
/// neither an I/O error inside nor the closed flag (a test holds on to them).
fn is_connection_trouble(sentence: &str) -> bool {
    [
        "error connecting to server",
        "timeout waiting for server",
        "error performing TLS handshake",
        "authentication error",
    ]
    .iter()
    .any(|known| sentence.starts_with(known))
}

impl From<PoolError> for RecordError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Timeout(kind) => Self::unavailable(match kind {
                TimeoutType::Wait => "no connection became free within postgres.pool_wait_timeout_ms",
                TimeoutType::Create => "no answer within postgres.connect_timeout_ms",
                TimeoutType::Recycle => "a pooled connection did not answer",
            }),
            PoolError::Backend(error) => Self::from(error),
            PoolError::Closed => Self::unavailable("the connection pool is closed"),
            PoolError::NoRuntimeSpecified => Self::bug("the connection pool was built without a runtime"),
            PoolError::PostCreateHook(_) => Self::bug("a connection's set-up step failed"),
        }
    }
}

/// The server's verdict.
fn from_server(error: &DbError) -> RecordError {
    let state = error.code();
    let mut what = match sentence(state) {
        Some(known) => known.to_owned(),
        None => format!(
            "PostgreSQL reports {}",
            error
                .parsed_severity()
                .map_or_else(|| "an error".to_owned(), |s| s.to_string())
        ),
    };
    for (kind, name) in [
        ("constraint", error.constraint()),
        ("table", error.table()),
        ("column", error.column()),
    ] {
        if let Some(name) = name {
            what.push_str(&format!(", {kind} {name}"));
        }
    }
    let failure = Failure {
        statement: None,
        sqlstate: Some(state.code().to_owned()),
        what,
    };
    if is_passing(state) {
        RecordError::Unavailable(failure)
    } else {
        RecordError::Bug(failure)
    }
}

/// What an operator should read for the states that are met in practice.
fn sentence(state: &SqlState) -> Option<&'static str> {
    Some(match *state {
        SqlState::ADMIN_SHUTDOWN => "the server is shutting down",
        SqlState::CRASH_SHUTDOWN => "the server is recovering from a crash",
        SqlState::CANNOT_CONNECT_NOW => "the server does not accept connections yet",
        SqlState::QUERY_CANCELED => {
            "the statement was cancelled, most likely by postgres.statement_timeout_ms"
        }
        SqlState::LOCK_NOT_AVAILABLE => "a lock was not to be had in time",
        SqlState::T_R_DEADLOCK_DETECTED => "deadlock with another statement",
        SqlState::TOO_MANY_CONNECTIONS => "the server has no connection left",
        SqlState::DISK_FULL => "the server's disk is full",
        SqlState::READ_ONLY_SQL_TRANSACTION => "the server is a read-only replica",
        SqlState::INVALID_PASSWORD | SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            "user or password in postgres.url was refused"
        }
        SqlState::INVALID_CATALOG_NAME => "the database in postgres.url does not exist",
        SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_COLUMN => {
            "the schema lacks something: run `patient-notify migrate`"
        }
        SqlState::INSUFFICIENT_PRIVILEGE => "the user in postgres.url lacks a privilege",
        _ => return None,
    })
}

/// True for states that pass without a change of ours: connection (08), refused
/// credentials while they are rotated (28), missing database (3D), rollback by
/// serialization or deadlock (40), resources (53), locks (55P03), operator
/// intervention and time-outs (57), system (58), a replica after a fail-over (25006),
/// a transaction that the server ended (25P03, 25P04).
fn is_passing(state: &SqlState) -> bool {
    let code = state.code();
    matches!(
        code.get(..2),
        Some("08" | "28" | "3D" | "40" | "53" | "57" | "58")
    ) || matches!(code, "25006" | "25P03" | "25P04" | "55P03")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shutdown_timeout_and_full_disk_pass_and_constraints_do_not() {
        for passing in [
            "57P01", "57P02", "57P03", "57014", "53100", "53300", "08006", "40P01", "25006",
        ] {
            assert!(is_passing(&SqlState::from_code(passing)), "{passing}");
        }
        for lasting in ["23505", "23503", "42601", "42P01", "22P02", "0A000", "25P02"] {
            assert!(!is_passing(&SqlState::from_code(lasting)), "{lasting}");
        }
    }

    #[tokio::test]
    async fn a_refused_connection_is_unavailable() {
        let refused = tokio_postgres::connect("host=127.0.0.1 port=1 user=x", tokio_postgres::NoTls).await;
        let error = RecordError::from(refused.err().unwrap());
        assert!(error.is_unavailable(), "{error}");
    }

    #[test]
    fn the_sentence_names_statement_and_state() {
        let error = RecordError::Bug(Failure {
            statement: Some("claim"),
            sqlstate: Some("23505".to_owned()),
            what: "PostgreSQL reports ERROR, constraint notification_pkey".to_owned(),
        });
        assert_eq!(
            error.to_string(),
            "database refused a statement, which is a bug or a missing migration: PostgreSQL reports ERROR, \
             constraint notification_pkey (SQLSTATE 23505), in statement claim"
        );
    }

    #[test]
    fn a_pool_timeout_is_unavailable() {
        assert!(RecordError::from(PoolError::Timeout(TimeoutType::Wait)).is_unavailable());
    }
}

//! What can go wrong between `make deps` and three running servers.

#![allow(missing_docs, reason = "the fields are the words of the texts beside them")]

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;

use super::process::Server;

/// Why the development stack does not run; each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StackError {
    /// A server's files are not in the tools folder.
    #[error("{what} is not installed in {}; run `make deps`", .folder.display())]
    NotInstalled { what: String, folder: PathBuf },

    /// Someone listens where a server has to.
    #[error("{}", TakenPorts(.0))]
    PortsTaken(Vec<TakenPort>),

    /// The base leaves no room for the highest port.
    #[error("port base {base} is too high: choose one of 1024 to {max} (PORT_BASE=…)")]
    PortBase { base: u16, max: u16 },

    /// No free ports were found.
    #[error("found no free ports on 127.0.0.1 after {tries} tries; stop some servers and try again")]
    NoFreePorts { tries: usize },

    /// The data folder holds something that the stack has not written.
    #[error(
        "{} is not empty and was not made by this program, so it is left alone; \
         choose another folder (DATA_DIR=…) or empty it yourself",
        .0.display()
    )]
    ForeignFolder(PathBuf),

    /// Another stack uses the data folder.
    #[error("another stack is running on {}; stop it, or choose another folder (DATA_DIR=…)", .0.display())]
    FolderInUse(PathBuf),

    /// PostgreSQL's user cannot reach a folder.
    #[error(
        "PostgreSQL must not run as root, and the user it runs as ({user}) cannot enter {}; \
         choose another folder (DATA_DIR=… or PATIENT_NOTIFY_TOOLS_DIR=…)",
        .folder.display()
    )]
    Unreachable { folder: PathBuf, user: &'static str },

    /// A file, folder or process could not be used.
    #[error("cannot {action} {}", .path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },

    /// A server ended by itself.
    #[error("{server} ended by itself ({status}); the end of {}:\n{tail}", .log.display())]
    Exited { server: Server, status: ExitStatus, log: PathBuf, tail: String },

    /// A server did not answer in time.
    #[error("{server} was not ready after {timeout_s} s; the end of {}:\n{tail}", .log.display())]
    NotReady { server: Server, timeout_s: u64, log: PathBuf, tail: String },

    /// The new PostgreSQL refused what it was told.
    #[error("PostgreSQL could not be set up")]
    Postgres(#[from] tokio_postgres::Error),

    /// The new registry refused what it was told.
    #[error("the schema registry could not be set up")]
    Registry(#[from] reqwest::Error),

    /// The server cannot be suspended in a way that leaves nothing behind.
    #[error("{0} cannot be suspended: its worker processes would outlive a killed test; stop it instead")]
    NotSuspendable(Server),

    /// The server was stopped before.
    #[error("{0} is not running")]
    NotRunning(Server),
}

impl StackError {
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

/// A port that a server wants and cannot have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakenPort {
    pub port: u16,
    /// Which server wants it, and for what.
    pub wanted_by: &'static str,
}

struct TakenPorts<'a>(&'a [TakenPort]);

impl fmt::Display for TakenPorts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0.len() == 1 { "a port that is" } else { "ports that are" };
        writeln!(f, "the stack needs {plural} taken on 127.0.0.1:")?;
        for taken in self.0 {
            writeln!(f, "  {:>5}  {}", taken.port, taken.wanted_by)?;
        }
        write!(
            f,
            "stop what listens there (`ss -ltnp` names it), or choose other ports with \
             PORT_BASE=… (--port-base …)"
        )
    }
}

//! Why an attempt of a job came to its end early.

use crate::record::RecordError;
use crate::topic::dlq::DlqError;

/// Why an attempt came to its end early. The words are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Fault {
    /// The job is another process's by now, or was called off.
    #[error("the job is not ours any more")]
    Lost,
    /// The process stops.
    #[error("the process stops")]
    Interrupted,
    /// Something that it needs is away: no attempt.
    #[error("{0}")]
    Away(&'static str),
    /// It did not work; it may the next time.
    #[error("{0}")]
    Failed(&'static str),
    /// It cannot work.
    #[error("{0}")]
    Hopeless(&'static str),
    /// What it is about is gone.
    #[error("{0}")]
    Moot(&'static str),
}

impl From<RecordError> for Fault {
    fn from(error: RecordError) -> Self {
        tracing::warn!(%error, "a job met an error of the database");
        match error {
            RecordError::Unavailable(_) => Self::Away("database_away"),
            RecordError::Bug(_) => Self::Failed("database_refused"),
        }
    }
}

impl From<DlqError> for Fault {
    fn from(error: DlqError) -> Self {
        tracing::warn!(%error, "a job met an error of the brokers");
        if error.is_unavailable() {
            return Self::Away("brokers_away");
        }
        match error {
            DlqError::NoTopic { .. } => Self::Failed("no_topic"),
            DlqError::Kafka { .. } | DlqError::Silent { .. } | DlqError::Produce(_) => {
                Self::Failed("brokers_refused")
            }
        }
    }
}

//! How a record ended, and with it what its offset does.

use jiff::Timestamp;

use super::notification::Reason;

/// The result of processing one record. Each of these moves the offset, once
/// what it says is durable; only `Unavailable` and `Interrupted` (errors) do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A provider took the message.
    Done,
    /// There was nothing to do, and the reason is recorded.
    Ignored(Reason),
    /// The record can never be processed and is kept as a dead letter.
    Rejected(Reason),
    /// A due row carries it from here.
    Scheduled(Timestamp),
    /// It ended without success, and the reason is recorded.
    Failed(Reason),
}

impl Outcome {
    /// The metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Ignored(_) => "ignored",
            Self::Rejected(_) => "rejected",
            Self::Scheduled(_) => "scheduled",
            Self::Failed(_) => "failed",
        }
    }
}

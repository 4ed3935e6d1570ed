//! From what went wrong to what a caller is told.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt as _};

use super::auth::Scope;
use super::notification::WatchError;
use super::publisher::PublishError;
use crate::domain::Channel;
use crate::metrics;
use crate::record::RecordError;

/// `google.rpc.ErrorInfo.domain` of every error.
pub const DOMAIN: &str = "patient-notify";

/// When a caller should come back, where nothing better is known.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// The same, when this process has too much to do.
const OVERLOAD_RETRY_AFTER: Duration = Duration::from_millis(200);

/// The same, where another server, or a new stream, goes on at once.
const RESUME_AFTER: Duration = Duration::from_millis(100);

/// Why a call was not answered with OK.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Fields of the request cannot be used; all of them are named.
    #[error("request is not valid: {}", sentence(.0))]
    Invalid(Vec<FieldViolation>),
    /// Nobody is known by what the call carries.
    #[error("caller is not authenticated: {0}")]
    Unauthenticated(String),
    /// What proves who calls cannot be checked now.
    #[error("the keys that callers are checked with are away; come back later")]
    KeysAway,
    /// The key that proves who calls is not known, and the issuer was not asked for it:
    /// that is done now and then only. Whoever makes keys up gets this too, so it is
    /// neither logged nor counted as a dependency that is away.
    #[error("the key that the call is signed with is not known yet; come back later")]
    KeyNotLookedFor {
        /// When the issuer may be asked again.
        retry_after: Duration,
    },
    /// The caller may not do this.
    #[error("caller lacks the scope {0}")]
    Forbidden(Scope),
    /// The caller has had what it may have for now.
    #[error("{limit} is used up")]
    OverQuota {
        /// Whose it is: the caller's name.
        subject: String,
        /// Which limit, with its size and unit.
        limit: String,
        /// When there is more.
        retry_after: Duration,
    },
    /// It exists, and is another one than this call means.
    #[error("{message}")]
    Exists {
        /// Stable reason.
        reason: &'static str,
        /// What differs, for people.
        message: String,
        /// What is there, for programs; no health information.
        metadata: Vec<(&'static str, String)>,
    },
    /// What is there does not allow it; repeating the call does not help.
    #[error("{message}")]
    Precondition {
        /// Stable reason.
        reason: &'static str,
        /// What stands against it, and what to do.
        message: String,
    },
    /// The code that was told is not the one that was sent.
    #[error("that is not the code that was sent; {tries_left} tries are left")]
    WrongCode {
        /// How many more there are.
        tries_left: u16,
    },
    /// A provider takes nothing now.
    #[error("the provider of {channel} takes nothing now; nothing was sent, come back later")]
    ProviderAway {
        /// Whose.
        channel: Channel,
        /// When to come back.
        retry_after: Duration,
    },
    /// There is no such thing.
    #[error("{0} was not found")]
    NotFound(&'static str),
    /// It was taken over and is not processed yet.
    #[error("what was taken over is not processed yet; ask again")]
    NotYetProcessed,
    /// The recipient was erased.
    #[error("recipient was erased and cannot be written again")]
    RecipientErased,
    /// Too many calls at once.
    #[error("too many calls at once; come back later")]
    Overloaded,
    /// This server stops; a stream is resumed at another one.
    #[error("this server is stopping; open the stream again and resume where it ended")]
    Stopping,
    /// A stream has had its longest time; it is resumed by a new one.
    #[error("this stream has lasted as long as one may; open it again and resume where it ended")]
    StreamEnded,
    /// The client of a stream has said nothing for too long.
    #[error("nothing came for {} s, which is as long as this stream may be silent", .0.as_secs_f32())]
    StreamIdle(Duration),
    /// The deadline has passed.
    #[error("deadline has passed before the call was done")]
    DeadlineExceeded,
    /// A watch cannot go on.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// The way to the broker failed.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The database failed.
    #[error(transparent)]
    Record(#[from] RecordError),
}

/// What a caller is told.
struct Disposition {
    code: Code,
    reason: &'static str,
    retry_after: Option<Duration>,
    /// Replaces the error's own words, which are for operators.
    message: Option<&'static str>,
}

impl Disposition {
    const fn told(code: Code, reason: &'static str) -> Self {
        Self { code, reason, retry_after: None, message: None }
    }

    const fn unavailable(reason: &'static str, message: &'static str) -> Self {
        Self { code: Code::Unavailable, reason, retry_after: Some(RETRY_AFTER), message: Some(message) }
    }

    const fn internal() -> Self {
        Self {
            code: Code::Internal,
            reason: "INTERNAL",
            retry_after: None,
            message: Some("the service failed; its log has the cause"),
        }
    }
}

impl WatchError {
    const fn disposition(&self) -> Disposition {
        match self {
            Self::Broker(_) => Disposition::unavailable(
                "BROKER_UNAVAILABLE",
                "the brokers are away; open the stream again with the last resume token",
            ),
            Self::Registry(_) => Disposition::unavailable(
                "REGISTRY_UNAVAILABLE",
                "the schema registry is away; open the stream again with the last resume token",
            ),
            Self::Lagged => Disposition {
                retry_after: Some(RESUME_AFTER),
                ..Disposition::told(Code::Aborted, "WATCH_LAGGED")
            },
            Self::TooOld => Disposition::told(Code::FailedPrecondition, "RESUME_TOKEN_TOO_OLD"),
        }
    }
}

impl ApiError {
    /// A single faulty field.
    #[must_use]
    pub fn invalid(field: &str, description: &str) -> Self {
        Self::Invalid(vec![FieldViolation::new(field, description)])
    }

    /// What was away, as a metric label.
    const fn absent(&self) -> Option<&'static str> {
        match self {
            Self::Publish(PublishError::Broker(_)) | Self::Watch(WatchError::Broker(_)) => Some("kafka"),
            Self::Publish(PublishError::Registry(_)) | Self::Watch(WatchError::Registry(_)) => {
                Some("registry")
            }
            Self::Record(RecordError::Unavailable(_)) => Some("postgres"),
            Self::KeysAway => Some("token_keys"),
            Self::ProviderAway { .. } => Some("provider"),
            Self::Publish(PublishError::Refused(_))
            | Self::Record(RecordError::Bug(_))
            | Self::Invalid(_)
            | Self::Unauthenticated(_)
            | Self::KeyNotLookedFor { .. }
            | Self::Forbidden(_)
            | Self::OverQuota { .. }
            | Self::Exists { .. }
            | Self::Precondition { .. }
            | Self::WrongCode { .. }
            | Self::NotFound(_)
            | Self::NotYetProcessed
            | Self::RecipientErased
            | Self::Overloaded
            | Self::Stopping
            | Self::StreamEnded
            | Self::StreamIdle(_)
            | Self::Watch(WatchError::Lagged | WatchError::TooOld)
            | Self::DeadlineExceeded => None,
        }
    }

    /// What programs are told besides the reason.
    fn metadata(&self) -> HashMap<String, String> {
        match self {
            Self::Forbidden(scope) => HashMap::from([("scope".to_owned(), scope.to_string())]),
            Self::WrongCode { tries_left } => {
                HashMap::from([("tries_left".to_owned(), tries_left.to_string())])
            }
            Self::Exists { metadata, .. } => {
                metadata.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
            }
            _ => HashMap::new(),
        }
    }

    fn disposition(&self) -> Disposition {
        match self {
            Self::Invalid(_) => Disposition::told(Code::InvalidArgument, "INVALID_REQUEST"),
            Self::Unauthenticated(_) => Disposition::told(Code::Unauthenticated, "UNAUTHENTICATED"),
            Self::KeysAway => Disposition {
                retry_after: Some(RETRY_AFTER),
                ..Disposition::told(Code::Unavailable, "KEYS_UNAVAILABLE")
            },
            Self::KeyNotLookedFor { retry_after } => Disposition {
                retry_after: Some(*retry_after),
                ..Disposition::told(Code::Unavailable, "KEYS_UNAVAILABLE")
            },
            Self::Forbidden(_) => Disposition::told(Code::PermissionDenied, "SCOPE_MISSING"),
            Self::OverQuota { retry_after, .. } => Disposition {
                retry_after: Some(*retry_after),
                ..Disposition::told(Code::ResourceExhausted, "QUOTA_EXCEEDED")
            },
            Self::Exists { reason, .. } => Disposition::told(Code::AlreadyExists, reason),
            Self::Precondition { reason, .. } => Disposition::told(Code::FailedPrecondition, reason),
            Self::WrongCode { .. } => Disposition::told(Code::FailedPrecondition, "WRONG_CODE"),
            Self::ProviderAway { retry_after, .. } => Disposition {
                retry_after: Some(*retry_after),
                ..Disposition::told(Code::Unavailable, "PROVIDER_UNAVAILABLE")
            },
            Self::NotFound(_) => Disposition::told(Code::NotFound, "NOT_FOUND"),
            Self::NotYetProcessed => Disposition {
                retry_after: Some(RETRY_AFTER),
                ..Disposition::told(Code::Unavailable, "NOT_YET_PROCESSED")
            },
            Self::RecipientErased => Disposition::told(Code::FailedPrecondition, "RECIPIENT_ERASED"),
            Self::Overloaded => Disposition {
                retry_after: Some(OVERLOAD_RETRY_AFTER),
                ..Disposition::told(Code::ResourceExhausted, "OVERLOADED")
            },
            Self::Stopping => Disposition {
                retry_after: Some(RESUME_AFTER),
                ..Disposition::told(Code::Unavailable, "SERVER_STOPPING")
            },
            Self::StreamEnded => Disposition {
                retry_after: Some(RESUME_AFTER),
                ..Disposition::told(Code::Unavailable, "STREAM_TIME_OVER")
            },
            Self::StreamIdle(_) => Disposition::told(Code::DeadlineExceeded, "STREAM_IDLE"),
            Self::DeadlineExceeded => Disposition::told(Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            Self::Watch(error) => error.disposition(),
            Self::Publish(PublishError::Broker(_)) => Disposition::unavailable(
                "BROKER_UNAVAILABLE",
                "the broker did not acknowledge in time; repeat the call unchanged (its idempotency key too)",
            ),
            Self::Publish(PublishError::Registry(_)) => Disposition::unavailable(
                "REGISTRY_UNAVAILABLE",
                "the schema registry is away; repeat the call unchanged (its idempotency key too)",
            ),
            Self::Record(RecordError::Unavailable(_)) => {
                Disposition::unavailable("DATABASE_UNAVAILABLE", "the database is away; come back later")
            }
            Self::Publish(PublishError::Refused(_)) | Self::Record(RecordError::Bug(_)) => {
                Disposition::internal()
            }
        }
    }

    /// The status that the caller gets; what is for operators is logged here, once.
    #[must_use]
    pub fn into_status(self) -> Status {
        let told = self.disposition();
        if let Some(dependency) = self.absent() {
            metrics::unavailable(dependency);
            tracing::warn!(error = %self, dependency, "call could not be served");
        } else if told.code == Code::Internal {
            tracing::error!(error = %self, "call failed");
        }
        let mut details = ErrorDetails::with_error_info(told.reason, DOMAIN, self.metadata());
        if told.retry_after.is_some() {
            details.set_retry_info(told.retry_after);
        }
        let message = told.message.map_or_else(|| self.to_string(), str::to_owned);
        match self {
            Self::Invalid(violations) => {
                details.set_bad_request(violations);
            }
            Self::OverQuota { subject, limit, .. } => {
                details.add_quota_failure_violation(subject, limit);
            }
            _ => {}
        }
        Status::with_error_details(told.code, message, details)
    }
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        error.into_status()
    }
}

/// Fields and what is wrong with them, for people; the details have it for programs.
fn sentence(violations: &[FieldViolation]) -> String {
    let parts: Vec<String> = violations
        .iter()
        .map(|violation| format!("{}: {}", violation.field, violation.description))
        .collect();
    parts.join("; ")
}

#[cfg(test)]
mod tests;

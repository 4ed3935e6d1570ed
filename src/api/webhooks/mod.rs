//! What comes by HTTP from outside: providers' reports, patients' text messages, clicks
//! that end e-mails. Each that proves where it comes from becomes records on
//! `pat.notification-updates.v1`, and is answered once the broker has them.
//!
//! Anybody on the internet may call. So a call costs little until it has proved where it
//! comes from (`gate`), and each kind has places of its own: a flood of forged ones takes none
//! from the gRPC callers, nor from another kind. Nothing of a call is logged, because it
//! has the recipient's address.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use deadpool_postgres::Pool;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio::time::{Instant, timeout_at};

use super::publisher::{PublishError, Publisher};
use crate::config::Config;
use crate::deliver::UnsubscribeLinks;
use crate::domain::NotificationUpdate;
use crate::metrics;
use crate::record::RecordError;

mod email;
mod gate;
mod inbound;
mod sources;
mod status;
#[cfg(test)]
mod tests;
mod twilio;
mod unsubscribe;

pub use email::EmailEvents;
pub use sources::Sources;
pub use twilio::Twilio;

/// Longest time of a call. Twilio gives up after 15 s, retries included: there must be
/// room for three.
const CALLBACK_MAX: Duration = Duration::from_secs(4);
/// Updates of one call on their way to the broker at once.
const PUBLISH_IN_FLIGHT: usize = 64;
/// When a provider should come back, in seconds.
const RETRY_AFTER_S: &str = "1";

/// Who may tell this front something by HTTP. What is `None` has no route.
#[derive(Default)]
pub struct Webhooks {
    /// Status callbacks and texts from patients.
    pub twilio: Option<Twilio>,
    /// What a text that asks for help is answered with; empty: nothing.
    pub help_reply: String,
    /// Events about e-mails.
    pub email: Option<EmailEvents>,
    /// Links that end e-mails.
    pub unsubscribe: Option<UnsubscribeLinks>,
    /// How often one source may call each of them.
    pub sources: Sources,
}

impl Webhooks {
    /// Those that the configuration has the secrets of.
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        Self {
            twilio: Twilio::from_config(&config.sms),
            help_reply: config.sms.help_reply.clone(),
            email: EmailEvents::from_config(&config.email),
            unsubscribe: UnsubscribeLinks::from_config(&config.email),
            sources: Sources::from_config(&config.app),
        }
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The broker has acknowledged all that it says.
    Published,
    /// It says something that we have no word for, or that needs none.
    Ignored,
    /// It says what is in force already.
    Known,
    /// Nobody is known by what it names.
    Nobody,
    /// It asks for help.
    Help,
    /// It is signed, and not what comes here.
    Unusable,
    /// Not signed, or not by whom we know.
    BadSignature,
    /// It was signed too long ago.
    Old,
    /// The address names no delivery.
    NoDelivery,
    /// Its body is too long, or not what it should be.
    BadBody(StatusCode),
    /// Its body did not come in time.
    Slow,
    /// Too many at once.
    Overloaded,
    /// No acknowledgement in time.
    Unavailable,
    /// It can never be published: a fault of ours or of the set-up.
    Failed,
}

impl Answer {
    /// The metric label.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Ignored => "ignored",
            Self::Known => "known",
            Self::Nobody => "nobody",
            Self::Help => "help",
            Self::Unusable => "unusable",
            Self::BadSignature => "bad_signature",
            Self::Old => "old",
            Self::NoDelivery => "no_delivery",
            Self::BadBody(_) => "bad_body",
            Self::Slow => "slow",
            Self::Overloaded => "overloaded",
            Self::Unavailable => "unavailable",
            Self::Failed => "failed",
        }
    }

    const fn status(self) -> StatusCode {
        match self {
            Self::Published | Self::Ignored | Self::Known | Self::Nobody | Self::Help => {
                StatusCode::NO_CONTENT
            }
            Self::Unusable => StatusCode::BAD_REQUEST,
            Self::BadSignature | Self::Old => StatusCode::FORBIDDEN,
            Self::NoDelivery => StatusCode::NOT_FOUND,
            Self::BadBody(status) => status,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Overloaded | Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let status = self.status();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return (status, [(header::RETRY_AFTER, RETRY_AFTER_S)]).into_response();
        }
        status.into_response()
    }
}

/// Where calls lead.
#[derive(Clone)]
struct Way {
    updates: Publisher,
    pool: Pool,
}

/// The routes of those who may tell something.
pub(super) fn router(webhooks: Webhooks, updates: Publisher, pool: Pool) -> Router {
    let way = Way { updates, pool };
    let sources = webhooks.sources;
    let mut router = Router::new();
    if let Some(twilio) = webhooks.twilio {
        let twilio = Arc::new(twilio);
        let status = status::routes(Arc::clone(&twilio), way.clone(), status::CONCURRENCY_MAX);
        let inbound = inbound::routes(twilio, webhooks.help_reply, way.clone());
        router =
            router.merge(sources.before("twilio", status)).merge(sources.before("twilio_inbound", inbound));
    }
    if let Some(events) = webhooks.email {
        router = router.merge(sources.before("email", email::routes(events, way.clone())));
    }
    if let Some(links) = webhooks.unsubscribe {
        router = router.merge(sources.before("unsubscribe", unsubscribe::routes(links, way)));
    }
    router
}

impl Way {
    /// `Published` once the broker has all of them; the first that it does not take
    /// ends it, and the caller has to repeat the whole. Repeats are harmless: their
    /// ids are the same.
    async fn publish(&self, updates: Vec<NotificationUpdate>, deadline: Instant) -> Answer {
        let sent = stream::iter(updates)
            .map(|update| self.publish_one(update, deadline))
            .buffer_unordered(PUBLISH_IN_FLIGHT)
            .try_for_each(|()| std::future::ready(Ok(())));
        sent.await.err().unwrap_or(Answer::Published)
    }

    async fn publish_one(&self, update: NotificationUpdate, deadline: Instant) -> Result<(), Answer> {
        let (error, dependency) = match self.updates.publish(update, deadline).await {
            Ok(_) => return Ok(()),
            Err(error @ PublishError::Broker(_)) => (error, "kafka"),
            Err(error @ PublishError::Registry(_)) => (error, "registry"),
            Err(error @ PublishError::Refused(_)) => {
                tracing::error!(%error, "what was told by HTTP cannot be published");
                return Err(Answer::Failed);
            }
        };
        metrics::unavailable(dependency);
        tracing::warn!(%error, dependency, "what was told by HTTP was not published; the caller is told so");
        Err(Answer::Unavailable)
    }

    /// Waits for a look into the database.
    async fn look<T>(
        &self,
        look: impl Future<Output = Result<T, RecordError>>,
        deadline: Instant,
    ) -> Result<T, Answer> {
        match timeout_at(deadline, look).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error @ RecordError::Bug(_))) => {
                tracing::error!(%error, "what was told by HTTP cannot be looked up");
                Err(Answer::Failed)
            }
            Ok(Err(RecordError::Unavailable(_))) | Err(_) => {
                metrics::unavailable("postgres");
                tracing::warn!("what was told by HTTP could not be looked up; the caller is told so");
                Err(Answer::Unavailable)
            }
        }
    }
}

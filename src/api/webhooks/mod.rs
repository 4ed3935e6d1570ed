//! What providers report by HTTP: a callback whose signature is right becomes a
//! record on `pat.notification-updates.v1`, and is answered once the broker has it.
//!
//! Anybody on the internet may call. So a callback costs little until it has proved
//! where it comes from, and the places are its own: a flood of forged ones takes
//! none from the gRPC callers. Nothing of a callback is logged, because it has the
//! recipient's number.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::rejection::FormRejection;
use axum::extract::{DefaultBodyLimit, Form, FromRequest as _, Path, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::publisher::{PublishError, Publisher};
use crate::domain::{DeliveryId, NotificationUpdate};
use crate::metrics;

#[cfg(test)]
mod tests;
mod twilio;

pub use twilio::Twilio;

/// Longest body of a callback, in bytes; Twilio's have about one thousand.
const BODY_MAX_BYTES: usize = 64 * 1024;
/// Callbacks in hand at once.
const CONCURRENCY_MAX: usize = 256;
/// Longest time of a callback. Twilio gives up after 15 s, retries included: there must
/// be room for three.
const CALLBACK_MAX: Duration = Duration::from_secs(4);
/// When a provider should come back, in seconds.
const RETRY_AFTER_S: &str = "1";

/// How a callback ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// The broker has acknowledged it.
    Published,
    /// It says something that we have no word for.
    Ignored,
    /// It is signed, and no callback about a message.
    Unusable,
    /// Not signed, or not by whom we know.
    BadSignature,
    /// The address names no delivery.
    NoDelivery,
    /// Its body is too long, or not a form.
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
            Self::Unusable => "unusable",
            Self::BadSignature => "bad_signature",
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
            Self::Published | Self::Ignored => StatusCode::NO_CONTENT,
            Self::Unusable => StatusCode::BAD_REQUEST,
            Self::BadSignature => StatusCode::FORBIDDEN,
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

struct Webhooks {
    twilio: Twilio,
    updates: Publisher,
    places: Semaphore,
}

/// The routes of the providers that report to this front; none without a provider.
pub(super) fn router(twilio: Option<Twilio>, updates: Publisher) -> Router {
    let Some(twilio) = twilio else {
        return Router::new();
    };
    routes(Webhooks { twilio, updates, places: Semaphore::new(CONCURRENCY_MAX) })
}

fn routes(webhooks: Webhooks) -> Router {
    Router::new()
        .route("/webhooks/twilio/{delivery_id}", post(of_twilio))
        .route_layer(DefaultBodyLimit::max(BODY_MAX_BYTES))
        .with_state(Arc::new(webhooks))
}

async fn of_twilio(
    State(webhooks): State<Arc<Webhooks>>,
    Path(delivery_id): Path<String>,
    request: Request,
) -> Answer {
    let answer = match (webhooks.places.try_acquire(), Uuid::parse_str(&delivery_id)) {
        (Err(_), _) => Answer::Overloaded,
        (_, Err(_)) => Answer::NoDelivery,
        (Ok(_place), Ok(id)) => webhooks.take(DeliveryId(id), request).await,
    };
    metrics::webhook("twilio", answer.as_str());
    answer
}

impl Webhooks {
    async fn take(&self, delivery_id: DeliveryId, request: Request) -> Answer {
        let deadline = Instant::now() + CALLBACK_MAX;
        let Some(signature) = request.headers().get(twilio::SIGNATURE).cloned() else {
            return Answer::BadSignature;
        };
        let uri = request.uri().clone();
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let form: Result<Form<twilio::Parameters>, FormRejection> =
            match timeout_at(deadline, Form::from_request(request, &())).await {
                Ok(form) => form,
                Err(_) => return Answer::Slow,
            };
        let form = match form {
            Ok(Form(form)) => form,
            Err(rejection) => return Answer::BadBody(rejection.status()),
        };
        if !self.twilio.has_signed(path, &form, signature.as_bytes()) {
            return Answer::BadSignature;
        }
        match twilio::read(delivery_id, &form, Timestamp::now()) {
            twilio::Said::Update(update) => self.publish(update, deadline).await,
            twilio::Said::UnknownStatus => Answer::Ignored,
            twilio::Said::Nothing => Answer::Unusable,
        }
    }

    async fn publish(&self, update: NotificationUpdate, deadline: Instant) -> Answer {
        let (error, dependency) = match self.updates.publish(update, deadline).await {
            Ok(_) => return Answer::Published,
            Err(error @ PublishError::Broker(_)) => (error, "kafka"),
            Err(error @ PublishError::Registry(_)) => (error, "registry"),
            Err(error @ PublishError::Refused(_)) => {
                tracing::error!(%error, "a provider's report cannot be published");
                return Answer::Failed;
            }
        };
        metrics::unavailable(dependency);
        tracing::warn!(%error, dependency, "a provider's report was not published; the provider is told so");
        Answer::Unavailable
    }
}

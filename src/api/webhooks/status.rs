//! `POST /webhooks/twilio/{delivery_id}`: what became of a text message.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::routing::post;
use jiff::Timestamp;
use tokio::time::Instant;
use uuid::Uuid;

use super::gate::Gate;
use super::twilio::{self, Twilio};
use super::{Answer, CALLBACK_MAX, Way};
use crate::domain::DeliveryId;
use crate::metrics;

/// Longest body of a callback, in bytes; Twilio's have about one thousand.
pub(super) const BODY_MAX_BYTES: usize = 64 * 1024;
/// Callbacks in hand at once.
pub(super) const CONCURRENCY_MAX: usize = 256;

struct Hook {
    twilio: Arc<Twilio>,
    way: Way,
    gate: Gate,
}

pub(super) fn routes(twilio: Arc<Twilio>, way: Way, concurrency: usize) -> Router {
    Router::new().route("/webhooks/twilio/{delivery_id}", post(called)).with_state(Arc::new(Hook {
        twilio,
        way,
        gate: Gate::new(concurrency, BODY_MAX_BYTES),
    }))
}

async fn called(State(hook): State<Arc<Hook>>, Path(delivery_id): Path<String>, request: Request) -> Answer {
    let answer = match Uuid::parse_str(&delivery_id) {
        Err(_) => Answer::NoDelivery,
        Ok(id) => hook.take(DeliveryId(id), request).await.unwrap_or_else(|answer| answer),
    };
    metrics::webhook("twilio", answer.as_str());
    answer
}

impl Hook {
    async fn take(&self, delivery_id: DeliveryId, request: Request) -> Result<Answer, Answer> {
        let deadline = Instant::now() + CALLBACK_MAX;
        let form = twilio::signed_form(&self.twilio, &self.gate, request).await?;
        let _place = self.gate.enter()?;
        Ok(match twilio::read(delivery_id, &form, Timestamp::now()) {
            twilio::Said::Update(update) => self.way.publish(vec![update], deadline).await,
            twilio::Said::UnknownStatus => Answer::Ignored,
            twilio::Said::Nothing => Answer::Unusable,
        })
    }
}

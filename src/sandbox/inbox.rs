//! The patients' side of the sandbox: a page with the messages as they would see
//! them, and the counts behind it. For development only: it shows everything.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::faults::{ChannelFaults, Faults};
use super::log::{MessageLog, Received, Stats};
use crate::domain::Channel;

const PAGE: &str = include_str!("inbox.html");
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'";
const LIMIT_DEFAULT: usize = 60;
const LIMIT_MAX: usize = 500;

#[derive(Deserialize)]
struct Wanted {
    limit: Option<usize>,
    #[serde(default)]
    address: String,
}

/// `/inbox` (the page), `/inbox/messages?limit=&address=` (newest first) and
/// `/inbox/stats`, both JSON. Serve it in development only.
pub fn inbox_router(log: Arc<MessageLog>) -> Router {
    Router::new()
        .route("/inbox", get(page))
        .route("/inbox/messages", get(messages))
        .route("/inbox/stats", get(stats))
        .with_state(log)
}

/// `/sandbox/faults/{channel}`: GET what is in force, PUT a [`ChannelFaults`].
pub fn faults_router(faults: Arc<Faults>) -> Router {
    Router::new().route("/sandbox/faults/{channel}", get(faults_of).put(set_faults)).with_state(faults)
}

async fn page() -> Response {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-store"),
    ];
    (headers, PAGE).into_response()
}

async fn messages(State(log): State<Arc<MessageLog>>, Query(wanted): Query<Wanted>) -> Response {
    let limit = wanted.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX);
    let found = log.latest(limit, wanted.address.trim());
    let shown: Vec<Value> = found.iter().map(|message| shown(message)).collect();
    ([(CACHE_CONTROL, "no-store")], Json(shown)).into_response()
}

async fn stats(State(log): State<Arc<MessageLog>>) -> Json<Stats> {
    Json(log.stats())
}

async fn faults_of(State(faults): State<Arc<Faults>>, Path(channel): Path<String>) -> Response {
    match Channel::parse(&channel) {
        Some(channel) => Json(faults.get(channel)).into_response(),
        None => unknown_channel(),
    }
}

async fn set_faults(
    State(faults): State<Arc<Faults>>,
    Path(channel): Path<String>,
    Json(wanted): Json<ChannelFaults>,
) -> Response {
    match Channel::parse(&channel) {
        Some(channel) => {
            faults.set(channel, wanted);
            Json(wanted).into_response()
        }
        None => unknown_channel(),
    }
}

fn unknown_channel() -> Response {
    (StatusCode::NOT_FOUND, "the channels are sms, email and push\n").into_response()
}

fn shown(message: &Received) -> Value {
    json!({
        "channel": message.channel.as_str(),
        "to": message.to.expose(),
        "at": message.received_at.to_string(),
        "subject": message.subject.expose(),
        "body": message.body.expose(),
        "id": message.provider_message_id,
        "delivery_id": message.delivery_id,
        "code": message.short_code,
    })
}

//! What a viewer asks for or does: calls of the front's own methods, with the viewer's token.

use axum::Json;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tonic::body::Body;
use tonic::metadata::MetadataMap;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Code, Status};

use super::Board;
use crate::api::auth::{self, Caller, Peer, Scope, methods};
use crate::api::proto;
use crate::api::proto::notification_service_client::NotificationServiceClient;
use crate::api::proto::operations_service_client::OperationsServiceClient;
use crate::api::validate::CALLER_ENTRY;

/// Whose right it is to look: that of whoever may look at providers.
const LOOKING: &str = "/patientnotify.v1.OperationsService/ListProviders";
/// Dead letters that the page lists, at most.
const LETTERS_MAX: i32 = 50;

/// What the page is told of its viewer.
#[derive(Debug, Serialize)]
pub(super) struct You {
    name: String,
    may_replay: bool,
    may_read_stories: bool,
}

/// Who looks.
///
/// # Errors
/// The answer to one who may not: 401 without proof, 403 without the right.
pub(super) async fn viewer(board: &Board, request: Request) -> Result<You, Response> {
    let (parts, _) = request.into_parts();
    let mut call = axum::http::Request::from_parts(parts, Body::empty());
    let Some(method) = methods::find(LOOKING) else {
        return Err(refused(&Status::internal("the board's own right is not one of the contract's")));
    };
    let name = auth::check(&board.auth, method, &mut call).await;
    let name = name.map_err(|error| refused(&error.into_status()))?;
    let may = |scope| call.extensions().get::<Caller>().is_some_and(|caller| caller.may(scope));
    Ok(You { name, may_replay: may(Scope::OperationsAdmin), may_read_stories: may(Scope::NotificationsRead) })
}

/// A call with what the viewer has shown.
fn call<T>(message: T, parts: &axum::http::request::Parts) -> tonic::Request<T> {
    let mut headers = HeaderMap::new();
    for name in [header::AUTHORIZATION.as_str(), CALLER_ENTRY] {
        if let (Some(value), Ok(name)) = (parts.headers.get(name), name.parse::<header::HeaderName>()) {
            headers.insert(name, value.clone());
        }
    }
    let mut request = tonic::Request::new(message);
    *request.metadata_mut() = MetadataMap::from_headers(headers);
    if let Some(peer) = parts.extensions.get::<Peer>() {
        request.extensions_mut().insert(peer.clone());
    }
    if let Some(info) = parts.extensions.get::<TcpConnectInfo>() {
        request.extensions_mut().insert(info.clone());
    }
    request
}

/// A method's refusal, as a page can show it.
fn refused(status: &Status) -> Response {
    let code = match status.code() {
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::InvalidArgument => StatusCode::BAD_REQUEST,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable | Code::DeadlineExceeded => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (code, Json(json!({ "error": status.message() }))).into_response()
}

/// Why a notification went as it did.
pub(super) async fn story(
    State(board): State<Board>,
    Path(notification_id): Path<String>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    let message = proto::NotificationServiceExplainRequest { notification_id, ..Default::default() };
    match NotificationServiceClient::new(board.calls.clone()).explain(call(message, &parts)).await {
        Ok(answer) => Json(told(answer.into_inner())).into_response(),
        Err(status) => refused(&status),
    }
}

fn told(answer: proto::NotificationServiceExplainResponse) -> Value {
    let one = answer.notification.unwrap_or_default();
    let deliveries = one.deliveries.iter().map(|delivery| {
        json!({
            "channel": word("CHANNEL_", delivery.channel().as_str_name()),
            "state": word("STATE_", delivery.state().as_str_name()),
            "reason": delivery.reason,
            "attempts": delivery.attempts,
            "provider": delivery.provider,
        })
    });
    let entries = answer.entries.iter().map(|entry| {
        let why = entry.why.clone().unwrap_or_default();
        json!({ "at": time(why.at), "step": why.step, "sentence": entry.sentence })
    });
    json!({
        "id": one.notification_id,
        "purpose": word("PURPOSE_", one.purpose().as_str_name()),
        "urgency": word("URGENCY_", one.urgency().as_str_name()),
        "state": word("STATE_", one.state().as_str_name()),
        "reason": one.reason,
        "summary": answer.summary,
        "deliveries": deliveries.collect::<Vec<_>>(),
        "entries": entries.collect::<Vec<_>>(),
        "more": !answer.next_page_token.is_empty(),
    })
}

/// A word of the contract as people read it: `STATE_SENT` is "sent".
fn word(prefix: &str, name: &str) -> String {
    name.strip_prefix(prefix).unwrap_or(name).to_lowercase().replace('_', " ")
}

/// RFC 3339; `None`: not known.
fn time(at: Option<prost_types::Timestamp>) -> Option<String> {
    let at = at?;
    let time = jiff::Timestamp::new(at.seconds, at.nanos).ok()?;
    Some(format!("{time:.3}"))
}

/// The oldest dead letters that nobody has handled.
pub(super) async fn dead_letters(State(board): State<Board>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let message =
        proto::OperationsServiceListDeadLettersRequest { page_size: LETTERS_MAX, ..Default::default() };
    match OperationsServiceClient::new(board.calls.clone()).list_dead_letters(call(message, &parts)).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            let letters = answer.dead_letters.into_iter().map(|letter| {
                json!({
                    "name": letter.name,
                    "reason": letter.reason,
                    "detail": letter.detail,
                    "buried_at": time(letter.buried_at),
                    "cut": letter.cut,
                })
            });
            let more = !answer.next_page_token.is_empty();
            Json(json!({ "letters": letters.collect::<Vec<_>>(), "more": more })).into_response()
        }
        Err(status) => refused(&status),
    }
}

/// Which dead letter goes back to its topic.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Replay {
    name: String,
}

/// Bytes of what says which.
const REPLAY_MAX_BYTES: usize = 4 * 1024;

/// Puts one dead letter back. JSON only: a form of another site's page cannot send it.
pub(super) async fn replay(State(board): State<Board>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let is_json = parts.headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
    let body = axum::body::to_bytes(body, REPLAY_MAX_BYTES).await.unwrap_or_default();
    let Some(Replay { name }) = is_json.then(|| serde_json::from_slice(&body).ok()).flatten() else {
        return refused(&Status::invalid_argument("a dead letter's name is needed, as JSON"));
    };
    let message =
        proto::OperationsServiceReplayDeadLettersRequest { names: vec![name], ..Default::default() };
    let calls = board.calls.clone();
    match OperationsServiceClient::new(calls).replay_dead_letters(call(message, &parts)).await {
        Ok(answer) => {
            let result = answer.into_inner().results.into_iter().next().unwrap_or_default();
            Json(json!({ "replayed_to": result.replayed_to, "problem": result.problem })).into_response()
        }
        Err(status) => refused(&status),
    }
}

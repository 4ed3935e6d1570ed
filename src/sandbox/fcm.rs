//! A server that speaks FCM's HTTP v1 protocol, and Google's token endpoint.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Form, Path, State};
use axum::http::header::{AUTHORIZATION, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::account::{CLIENT_EMAIL, PROJECT_ID};
use super::faults::{Faults, Treatment};
use super::listen::Cut;
use super::log::{MessageLog, Received};
use crate::domain::Channel;

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
const TOKEN_LIFETIME: Duration = Duration::from_secs(3600);
/// Tokens in force; the one that ends first goes when there are more.
const TOKENS_MAX: usize = 1024;
const REQUEST_MAX_BYTES: usize = 64 * 1024;
/// FCM's own bound.
const PAYLOAD_MAX_BYTES: usize = 4096;

/// The tokens that were given out.
#[derive(Default)]
pub(super) struct Tokens {
    ends_at: Mutex<HashMap<String, Instant>>,
    issued: AtomicU64,
}

impl Tokens {
    fn issue(&self) -> String {
        let token = format!("sandbox.{}", Uuid::new_v4().simple());
        self.issued.fetch_add(1, Ordering::Relaxed);
        let mut tokens = self.ends_at.lock();
        if tokens.len() >= TOKENS_MAX {
            let oldest = tokens.iter().min_by_key(|(_, ends_at)| **ends_at).map(|(token, _)| token.clone());
            oldest.map(|oldest| tokens.remove(&oldest));
        }
        tokens.insert(token.clone(), Instant::now() + TOKEN_LIFETIME);
        token
    }

    fn is_good(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = given.and_then(|value| value.strip_prefix("Bearer "));
        token.is_some_and(|token| self.ends_at.lock().get(token).is_some_and(|end| Instant::now() < *end))
    }

    pub(super) fn issued(&self) -> u64 {
        self.issued.load(Ordering::Relaxed)
    }

    /// Makes every token that was given out worthless.
    pub(super) fn revoke_all(&self) {
        self.ends_at.lock().clear();
    }
}

struct Server {
    log: Arc<MessageLog>,
    faults: Arc<Faults>,
    tokens: Arc<Tokens>,
    public_key: DecodingKey,
    validation: Validation,
}

#[derive(Deserialize)]
struct Grant {
    grant_type: String,
    assertion: String,
}

#[derive(Deserialize)]
struct Claims {
    scope: String,
}

#[derive(Deserialize)]
struct Send {
    message: Message,
}

#[derive(Deserialize)]
struct Message {
    token: String,
    #[serde(default)]
    notification: Notification,
    #[serde(default)]
    data: HashMap<String, String>,
}

#[derive(Deserialize, Default)]
struct Notification {
    #[serde(default)]
    title: String,
    #[serde(default)]
    body: String,
}

/// The routes of the server.
pub(super) fn router(
    log: Arc<MessageLog>,
    faults: Arc<Faults>,
    tokens: Arc<Tokens>,
    public_key: DecodingKey,
    token_uri: &str,
) -> Router {
    let mut validation = Validation::new(Algorithm::RS256);
    validation.set_audience(&[token_uri]);
    validation.set_issuer(&[CLIENT_EMAIL]);
    validation.set_required_spec_claims(&["exp", "iss", "aud"]);
    let server = Server { log, faults, tokens, public_key, validation };
    Router::new()
        .route("/token", post(token))
        .route("/v1/projects/{project}/messages:send", post(send))
        .layer(DefaultBodyLimit::max(REQUEST_MAX_BYTES))
        .with_state(Arc::new(server))
}

async fn token(State(server): State<Arc<Server>>, Form(grant): Form<Grant>) -> Response {
    let claims = jsonwebtoken::decode::<Claims>(&grant.assertion, &server.public_key, &server.validation);
    let granted = grant.grant_type == GRANT_TYPE && claims.is_ok_and(|data| data.claims.scope == SCOPE);
    if !granted {
        let body = json!({ "error": "invalid_grant", "error_description": "Invalid JWT Signature." });
        return (StatusCode::BAD_REQUEST, Json(body)).into_response();
    }
    let body = json!({
        "access_token": server.tokens.issue(),
        "expires_in": TOKEN_LIFETIME.as_secs(),
        "token_type": "Bearer",
    });
    Json(body).into_response()
}

async fn send(
    State(server): State<Arc<Server>>,
    ConnectInfo(cut): ConnectInfo<Cut>,
    Path(project): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if !server.tokens.is_good(&headers) {
        return error(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", None);
    }
    if project != PROJECT_ID {
        return error(StatusCode::NOT_FOUND, "NOT_FOUND", None);
    }
    let treatment = server.faults.treatment(Channel::Push);
    match treatment {
        Treatment::Hang => return std::future::pending().await,
        Treatment::Fail { status, retry_after_s } => {
            server.faults.latency(Channel::Push).await;
            return failed(status, retry_after_s);
        }
        Treatment::Serve | Treatment::DropAfterReceive => {}
    }
    let parsed = serde_json::from_slice::<Send>(&body).ok().filter(|_| body.len() <= PAYLOAD_MAX_BYTES);
    let Some(Send { message }) = parsed else {
        return error(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT"));
    };
    if let Some(refusal) = refusal(&message.token) {
        server.faults.latency(Channel::Push).await;
        return refusal;
    }
    let name = format!("projects/{PROJECT_ID}/messages/{}", Uuid::new_v4().simple());
    let delivery_id = message.data.get("delivery_id").and_then(|id| id.parse().ok());
    let Notification { title, body } = message.notification;
    let received = Received::new(Channel::Push, name.clone(), message.token, title, &body);
    server.log.push(received.of_delivery(delivery_id));
    if treatment == Treatment::DropAfterReceive {
        return cut.now().await;
    }
    server.faults.latency(Channel::Push).await;
    Json(json!({ "name": name })).into_response()
}

/// Tokens that begin with these words stand for devices with a fault.
fn refusal(token: &str) -> Option<Response> {
    if token.starts_with("gone-") {
        return Some(error(StatusCode::NOT_FOUND, "NOT_FOUND", Some("UNREGISTERED")));
    }
    if token.starts_with("mismatch-") {
        return Some(error(StatusCode::FORBIDDEN, "PERMISSION_DENIED", Some("SENDER_ID_MISMATCH")));
    }
    (token.is_empty() || token.starts_with("bad-"))
        .then(|| error(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", Some("INVALID_ARGUMENT")))
}

fn error(status: StatusCode, word: &str, fcm_word: Option<&str>) -> Response {
    let details: Vec<_> = fcm_word
        .iter()
        .map(|code| json!({ "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code }))
        .collect();
    let message = "Set by the sandbox";
    let body = json!({ "error": {
        "code": status.as_u16(), "message": message, "status": word, "details": details } });
    (status, Json(body)).into_response()
}

fn failed(status: u16, retry_after_s: u32) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let (word, fcm_word) = match status.as_u16() {
        429 => ("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"),
        503 => ("UNAVAILABLE", "UNAVAILABLE"),
        _ => ("INTERNAL", "INTERNAL"),
    };
    let mut response = error(status, word, Some(fcm_word));
    if retry_after_s > 0 {
        response.headers_mut().insert(RETRY_AFTER, retry_after_s.into());
    }
    response
}

//! A schema registry for tests: the two calls that decoding and encoding make,
//! on a real socket, with the faults that a registry has.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::config;
use crate::domain::Redacted;

/// How the registry answers for an id.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// A schema.
    Schema(String),
    /// A schema of another type.
    Typed(&'static str, String),
    /// An error as a registry writes it.
    Fault(u16, u32),
    /// An error as a proxy writes it.
    Bare(u16),
    /// No answer for this long.
    Late(Duration),
}

#[derive(Clone, Default)]
struct Shared {
    answers: Arc<Mutex<HashMap<u32, Answer>>>,
    asked: Arc<Mutex<Vec<u32>>>,
}

/// A running registry; it stops when its runtime does.
pub(crate) struct StubRegistry {
    shared: Shared,
    url: String,
}

/// Time-out of the clients that [`StubRegistry::settings`] makes.
pub(crate) const TIMEOUT_MS: u64 = 300;

impl StubRegistry {
    pub(crate) async fn start(schemas: &[(u32, &str)]) -> Self {
        let shared = Shared::default();
        for (id, text) in schemas {
            shared.answers.lock().insert(*id, Answer::Schema((*text).to_owned()));
        }
        let routes = Router::new()
            .route("/schemas/ids/{id}", get(by_id))
            .route("/subjects/{subject}", post(look_up))
            .with_state(shared.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { shared, url }
    }

    pub(crate) fn answer(&self, id: u32, answer: Answer) {
        self.shared.answers.lock().insert(id, answer);
    }

    /// The ids that were asked for so far.
    pub(crate) fn asked(&self) -> Vec<u32> {
        self.shared.asked.lock().clone()
    }

    pub(crate) fn settings(&self) -> config::Registry {
        config::Registry {
            url: self.url.clone(),
            username: String::new(),
            password: Redacted::new(String::new()),
            timeout_ms: TIMEOUT_MS,
        }
    }
}

async fn by_id(State(shared): State<Shared>, Path(id): Path<u32>) -> Response {
    shared.asked.lock().push(id);
    let answer = shared.answers.lock().get(&id).cloned();
    match answer.unwrap_or(Answer::Fault(404, 40_403)) {
        Answer::Schema(schema) => Json(json!({ "schema": schema })).into_response(),
        Answer::Typed(kind, schema) => Json(json!({ "schema": schema, "schemaType": kind })).into_response(),
        Answer::Fault(status, code) => fault(status, code),
        Answer::Bare(status) => (StatusCode::from_u16(status).unwrap(), "<html>").into_response(),
        Answer::Late(delay) => {
            tokio::time::sleep(delay).await;
            fault(503, 50_003)
        }
    }
}

async fn look_up(State(shared): State<Shared>, Path(subject): Path<String>, body: Json<Value>) -> Response {
    let wanted = body["schema"].as_str().unwrap_or_default();
    let answers = shared.answers.lock();
    let found = answers.iter().find(|(_, answer)| matches!(answer, Answer::Schema(text) if text == wanted));
    match found {
        Some((id, _)) => {
            Json(json!({ "subject": subject, "id": id, "version": 1, "schema": wanted })).into_response()
        }
        None => fault(404, 40_403),
    }
}

fn fault(status: u16, code: u32) -> Response {
    let body = json!({ "error_code": code, "message": "stub" });
    (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
}

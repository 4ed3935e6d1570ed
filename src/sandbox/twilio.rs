//! A server that speaks Twilio's REST protocol: create and list messages.

use std::sync::Arc;

use axum::Json;
use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Form, Path, Query, State};
use axum::http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine as _;
use jiff::Timestamp;
use reqwest::Url;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::faults::{Faults, Treatment};
use super::listen::Cut;
use super::log::{MessageLog, Received};
use crate::domain::Channel;

/// The account that the sandbox knows.
pub const ACCOUNT_SID: &str = "ACsandbox0000000000000000000000000";
/// Its token.
pub const AUTH_TOKEN: &str = "sandbox";

const REQUEST_MAX_BYTES: usize = 64 * 1024;
/// Twilio's own bound for a body.
const BODY_MAX_CHARS: usize = 1600;
const PAGE_SIZE_DEFAULT: usize = 50;
const PAGE_SIZE_MAX: usize = 1000;
const MESSAGES_PATH: &str = "/2010-04-01/Accounts/{account}/Messages.json";

struct Server {
    log: Arc<MessageLog>,
    faults: Arc<Faults>,
    authorization: String,
}

#[derive(Deserialize)]
struct Create {
    #[serde(rename = "To", default)]
    to: String,
    #[serde(rename = "From", default)]
    from: String,
    #[serde(rename = "Body", default)]
    body: String,
    #[serde(rename = "StatusCallback", default)]
    status_callback: Option<String>,
}

#[derive(Deserialize)]
struct List {
    #[serde(rename = "To")]
    to: Option<String>,
    #[serde(rename = "DateSent>")]
    date_sent_from: Option<Timestamp>,
    #[serde(rename = "PageSize")]
    page_size: Option<usize>,
    #[serde(rename = "Page", default)]
    page: usize,
}

/// The routes of the server.
pub(super) fn router(log: Arc<MessageLog>, faults: Arc<Faults>) -> Router {
    let pair = base64::engine::general_purpose::STANDARD.encode(format!("{ACCOUNT_SID}:{AUTH_TOKEN}"));
    let server = Server { log, faults, authorization: format!("Basic {pair}") };
    Router::new()
        .route(MESSAGES_PATH, post(create).get(list))
        .layer(DefaultBodyLimit::max(REQUEST_MAX_BYTES))
        .with_state(Arc::new(server))
}

async fn create(
    State(server): State<Arc<Server>>,
    ConnectInfo(cut): ConnectInfo<Cut>,
    Path(account): Path<String>,
    headers: HeaderMap,
    Form(form): Form<Create>,
) -> Response {
    if let Some(refusal) = server.unauthorized(&account, &headers) {
        return refusal;
    }
    let treatment = server.faults.treatment(Channel::Sms);
    match treatment {
        Treatment::Hang => return std::future::pending().await,
        Treatment::Fail { status, retry_after_s } => {
            server.faults.latency(Channel::Sms).await;
            return failed(status, retry_after_s);
        }
        Treatment::Serve | Treatment::DropAfterReceive => {}
    }
    if let Some((code, message)) = refusal(&form) {
        server.faults.latency(Channel::Sms).await;
        return error(StatusCode::BAD_REQUEST, code, message);
    }
    let sid = format!("SM{}", Uuid::new_v4().simple());
    let delivery_id = form
        .status_callback
        .as_deref()
        .and_then(|callback| callback.rsplit_once("/webhooks/twilio/"))
        .and_then(|(_, id)| id.split('#').next()?.parse().ok());
    let received =
        Received::new(Channel::Sms, sid, form.to, String::new(), &form.body).of_delivery(delivery_id);
    let answer = shown(&received, Some(&form.from));
    server.log.push(received);
    if treatment == Treatment::DropAfterReceive {
        return cut.now().await;
    }
    server.faults.latency(Channel::Sms).await;
    (StatusCode::CREATED, Json(answer)).into_response()
}

async fn list(
    State(server): State<Arc<Server>>,
    Path(account): Path<String>,
    headers: HeaderMap,
    Query(query): Query<List>,
) -> Response {
    if let Some(refusal) = server.unauthorized(&account, &headers) {
        return refusal;
    }
    let size = query.page_size.unwrap_or(PAGE_SIZE_DEFAULT).clamp(1, PAGE_SIZE_MAX);
    let skip = query.page.saturating_mul(size);
    let mut found = server.log.find(skip.saturating_add(size).saturating_add(1), |message| {
        message.channel == Channel::Sms
            && query.to.as_ref().is_none_or(|to| to == message.to.expose())
            && query.date_sent_from.is_none_or(|from| message.received_at >= from)
    });
    let more = found.len() > skip.saturating_add(size);
    found.truncate(skip.saturating_add(size));
    let messages: Vec<Value> = found.iter().skip(skip).map(|message| shown(message, None)).collect();
    let next = more.then(|| next_page(&account, &query, size)).flatten();
    let body = json!({ "messages": messages, "page": query.page, "page_size": size, "next_page_uri": next });
    Json(body).into_response()
}

fn next_page(account: &str, query: &List, size: usize) -> Option<String> {
    let mut url = Url::parse("http://sandbox").ok()?;
    url.set_path(&MESSAGES_PATH.replace("{account}", account));
    let mut pairs = url.query_pairs_mut();
    if let Some(to) = &query.to {
        pairs.append_pair("To", to);
    }
    if let Some(from) = query.date_sent_from {
        pairs.append_pair("DateSent>", &from.to_string());
    }
    pairs.append_pair("PageSize", &size.to_string()).append_pair("Page", &(query.page + 1).to_string());
    drop(pairs);
    Some(format!("{}?{}", url.path(), url.query()?))
}

impl Server {
    fn unauthorized(&self, account: &str, headers: &HeaderMap) -> Option<Response> {
        let given = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        if account == ACCOUNT_SID && given == Some(self.authorization.as_str()) {
            return None;
        }
        let mut response = error(StatusCode::UNAUTHORIZED, 20003, "Authenticate");
        if let Ok(value) = "Basic realm=\"Twilio API\"".parse() {
            response.headers_mut().insert(WWW_AUTHENTICATE, value);
        }
        Some(response)
    }
}

/// The numbers 500555000x are Twilio's own for tests.
fn refusal(form: &Create) -> Option<(u32, &'static str)> {
    match form.to.as_str() {
        "" => return Some((21604, "A 'To' phone number is required.")),
        "+15005550001" => return Some((21211, "Invalid 'To' Phone Number.")),
        "+15005550002" => return Some((21612, "The 'To' phone number is not currently reachable.")),
        "+15005550003" => return Some((21408, "Permission to send to the region has not been enabled.")),
        "+15005550004" => return Some((21610, "Attempt to send to unsubscribed recipient.")),
        "+15005550009" => return Some((21614, "'To' number is not a valid mobile number.")),
        to if !is_e164(to) => return Some((21211, "Invalid 'To' Phone Number.")),
        _ => {}
    }
    if form.from.is_empty() {
        return Some((21603, "A 'From' phone number is required."));
    }
    if form.body.is_empty() {
        return Some((21602, "Message body is required."));
    }
    (form.body.chars().count() > BODY_MAX_CHARS)
        .then_some((21617, "The concatenated message body exceeds the 1600 character limit."))
}

fn is_e164(number: &str) -> bool {
    number.strip_prefix('+').is_some_and(|digits| {
        (7..=15).contains(&digits.len())
            && digits.bytes().all(|b| b.is_ascii_digit())
            && !digits.starts_with('0')
    })
}

fn shown(message: &Received, from: Option<&str>) -> Value {
    let date = message.received_at.strftime("%a, %d %b %Y %H:%M:%S +0000").to_string();
    json!({
        "sid": message.provider_message_id,
        "account_sid": ACCOUNT_SID,
        "to": message.to.expose(),
        "from": from,
        "body": message.body.expose(),
        "status": if from.is_some() { "queued" } else { "sent" },
        "date_created": date,
        "date_sent": if from.is_some() { None } else { Some(&date) },
        "error_code": null,
        "error_message": null,
    })
}

fn error(status: StatusCode, code: u32, message: &str) -> Response {
    let body = json!({ "code": code, "message": message, "status": status.as_u16(),
        "more_info": format!("https://www.twilio.com/docs/errors/{code}") });
    (status, Json(body)).into_response()
}

fn failed(status: u16, retry_after_s: u32) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = error(status, 20000 + u32::from(status.as_u16()), "Set by the sandbox's faults");
    if retry_after_s > 0 {
        response.headers_mut().insert(RETRY_AFTER, retry_after_s.into());
    }
    response
}

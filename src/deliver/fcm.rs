//! Push by FCM's HTTP v1 protocol, for Android and (through APNs) for iOS.
//!
//! FCM has no idempotency key and no look-up. A repeat does no harm on the
//! device: the collapse key and the tag are the delivery's short code, so that
//! a second message takes the place of the first one.

use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::{Client, Url};
use serde::{Deserialize, Serialize};

use super::google::Tokens;
use super::{Message, SendOutcome, http};
use crate::config::Push;
use crate::domain::{Reason, Redacted};

/// FCM's bound for a message.
const PAYLOAD_MAX_BYTES: usize = 4096;
/// How long FCM and APNs keep a message for a device that is switched off.
const TIME_TO_LIVE_S: i64 = 24 * 60 * 60;
/// Pause after a 429 that names none: FCM's quota is counted by the minute.
const THROTTLE_DEFAULT: Duration = Duration::from_secs(60);

/// A client of one Firebase project.
pub(super) struct Fcm {
    client: Client,
    send_url: Url,
    tokens: Tokens,
    timeout: Duration,
}

#[derive(Serialize)]
struct Request<'a> {
    message: Envelope<'a>,
}

#[derive(Serialize)]
struct Envelope<'a> {
    token: &'a str,
    notification: Notification<'a>,
    data: Data<'a>,
    android: Android<'a>,
    apns: Apns<'a>,
}

#[derive(Serialize)]
struct Notification<'a> {
    title: &'a str,
    body: &'a str,
}

#[derive(Serialize)]
struct Data<'a> {
    delivery_id: String,
    link: &'a str,
}

#[derive(Serialize)]
struct Android<'a> {
    collapse_key: &'a str,
    priority: &'static str,
    ttl: String,
    notification: AndroidNotification<'a>,
}

#[derive(Serialize)]
struct AndroidNotification<'a> {
    tag: &'a str,
}

#[derive(Serialize)]
struct Apns<'a> {
    headers: ApnsHeaders<'a>,
    payload: ApnsPayload,
}

#[derive(Serialize)]
struct ApnsHeaders<'a> {
    #[serde(rename = "apns-collapse-id")]
    collapse_id: &'a str,
    #[serde(rename = "apns-expiration")]
    expiration: String,
    #[serde(rename = "apns-priority")]
    priority: &'static str,
}

#[derive(Serialize)]
struct ApnsPayload {
    aps: Aps,
}

#[derive(Serialize)]
struct Aps {
    sound: &'static str,
}

#[derive(Deserialize)]
struct Accepted {
    name: String,
}

#[derive(Deserialize)]
struct Failed {
    error: FailedError,
}

#[derive(Deserialize)]
struct FailedError {
    #[serde(default)]
    details: Vec<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    #[serde(default, rename = "errorCode")]
    error_code: Option<String>,
}

impl Fcm {
    /// Builds the client and reads the service account file; gives every fault
    /// as (key, problem).
    pub(super) fn from_config(config: &Push) -> Result<Self, Vec<(&'static str, String)>> {
        let mut faults = Vec::new();
        let is_project = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b':' | b'_');
        if config.project_id.is_empty() || !config.project_id.bytes().all(is_project) {
            faults.push(("push.project_id", "must be the Firebase project's id".to_owned()));
        }
        if config.service_account_file.is_empty() {
            faults.push((
                "push.service_account_file",
                "must be the path of a service account file (Google's JSON format); \
                 or switch the channel off with push.enabled = false"
                    .to_owned(),
            ));
        }
        let base_url = http::parse_base_url(&config.base_url)
            .map_err(|problem| faults.push(("push.base_url", problem)))
            .ok();
        let (Some(base_url), true) = (base_url, faults.is_empty()) else {
            return Err(faults);
        };
        let timeout = Duration::from_millis(config.timeout_ms);
        let client = http::client(&base_url, timeout, config.concurrency)
            .map_err(|error| vec![("push.base_url", format!("no HTTP client could be made ({error})"))])?;
        let tokens = Tokens::from_file(Path::new(&config.service_account_file), client.clone())
            .map_err(|problem| vec![("push.service_account_file", problem)])?;
        let path = format!("/v1/projects/{}/messages:send", config.project_id);
        Ok(Self { client, send_url: http::join(&base_url, &path), tokens, timeout })
    }

    /// Exchanges our statement for a token, without a message.
    pub(super) async fn greet(&self) -> Result<(), Reason> {
        tokio::time::timeout(self.timeout, self.tokens.get())
            .await
            .unwrap_or(Err(Reason::ProviderTimeout))
            .map(drop)
    }

    /// Hands one message to FCM.
    pub(super) async fn send(
        &self,
        message: &Message,
        title: &Redacted<String>,
        body: &Redacted<String>,
        link: &str,
    ) -> SendOutcome {
        let Some(payload) = payload(message, title, body, link, Timestamp::now()) else {
            return SendOutcome::Permanent(Reason::ProviderRefused);
        };
        // A token may have to be fetched first; both calls together keep to one time-out.
        let started = Instant::now();
        let token = tokio::time::timeout(self.timeout / 2, self.tokens.get()).await;
        let token = match token.unwrap_or(Err(Reason::ProviderTimeout)) {
            Ok(token) => token,
            Err(reason) => return SendOutcome::Transient { reason, after: None },
        };
        let request = self
            .client
            .post(self.send_url.clone())
            .header(AUTHORIZATION, token.header.clone())
            .header(CONTENT_TYPE, "application/json")
            .timeout(self.timeout.saturating_sub(started.elapsed()))
            .body(payload);
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return http::lost(&error),
        };
        let status = response.status().as_u16();
        let after = http::retry_after(response.headers(), Timestamp::now());
        let body = http::bounded_body(response).await;
        if status == 200 {
            // The status alone says that FCM has it; its name serves only to find it in FCM's logs.
            let accepted = body.and_then(|body| serde_json::from_slice::<Accepted>(&body).ok());
            let provider_message_id = accepted.map(|accepted| accepted.name).unwrap_or_default();
            return SendOutcome::Sent { provider_message_id };
        }
        if status == 401 {
            self.tokens.drop_token(&token);
        }
        let code = body.and_then(|body| error_code(&body));
        refusal(status, code.as_deref(), after)
    }
}

/// The request's bytes; `None` when FCM would find them too long.
fn payload(
    message: &Message,
    title: &Redacted<String>,
    body: &Redacted<String>,
    link: &str,
    now: Timestamp,
) -> Option<Vec<u8>> {
    let collapse = message.delivery_id.short_code();
    let request = Request {
        message: Envelope {
            token: message.address.expose(),
            notification: Notification { title: title.expose(), body: body.expose() },
            data: Data { delivery_id: message.delivery_id.to_string(), link },
            android: Android {
                collapse_key: &collapse,
                priority: "HIGH",
                ttl: format!("{TIME_TO_LIVE_S}s"),
                notification: AndroidNotification { tag: &collapse },
            },
            apns: Apns {
                headers: ApnsHeaders {
                    collapse_id: &collapse,
                    expiration: (now.as_second() + TIME_TO_LIVE_S).to_string(),
                    priority: "10",
                },
                payload: ApnsPayload { aps: Aps { sound: "default" } },
            },
        },
    };
    let bytes = serde_json::to_vec(&request).ok()?;
    (bytes.len() <= PAYLOAD_MAX_BYTES).then_some(bytes)
}

/// FCM's own word for an error (`UNREGISTERED` …), which stands in the details.
fn error_code(body: &[u8]) -> Option<String> {
    let failed: Failed = serde_json::from_slice(body).ok()?;
    failed.error.details.into_iter().find_map(|detail| detail.error_code)
}

/// What a status other than 200 means. Only FCM's own words retire a token: a
/// 404 or 403 without them speaks of the project, which is ours to mend.
fn refusal(status: u16, code: Option<&str>, after: Option<Duration>) -> SendOutcome {
    match (status, code) {
        (404, Some("UNREGISTERED")) | (403, Some("SENDER_ID_MISMATCH")) => {
            SendOutcome::Permanent(Reason::TokenInvalid)
        }
        (401 | 403 | 404, _) => SendOutcome::Transient { reason: Reason::ProviderCredentials, after },
        (429, _) => SendOutcome::Throttled { after: after.unwrap_or(THROTTLE_DEFAULT) },
        (408 | 500 | 502 | 503 | 300..=399, _) => {
            SendOutcome::Transient { reason: Reason::ProviderError, after }
        }
        (400..=499, _) => SendOutcome::Permanent(Reason::ProviderRefused),
        _ => SendOutcome::Ambiguous(Reason::ProviderTimeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deliver::Content;
    use crate::domain::DeliveryId;

    #[test]
    fn each_status_has_its_class() {
        use SendOutcome::{Ambiguous, Permanent, Throttled, Transient};
        let second = Some(Duration::from_secs(1));
        let transient = |reason| Transient { reason, after: second };
        let cases = [
            (404, Some("UNREGISTERED"), Permanent(Reason::TokenInvalid)),
            (404, None, transient(Reason::ProviderCredentials)),
            (403, Some("SENDER_ID_MISMATCH"), Permanent(Reason::TokenInvalid)),
            (403, None, transient(Reason::ProviderCredentials)),
            (401, Some("THIRD_PARTY_AUTH_ERROR"), transient(Reason::ProviderCredentials)),
            (400, Some("INVALID_ARGUMENT"), Permanent(Reason::ProviderRefused)),
            (429, Some("QUOTA_EXCEEDED"), Throttled { after: Duration::from_secs(1) }),
            (500, Some("INTERNAL"), transient(Reason::ProviderError)),
            (503, Some("UNAVAILABLE"), transient(Reason::ProviderError)),
            (504, None, Ambiguous(Reason::ProviderTimeout)),
        ];
        for (status, code, expected) in cases {
            assert_eq!(refusal(status, code, second), expected, "{status} {code:?}");
        }
    }

    #[test]
    fn a_payload_above_fcms_bound_is_not_sent() {
        let title = Redacted::new("Example Health".to_owned());
        let message = |body: &Redacted<String>| Message {
            delivery_id: DeliveryId(uuid::Uuid::from_u128(1)),
            recipient_id: crate::domain::RecipientId(uuid::Uuid::from_u128(2)),
            purpose: crate::domain::Purpose::General,
            urgency: crate::domain::Urgency::Normal,
            attempt_group: 1,
            address: Redacted::new("token".to_owned()),
            content: Content::Push { title: title.clone(), body: body.clone(), link: String::new() },
        };
        let fits = |chars: usize| {
            let body = Redacted::new("x".repeat(chars));
            payload(&message(&body), &title, &body, "https://p/n/1", Timestamp::UNIX_EPOCH).is_some()
        };
        assert!(fits(3000));
        assert!(!fits(PAYLOAD_MAX_BYTES));
    }
}

//! One call, and what its answer means.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, StatusCode};
use serde_json::json;

use super::Endpoint;
use crate::deliver::http::{bounded_body, retry_after};
use crate::domain::StatusChanged;

const ID: HeaderName = HeaderName::from_static("webhook-id");
const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// What happened, in the receiver's words.
const TYPE: &str = "notification.status_changed";

/// What an end answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// 2xx: it has it.
    Taken,
    /// 410: it wants nothing any more.
    Gone,
    /// Anything else, in a word or as a status; 429 and 503 may ask for a pause.
    Refused {
        /// Why, for people.
        why: String,
        /// The pause that is asked for, at most an hour.
        after: Option<Duration>,
    },
}

/// The event's identifier: the same at every try, and for nothing else.
fn id_of(change: &StatusChanged) -> String {
    format!("evt_{}_{}", change.notification_id.0.simple(), change.sequence)
}

/// The fields of the status topic's record, with the same names and words.
fn payload_of(change: &StatusChanged) -> Vec<u8> {
    let text = json!({
        "type": TYPE,
        "timestamp": change.changed_at.to_string(),
        "data": {
            "notification_id": change.notification_id.to_string(),
            "patient_id": change.patient_id.as_str(),
            "recipient_id": change.recipient_id.0.to_string(),
            "purpose": change.purpose.as_str(),
            "sequence": change.sequence,
            "state": change.state.as_str(),
            "reason": change.reason.as_str(),
            "channel": change.channel.map(|channel| channel.as_str()),
            "caller": change.caller,
            "changed_at": change.changed_at.to_string(),
        },
    });
    text.to_string().into_bytes()
}

impl Endpoint {
    /// Tells this end of a change. The answer's status counts, its body does not.
    pub async fn call(&self, client: &Client, change: &StatusChanged) -> Answer {
        let payload = payload_of(change);
        let Some(headers) = self.headers(&id_of(change), Timestamp::now().as_second(), &payload) else {
            return Answer::Refused { why: "headers".to_owned(), after: None };
        };
        let sent = client.post(self.url.expose().clone()).headers(headers).body(payload).send().await;
        match sent {
            Ok(response) => {
                let (status, after) = (response.status(), retry_after(response.headers(), Timestamp::now()));
                // A connection whose answer is read to its end can be used again.
                drop(bounded_body(response).await);
                answer(status, after)
            }
            Err(error) => Answer::Refused { why: lost(&error).to_owned(), after: None },
        }
    }

    /// With a signature of each secret; `None` cannot be: all of it is plain text.
    fn headers(&self, id: &str, now_s: i64, payload: &[u8]) -> Option<HeaderMap> {
        let signatures: Vec<String> =
            self.secrets.iter().map(|secret| secret.signature(id, now_s, payload)).collect();
        let mut headers = HeaderMap::with_capacity(4);
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(ID, HeaderValue::from_str(id).ok()?);
        headers.insert(TIMESTAMP, HeaderValue::from(now_s));
        headers.insert(SIGNATURE, HeaderValue::from_str(&signatures.join(" ")).ok()?);
        Some(headers)
    }
}

fn answer(status: StatusCode, after: Option<Duration>) -> Answer {
    if status.is_success() {
        return Answer::Taken;
    }
    match status {
        StatusCode::GONE => Answer::Gone,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            Answer::Refused { why: status.as_str().to_owned(), after }
        }
        _ => Answer::Refused { why: status.as_str().to_owned(), after: None },
    }
}

fn lost(error: &reqwest::Error) -> &'static str {
    if error.is_connect() {
        "unreachable"
    } else if error.is_timeout() {
        "timeout"
    } else {
        "connection_lost"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_statuses_can_ask_for_a_pause() {
        let asked = Some(Duration::from_secs(7));
        let refused = |why: &str, after| Answer::Refused { why: why.to_owned(), after };
        assert_eq!(answer(StatusCode::NO_CONTENT, None), Answer::Taken);
        assert_eq!(answer(StatusCode::GONE, asked), Answer::Gone);
        assert_eq!(answer(StatusCode::TOO_MANY_REQUESTS, asked), refused("429", asked));
        assert_eq!(answer(StatusCode::SERVICE_UNAVAILABLE, asked), refused("503", asked));
        assert_eq!(answer(StatusCode::FOUND, asked), refused("302", None));
        assert_eq!(answer(StatusCode::INTERNAL_SERVER_ERROR, asked), refused("500", None));
    }
}

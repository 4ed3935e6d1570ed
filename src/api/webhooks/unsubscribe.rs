//! `/webhooks/unsubscribe/{token}`: one click ends e-mails of one purpose (RFC 8058).
//!
//! Mail programs POST by themselves when a recipient says so; people who follow the link
//! get a page with a button that posts. A GET changes nothing, because scanners of mail
//! servers follow every link.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use jiff::Timestamp;
use tokio::time::Instant;

use super::gate::Gate;
use super::{Answer, CALLBACK_MAX, Way};
use crate::deliver::UnsubscribeLinks;
use crate::deliver::unsubscribe::Subscription;
use crate::domain::{Fact, NotificationUpdate, Purpose};
use crate::metrics;
use crate::record::addressees::{Standing, standing};

/// Who says so, on the topic.
const SOURCE: &str = "unsubscribe-link";
/// Longest body, in bytes: one field, as a form or in parts.
const BODY_MAX_BYTES: usize = 4 * 1024;
/// Clicks in hand at once.
const CONCURRENCY_MAX: usize = 64;
const PAGE: &str = include_str!("unsubscribe.html");
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'self'; \
    frame-ancestors 'none'";

struct Hook {
    links: UnsubscribeLinks,
    way: Way,
    gate: Gate,
}

pub(super) fn routes(links: UnsubscribeLinks, way: Way) -> Router {
    Router::new()
        .route("/webhooks/unsubscribe/{token}", get(looked).post(clicked))
        .with_state(Arc::new(Hook { links, way, gate: Gate::new(CONCURRENCY_MAX, BODY_MAX_BYTES) }))
}

async fn looked(State(hook): State<Arc<Hook>>, Path(token): Path<String>) -> Response {
    match hook.links.read(&token, Timestamp::now()) {
        Some(what) => page(StatusCode::OK, &question(what.purpose)),
        None => page(StatusCode::NOT_FOUND, INVALID),
    }
}

async fn clicked(State(hook): State<Arc<Hook>>, Path(token): Path<String>, request: Request) -> Response {
    let answer = hook.take(&token, request).await.unwrap_or_else(|answer| answer);
    metrics::webhook("unsubscribe", answer.as_str());
    match answer {
        // It does not tell whether a recipient is there.
        Answer::Published | Answer::Known | Answer::Nobody => page(StatusCode::OK, DONE),
        Answer::BadSignature => page(StatusCode::NOT_FOUND, INVALID),
        Answer::Unavailable | Answer::Overloaded => {
            let mut response = page(StatusCode::SERVICE_UNAVAILABLE, LATER);
            response
                .headers_mut()
                .insert(axum::http::header::RETRY_AFTER, HeaderValue::from_static(super::RETRY_AFTER_S));
            response
        }
        other => other.into_response(),
    }
}

impl Hook {
    async fn take(&self, token: &str, request: Request) -> Result<Answer, Answer> {
        let deadline = Instant::now() + CALLBACK_MAX;
        let now = Timestamp::now();
        let what = self.links.read(token, now).ok_or(Answer::BadSignature)?;
        if !says_one_click(&self.gate.read(request).await?.body) {
            return Err(Answer::Unusable);
        }
        let _place = self.gate.enter()?;
        let look = standing(&self.way.pool, what.recipient_id, what.channel, what.purpose);
        let Some(standing) = self.way.look(look, deadline).await? else { return Ok(Answer::Nobody) };
        if matches!(standing.entry, Some((_, false))) {
            return Ok(Answer::Known);
        }
        Ok(self.way.publish(vec![opt_out(what, standing, now)], deadline).await)
    }
}

/// `List-Unsubscribe=One-Click`, as a form or as the only part of one with parts: both
/// are allowed to mail programs.
fn says_one_click(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    text.contains("List-Unsubscribe") && text.contains("One-Click")
}

/// The same click again is the same update, until the recipient agrees again.
fn opt_out(what: Subscription, standing: Standing, now: Timestamp) -> NotificationUpdate {
    let entry = standing.entry.map_or(0, |(id, _)| id);
    let whose = what.recipient_id.0.simple().to_string();
    NotificationUpdate {
        update_id: format!("{}:{}:{entry}", &whose[..16], what.purpose),
        occurred_at: now,
        source: SOURCE.to_owned(),
        patient_id: None,
        fact: Fact::Consent {
            recipient: standing.recipient,
            channel: Some(what.channel),
            purpose: Some(what.purpose),
            granted: false,
        },
    }
}

const DONE: &str = "<h1>Done</h1><p>You will not get these e-mails any more. \
    What you want to hear about, and how, can be changed at any time in the patient portal.</p>";
const INVALID: &str = "<h1>This link does not work any more</h1>\
    <p>Sign in to the patient portal to choose what you hear about.</p>";
const LATER: &str =
    "<h1>Not yet</h1><p>This could not be recorded just now. Please try again in a minute.</p>";

fn question(purpose: Purpose) -> String {
    let what = match purpose {
        Purpose::Campaign => "information about offers and campaigns",
        Purpose::AppointmentReminder => "reminders of appointments",
        Purpose::General | Purpose::TestResult | Purpose::AppointmentConfirmation => "messages of this kind",
    };
    format!(
        "<h1>No more e-mails?</h1><p>You will get no more {what} by e-mail.</p>\
         <form method=\"post\"><input type=\"hidden\" name=\"List-Unsubscribe\" value=\"One-Click\">\
         <button>End these e-mails</button></form>"
    )
}

fn page(status: StatusCode, content: &str) -> Response {
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (status, headers, PAGE.replace("{content}", content)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::is_opaque;
    use crate::domain::{Channel, RecipientId};

    #[test]
    fn both_forms_of_the_click_are_known() {
        assert!(says_one_click(b"List-Unsubscribe=One-Click"));
        let parts =
            b"--x\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--x--";
        assert!(says_one_click(parts));
        for other in [&b""[..], b"List-Unsubscribe=", b"One-Click", b"\xff\xfe"] {
            assert!(!says_one_click(other));
        }
    }

    #[test]
    fn a_click_after_a_new_yes_is_another_update() {
        let what = Subscription {
            recipient_id: RecipientId::from_external("pat-1"),
            channel: Channel::Email,
            purpose: Purpose::Campaign,
        };
        let id = |entry| {
            let standing = Standing { recipient: "pat-1".to_owned(), entry };
            opt_out(what, standing, Timestamp::UNIX_EPOCH).update_id
        };
        assert_eq!(id(None), id(None));
        assert_ne!(id(None), id(Some((7, true))));
        assert!(is_opaque(&id(Some((i64::MAX, true)))));
    }
}

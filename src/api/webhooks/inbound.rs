//! `POST /webhooks/twilio/inbound`: a patient has written a text message.
//!
//! Only its meaning as a whole counts ([`Keyword`]): STOP ends text messages, START takes
//! that back, HELP is answered. Anything else is for people, and Twilio keeps it; it is
//! answered with nothing. The number becomes the portal's identifiers here, because what
//! is on topics names no addresses.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use jiff::Timestamp;
use tokio::time::Instant;

use super::gate::Gate;
use super::status::BODY_MAX_BYTES;
use super::twilio::{self, SOURCE, Twilio};
use super::{Answer, CALLBACK_MAX, Way};
use crate::domain::ids::is_opaque;
use crate::domain::keyword::Keyword;
use crate::domain::{Channel, Fact, NotificationUpdate, RecipientId, Redacted};
use crate::metrics;
use crate::record::addressees::owners_of_number;

/// Texts in hand at once.
const CONCURRENCY_MAX: usize = 64;
/// Longest id of a message at Twilio, in characters; theirs have 34.
const SID_MAX_CHARS: usize = 39;

struct Hook {
    twilio: Arc<Twilio>,
    help_reply: String,
    way: Way,
    gate: Gate,
}

pub(super) fn routes(twilio: Arc<Twilio>, help_reply: String, way: Way) -> Router {
    Router::new().route("/webhooks/twilio/inbound", post(called)).with_state(Arc::new(Hook {
        twilio,
        help_reply,
        way,
        gate: Gate::new(CONCURRENCY_MAX, BODY_MAX_BYTES),
    }))
}

async fn called(State(hook): State<Arc<Hook>>, request: Request) -> Response {
    let answer = hook.take(request).await.unwrap_or_else(|answer| answer);
    metrics::webhook("twilio_inbound", answer.as_str());
    match answer {
        Answer::Help => twiml(&hook.help_reply),
        _ if answer.status().is_success() => twiml(""),
        _ => answer.into_response(),
    }
}

impl Hook {
    async fn take(&self, request: Request) -> Result<Answer, Answer> {
        let deadline = Instant::now() + CALLBACK_MAX;
        let form = twilio::signed_form(&self.twilio, &self.gate, request).await?;
        let _place = self.gate.enter()?;
        let Some(text) = read(&form) else { return Ok(Answer::Unusable) };
        let granted = match text.keyword {
            Some(Keyword::OptOut) => false,
            Some(Keyword::OptIn) => true,
            Some(Keyword::Help) if text.answered => return Ok(Answer::Ignored),
            Some(Keyword::Help) => return Ok(Answer::Help),
            None => return Ok(Answer::Ignored),
        };
        let look = owners_of_number(&self.way.pool, &text.from, granted);
        let owners = self.way.look(look, deadline).await?;
        if owners.is_empty() {
            return Ok(Answer::Nobody);
        }
        let now = Timestamp::now();
        let updates = owners.into_iter().map(|recipient| consent(&text.sid, recipient, granted, now));
        Ok(self.way.publish(updates.collect(), deadline).await)
    }
}

/// A text message from a patient.
struct Text {
    sid: String,
    from: Redacted<String>,
    keyword: Option<Keyword>,
    /// Twilio has answered it itself.
    answered: bool,
}

/// Twilio says itself what it takes for an opt-out where that is set up (Advanced
/// Opt-Out, with words of the operator's own).
fn read(form: &twilio::Parameters) -> Option<Text> {
    let sid = twilio::value(form, "MessageSid").or_else(|| twilio::value(form, "SmsSid"))?;
    let from = twilio::value(form, "From")?;
    let told = twilio::value(form, "OptOutType").and_then(|word| match word {
        "STOP" => Some(Keyword::OptOut),
        "START" => Some(Keyword::OptIn),
        "HELP" => Some(Keyword::Help),
        _ => None,
    });
    let read = || twilio::value(form, "Body").and_then(Keyword::of);
    (is_opaque(sid) && sid.len() <= SID_MAX_CHARS).then(|| Text {
        sid: sid.to_owned(),
        from: Redacted::new(from.to_owned()),
        keyword: told.or_else(read),
        answered: told.is_some(),
    })
}

/// The same text again gives the same updates, one for each recipient.
fn consent(sid: &str, recipient: String, granted: bool, now: Timestamp) -> NotificationUpdate {
    let whose = RecipientId::from_external(&recipient).0.simple().to_string();
    NotificationUpdate {
        update_id: format!("{sid}:{}", &whose[..24]),
        occurred_at: now,
        source: SOURCE.to_owned(),
        patient_id: None,
        fact: Fact::Consent { recipient, channel: Some(Channel::Sms), purpose: None, granted },
    }
}

/// What Twilio is to do: to send this text back, or nothing.
fn twiml(reply: &str) -> Response {
    let escaped = reply.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let message = if reply.is_empty() { String::new() } else { format!("<Message>{escaped}</Message>") };
    let text = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response>{message}</Response>");
    ([(header::CONTENT_TYPE, "text/xml; charset=utf-8")], text).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(parameters: &[(&str, &str)]) -> Option<Text> {
        let form: twilio::Parameters =
            parameters.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        read(&form)
    }

    fn meaning(body: &str, more: (&str, &str)) -> (Option<Keyword>, bool) {
        let sid = format!("SM{}", "0".repeat(32));
        let read = text(&[("MessageSid", &sid), ("From", "+15550100001"), ("Body", body), more]).unwrap();
        (read.keyword, read.answered)
    }

    #[test]
    fn twilios_own_word_goes_before_the_texts() {
        let none = ("x", "");
        assert_eq!(meaning("Stop.", none), (Some(Keyword::OptOut), false));
        assert_eq!(meaning("please stop the pain", none), (None, false));
        assert_eq!(meaning("basta", ("OptOutType", "STOP")), (Some(Keyword::OptOut), true));
        assert_eq!(meaning("HELP", ("OptOutType", "HELP")), (Some(Keyword::Help), true));
        assert_eq!(meaning("START", ("OptOutType", "new")), (Some(Keyword::OptIn), false));
    }

    #[test]
    fn what_has_no_sender_or_no_id_is_no_text() {
        assert!(text(&[("MessageSid", "SM1"), ("Body", "STOP")]).is_none());
        assert!(text(&[("From", "+1"), ("Body", "STOP")]).is_none());
        assert!(text(&[("From", "+1"), ("MessageSid", &"S".repeat(40))]).is_none());
    }

    #[test]
    fn the_same_text_again_is_the_same_update_and_its_id_is_opaque() {
        let sid = "S".repeat(SID_MAX_CHARS);
        let of = |who: &str| consent(&sid, who.to_owned(), false, Timestamp::UNIX_EPOCH);
        assert_eq!(of("pat-1"), of("pat-1"));
        assert_ne!(of("pat-1").update_id, of("pat-2").update_id);
        assert!(is_opaque(&of("pat-1").update_id));
    }
}

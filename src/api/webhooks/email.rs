//! `POST /webhooks/email`: what became of e-mails, as SendGrid's Event Webhook tells it.
//!
//! A call is signed (ECDSA over its time and its body) and has many events. Each finds its
//! delivery by the argument that the message was sent with, else by our own Message-ID.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use super::gate::Gate;
use super::{Answer, CALLBACK_MAX, Way};
use crate::config;
use crate::domain::ids::is_opaque;
use crate::domain::{Channel, DeliveryId, DeliveryRef, Engagement, Fact, NotificationUpdate, ReceiptStatus};
use crate::metrics;
use crate::record::addressees::{Addressee, addressees};

const SIGNATURE: &str = "x-twilio-email-event-webhook-signature";
const TIMESTAMP: &str = "x-twilio-email-event-webhook-timestamp";
/// Who says so, on the topic.
const SOURCE: &str = "sendgrid";
/// Longest body, in bytes; SendGrid sends up to 768 KiB.
const BODY_MAX_BYTES: usize = 1024 * 1024;
/// Events of one call.
const EVENTS_MAX: usize = 10_000;
/// Signed calls in hand at once, 16 MiB with their bodies.
const CONCURRENCY_MAX: usize = 16;
/// Longest status code, in characters.
const CODE_MAX_CHARS: usize = 64;

/// What it takes to know a call of the provider.
pub struct EmailEvents {
    key: ParsedPublicKey,
    max_age: SignedDuration,
}

impl EmailEvents {
    /// `None` when no key is configured.
    #[must_use]
    pub fn from_config(config: &config::Email) -> Option<Self> {
        let der = BASE64_STANDARD.decode(&config.event_webhook_public_key).ok()?;
        let max_age = Duration::from_millis(config.event_webhook_max_age_ms);
        Some(Self {
            key: ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, der).ok()?,
            max_age: SignedDuration::try_from(max_age).unwrap_or(SignedDuration::MAX),
        })
    }

    fn has_signed(&self, signed_at: &[u8], body: &[u8], signature: &[u8]) -> bool {
        let Ok(signature) = BASE64_STANDARD.decode(signature) else { return false };
        self.key.verify_sig(&[signed_at, body].concat(), &signature).is_ok()
    }
}

struct Hook {
    events: EmailEvents,
    way: Way,
    gate: Gate,
}

pub(super) fn routes(events: EmailEvents, way: Way) -> Router {
    Router::new().route("/webhooks/email", post(called)).with_state(Arc::new(Hook {
        events,
        way,
        gate: Gate::new(CONCURRENCY_MAX, BODY_MAX_BYTES),
    }))
}

async fn called(State(hook): State<Arc<Hook>>, request: Request) -> Answer {
    let answer = hook.take(request).await.unwrap_or_else(|answer| answer);
    metrics::webhook("email", answer.as_str());
    answer
}

impl Hook {
    async fn take(&self, request: Request) -> Result<Answer, Answer> {
        let deadline = Instant::now() + CALLBACK_MAX;
        let now = Timestamp::now();
        let (signature, signed_at) = signed(request.headers()).ok_or(Answer::BadSignature)?;
        // Before the body is read: what is too old is not worth it.
        let age = now.duration_since(timestamp(&signed_at).ok_or(Answer::BadSignature)?);
        if age.abs() > self.events.max_age {
            return Err(Answer::Old);
        }
        let call = self.gate.read(request).await?;
        if !self.events.has_signed(&signed_at, &call.body, &signature) {
            return Err(Answer::BadSignature);
        }
        let _place = self.gate.enter()?;
        let events: Vec<Value> =
            serde_json::from_slice(&call.body).map_err(|_| Answer::BadBody(StatusCode::BAD_REQUEST))?;
        // What it took as one of the unknown is for others again.
        drop(call);
        if events.len() > EVENTS_MAX {
            return Err(Answer::BadBody(StatusCode::PAYLOAD_TOO_LARGE));
        }
        let said: Vec<Said> = events.iter().filter_map(|event| read(event, now)).collect();
        let whose = self.whose(&said, deadline).await?;
        let updates: Vec<NotificationUpdate> =
            said.into_iter().filter_map(|said| update(said, &whose)).collect();
        if updates.is_empty() {
            return Ok(Answer::Ignored);
        }
        Ok(self.way.publish(updates, deadline).await)
    }

    /// Notification and recipient, where an event needs them.
    async fn whose(
        &self,
        said: &[Said],
        deadline: Instant,
    ) -> Result<HashMap<DeliveryId, Addressee>, Answer> {
        let wanted: Vec<DeliveryId> = said
            .iter()
            .filter(|said| !matches!(said.meaning, Meaning::Receipt(..)))
            .map(|said| said.delivery_id)
            .collect();
        if wanted.is_empty() {
            return Ok(HashMap::new());
        }
        self.way.look(addressees(&self.way.pool, &wanted), deadline).await
    }
}

/// Signature and time of signing, as they came.
fn signed(headers: &HeaderMap) -> Option<(Vec<u8>, Vec<u8>)> {
    let value = |name| headers.get(name).map(|value| value.as_bytes().to_vec());
    Some((value(SIGNATURE)?, value(TIMESTAMP)?))
}

fn timestamp(text: &[u8]) -> Option<Timestamp> {
    Timestamp::from_second(std::str::from_utf8(text).ok()?.parse().ok()?).ok()
}

/// What an event means.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Meaning {
    Receipt(ReceiptStatus, Option<String>),
    Engaged(Engagement),
    /// No more e-mails: of this purpose, or of any.
    OptOut {
        of_all: bool,
    },
}

/// An event of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Said {
    event_id: String,
    at: Timestamp,
    delivery_id: DeliveryId,
    meaning: Meaning,
}

/// `None` for an event that means nothing to us: of a kind that we do not know, or about a
/// message that is not ours.
fn read(event: &Value, now: Timestamp) -> Option<Said> {
    let text = |name: &str| event.get(name).and_then(Value::as_str);
    let meaning = meaning(text("event")?, text("type"), event)?;
    let given = text("delivery_id").and_then(|id| Uuid::parse_str(id).ok()).map(DeliveryId);
    let at = event.get("timestamp").and_then(Value::as_i64).and_then(|at| Timestamp::from_second(at).ok());
    Some(Said {
        event_id: opaque(text("sg_event_id").filter(|id| !id.is_empty())?),
        at: at.unwrap_or(now),
        delivery_id: given.or_else(|| text("smtp-id").and_then(DeliveryId::in_message_id))?,
        meaning,
    })
}

fn meaning(event: &str, kind: Option<&str>, fields: &Value) -> Option<Meaning> {
    let code = || {
        let is_code = |code: &&str| {
            (1..=CODE_MAX_CHARS).contains(&code.len())
                && code.bytes().all(|b| b.is_ascii_digit() || b == b'.')
        };
        fields.get("status").and_then(Value::as_str).filter(is_code).map(str::to_owned)
    };
    Some(match event {
        "processed" => Meaning::Receipt(ReceiptStatus::Accepted, None),
        "deferred" => Meaning::Receipt(ReceiptStatus::Accepted, code()),
        "delivered" => Meaning::Receipt(ReceiptStatus::Delivered, None),
        // The mailbox's server turned the sender away, and said nothing of the mailbox.
        "bounce" if kind == Some("blocked") => Meaning::Receipt(ReceiptStatus::Undelivered, code()),
        "bounce" => Meaning::Receipt(ReceiptStatus::Bounced, code()),
        "dropped" => Meaning::Receipt(ReceiptStatus::Failed, code()),
        "spamreport" => Meaning::Receipt(ReceiptStatus::Complained, None),
        "unsubscribe" => Meaning::OptOut { of_all: true },
        "group_unsubscribe" => Meaning::OptOut { of_all: false },
        // Mail programs open mails by themselves: that says nothing of the patient.
        "open" if fields.get("sg_machine_open").and_then(Value::as_bool) == Some(true) => return None,
        "open" => Meaning::Engaged(Engagement::Seen),
        "click" => Meaning::Engaged(Engagement::Acted),
        _ => return None,
    })
}

/// The provider's id as it is, or its digest where it is longer than ours may be.
fn opaque(id: &str) -> String {
    if is_opaque(id) {
        return id.to_owned();
    }
    let digest = digest::digest(&digest::SHA256, id.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `None` when nobody is known by the delivery any more.
fn update(said: Said, whose: &HashMap<DeliveryId, Addressee>) -> Option<NotificationUpdate> {
    let fact = match said.meaning {
        Meaning::Receipt(status, code) => {
            Fact::Receipt { delivery: DeliveryRef::Id(said.delivery_id), status, code }
        }
        Meaning::Engaged(engagement) => {
            Fact::Engaged { notification_id: whose.get(&said.delivery_id)?.notification_id, engagement }
        }
        Meaning::OptOut { of_all } => {
            let addressee = whose.get(&said.delivery_id)?;
            Fact::Consent {
                recipient: addressee.recipient.clone(),
                channel: Some(Channel::Email),
                purpose: (!of_all).then_some(addressee.purpose),
                granted: false,
            }
        }
    };
    Some(NotificationUpdate {
        update_id: said.event_id,
        occurred_at: said.at,
        source: SOURCE.to_owned(),
        patient_id: None,
        fact,
    })
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
    use serde_json::json;

    use super::*;
    use crate::config::Config;

    fn key_pair() -> EcdsaKeyPair {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap()
    }

    fn events(pair: &EcdsaKeyPair) -> EmailEvents {
        let mut email = Config::from_defaults().email;
        let der: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
        email.event_webhook_public_key = BASE64_STANDARD.encode(der.as_ref());
        EmailEvents::from_config(&email).unwrap()
    }

    #[test]
    fn only_the_key_that_is_configured_signs_and_only_what_was_signed() {
        let (pair, other) = (key_pair(), key_pair());
        let sign = |pair: &EcdsaKeyPair| {
            BASE64_STANDARD.encode(pair.sign(&SystemRandom::new(), b"1700000000[{}]").unwrap())
        };
        let (events, good) = (events(&pair), sign(&pair));
        assert!(events.has_signed(b"1700000000", b"[{}]", good.as_bytes()));
        for (signed_at, body, signature) in [
            (&b"1700000001"[..], &b"[{}]"[..], good.as_str()),
            (b"1700000000", b"[{} ]", &good),
            (b"1700000000", b"[{}]", &sign(&other)),
            (b"1700000000", b"[{}]", "AAAA"),
            (b"1700000000", b"[{}]", ""),
            (b"1700000000", b"[{}]", "%"),
        ] {
            assert!(!events.has_signed(signed_at, body, signature.as_bytes()), "{signature}");
        }
        assert!(EmailEvents::from_config(&Config::from_defaults().email).is_none());
    }

    #[test]
    fn a_key_in_the_form_that_the_provider_shows_can_be_used() {
        let mut email = Config::from_defaults().email;
        email.event_webhook_public_key = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g==".to_owned();
        assert!(EmailEvents::from_config(&email).is_some());
    }

    const DELIVERY: &str = "00000000-0000-0000-0000-000000000007";

    fn said(mut event: Value) -> Option<Said> {
        event["sg_event_id"] = "ev-1".into();
        event["delivery_id"] = DELIVERY.into();
        read(&event, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn each_kind_of_event_has_its_meaning() {
        use ReceiptStatus::{Accepted, Bounced, Complained, Delivered, Failed, Undelivered};
        let receipt = |status, code: Option<&str>| Some(Meaning::Receipt(status, code.map(str::to_owned)));
        for (event, expected) in [
            (json!({"event": "processed"}), receipt(Accepted, None)),
            (json!({"event": "deferred", "status": "4.2.2"}), receipt(Accepted, Some("4.2.2"))),
            (json!({"event": "delivered", "response": "250 OK"}), receipt(Delivered, None)),
            (
                json!({"event": "bounce", "status": "5.1.1", "type": "bounce"}),
                receipt(Bounced, Some("5.1.1")),
            ),
            (json!({"event": "bounce", "status": "550 <a@b.org>"}), receipt(Bounced, None)),
            (json!({"event": "bounce", "status": 5}), receipt(Bounced, None)),
            (
                json!({"event": "bounce", "status": "5.7.1", "type": "blocked"}),
                receipt(Undelivered, Some("5.7.1")),
            ),
            (json!({"event": "dropped", "reason": "Bounced Address"}), receipt(Failed, None)),
            (json!({"event": "spamreport"}), receipt(Complained, None)),
            (json!({"event": "unsubscribe"}), Some(Meaning::OptOut { of_all: true })),
            (json!({"event": "group_unsubscribe"}), Some(Meaning::OptOut { of_all: false })),
            (json!({"event": "open", "sg_machine_open": false}), Some(Meaning::Engaged(Engagement::Seen))),
            (json!({"event": "open", "sg_machine_open": true}), None),
            (json!({"event": "click"}), Some(Meaning::Engaged(Engagement::Acted))),
            (json!({"event": "group_resubscribe"}), None),
            (json!({"event": "teleported"}), None),
            (json!({}), None),
        ] {
            assert_eq!(said(event.clone()).map(|said| said.meaning), expected, "{event}");
        }
    }

    #[test]
    fn a_delivery_is_found_by_its_argument_or_by_our_message_id() {
        let mut event = json!({"event": "delivered", "sg_event_id": "ev-1", "timestamp": 1_700_000_000});
        assert_eq!(read(&event, Timestamp::UNIX_EPOCH), None, "somebody else's message");
        event["smtp-id"] = format!("<{DELIVERY}.1@portal.example.org>").into();
        let found = read(&event, Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(found.delivery_id, DeliveryId(Uuid::from_u128(7)));
        assert_eq!(found.at.as_second(), 1_700_000_000);
        event["delivery_id"] = "00000000-0000-0000-0000-000000000008".into();
        assert_eq!(read(&event, Timestamp::UNIX_EPOCH).unwrap().delivery_id, DeliveryId(Uuid::from_u128(8)));
    }

    #[test]
    fn a_long_or_strange_event_id_becomes_an_opaque_one() {
        assert_eq!(opaque("ZGVsaXZlcmVk-1_a"), "ZGVsaXZlcmVk-1_a");
        for id in [&"x".repeat(100), "a b", "<a@b.org>"] {
            assert!(is_opaque(&opaque(id)), "{id}");
            assert_eq!(opaque(id), opaque(id));
        }
    }
}

//! Events about e-mails: a signed call is on the topic before it is answered, whatever is
//! forged, old or too large leaves no trace, and nobody's address reaches the log.

use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use jiff::Timestamp;
use patient_notify::domain::{Channel, DeliveryId};
use patient_notify::topic::names;
use serde_json::{Value, json};

use crate::harness::{Addresses, BrokerProxy, World, delivery_of, eventually, only, request};
use crate::webhooks::{Bench, NUMBER, SOON};

struct Provider {
    pair: EcdsaKeyPair,
}

impl Provider {
    fn new() -> Self {
        Self { pair: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap() }
    }

    fn public_key(&self) -> String {
        let der: PublicKeyX509Der<'_> = self.pair.public_key().as_der().unwrap();
        BASE64_STANDARD.encode(AsRef::<[u8]>::as_ref(&*der))
    }

    /// Posts a body that was signed at this time.
    async fn post(&self, bench: &Bench, signed_at: i64, body: Vec<u8>) -> u16 {
        let signature =
            self.pair.sign(&SystemRandom::new(), &[signed_at.to_string().as_bytes(), &body].concat());
        let signature = BASE64_STANDARD.encode(signature.unwrap());
        posted(bench, signed_at, body, Some(signature)).await
    }

    async fn tell(&self, bench: &Bench, events: &[Value]) -> u16 {
        self.post(bench, now(), serde_json::to_vec(events).unwrap()).await
    }
}

async fn posted(bench: &Bench, signed_at: i64, body: Vec<u8>, signature: Option<String>) -> u16 {
    let url = format!("http://{}/webhooks/email", bench.world.config.app.listen);
    let mut call = bench.client.post(url).header("content-type", "application/json").body(body);
    call = call.header("X-Twilio-Email-Event-Webhook-Timestamp", signed_at.to_string());
    if let Some(signature) = signature {
        call = call.header("X-Twilio-Email-Event-Webhook-Signature", signature);
    }
    call.send().await.unwrap().status().as_u16()
}

fn now() -> i64 {
    Timestamp::now().as_second()
}

/// An event as SendGrid tells it; the address stands in each.
fn event(id: &str, kind: &str, delivery: DeliveryId, more: Value) -> Value {
    let mut event = json!({
        "email": format!("pat{NUMBER}@example.org"),
        "event": kind,
        "timestamp": now(),
        "sg_event_id": id,
        "sg_message_id": format!("14c5d75ce93.dfd.64b469.filter0001.{id}"),
        "delivery_id": delivery.to_string(),
    });
    for (name, value) in more.as_object().unwrap() {
        event[name] = value.clone();
    }
    event
}

async fn until(world: &World, rows: &str) {
    eventually(rows, SOON, async || world.count(rows).await == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_move_what_they_are_about_and_repeats_are_nothing_more() {
    let provider = Provider::new();
    let key = provider.public_key();
    let mut bench = Bench::start(&[("PATIENT_NOTIFY_EMAIL__EVENT_WEBHOOK_PUBLIC_KEY", &key)]).await;
    let world = &bench.world;
    world.load(&(1..=4).map(|number| only(Channel::Email, number)).collect::<Vec<_>>()).await;
    let consumer = world.role("consumer-notification", |_| {});
    let updates = world.role("consumer-notification-update", |_| {});
    let keys = ["came", "gone", "spam", "clicked"];
    let requests: Vec<_> = keys.iter().zip(1..).map(|(key, number)| request(number, key)).collect();
    world.publish_requests(&requests, &names::NOTIFICATIONS).await;
    world.until_sent(4, SOON).await;
    let [came, gone, spam, clicked] = keys.map(|key| delivery_of(key, Channel::Email));

    let mut by_message_id = event("e1", "delivered", came, json!({"smtp-id": format!("<{came}.1@x.org>")}));
    by_message_id.as_object_mut().unwrap().remove("delivery_id");
    let events = [
        by_message_id,
        event("e2", "deferred", came, json!({"status": "4.2.2", "attempt": "3"})),
        event(
            "e3",
            "bounce",
            gone,
            json!({"status": "5.1.1", "type": "bounce", "reason": "550 no such user"}),
        ),
        event("e4", "spamreport", spam, json!({})),
        event("e5", "click", clicked, json!({"url": "https://portal.example.org/"})),
        event("e6", "group_unsubscribe", clicked, json!({"asm_group_id": 7})),
        event("e7", "open", clicked, json!({"sg_machine_open": true})),
        event("e8", "teleported", came, json!({})),
        json!({"event": "delivered", "email": "of@another.system", "sg_event_id": "e9"}),
        json!("no event at all"),
    ];
    assert_eq!(provider.tell(&bench, &events).await, 204);
    assert_eq!(bench.published().await.len(), 6, "on the topic once it is answered");
    until(world, "notification WHERE state = 'delivered' AND reason = 'receipt_delivered'").await;
    until(world, "notification WHERE state = 'permanent_failure' AND reason = 'bounced'").await;
    until(world, "contact_point WHERE retired_why = 'invalid_address'").await;
    until(world, "notification WHERE state = 'delivered' AND reason = 'complained'").await;
    until(world, "notification WHERE engagement = 'acted'").await;
    until(
        world,
        "consent WHERE channel = 'email' AND purpose = 'general' AND how = 'opt_out' AND NOT granted",
    )
    .await;
    world.until_no_lag(SOON).await;
    let known = (world.count("outbox").await, world.count("why").await, world.count("consent").await);
    assert_eq!(provider.tell(&bench, &events).await, 204);
    world.until_no_lag(SOON).await;
    assert_eq!((world.count("outbox").await, world.count("why").await, world.count("consent").await), known);
    assert!(world.dead_letters().await.is_empty());
    consumer.stop().await.unwrap();
    updates.stop().await.unwrap();
    assert_eq!(bench.counted_of("email", "published").await, 2.0);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forged_old_or_too_large_leaves_no_trace_and_a_broker_that_is_away_is_told() {
    let provider = Provider::new();
    let key = provider.public_key();
    let broker = BrokerProxy::start().await;
    let brokers = Addresses::from_environment().proxied_brokers;
    let mut bench = Bench::start(&[
        ("PATIENT_NOTIFY_EMAIL__EVENT_WEBHOOK_PUBLIC_KEY", &key),
        ("PATIENT_NOTIFY_KAFKA__BOOTSTRAP_SERVERS", &brokers),
    ])
    .await;
    let delivery = delivery_of("forged", Channel::Email);
    let good = vec![event("f1", "delivered", delivery, json!({}))];
    let body = serde_json::to_vec(&good).unwrap();
    assert_eq!(posted(&bench, now(), body.clone(), None).await, 403, "unsigned");
    assert_eq!(posted(&bench, now(), body.clone(), Some("AAAA".to_owned())).await, 403, "forged");
    assert_eq!(Provider::new().tell(&bench, &good).await, 403, "by somebody else");
    assert_eq!(provider.post(&bench, now() - 3600, body.clone()).await, 403, "old");
    assert_eq!(provider.post(&bench, now() + 3600, body.clone()).await, 403, "ahead of its time");
    assert_eq!(provider.post(&bench, now(), b"{\"event\":1".to_vec()).await, 400, "no JSON");
    assert_eq!(provider.post(&bench, now(), vec![b' '; 1024 * 1024 + 1]).await, 413, "too long");
    let many = format!("[{}0]", "0,".repeat(10_000)).into_bytes();
    assert_eq!(provider.post(&bench, now(), many).await, 413, "too many");
    assert_eq!(provider.tell(&bench, &[]).await, 204, "nothing");
    assert!(bench.published().await.is_empty());
    for (result, count) in [("bad_signature", 3.0), ("old", 2.0), ("bad_body", 3.0), ("ignored", 1.0)] {
        assert_eq!(bench.counted_of("email", result).await, count, "{result}");
    }

    broker.proxy.cut().await;
    assert_eq!(provider.tell(&bench, &good).await, 503);
    broker.proxy.restore().await;
    eventually("the repeat is taken", SOON, async || provider.tell(&bench, &good).await == 204).await;
    assert!(!bench.published().await.is_empty());
    bench.stop().await;
    broker.stop().await;
}

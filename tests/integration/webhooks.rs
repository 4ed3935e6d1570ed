//! Twilio's callbacks over real connections: a signed one is on the topic before it is
//! answered, anything else leaves no trace, and none of them tells the log a number.

use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use base64::Engine as _;
use patient_notify::domain::{Channel, DeliveryId};
use patient_notify::topic::names;
use reqwest::header::RETRY_AFTER;

use crate::harness::{Addresses, BrokerProxy, Process, World, delivery_of, eventually, request, sms_only};
use crate::tools::read_topic;

pub(crate) const SOON: Duration = Duration::from_secs(30);
/// The address that Twilio knows; the front listens elsewhere, behind a proxy.
const BASE_URL: &str = "https://notify.example.org/front";
pub(crate) const CALLBACK_URL: (&str, &str) = ("PATIENT_NOTIFY_SMS__STATUS_CALLBACK_BASE_URL", BASE_URL);
/// Digits of the numbers in each callback.
pub(crate) const NUMBER: &str = "9997731";

/// The parameters that matter of one callback, and those that must stay secret.
fn form<'a>(sid: &'a str, status: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut form = vec![
        ("To", "+19997731945"),
        ("From", "+19997731000"),
        ("AccountSid", "ACsandbox0000000000000000000000000"),
        ("MessageSid", sid),
        ("MessageStatus", status),
        ("ApiVersion", "2010-04-01"),
        ("ErrorMessage", ""),
    ];
    form.extend_from_slice(more);
    form
}

/// A front as a process that logs all it can, and Twilio.
pub(crate) struct Bench {
    pub(crate) world: World,
    pub(crate) front: Process,
    pub(crate) client: reqwest::Client,
}

impl Bench {
    pub(crate) async fn start(variables: &[(&str, &str)]) -> Self {
        Self::start_on(World::new().await, variables).await
    }

    pub(crate) async fn start_on(world: World, variables: &[(&str, &str)]) -> Self {
        let everything = ("PATIENT_NOTIFY_LOG__FILTER", "trace");
        let variables: Vec<_> = variables.iter().copied().chain([everything]).collect();
        let mut front = world.process("app", &variables);
        front.wait_for_log("front is listening", SOON).await;
        let client = reqwest::Client::builder().no_proxy().timeout(SOON).build().unwrap();
        Self { world, front, client }
    }

    /// Status of the answer, and whether it says when to come back.
    pub(crate) async fn post(
        &self,
        path: &str,
        form: &[(&str, &str)],
        signature: Option<String>,
    ) -> (u16, bool) {
        let url = format!("http://{}{path}", self.world.config.app.listen);
        let mut request = self.client.post(url).form(form);
        if let Some(signature) = signature {
            request = request.header("X-Twilio-Signature", signature);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.headers().contains_key(RETRY_AFTER))
    }

    /// As Twilio does it.
    async fn call(&self, delivery: DeliveryId, form: &[(&str, &str)]) -> (u16, bool) {
        let path = path(delivery);
        self.post(&path, form, Some(self.signature(&path, form))).await
    }

    pub(crate) fn signature(&self, path: &str, form: &[(&str, &str)]) -> String {
        let mut sorted = form.to_vec();
        sorted.sort_unstable();
        let parameters: String = sorted.into_iter().flat_map(|(name, value)| [name, value]).collect();
        let token = self.world.config.sms.auth_token.expose().as_bytes();
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, token);
        let tag = hmac::sign(&key, format!("{BASE_URL}{path}{parameters}").as_bytes());
        base64::engine::general_purpose::STANDARD.encode(tag)
    }

    /// Keys of what lies on the updates' topic.
    pub(crate) async fn published(&self) -> Vec<String> {
        let topic = self.world.topic(&names::NOTIFICATION_UPDATES);
        let records = read_topic(&self.world.config.kafka, &topic).await;
        let key = |key: Option<Vec<u8>>| String::from_utf8(key.unwrap_or_default()).unwrap();
        records.into_iter().map(|record| key(record.key)).collect()
    }

    async fn counted(&mut self, result: &str) -> f64 {
        self.counted_of("twilio", result).await
    }

    pub(crate) async fn counted_of(&mut self, provider: &str, result: &str) -> f64 {
        let labels = format!("{{provider=\"{provider}\",result=\"{result}\"}}");
        self.front.metric(&format!("patient_notify_webhook_requests_total{labels}")).await
    }

    pub(crate) async fn stop(mut self) {
        self.front.terminate();
        assert_eq!(self.front.wait().await.code(), Some(0), "{}", self.front.log());
        let log = self.front.log();
        assert!(log.lines().count() > 2, "it has logged");
        assert!(!log.contains(NUMBER), "a number is in the log");
    }
}

fn path(delivery: DeliveryId) -> String {
    format!("/webhooks/twilio/{delivery}")
}

async fn until(world: &World, rows: &str) {
    eventually(rows, SOON, async || world.count(rows).await == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signed_callback_makes_a_sent_message_delivered_and_a_repeat_nothing_more() {
    let mut bench = Bench::start(&[CALLBACK_URL]).await;
    let world = &bench.world;
    world.load(&[sms_only(1), sms_only(2)]).await;
    let consumer = world.role("consumer-notification", |config| {
        config.sms.status_callback_base_url = BASE_URL.to_owned();
    });
    let updates = world.role("consumer-notification-update", |_| {});
    world.publish_requests(&[request(1, "came"), request(2, "lost")], &names::NOTIFICATIONS).await;
    world.until_sent(2, SOON).await;
    let (came, lost) = (delivery_of("came", Channel::Sms), delivery_of("lost", Channel::Sms));
    let given: Vec<_> = world.sandbox.log.all().into_iter().filter_map(|one| one.delivery_id).collect();
    assert!(given.contains(&came.0) && given.contains(&lost.0), "Twilio was told where to report");

    // Out of order, as it happens.
    assert_eq!(bench.call(came, &form("SM1", "delivered", &[])).await.0, 204);
    assert_eq!(bench.call(came, &form("SM1", "sent", &[])).await.0, 204);
    assert_eq!(bench.call(lost, &form("SM2", "undelivered", &[("ErrorCode", "30005")])).await.0, 204);
    let mut keys = bench.published().await;
    keys.sort_unstable();
    let mut expected = vec![came.to_string(), came.to_string(), lost.to_string()];
    expected.sort_unstable();
    assert_eq!(keys, expected, "on the topic once it is answered");
    until(world, "notification WHERE state = 'delivered' AND reason = 'receipt_delivered'").await;
    until(world, "notification WHERE state = 'permanent_failure' AND reason = 'undelivered'").await;

    let (changes, why) = (world.count("outbox").await, world.count("why").await);
    assert_eq!(bench.call(came, &form("SM1", "delivered", &[])).await.0, 204);
    world.until_no_lag(SOON).await;
    assert_eq!(
        (world.count("outbox").await, world.count("why").await),
        (changes, why),
        "a repeat is nothing"
    );
    assert!(world.dead_letters().await.is_empty());
    consumer.stop().await.unwrap();
    updates.stop().await.unwrap();
    assert_eq!(bench.counted("published").await, 4.0);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_twilio_has_not_signed_leaves_no_trace() {
    let mut bench = Bench::start(&[CALLBACK_URL]).await;
    let delivery = delivery_of("forged", Channel::Sms);
    let (path, form_of) = (path(delivery), |status| form("SM1", status, &[]));
    let good = bench.signature(&path, &form_of("sent"));
    for (what, path, form, signature) in [
        ("unsigned", path.clone(), form_of("sent"), None),
        ("forged", path.clone(), form_of("sent"), Some("AAAAAAAAAAAAAAAAAAAAAAAAAAA=".to_owned())),
        ("tampered", path.clone(), form_of("delivered"), Some(good.clone())),
        ("more", path.clone(), form("SM1", "sent", &[("ErrorCode", "1")]), Some(good.clone())),
        ("with a query", format!("{path}?a=b"), form_of("sent"), Some(good.clone())),
        ("moved", self::path(delivery_of("other", Channel::Sms)), form_of("sent"), Some(good.clone())),
    ] {
        assert_eq!(bench.post(&path, &form, signature).await.0, 403, "{what}");
    }
    let padding = "x".repeat(64 * 1024);
    let long = form("SM1", "sent", &[("Padding", &padding)]);
    assert_eq!(bench.call(delivery, &long).await.0, 413);
    assert_eq!(
        bench.call(delivery, &form_of("teleported")).await.0,
        204,
        "nobody can repeat a new word better"
    );
    assert!(bench.published().await.is_empty());
    assert_eq!(bench.counted("bad_signature").await, 6.0);
    assert_eq!(bench.counted("bad_body").await, 1.0);
    assert_eq!(bench.counted("ignored").await, 1.0);
    assert_eq!(bench.post(&path, &form_of("sent"), Some(good)).await.0, 204, "and the good one still is");
    assert_eq!(bench.published().await.len(), 1);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_address_for_callbacks_there_is_no_webhook() {
    let bench = Bench::start(&[]).await;
    let delivery = delivery_of("nowhere", Channel::Sms);
    assert_eq!(bench.call(delivery, &form("SM1", "sent", &[])).await.0, 404);
    assert!(bench.published().await.is_empty());
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_is_told_to_twilio_in_time_and_the_repeat_is_taken() {
    let broker = BrokerProxy::start().await;
    let brokers = Addresses::from_environment().proxied_brokers;
    let proxied = ("PATIENT_NOTIFY_KAFKA__BOOTSTRAP_SERVERS", brokers.as_str());
    let bench = Bench::start(&[CALLBACK_URL, proxied]).await;
    let delivery = delivery_of("away", Channel::Sms);
    assert_eq!(bench.call(delivery, &form("SM1", "queued", &[])).await.0, 204);
    broker.proxy.cut().await;
    let begun = Instant::now();
    let answer = bench.call(delivery, &form("SM1", "sent", &[])).await;
    assert_eq!(answer, (503, true), "Twilio is told to come back");
    assert!(begun.elapsed() < Duration::from_secs(10), "within its own patience: {:?}", begun.elapsed());
    broker.proxy.restore().await;
    eventually("the repeat is taken", SOON, async || {
        bench.call(delivery, &form("SM1", "sent", &[])).await.0 == 204
    })
    .await;
    assert!(bench.published().await.len() >= 2);
    bench.stop().await;
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_calls_too_often_is_told_when_to_come_back_and_no_other_is() {
    let mut bench = Bench::start(&[
        CALLBACK_URL,
        ("PATIENT_NOTIFY_APP__WEBHOOK_CALLS_PER_SECOND", "1"),
        ("PATIENT_NOTIFY_APP__WEBHOOK_CALLS_BURST", "3"),
        ("PATIENT_NOTIFY_APP__WEBHOOK_SOURCE_HEADER", "X-Forwarded-For"),
        ("PATIENT_NOTIFY_EMAIL__UNSUBSCRIBE_KEY", "a key of at least thirty-two characters"),
    ])
    .await;
    let front = format!("http://{}", bench.world.config.app.listen);
    let (delivery, client) = (delivery_of("flood", Channel::Sms), bench.client.clone());
    let call = async |path: &str, from: Option<&str>| {
        let mut request = client.post(format!("{front}{path}"));
        if let Some(from) = from {
            request = request.header("x-forwarded-for", from);
        }
        let answer = request.send().await.unwrap();
        let pause =
            answer.headers().get(RETRY_AFTER).and_then(|pause| pause.to_str().ok()?.parse::<u64>().ok());
        (answer.status().as_u16(), pause)
    };
    // 20 calls take less than 17 seconds. All webhooks together; what the source itself
    // says of where it comes from does not count.
    let paths = [path(delivery), "/webhooks/twilio/inbound".to_owned(), "/webhooks/unsubscribe/x".to_owned()];
    let mut refused = Vec::new();
    for (number, path) in (0..20).zip(paths.iter().cycle()) {
        let from = format!("10.0.0.{number}, 203.0.113.7");
        let (status, pause) = call(path, Some(&from)).await;
        if status == 429 {
            refused.push(pause.expect("when to come back"));
        }
    }
    assert!(!refused.is_empty() && refused.iter().all(|pause| (1..=2).contains(pause)), "{refused:?}");
    for other in [Some("203.0.113.8"), Some("2001:db8::7"), None, Some("made up")] {
        assert_eq!(call(&paths[0], other).await.0, 403, "{other:?} has calls of its own");
    }
    let mut counted = 0.0;
    for kind in ["twilio", "twilio_inbound", "unsubscribe"] {
        counted += bench.counted_of(kind, "too_often").await;
    }
    assert_eq!(counted, f64::from(u32::try_from(refused.len()).unwrap()));
    // gRPC and pages are not webhooks.
    assert_eq!(
        client.get(&front).header("x-forwarded-for", "203.0.113.7").send().await.unwrap().status(),
        200
    );
    eventually("the source is let in again", SOON, async || {
        call(&paths[0], Some("203.0.113.7")).await.0 == 403
    })
    .await;
    bench.stop().await;
}

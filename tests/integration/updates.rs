//! A status never goes backwards, whatever order receipts come in, and none of
//! them is lost because it came too early.

use std::time::Duration;

use jiff::SignedDuration;
use patient_notify::domain::{Channel, DeliveryRef, NotificationUpdate, ReceiptStatus};
use patient_notify::sandbox::ChannelFaults;
use patient_notify::topic::names;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::harness::{
    RunningRole, World, cancelled, delivery_of, eventually, notification_of, receipt, receipt_for, request,
    sms_only, stays,
};
use crate::status_out::{assert_topic_tells_what_the_database_says, outbox};

const SOON: Duration = Duration::from_secs(30);
const PATIENTS: u64 = 30;

struct Roles {
    consumer: RunningRole,
    updates: RunningRole,
}

impl Roles {
    async fn start(world: &World) -> Self {
        let consumer = world.role("consumer-notification", |_| {});
        let updates = world.role("consumer-notification-update", |_| {});
        consumer.ready().await;
        updates.ready().await;
        Self { consumer, updates }
    }

    async fn stop(self) {
        self.consumer.stop().await.unwrap();
        self.updates.stop().await.unwrap();
    }
}

/// State and reason of a request's notification.
async fn state_of(world: &World, key: &str) -> Option<(String, String)> {
    let client = world.pool.get().await.unwrap();
    let row = client
        .query_opt(
            "SELECT state, reason FROM notification WHERE notification_id = $1",
            &[&notification_of(key).0],
        )
        .await
        .unwrap()?;
    Some((row.get(0), row.get(1)))
}

async fn until_state(world: &World, key: &str, state: &str, reason: &str) {
    eventually(&format!("{key} is {state} ({reason})"), SOON, async || {
        state_of(world, key).await.is_some_and(|now| now == (state.to_owned(), reason.to_owned()))
    })
    .await;
}

/// What a provider says of one delivery, in the order in which it happened, and
/// how that ends. It lies in the past: times that are still to come are taken for
/// now, and then the order of arrival would decide.
fn stories(key: &str, number: u64) -> (Vec<NotificationUpdate>, (&'static str, &'static str)) {
    use ReceiptStatus::{Accepted, Bounced, Delivered, Sent, Undelivered};
    let (words, end): (&[ReceiptStatus], _) = match number % 5 {
        0 => (&[Accepted, Sent, Delivered], ("delivered", "receipt_delivered")),
        1 => (&[Accepted, Sent, Undelivered], ("permanent_failure", "undelivered")),
        2 => (&[Sent, Delivered, Bounced], ("permanent_failure", "bounced")),
        3 => (&[Sent, Undelivered, Delivered], ("delivered", "receipt_delivered")),
        _ => (&[Accepted, Sent], ("sent", "provider_accepted")),
    };
    let story = words
        .iter()
        .zip(0_i64..)
        .map(|(&status, second)| {
            let mut update = receipt(delivery_of(key, Channel::Sms), status);
            update.occurred_at += SignedDuration::from_secs(second - 10);
            update
        })
        .collect();
    (story, end)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shuffled_and_repeated_receipts_end_as_the_provider_meant_and_the_topic_tells_it() {
    let world = World::new().await;
    world.load(&(1..=PATIENTS).map(sms_only).collect::<Vec<_>>()).await;
    let roles = Roles::start(&world).await;
    let relay = world.role("wrk-default", |_| {});
    let keys: Vec<String> = (1..=PATIENTS).map(|number| format!("key-{number}")).collect();
    let requests: Vec<_> = (1..=PATIENTS).map(|number| request(number, &format!("key-{number}"))).collect();
    let mut news = Vec::new();
    for (key, number) in keys.iter().zip(1..) {
        news.extend(stories(key, number).0);
    }
    // Some come before the message was even asked for, all out of order, many twice.
    let mut random = StdRng::seed_from_u64(4);
    let repeats: Vec<_> = (0..news.len()).map(|_| news[random.random_range(0..news.len())].clone()).collect();
    news.extend(repeats);
    news.shuffle(&mut random);
    let (early, late) = news.split_at(news.len() / 3);
    world.publish_updates(early).await;
    world.publish_requests(&requests, &names::NOTIFICATIONS).await;
    world.publish_updates(late).await;

    for (key, number) in keys.iter().zip(1..) {
        let (_, (state, reason)) = stories(key, number);
        until_state(&world, key, state, reason).await;
    }
    world.until_no_lag(SOON).await;
    eventually("nothing waits for its match", SOON, async || world.count("unmatched_update").await == 0)
        .await;
    for (key, number) in keys.iter().zip(1..) {
        let (_, (state, reason)) = stories(key, number);
        until_state(&world, key, state, reason).await;
    }
    assert_eq!(world.sandbox.log.stats().total, PATIENTS, "one message each");
    eventually("all changes are published", SOON, async || outbox(&world).await == 0).await;
    assert_topic_tells_what_the_database_says(&world).await;
    roles.stop().await;
    relay.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_that_comes_during_the_call_meets_its_outcome() {
    let world = World::new().await;
    world.load(&[sms_only(1)]).await;
    world.sandbox.faults.set(Channel::Sms, ChannelFaults { latency_ms: 2_000, ..Default::default() });
    let roles = Roles::start(&world).await;
    world.publish_requests(&[request(1, "slow")], &names::NOTIFICATIONS).await;
    eventually("the call has begun", SOON, async || {
        world.count("delivery WHERE state = 'dispatching'").await == 1
    })
    .await;
    world.publish_updates(&[receipt(delivery_of("slow", Channel::Sms), ReceiptStatus::Delivered)]).await;
    until_state(&world, "slow", "delivered", "receipt_delivered").await;
    assert_eq!(
        world.count("delivery WHERE provider_message_id IS NULL AND owner IS NOT NULL").await,
        1,
        "the call still runs"
    );
    eventually("the call's answer is recorded too", SOON, async || {
        world.count("delivery WHERE provider_message_id IS NOT NULL AND owner IS NULL").await == 1
    })
    .await;
    assert_eq!(state_of(&world, "slow").await.unwrap().0, "delivered");
    world.until_no_lag(SOON).await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_is_found_by_the_providers_id_and_an_unknown_id_expires_with_its_reason() {
    let world = World::new().await;
    world.load(&[sms_only(1)]).await;
    let consumer = world.role("consumer-notification", |_| {});
    let mut updates = world
        .process("consumer-notification-update", &[("PATIENT_NOTIFY_WORKERS__UNMATCHED_EXPIRY_MS", "2500")]);
    let nobody = DeliveryRef::ProviderMessage("SM-of-somebody-else".to_owned());
    let unknown = receipt_for(nobody, ReceiptStatus::Delivered, None);
    world.publish_updates(std::slice::from_ref(&unknown)).await;
    world.publish_requests(&[request(1, "known")], &names::NOTIFICATIONS).await;
    world.until_sent(1, SOON).await;
    let client = world.pool.get().await.unwrap();
    let row = client.query_one("SELECT provider_message_id FROM delivery", &[]).await.unwrap();
    let by_message = DeliveryRef::ProviderMessage(row.get(0));
    world.publish_updates(&[receipt_for(by_message, ReceiptStatus::Undelivered, Some("30005"))]).await;
    until_state(&world, "known", "permanent_failure", "undelivered").await;
    // It did not hold the others back.
    world.until_no_lag(SOON).await;
    eventually("the unknown one is given up", SOON, async || {
        assert!(updates.is_running());
        world.count("unmatched_update WHERE next_look_at IS NULL").await == 1
    })
    .await;
    eventually("and the log says why", SOON, async || {
        let log = updates.log();
        log.lines().any(|line| line.contains(&unknown.update_id) && line.contains("\"reason\":\"unmatched\""))
    })
    .await;
    consumer.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_can_be_taken_back_and_what_was_sent_cannot() {
    let world = World::new().await;
    world.load(&[sms_only(1), sms_only(2), sms_only(3)]).await;
    let roles = Roles::start(&world).await;
    let worker = world.role("wrk-notifications", |_| {});
    let mut held = request(1, "held");
    held.send_at = Some(held.requested_at + SignedDuration::from_secs(4));
    let mut overtaken = request(3, "overtaken");
    overtaken.send_at = held.send_at;
    world.publish_updates(&[cancelled("overtaken")]).await;
    eventually("the cancellation is kept", SOON, async || world.count("unmatched_update").await == 1).await;
    world.publish_requests(&[held, request(2, "sent"), overtaken], &names::NOTIFICATIONS).await;
    until_state(&world, "held", "held", "scheduled").await;
    until_state(&world, "sent", "sent", "provider_accepted").await;
    world.publish_updates(&[cancelled("held"), cancelled("sent"), cancelled("held")]).await;
    until_state(&world, "held", "cancelled", "cancelled").await;
    until_state(&world, "overtaken", "cancelled", "cancelled").await;
    eventually("the sent one knows that it was taken back", SOON, async || {
        world.count("notification WHERE state = 'sent' AND cancelled_at IS NOT NULL").await == 1
    })
    .await;
    stays("neither is sent when its time comes", Duration::from_secs(5), async || {
        world.sandbox.log.stats().total == 1
    })
    .await;
    assert_eq!(world.count("delivery WHERE due_at IS NOT NULL").await, 0);
    roles.stop().await;
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_that_cannot_be_read_are_kept_and_hold_nobody_back() {
    let world = World::new().await;
    world.load(&[sms_only(1)]).await;
    let roles = Roles::start(&world).await;
    world.publish_requests(&[request(1, "good")], &names::NOTIFICATIONS).await;
    until_state(&world, "good", "sent", "provider_accepted").await;
    let topic = world.topic(&names::NOTIFICATION_UPDATES);
    let good =
        world.encode_update(&receipt(delivery_of("good", Channel::Sms), ReceiptStatus::Delivered)).await;
    let request = world.encode_request(&request(2, "not-an-update"), &names::NOTIFICATIONS).await;
    for (key, payload) in [
        (Some(&b"pat-000001"[..]), Some(&good[..good.len() - 3])),
        (Some(b"pat-000001"), Some(&request[..])),
        (Some(b"pat-000001"), None),
        (None, Some(&good[..])),
    ] {
        world.publish_raw(&topic, key, payload, &[]).await;
    }
    world.publish_raw(&topic, Some(b"pat-000001"), Some(&good), &[]).await;
    until_state(&world, "good", "delivered", "receipt_delivered").await;
    world.until_no_lag(SOON).await;
    let mut reasons: Vec<String> =
        world.dead_letters().await.into_iter().map(|letter| letter.headers["dlq.reason"].clone()).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["empty_key", "empty_payload", "incompatible_schema", "undecodable"]);
    roles.stop().await;
}

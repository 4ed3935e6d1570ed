//! Providers fail in the ways that they do, and each message still arrives once,
//! or its end is known.

use std::time::{Duration, Instant};

use patient_notify::domain::{Channel, Redacted};
use patient_notify::sandbox::ChannelFaults;

use crate::harness::{RunningRole, World, eventually, recipient, result, sms_only};

const SOON: Duration = Duration::from_secs(30);

struct Roles {
    consumer: RunningRole,
    worker: RunningRole,
}

impl Roles {
    async fn start(world: &World) -> Self {
        let consumer = world.role("consumer-test-result-notification", |_| {});
        let worker = world.role("wrk-notifications", |_| {});
        consumer.ready().await;
        worker.ready().await;
        Self { consumer, worker }
    }

    async fn stop(self) {
        self.consumer.stop().await.unwrap();
        self.worker.stop().await.unwrap();
    }
}

async fn publish_one_each(world: &World, patients: u64) -> i64 {
    let results: Vec<_> = (1..=patients).map(|number| result(number, &format!("res-{number}"))).collect();
    world.publish(&results).await;
    i64::try_from(patients).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_of_a_provider_are_tried_again_until_it_recovers() {
    let world = World::new().await;
    world.load(&(1..=50).map(sms_only).collect::<Vec<_>>()).await;
    let failing = ChannelFaults { fail_percent: 100, fail_status: 500, ..Default::default() };
    world.sandbox.faults.set(Channel::Sms, failing);
    let roles = Roles::start(&world).await;
    let count = publish_one_each(&world, 50).await;
    eventually("all wait for another try", SOON, async || {
        world.count("delivery WHERE state = 'temporary_failure'").await == count
    })
    .await;
    // A failing provider does not hold the topic back.
    world.until_no_lag(SOON).await;
    world.sandbox.faults.clear();
    world.until_sent(count, SOON).await;
    world.assert_each_once().await;
    assert!(world.count("delivery WHERE attempt > 1").await > 0);
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_asks_for_a_pause_gets_it() {
    let world = World::new().await;
    world.load(&[sms_only(1)]).await;
    let throttling =
        ChannelFaults { fail_percent: 100, fail_status: 429, retry_after_s: 2, ..Default::default() };
    world.sandbox.faults.set(Channel::Sms, throttling);
    let roles = Roles::start(&world).await;
    publish_one_each(&world, 1).await;
    eventually("it is held", SOON, async || {
        world.count("delivery WHERE state = 'held' AND reason = 'throttled'").await == 1
    })
    .await;
    let asked = Instant::now();
    world.sandbox.faults.clear();
    world.until_sent(1, SOON).await;
    assert!(asked.elapsed() > Duration::from_millis(1_500), "sent after {:?}", asked.elapsed());
    assert_eq!(world.count("delivery WHERE attempt = 1").await, 1, "a refusal for the rate is no attempt");
    world.assert_each_once().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_message_without_an_answer_is_looked_up() {
    let world = World::new().await;
    world.load(&(1..=5).map(sms_only).collect::<Vec<_>>()).await;
    let silent = ChannelFaults { drop_after_receive_percent: 100, ..Default::default() };
    world.sandbox.faults.set(Channel::Sms, silent);
    let roles = Roles::start(&world).await;
    let count = publish_one_each(&world, 5).await;
    eventually("nobody knows", SOON, async || {
        world.count("why WHERE state = 'outcome_unknown'").await == count
    })
    .await;
    world.sandbox.faults.clear();
    world.until_sent(count, SOON).await;
    assert_eq!(world.count("delivery WHERE reason = 'found_at_provider'").await, count);
    assert_eq!(world.sandbox.log.stats().total, 5, "one message each");
    world.assert_each_once().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_email_without_an_answer_waits_for_its_deadline_and_the_next_channel_follows() {
    let world = World::new().await;
    let mut patient = recipient(1);
    patient.channel_order = vec![Channel::Email, Channel::Sms];
    world.load(&[patient]).await;
    let silent = ChannelFaults { drop_after_receive_percent: 100, ..Default::default() };
    world.sandbox.faults.set(Channel::Email, silent);
    let roles = Roles::start(&world).await;
    publish_one_each(&world, 1).await;
    eventually("nobody knows", SOON, async || {
        world.count("delivery WHERE channel = 'email' AND state = 'outcome_unknown'").await == 1
    })
    .await;
    let unknown = Instant::now();
    world.until_sent(1, SOON).await;
    let deadline = Duration::from_millis(world.config.retry.outcome_unknown_deadline_ms);
    assert!(unknown.elapsed() + Duration::from_millis(500) > deadline, "{:?}", unknown.elapsed());
    let ended =
        "delivery WHERE channel = 'email' AND state = 'technical_failure' AND reason = 'outcome_unknown'";
    assert_eq!(world.count(ended).await, 1);
    assert_eq!(world.sandbox.log.count(Channel::Email), 1, "the e-mail is never repeated");
    assert_eq!(world.sandbox.log.count(Channel::Sms), 1);
    world.assert_each_once().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_is_not_valid_moves_on_to_the_next_channel() {
    let world = World::new().await;
    let mut patient = recipient(1);
    patient.contact_points[0].address = Redacted::new("+15005550001".to_owned());
    world.load(&[patient]).await;
    let roles = Roles::start(&world).await;
    publish_one_each(&world, 1).await;
    world.until_sent(1, SOON).await;
    assert_eq!(world.count("delivery WHERE channel = 'sms' AND state = 'permanent_failure'").await, 1);
    assert_eq!(world.count("delivery WHERE channel = 'email' AND state = 'sent'").await, 1);
    world.assert_each_once().await;
    roles.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_is_down_does_not_hold_the_topic_back() {
    let world = World::new().await;
    world.load(&(1..=100).map(sms_only).collect::<Vec<_>>()).await;
    world.sandbox.faults.set(Channel::Sms, ChannelFaults { refuse: true, ..Default::default() });
    let roles = Roles::start(&world).await;
    let count = publish_one_each(&world, 100).await;
    eventually("all have a row", SOON, async || world.noted().await.len() == 100).await;
    world.until_no_lag(SOON).await;
    assert_eq!(world.sent().await, 0);
    world.sandbox.faults.clear();
    world.until_sent(count, SOON).await;
    world.assert_each_once().await;
    roles.stop().await;
}

//! The next channel is begun for want of evidence: nobody took the message, its provider
//! did not say that it arrived, or it was not read. Once, and not when the evidence comes.

use std::time::Duration;

use patient_notify::config::Config;
use patient_notify::domain::{Channel, DeliveryId, Engagement, NotificationId, ReceiptStatus, Urgency};
use patient_notify::sandbox::ChannelFaults;
use patient_notify::topic::names;

use crate::harness::{
    RunningRole, World, delivery_of, engaged, eventually, receipt, recipient, request, stays, stop,
};

const SOON: Duration = Duration::from_secs(60);
/// As many are looked at as two workers, side by side, may dispute.
const PATIENTS: u64 = 40;

fn times(config: &mut Config, sent_ms: u64, delivered_ms: u64, read_ms: u64) {
    config.escalation.high_sent_within_ms = sent_ms;
    config.escalation.high_delivered_within_ms = delivered_ms;
    config.escalation.high_read_within_ms = read_ms;
    config.sms.status_callback_base_url = "http://127.0.0.1:1".to_owned();
    config.workers.poll_interval_ms = 50;
}

/// A consumer, and two workers that share what is overdue.
async fn roles(world: &World, change: impl Fn(&mut Config) + Copy) -> [RunningRole; 4] {
    let roles = [
        world.role("consumer-notification", change),
        world.role("consumer-notification-update", change),
        world.role("wrk-notifications", change),
        world.role("wrk-notifications", change),
    ];
    for role in &roles {
        role.ready().await;
    }
    roles
}

fn key(number: u64) -> String {
    format!("escalates-{number}")
}

async fn ask(world: &World, numbers: std::ops::RangeInclusive<u64>) {
    let requests: Vec<_> = numbers
        .map(|number| {
            let mut asked = request(number, &key(number));
            asked.urgency = Urgency::High;
            asked
        })
        .collect();
    world.publish_requests(&requests, &names::NOTIFICATIONS).await;
}

/// Messages that reached a provider for a delivery of this one.
fn reached(world: &World, number: u64, channel: Channel) -> u32 {
    let id = DeliveryId::for_channel(NotificationId::for_request("test", &key(number)), channel);
    world.sandbox.log.by_delivery().get(&id.short_code()).copied().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_provider_takes_in_time_goes_out_by_the_next_channel_once() {
    let world = World::new().await;
    world.load(&(1..=PATIENTS).map(recipient).collect::<Vec<_>>()).await;
    let down = ChannelFaults { fail_percent: 100, fail_status: 500, ..Default::default() };
    world.sandbox.faults.set(Channel::Sms, down);
    let roles = roles(&world, |config| times(config, 1000, 0, 0)).await;
    ask(&world, 1..=PATIENTS).await;
    world.until_sent(i64::try_from(PATIENTS).unwrap(), SOON).await;
    let given_up = "delivery WHERE channel = 'sms' AND state = 'cancelled' AND reason = 'not_sent_in_time'";
    assert_eq!(world.count(given_up).await, i64::try_from(PATIENTS).unwrap());
    // It works again: what went out by the next channel does not go out by this one.
    world.sandbox.faults.clear();
    stays("nothing is sent twice", Duration::from_secs(2), async || {
        world.sandbox.log.stats().total == PATIENTS
    })
    .await;
    world.assert_each_once().await;
    for number in 1..=PATIENTS {
        assert_eq!((reached(&world, number, Channel::Email), reached(&world, number, Channel::Sms)), (1, 0));
    }
    let why = "why WHERE step = 'escalate' AND state = 'queued' AND reason = 'not_sent_in_time' AND channel = 'email'";
    assert_eq!(world.count(why).await, i64::try_from(PATIENTS).unwrap());
    eventually("nothing is looked at any more", SOON, async || world.count("escalation").await == 0).await;
    stop(roles).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_given_up_is_tried_on_when_the_other_channels_fail() {
    let world = World::new().await;
    let mut patient = recipient(1);
    patient.channel_order = vec![Channel::Sms, Channel::Email];
    world.load(&[patient]).await;
    let down = ChannelFaults { fail_percent: 100, fail_status: 500, ..Default::default() };
    world.sandbox.faults.set(Channel::Sms, down);
    let roles = roles(&world, |config| times(config, 1000, 0, 0)).await;
    ask(&world, 1..=1).await;
    world.until_sent(1, SOON).await;
    world.sandbox.faults.clear();
    world.publish_updates(&[receipt(delivery_of(&key(1), Channel::Email), ReceiptStatus::Bounced)]).await;
    eventually("the text message goes out", SOON, async || reached(&world, 1, Channel::Sms) == 1).await;
    eventually("that is its state", SOON, async || {
        world.count("notification WHERE state = 'sent'").await == 1
    })
    .await;
    world.assert_each_once().await;
    stop(roles).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silence_of_a_provider_that_tells_begins_the_next_channel_and_word_of_it_does_not() {
    let world = World::new().await;
    world.load(&[recipient(1), recipient(2)]).await;
    // What arrives is told while the time runs; it is long enough for that on a busy machine.
    let roles = roles(&world, |config| times(config, 0, 60_000, 0)).await;
    ask(&world, 1..=2).await;
    world.until_sent(2, SOON).await;
    world.publish_updates(&[receipt(delivery_of(&key(1), Channel::Sms), ReceiptStatus::Delivered)]).await;
    eventually("it arrived", SOON, async || world.count("notification WHERE state = 'delivered'").await == 1)
        .await;
    assert_eq!(world.count("escalation").await, 2, "both are looked at");
    let later = "UPDATE delivery SET sent_at = sent_at - interval '61 seconds'; \
                 UPDATE escalation SET look_at = now()";
    world.pool.get().await.unwrap().batch_execute(later).await.unwrap();
    eventually("the other one goes on", SOON, async || reached(&world, 2, Channel::Email) == 1).await;
    // An e-mail's provider tells nothing here: its silence is no evidence.
    eventually("nothing is looked at any more", SOON, async || world.count("escalation").await == 0).await;
    assert_eq!(world.sandbox.log.stats().total, 3);
    world.assert_each_once().await;
    let state = "notification WHERE state = 'sent' AND escalated_why = 'not_delivered_in_time'";
    assert_eq!(world.count(state).await, 1);
    stop(roles).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_read_goes_on_although_it_arrived_until_it_is_read() {
    let world = World::new().await;
    world.load(&[recipient(1), recipient(2)]).await;
    let roles = roles(&world, |config| times(config, 0, 0, 60_000)).await;
    ask(&world, 1..=2).await;
    world.until_sent(2, SOON).await;
    let arrived = |number| receipt(delivery_of(&key(number), Channel::Sms), ReceiptStatus::Delivered);
    world.publish_updates(&[arrived(1), arrived(2), engaged(&key(1), Engagement::Read)]).await;
    eventually("one is read", SOON, async || {
        world.count("notification WHERE state = 'delivered' AND engagement IS NULL").await == 1
            && world.count("notification WHERE engagement = 'read'").await == 1
    })
    .await;
    let later = "UPDATE delivery SET sent_at = sent_at - interval '61 seconds'; \
                 UPDATE escalation SET look_at = now()";
    for (total, channel) in [(3, Channel::Email), (4, Channel::Push)] {
        world.pool.get().await.unwrap().batch_execute(later).await.unwrap();
        eventually("the next channel is begun", SOON, async || reached(&world, 2, channel) == 1).await;
        eventually("it is recorded", SOON, async || {
            world.count(&format!("delivery WHERE channel = '{channel}' AND state = 'sent'")).await == 1
        })
        .await;
        assert_eq!(world.sandbox.log.stats().total, total, "what was read does not go on");
    }
    eventually("nothing is looked at any more", SOON, async || world.count("escalation").await == 0).await;
    world.assert_each_once().await;
    stop(roles).await;
}

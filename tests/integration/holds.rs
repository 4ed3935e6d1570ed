//! What is held is not sent before its time, and is looked at again then.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use patient_notify::domain::{Channel, Purpose, QuietHours, ResultUrgency};
use patient_notify::record::recipients::{ConsentUpsert, RecipientUpsert};

use crate::harness::{World, eventually, recipient, result, sms_only, stays};

const CONSUMER: &str = "consumer-test-result-notification";
const SOON: Duration = Duration::from_secs(30);

fn refusal(channel: Channel) -> ConsentUpsert {
    ConsentUpsert {
        channel,
        purpose: Purpose::TestResult,
        granted: false,
        given_at: Timestamp::now(),
        recorded_by: "test".to_owned(),
        how: "settings page".to_owned(),
    }
}

/// From an hour ago until two hours ahead, in the zone that the patient lives in.
fn quiet_now(mut patient: RecipientUpsert) -> RecipientUpsert {
    let now = Timestamp::now().in_tz("Asia/Tokyo").unwrap().time();
    let at = |hours: i64| {
        now.wrapping_add(SignedDuration::from_hours(hours)).with().nanosecond(0).build().unwrap()
    };
    patient.time_zone = Some("Asia/Tokyo".to_owned());
    patient.quiet_hours = Some(QuietHours { start: at(-1), end: at(2) });
    patient
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_embargoed_result_is_announced_when_it_may_be_seen_and_not_before() {
    let world = World::new().await;
    world.load(&[sms_only(1)]).await;
    let consumer = world.role(CONSUMER, |_| {});
    let worker = world.role("wrk-notifications", |_| {});
    consumer.ready().await;
    let mut embargoed = result(1, "res-1");
    embargoed.available_at = Timestamp::now() + SignedDuration::from_secs(3);
    world.publish(std::slice::from_ref(&embargoed)).await;
    eventually("it is held", Duration::from_secs(10), async || {
        world.count("notification WHERE state = 'held' AND reason = 'embargo'").await == 1
    })
    .await;
    // The record is done, though its message is not.
    world.until_no_lag(SOON).await;
    world.until_sent(1, SOON).await;
    let message = world.sandbox.log.all().swap_remove(0);
    assert!(
        message.received_at >= embargoed.available_at,
        "{} early",
        embargoed.available_at - message.received_at
    );
    world.assert_each_once().await;
    consumer.stop().await.unwrap();
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quiet_hours_hold_everything_but_what_is_critical() {
    let world = World::new().await;
    world.load(&[quiet_now(sms_only(1)), quiet_now(sms_only(2))]).await;
    let consumer = world.role(CONSUMER, |_| {});
    let worker = world.role("wrk-notifications", |_| {});
    consumer.ready().await;
    let mut critical = result(2, "res-critical");
    critical.urgency = ResultUrgency::Critical;
    world.publish(&[result(1, "res-normal"), critical]).await;
    world.until_sent(1, SOON).await;
    eventually("the other one is held", SOON, async || {
        world
            .count("notification WHERE state = 'held' AND reason = 'quiet_hours' AND urgency = 'normal'")
            .await
            == 1
    })
    .await;
    stays("only the critical one is sent", Duration::from_secs(1), async || {
        world.sandbox.log.stats().total == 1
    })
    .await;
    assert_eq!(world.count("notification WHERE state = 'sent' AND urgency = 'critical'").await, 1);
    consumer.stop().await.unwrap();
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consent_that_is_withdrawn_while_a_message_is_held_suppresses_it() {
    let world = World::new().await;
    let mut patient = recipient(1);
    patient.channel_order = vec![Channel::Sms];
    world.load(std::slice::from_ref(&patient)).await;
    let consumer = world.role(CONSUMER, |_| {});
    let worker = world.role("wrk-notifications", |_| {});
    consumer.ready().await;
    let mut embargoed = result(1, "res-1");
    embargoed.available_at = Timestamp::now() + SignedDuration::from_secs(3);
    world.publish(&[embargoed]).await;
    eventually("it is held", SOON, async || world.count("notification WHERE state = 'held'").await == 1)
        .await;
    patient.consents = Channel::ALL.iter().map(|&channel| refusal(channel)).collect();
    world.load(&[patient]).await;
    eventually("it is suppressed", SOON, async || {
        world.count("notification WHERE state = 'suppressed' AND reason = 'no_consent'").await == 1
    })
    .await;
    assert_eq!(world.sandbox.log.stats().total, 0);
    consumer.stop().await.unwrap();
    worker.stop().await.unwrap();
}

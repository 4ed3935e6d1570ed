//! Whatever providers, the portal and patients say of a few hundred messages, twice
//! and in the wrong order: each message ends as its story does.

use std::time::Duration;

use patient_notify::domain::{Channel, ReceiptStatus, State};
use patient_notify::sandbox::ReceiptPlan;
use patient_notify::topic::names;

use crate::harness::{World, eventually, recipient, request};

const SOON: Duration = Duration::from_secs(60);
const PATIENTS: u64 = 240;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_message_ends_as_its_story_does() {
    let world = World::new().await;
    let people: Vec<_> = (1..=PATIENTS)
        .map(|number| {
            let mut one = recipient(number);
            one.channel_order.rotate_left((number % 3) as usize);
            one
        })
        .collect();
    world.load(&people).await;
    let consumer = world.role("consumer-notification", |_| {});
    let updates = world.role("consumer-notification-update", |_| {});
    let worker = world.role("wrk-notifications", |_| {});
    consumer.ready().await;
    updates.ready().await;
    let reporting = world.reporting(ReceiptPlan {
        delay_ms: 200,
        sms_undelivered: 20,
        sms_answered: 30,
        email_bounced: 20,
        email_complained: 10,
        repeated: 50,
        shuffled: 50,
        ..ReceiptPlan::default()
    });
    let requests: Vec<_> = (1..=PATIENTS).map(|number| request(number, &format!("story-{number}"))).collect();
    world.publish_requests(&requests, &names::NOTIFICATIONS).await;

    eventually("everything is said and taken in", SOON, async || {
        // A message that did not arrive is followed by another one.
        world.lag().await == 0
            && world.count("delivery WHERE state IN ('queued', 'dispatching')").await == 0
            && world.count("unmatched_update WHERE next_look_at IS NOT NULL").await == 0
            && reporting.is_idle().unwrap()
            && world.lag().await == 0
    })
    .await;
    let told = reporting.stop().await.unwrap();

    for delivery in world.store.all_deliveries().await.unwrap() {
        let state = match told.ends.get(&delivery.delivery_id.short_code()) {
            None => State::Sent,
            Some(ReceiptStatus::Delivered | ReceiptStatus::Complained) => State::Delivered,
            Some(_) => State::PermanentFailure,
        };
        assert_eq!(delivery.state, state, "{delivery:?}");
        assert_eq!(delivery.engagement, told.engaged.get(&delivery.notification_id).copied(), "{delivery:?}");
    }
    assert!(told.repeats > 50 && told.unresolved == 0, "{told:?}");
    assert!(!told.stopped.is_empty());
    for one in &told.stopped {
        let refused = format!(
            "consent JOIN recipient USING (recipient_id) WHERE external_id = '{}' AND channel = '{}' AND NOT granted",
            one.recipient,
            Channel::Sms
        );
        assert!(world.count(&refused).await > 0, "{one:?}");
    }
    world.assert_each_once().await;
    for role in [consumer, updates, worker] {
        role.stop().await.unwrap();
    }
}

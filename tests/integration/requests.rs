//! Requests for notifications go the way that their caller, the recipient and the
//! clock want: by order, all at once, later, or not at all.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use patient_notify::domain::{
    Channel, NotificationId, NotificationRequested, Purpose, Redacted, Strategy, Urgency,
};
use patient_notify::record::recipients::ConsentUpsert;
use patient_notify::sandbox::ChannelFaults;
use patient_notify::topic::names::NOTIFICATIONS;

use crate::harness::{RunningRole, World, eventually, ready, recipient, request, sms_only, stays, stop};

const SOON: Duration = Duration::from_secs(30);

/// The consumer and the worker, ready.
async fn roles(world: &World) -> [RunningRole; 2] {
    ready(world, ["consumer-notification", "wrk-notifications"]).await
}

fn consent(channel: Channel, purpose: Purpose, granted: bool) -> ConsentUpsert {
    ConsentUpsert {
        channel,
        purpose,
        granted,
        given_at: Timestamp::now(),
        recorded_by: "test".to_owned(),
        how: "settings page".to_owned(),
    }
}

pub(crate) fn variables(pairs: &[(&str, &str)]) -> Redacted<Vec<(String, String)>> {
    let owned = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Redacted::new(owned.collect::<Vec<_>>())
}

fn id_of(request: &NotificationRequested) -> NotificationId {
    NotificationId::for_request(&request.caller, &request.idempotency_key)
}

/// Who got something, by address.
fn reached(world: &World) -> BTreeSet<String> {
    world.sandbox.log.all().iter().map(|message| message.to.expose().clone()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reminders_confirmations_and_messages_go_by_order_and_consent() {
    let world = World::new().await;
    let mut by_push = recipient(2);
    by_push.channel_order = vec![Channel::Push, Channel::Sms];
    let mut not_by_text = recipient(3);
    not_by_text.consents = vec![consent(Channel::Sms, Purpose::General, false)];
    let mut campaign_by_email = recipient(5);
    campaign_by_email.consents = vec![consent(Channel::Email, Purpose::Campaign, true)];
    world.load(&[recipient(1), by_push, not_by_text, recipient(4), campaign_by_email, recipient(6)]).await;
    let requests = [
        NotificationRequested {
            purpose: Purpose::AppointmentReminder,
            variables: variables(&[("appointment_date", "2026-12-01"), ("location", "North")]),
            ..request(1, "reminder")
        },
        NotificationRequested { purpose: Purpose::AppointmentConfirmation, ..request(2, "confirmation") },
        request(3, "message"),
        NotificationRequested { channels: vec![Channel::Email, Channel::Sms], ..request(4, "by-the-caller") },
        NotificationRequested {
            purpose: Purpose::Campaign,
            urgency: Urgency::Bulk,
            ..request(5, "agreed-to")
        },
        NotificationRequested { purpose: Purpose::Campaign, ..request(6, "never-agreed-to") },
    ];
    let roles = roles(&world).await;
    world.publish_requests(&requests, &NOTIFICATIONS).await;
    world.until_sent(5, SOON).await;
    let expected = [
        "+15550000001",
        "device-000002",
        "patient-000003@example.org",
        "patient-000004@example.org",
        "patient-000005@example.org",
    ];
    assert_eq!(reached(&world), expected.map(str::to_owned).into());
    let reminder = world.sandbox.log.latest(1, "+15550000001").remove(0);
    assert!(reminder.body.expose().contains("Dec 1"), "the words have the caller's variables");
    assert_eq!(world.count("notification WHERE state = 'suppressed' AND reason = 'no_consent'").await, 1);
    world.assert_each_once().await;
    stop(roles).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_at_once_sends_on_every_channel_that_is_agreed_to_once() {
    let world = World::new().await;
    let mut not_by_push = recipient(2);
    not_by_push.consents = vec![consent(Channel::Push, Purpose::General, false)];
    world.load(&[recipient(1), not_by_push, recipient(3), sms_only(4)]).await;
    let beside = |number: u64, channels: &[Channel]| NotificationRequested {
        strategy: Strategy::AllAtOnce,
        channels: channels.to_vec(),
        ..request(number, &format!("beside-{number}"))
    };
    let requests =
        [beside(1, &[]), beside(2, &[]), beside(3, &[Channel::Push, Channel::Email]), beside(4, &[])];
    let roles = roles(&world).await;
    world.publish_requests(&requests, &NOTIFICATIONS).await;
    world.until_sent(4, SOON).await;
    // The same again changes nothing.
    world.publish_requests(&requests, &NOTIFICATIONS).await;
    world.until_no_lag(SOON).await;
    eventually("every delivery is recorded", SOON, async || {
        world.count("delivery WHERE state = 'sent' AND attempt = 1").await == 8
    })
    .await;
    let expected = [
        "+15550000001",
        "patient-000001@example.org",
        "device-000001",
        "+15550000002",
        "patient-000002@example.org",
        "patient-000003@example.org",
        "device-000003",
        "+15550000004",
    ];
    assert_eq!(reached(&world), expected.map(str::to_owned).into());
    assert_eq!(world.sandbox.log.len(), 8);
    assert_eq!(world.count("delivery").await, 8);
    assert_eq!(world.count("delivery WHERE folded AND recipient_id IN (SELECT recipient_id FROM recipient WHERE external_id <> 'pat-000004')").await, 7);
    assert_eq!(world.count("notification WHERE strategy = 'all_at_once' AND sequence > 1").await, 4);
    world.assert_each_once().await;
    stop(roles).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_fails_is_followed_in_order_and_not_all_at_once() {
    let world = World::new().await;
    world.load(&[recipient(1), recipient(2)]).await;
    let refuses = ChannelFaults { fail_percent: 100, fail_status: 400, ..Default::default() };
    world.sandbox.faults.set(Channel::Sms, refuses);
    let channels = vec![Channel::Sms, Channel::Email, Channel::Push];
    let in_order = NotificationRequested { channels: channels.clone(), ..request(1, "in-order") };
    let beside = NotificationRequested {
        channels: channels[..2].to_vec(),
        strategy: Strategy::AllAtOnce,
        ..request(2, "beside")
    };
    let roles = roles(&world).await;
    world.publish_requests(&[in_order, beside], &NOTIFICATIONS).await;
    world.until_sent(2, SOON).await;
    eventually("nothing is under way any more", SOON, async || {
        world.count("delivery WHERE due_at IS NOT NULL").await == 0
    })
    .await;
    let mailboxes = ["patient-000001@example.org", "patient-000002@example.org"];
    assert_eq!(reached(&world), mailboxes.map(str::to_owned).into());
    assert_eq!(world.count("delivery WHERE channel = 'sms' AND state = 'permanent_failure'").await, 2);
    assert_eq!(world.count("delivery").await, 4, "each had two channels, and push was never begun");
    world.assert_each_once().await;
    stop(roles).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_scheduled_goes_out_at_its_time_on_all_of_its_channels() {
    let world = World::new().await;
    world.load(&[recipient(1), recipient(2)]).await;
    let send_at = Timestamp::now() + SignedDuration::from_secs(4);
    let later = |number: u64, strategy| NotificationRequested {
        send_at: Some(send_at),
        channels: vec![Channel::Sms, Channel::Email],
        strategy,
        ..request(number, &format!("later-{number}"))
    };
    let roles = roles(&world).await;
    let requests = [later(1, Strategy::InOrder), later(2, Strategy::AllAtOnce)];
    world.publish_requests(&requests, &NOTIFICATIONS).await;
    eventually("both are held", SOON, async || {
        world.count("notification WHERE state = 'held' AND reason = 'scheduled'").await == 2
    })
    .await;
    assert_eq!(world.count("delivery WHERE state = 'held' AND owner IS NULL").await, 3);
    world.until_no_lag(SOON).await;
    eventually("all three arrive", SOON, async || world.sandbox.log.len() == 3).await;
    for message in world.sandbox.log.all() {
        // The record has milliseconds.
        assert!(message.received_at.as_millisecond() >= send_at.as_millisecond(), "too early");
    }
    world.until_sent(2, SOON).await;
    world.assert_each_once().await;
    stop(roles).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_expires_while_it_is_held_is_not_sent() {
    let world = World::new().await;
    world.load(&[sms_only(1)]).await;
    let in_seconds = |seconds| Some(Timestamp::now() + SignedDuration::from_secs(seconds));
    let held = NotificationRequested {
        send_at: in_seconds(2),
        expires_at: in_seconds(3),
        ..request(1, "soon-useless")
    };
    let consumer = world.role("consumer-notification", |_| {});
    world.publish_requests(std::slice::from_ref(&held), &NOTIFICATIONS).await;
    eventually("it is held", SOON, async || world.count("notification WHERE state = 'held'").await == 1)
        .await;
    eventually("its time has passed", SOON, async || {
        world.count("delivery WHERE expires_at < now()").await == 1
    })
    .await;
    let worker = world.role("wrk-notifications", |_| {});
    eventually("it is expired", SOON, async || {
        world.count("notification WHERE state = 'expired' AND reason = 'expired'").await == 1
    })
    .await;
    assert_eq!(world.count("delivery WHERE state = 'expired' AND attempt = 0").await, 1);
    assert!(world.sandbox.log.is_empty());
    stop([consumer, worker]).await;
}

/// As the consumer of updates keeps a cancellation whose notification is not there.
async fn park_cancellation(world: &World, request: &NotificationRequested, expired: bool) {
    let client = world.pool.get().await.unwrap();
    let insert = "
        INSERT INTO unmatched_update (source, update_id, kind, notification_id, payload, next_look_at, expires_at)
        VALUES ('test', $1, 'cancelled', $2, '', CASE WHEN NOT $3 THEN now() + interval '1 hour' END,
                now() + interval '1 day')";
    let update = format!("cancel-{}", request.idempotency_key);
    client.execute(insert, &[&update, &id_of(request).0, &expired]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancellation_that_came_before_its_request_stops_it() {
    let world = World::new().await;
    world.load(&[recipient(1), recipient(2), recipient(3), recipient(4)]).await;
    let now = request(1, "now");
    let later = NotificationRequested {
        strategy: Strategy::AllAtOnce,
        send_at: Some(Timestamp::now() + SignedDuration::from_secs(1)),
        ..request(2, "later")
    };
    let too_old = request(3, "its-cancellation-has-expired");
    let wanted = request(4, "wanted");
    park_cancellation(&world, &now, false).await;
    park_cancellation(&world, &later, false).await;
    park_cancellation(&world, &too_old, true).await;
    let roles = roles(&world).await;
    world.publish_requests(&[now.clone(), later, too_old, wanted], &NOTIFICATIONS).await;
    world.until_sent(2, SOON).await;
    let cancelled = "state = 'cancelled' AND reason = 'cancelled'";
    let taken_back = format!("notification WHERE {cancelled} AND cancelled_at IS NOT NULL AND sequence = 1");
    assert_eq!(world.count(&taken_back).await, 2);
    assert_eq!(world.count(&format!("why WHERE step = 'plan' AND {cancelled}")).await, 2);
    assert_eq!(
        world.count(&format!("outbox WHERE sequence = 1 AND {cancelled}")).await,
        2,
        "others are told"
    );
    assert_eq!(world.count("delivery").await, 2, "only of those that go out");
    let left = world.count("unmatched_update WHERE next_look_at IS NULL").await;
    assert_eq!((left, world.count("unmatched_update").await), (1, 1), "what has done its work is gone");
    // A repeat of the request does not bring it back.
    world.publish_requests(&[now], &NOTIFICATIONS).await;
    world.until_no_lag(SOON).await;
    stays("nothing more goes out", Duration::from_secs(2), async || world.sandbox.log.len() == 2).await;
    assert_eq!(reached(&world), ["+15550000003", "+15550000004"].map(str::to_owned).into());
    stop(roles).await;
}

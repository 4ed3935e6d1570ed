//! The front's Cancel and MarkRead over a real gRPC connection: OK means taken
//! over, whatever is known of the notification by then; Get shows what came of it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use patient_notify::api::convert::timestamp_to;
use patient_notify::api::proto;
use patient_notify::api::proto::notification_service_client::NotificationServiceClient;
use patient_notify::domain::{Channel, DeliveryId, ReceiptStatus};
use patient_notify::sandbox::ChannelFaults;
use patient_notify::topic::names::NOTIFICATION_UPDATES;
use tonic::Code;
use uuid::Uuid;

use crate::front::{assert_away, front, front_with, of, reason, refused_in_time, until_state, wish, within};
use crate::harness::{
    BrokerProxy, RunningRole, World, eventually, ready, receipt, recipient, sms_only, stop,
};
use crate::tools::read_topic;

const DEADLINE: Duration = Duration::from_secs(60);
const GET: Duration = Duration::from_secs(9);

type Client = NotificationServiceClient<tonic::transport::Channel>;
type Sent = proto::NotificationServiceSendResponse;

async fn roles(world: &World) -> [RunningRole; 2] {
    ready(world, ["consumer-notification", "consumer-notification-update"]).await
}

fn cancel(sent: &Sent) -> proto::NotificationServiceCancelRequest {
    proto::NotificationServiceCancelRequest { notification_id: sent.notification_id.clone() }
}

fn mark(sent: &Sent, engagement: proto::Engagement) -> proto::NotificationServiceMarkReadRequest {
    proto::NotificationServiceMarkReadRequest {
        notification_id: sent.notification_id.clone(),
        engagement: engagement.into(),
        occurred_at: None,
    }
}

fn in_an_hour(key: &str, number: u64) -> proto::NotificationServiceSendRequest {
    let send_at = Some(timestamp_to(Timestamp::now() + SignedDuration::from_hours(1)));
    proto::NotificationServiceSendRequest { send_at, ..wish(key, number) }
}

/// What Get shows with a token of Cancel or MarkRead: it waits for what that was told OK for.
async fn shown(client: &mut Client, sent: &Sent, consistency_token: String) -> proto::Notification {
    let ask = proto::NotificationServiceGetRequest { consistency_token: Some(consistency_token), ..of(sent) };
    client.get(within(GET, ask)).await.unwrap().into_inner().notification.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_taken_back_and_what_was_sent_says_that_it_was_tried() {
    let world = World::new().await;
    world.load(&[sms_only(1), sms_only(2)]).await;
    let (_process, channel) = front(&world).await;
    let mut client = NotificationServiceClient::new(channel);
    let roles = roles(&world).await;
    let held = client.send(in_an_hour("held", 1)).await.unwrap().into_inner();
    let sent = client.send(wish("sent", 2)).await.unwrap().into_inner();
    let before = until_state(&mut client, &held, proto::State::Held).await.notification.unwrap();
    assert_eq!((before.cancelled_at, before.engagement), (None, 0));
    until_state(&mut client, &sent, proto::State::Sent).await;

    let first = client.cancel(cancel(&held)).await.unwrap().into_inner();
    let taken_back = shown(&mut client, &held, first.consistency_token).await;
    assert_eq!(taken_back.state(), proto::State::Cancelled);
    assert_eq!((taken_back.reason.as_str(), taken_back.deliveries[0].due_at), ("cancelled", None));
    assert_eq!(taken_back.deliveries[0].state(), proto::State::Cancelled);
    assert!(taken_back.cancelled_at.is_some());
    client.cancel(cancel(&held)).await.unwrap();
    let tried = client.cancel(cancel(&sent)).await.unwrap().into_inner();
    let tried = shown(&mut client, &sent, tried.consistency_token).await;
    assert_eq!(tried.state(), proto::State::Sent);
    assert!(tried.cancelled_at.is_some());

    world.until_no_lag(DEADLINE).await;
    let again = client.get(of(&held)).await.unwrap().into_inner();
    assert_eq!(again.notification, Some(taken_back), "the same call again changes nothing");
    let by = |line: &&proto::WhyEntry| line.detail == "by local";
    assert_eq!(again.why.iter().filter(by).count(), 2, "delivery and notification: {:?}", again.why);
    assert_eq!(world.count("unmatched_update").await, 0);
    assert_eq!(world.sandbox.log.len(), 1);
    assert!(world.dead_letters().await.is_empty());
    stop(roles).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancellation_may_come_before_its_request_is_processed() {
    let world = World::new().await;
    world.load(&[sms_only(1)]).await;
    let (_process, channel) = front(&world).await;
    let mut client = NotificationServiceClient::new(channel);
    let updates = world.role("consumer-notification-update", |_| {});
    let sent = client.send(wish("overtaken", 1)).await.unwrap().into_inner();
    let token = client.cancel(cancel(&sent)).await.unwrap().into_inner().consistency_token;
    eventually("the cancellation is kept", DEADLINE, async || world.count("unmatched_update").await == 1)
        .await;
    let lying = read_topic(&world.config.kafka, &world.topic(&NOTIFICATION_UPDATES)).await;
    let keys: Vec<_> = lying.into_iter().map(|record| record.key).collect();
    assert_eq!(keys, [Some(sent.notification_id.clone().into_bytes())]);
    let ask = proto::NotificationServiceGetRequest { consistency_token: Some(token.clone()), ..of(&sent) };
    let wait = Duration::from_secs(1);
    let status = refused_in_time(async || client.clone().get(within(wait, ask.clone())).await).await;
    assert_away(&status, "NOT_YET_PROCESSED");

    let consumer = world.role("consumer-notification", |_| {});
    consumer.ready().await;
    let notification = shown(&mut client, &sent, token).await;
    assert_eq!(notification.state(), proto::State::Cancelled);
    let why = client.get(of(&sent)).await.unwrap().into_inner().why;
    assert_eq!(why.iter().map(|line| line.detail.as_str()).collect::<Vec<_>>(), ["by local"]);
    assert!(notification.cancelled_at.is_some() && notification.deliveries.is_empty());
    world.until_no_lag(DEADLINE).await;
    assert_eq!(world.sandbox.log.len(), 0);
    stop([consumer, updates]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reading_is_shown_and_calls_off_the_channel_that_waits() {
    let world = World::new().await;
    world.load(&[recipient(1), recipient(2)]).await;
    let refuses = ChannelFaults { fail_percent: 100, fail_status: 400, ..Default::default() };
    world.sandbox.faults.set(Channel::Sms, refuses);
    let (_process, channel) = front(&world).await;
    let mut client = NotificationServiceClient::new(channel);
    let roles = roles(&world).await;
    let seen = client.send(wish("seen", 1)).await.unwrap().into_inner();
    let unseen = client.send(wish("unseen", 2)).await.unwrap().into_inner();
    // The next channel is begun by the worker, which does not run yet.
    for sent in [&seen, &unseen] {
        let waiting = until_state(&mut client, sent, proto::State::Queued).await.notification.unwrap();
        assert_eq!(waiting.deliveries[1].state(), proto::State::Queued);
        assert_eq!((waiting.engagement(), waiting.engaged_at), (proto::Engagement::Unspecified, None));
    }

    let a_minute_ago = Some(timestamp_to(Timestamp::from_second(Timestamp::now().as_second() - 60).unwrap()));
    let read = proto::NotificationServiceMarkReadRequest {
        occurred_at: a_minute_ago,
        ..mark(&seen, proto::Engagement::Read)
    };
    let read = client.mark_read(read).await.unwrap().into_inner();
    let notification = shown(&mut client, &seen, read.consistency_token).await;
    assert_eq!(notification.engagement(), proto::Engagement::Read);
    assert_eq!((notification.engaged_at, notification.cancelled_at), (a_minute_ago, None));
    let next = &notification.deliveries[1];
    assert_eq!((next.state(), next.reason.as_str()), (proto::State::Cancelled, "reached"));
    // Less than is known, and the same at another time.
    client.mark_read(mark(&seen, proto::Engagement::Read)).await.unwrap();
    let less = client.mark_read(mark(&seen, proto::Engagement::Seen)).await.unwrap().into_inner();
    world.until_no_lag(DEADLINE).await;
    assert_eq!(shown(&mut client, &seen, less.consistency_token).await, notification);

    let worker = world.role("wrk-notifications", |_| {});
    until_state(&mut client, &unseen, proto::State::Sent).await;
    let reached: Vec<String> =
        world.sandbox.log.all().iter().map(|message| message.to.expose().clone()).collect();
    assert_eq!(reached, ["patient-000002@example.org"]);
    worker.stop().await.unwrap();
    stop(roles).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_receipt_that_decides_is_shown_a_delivery() {
    let world = World::new().await;
    world.load(&[sms_only(1)]).await;
    let (_process, channel) = front(&world).await;
    let mut client = NotificationServiceClient::new(channel);
    let roles = roles(&world).await;
    let sent = client.send(wish("key-1", 1)).await.unwrap().into_inner();
    let before = until_state(&mut client, &sent, proto::State::Sent).await.notification.unwrap();
    assert_eq!((before.deliveries[0].receipt, before.deliveries[0].receipt_at), (0, None));

    let delivery = DeliveryId(Uuid::parse_str(&before.deliveries[0].delivery_id).unwrap());
    let arrived_at = Timestamp::from_second(Timestamp::now().as_second() - 5).unwrap();
    let mut told = receipt(delivery, ReceiptStatus::Delivered);
    told.occurred_at = arrived_at;
    world.publish_updates(&[told, receipt(delivery, ReceiptStatus::Accepted)]).await;
    let after = until_state(&mut client, &sent, proto::State::Delivered).await.notification.unwrap();
    world.until_no_lag(DEADLINE).await;
    assert_eq!(after.deliveries[0].receipt(), proto::ReceiptStatus::Delivered);
    assert_eq!(after.deliveries[0].receipt_at, Some(timestamp_to(arrived_at)));
    stop(roles).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faults_are_named_and_an_unknown_id_is_none() {
    let world = World::new().await;
    let (_process, channel) = front(&world).await;
    let mut client = NotificationServiceClient::new(channel);
    let nameless = Sent { notification_id: "CANARY-4711".to_owned(), ..Default::default() };
    let mut not_a_word = mark(&nameless, proto::Engagement::Unspecified);
    not_a_word.occurred_at = Some(timestamp_to(Timestamp::now() + SignedDuration::from_hours(1)));
    let cancelled = client.cancel(cancel(&nameless)).await.unwrap_err();
    let read = client.mark_read(not_a_word).await.unwrap_err();
    for (status, fields) in
        [(cancelled, &["notification_id"][..]), (read, &["notification_id", "engagement", "occurred_at"])]
    {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
        let details = tonic_types::StatusExt::get_details_bad_request(&status).unwrap();
        let named: Vec<_> = details.field_violations.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(named, fields);
        assert!(!format!("{status:?}").contains("CANARY"));
    }
    let topic = world.topic(&NOTIFICATION_UPDATES);
    assert!(read_topic(&world.config.kafka, &topic).await.is_empty(), "nothing was taken over");

    let unknown = Sent { notification_id: Uuid::new_v4().to_string(), ..Default::default() };
    client.cancel(cancel(&unknown)).await.unwrap();
    client.mark_read(mark(&unknown, proto::Engagement::Acted)).await.unwrap();
    assert_eq!(read_topic(&world.config.kafka, &topic).await.len(), 2, "they lie on the topic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_is_told_in_time_and_the_repeat_is_taken_over() {
    const CALL: Duration = Duration::from_secs(2);
    let world = World::new().await;
    world.load(&[sms_only(1)]).await;
    let broker = BrokerProxy::start().await;
    let proxied = ("PATIENT_NOTIFY_KAFKA__BOOTSTRAP_SERVERS", world.addresses.proxied_brokers.as_str());
    let (_process, channel) = front_with(&world, &[proxied]).await;
    let mut client = NotificationServiceClient::new(channel);
    let roles = roles(&world).await;
    let sent = client.send(in_an_hour("held", 1)).await.unwrap().into_inner();
    until_state(&mut client, &sent, proto::State::Held).await;

    broker.proxy.cut().await;
    let cancelled = refused_in_time(async || client.clone().cancel(within(CALL, cancel(&sent))).await).await;
    let mark = mark(&sent, proto::Engagement::Read);
    let read = refused_in_time(async || client.clone().mark_read(within(CALL, mark.clone())).await).await;
    for status in [cancelled, read] {
        assert_away(&status, "BROKER_UNAVAILABLE");
    }

    broker.proxy.restore().await;
    let again = {
        let client = tokio::sync::Mutex::new(&mut client);
        eventually("it serves again", DEADLINE, async || {
            client.lock().await.cancel(within(CALL, cancel(&sent))).await.ok()
        })
        .await
        .into_inner()
    };
    let notification = shown(&mut client, &sent, again.consistency_token).await;
    assert_eq!(notification.state(), proto::State::Cancelled);
    stop(roles).await;
    broker.stop().await;
}

//! The front's SendMany, List and Explain over a real gRPC connection; tokens that
//! tell the truth; and who sees whose notifications.

use std::time::Duration;

use patient_notify::api::proto;
use patient_notify::api::proto::notification_service_client::NotificationServiceClient;
use patient_notify::api::token::{Awaited, Position, Token};
use patient_notify::domain::{Channel as Way, NotificationId};
use patient_notify::topic::names::NOTIFICATIONS;
use tokio_stream::StreamExt as _;
use tonic::Code;
use tonic::transport::Channel;

use crate::front::{front, front_with, of, reason, refused_in_time, until_state, wish, within};
use crate::harness::{BrokerProxy, World, consent, eventually, patient, ready, recipient, sms_only, stop};
use crate::who_may_call::{Signer, bearing, takes_tokens};

const DEADLINE: Duration = Duration::from_secs(60);
const GET: Duration = Duration::from_secs(9);

type Client = NotificationServiceClient<Channel>;
type Wish = proto::NotificationServiceSendRequest;

fn item(wish: Wish) -> proto::NotificationServiceSendManyRequest {
    proto::NotificationServiceSendManyRequest { item: Some(wish) }
}

fn list(patient_id: &str) -> proto::NotificationServiceListRequest {
    proto::NotificationServiceListRequest { patient_id: Some(patient_id.to_owned()), ..Default::default() }
}

fn explain(notification_id: &str) -> proto::NotificationServiceExplainRequest {
    proto::NotificationServiceExplainRequest {
        notification_id: notification_id.to_owned(),
        ..Default::default()
    }
}

/// Every page, and how many there were.
async fn pages(client: &mut Client, first: proto::NotificationServiceListRequest) -> (Vec<String>, usize) {
    let (mut ids, mut count, mut ask) = (Vec::new(), 0, first);
    loop {
        let page = client.list(ask.clone()).await.unwrap().into_inner();
        ids.extend(page.notifications.into_iter().map(|one| one.notification_id));
        count += 1;
        if page.next_page_token.is_empty() {
            return (ids, count);
        }
        ask.page_token = Some(page.next_page_token);
        ask.consistency_token = None;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_are_taken_over_each_is_told_and_all_are_listed() {
    const GOOD: usize = 600;
    let world = World::new().await;
    world.load(&[sms_only(1), sms_only(2)]).await;
    let (_process, channel) = front(&world).await;
    let mut client = NotificationServiceClient::new(channel);
    let [consumer] = ready(&world, ["consumer-notification"]).await;
    let faulty = Wish { patient_id: "Jane CANARY".to_owned(), purpose: 0, ..wish("faulty", 1) };
    let reused = Wish { urgency: proto::Urgency::High.into(), ..wish("key-0", 1) };
    let good = (0..GOOD).map(|n| item(wish(&format!("key-{n}"), 1)));
    let first: Vec<_> = good.chain([item(wish("of-another", 2)), item(faulty)]).collect();
    let answer = client.send_many(tokio_stream::iter(first)).await.unwrap().into_inner();
    assert_eq!((answer.accepted, answer.refused), (601, 1));
    assert_eq!(answer.end, None);
    let places: Vec<i32> = answer.results.iter().map(|result| result.index).collect();
    assert_eq!(places, (0..602).collect::<Vec<i32>>());
    let error = answer.results[601].error.clone().unwrap();
    assert_eq!((error.code, error.reason.as_str()), (Code::InvalidArgument.into(), "INVALID_REQUEST"));
    let fields: Vec<&str> = error.violations.iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(fields, ["patient_id", "purpose"]);
    assert!(!format!("{error:?}").contains("CANARY"));
    // Again, and with another payload under a key of before; and nothing at all.
    let nothing = proto::NotificationServiceSendManyRequest { item: None };
    let second = vec![item(wish("key-0", 1)), item(reused), nothing];
    let again = client.send_many(tokio_stream::iter(second)).await.unwrap().into_inner();
    assert_eq!(again.results[0].notification_id, answer.results[0].notification_id);
    let error = again.results[1].error.as_ref().unwrap();
    assert_eq!((error.code, error.reason.as_str()), (Code::AlreadyExists.into(), "IDEMPOTENCY_KEY_REUSED"));
    assert_eq!(again.results[1].notification_id, answer.results[0].notification_id);
    assert_eq!(again.results[2].error.as_ref().unwrap().violations[0].field, "item");

    // The last of the patient's partition: with its token, all before it are there.
    let last = answer.results[GOOD - 1].consistency_token.clone();
    let own = proto::NotificationServiceListRequest {
        page_size: 250,
        consistency_token: Some(last),
        ..list(patient(1).as_str())
    };
    world.until_no_lag(DEADLINE).await;
    let (mut ids, count) = pages(&mut client, own.clone()).await;
    assert_eq!(count, 3);
    let mut sent: Vec<String> =
        answer.results[..GOOD].iter().map(|result| result.notification_id.clone()).collect();
    sent.sort_unstable();
    ids.sort_unstable();
    assert_eq!(ids, sent, "each once, and nobody else's");
    let none = proto::NotificationServiceListRequest {
        states: vec![proto::State::Held.into(), proto::State::Expired.into()],
        ..own.clone()
    };
    assert_eq!(pages(&mut client, none).await.0.len(), 0);
    let other = proto::NotificationServiceListRequest { purpose: proto::Purpose::Campaign.into(), ..own };
    assert_eq!(pages(&mut client, other).await.0.len(), 0);
    let all = proto::NotificationServiceListRequest { page_size: 500, ..Default::default() };
    assert_eq!(pages(&mut client, all.clone()).await.0.len(), GOOD + 1, "what the caller asked for");
    let before = Some(prost_types::Timestamp { seconds: 1_000_000_000, nanos: 0 });
    let long_ago = proto::NotificationServiceListRequest { accepted_before: before, ..all.clone() };
    assert_eq!(pages(&mut client, long_ago).await.0.len(), 0);
    let bad = proto::NotificationServiceListRequest { page_size: 501, ..all };
    assert_eq!(reason(&client.list(bad).await.unwrap_err()), "INVALID_REQUEST");
    world.assert_each_once().await;
    stop([consumer]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_explanation_has_words_consents_quiet_hours_and_pages() {
    let world = World::new().await;
    world.load(&[recipient(1)]).await;
    let (_process, channel) = front(&world).await;
    let mut client = NotificationServiceClient::new(channel);
    let roles = ready(&world, ["consumer-notification", "consumer-notification-update"]).await;
    world.publish_updates(&[consent(1, Way::Sms, false)]).await;
    world.until_no_lag(DEADLINE).await;
    let sent = client.send(wish("key-1", 1)).await.unwrap().into_inner();
    until_state(&mut client, &sent, proto::State::Sent).await;

    let shown = client.explain(explain(&sent.notification_id)).await.unwrap().into_inner();
    let notification = shown.notification.unwrap();
    assert_eq!(notification.deliveries[0].channel(), proto::Channel::Email, "SMS was refused");
    assert!(shown.summary.starts_with("A provider has it"), "{}", shown.summary);
    assert_eq!((shown.caller.as_str(), shown.cancelled_by.as_str()), ("local", ""));
    let refused = &shown.consents[0];
    assert_eq!((refused.channel(), refused.granted), (proto::Channel::Sms, false));
    assert!(refused.counted_when_planned && refused.counts_now);
    let quiet = shown.quiet_hours.unwrap();
    let expected = (world.config.plan.quiet_hours_start.as_str(), world.config.plan.quiet_hours_end.as_str());
    assert!(quiet.chosen_by_recipient || (quiet.start.as_str(), quiet.end.as_str()) == expected);
    assert!(shown.entries.len() >= 2 && shown.next_page_token.is_empty());
    assert!(shown.entries.iter().all(|entry| entry.sentence.ends_with('.')));
    let small = proto::NotificationServiceExplainRequest { page_size: 1, ..explain(&sent.notification_id) };
    let first = client.explain(small.clone()).await.unwrap().into_inner();
    assert_eq!(first.entries, shown.entries[..1]);
    let next = Some(first.next_page_token);
    let second = proto::NotificationServiceExplainRequest { page_token: next, ..small };
    assert_eq!(client.explain(second).await.unwrap().into_inner().entries, shown.entries[1..2]);

    let taken_back =
        proto::NotificationServiceCancelRequest { notification_id: sent.notification_id.clone() };
    let token = client.cancel(taken_back).await.unwrap().into_inner().consistency_token;
    let after = proto::NotificationServiceExplainRequest {
        consistency_token: Some(token),
        ..explain(&sent.notification_id)
    };
    let after = client.explain(within(GET, after)).await.unwrap().into_inner();
    assert_eq!(after.cancelled_by, "local");
    assert!(after.summary.ends_with("It was taken back by local."), "{}", after.summary);
    let unknown = client.explain(explain(&uuid::Uuid::new_v4().to_string())).await.unwrap_err();
    assert_eq!((unknown.code(), reason(&unknown).as_str()), (Code::NotFound, "NOT_FOUND"));
    stop(roles).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn not_found_with_a_token_is_the_truth() {
    let world = World::new().await;
    let (_process, channel) = front(&world).await;
    let mut client = NotificationServiceClient::new(channel);
    let roles = ready(&world, ["consumer-notification", "consumer-notification-update"]).await;
    // Acknowledged, and never to be a notification: it cannot be decoded.
    let topic = world.topic(&NOTIFICATIONS);
    let (partition, offset) = world.publish_raw(&topic, Some(b"pat-1"), Some(b"not Avro"), &[]).await;
    let id = NotificationId::for_request("local", "broken");
    let token = |topic: &str, partition| Token {
        position: Position { topic: topic.to_owned(), partition, offset },
        awaited: Awaited::Notification,
        about: Some(id),
    };
    let get = |token: String| proto::NotificationServiceGetRequest {
        notification_id: id.to_string(),
        consistency_token: Some(token),
    };
    let status = client.get(within(GET, get(token(&topic, partition).to_text()))).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "NOT_FOUND"), "{status}");
    assert_eq!(world.dead_letters().await.len(), 1);
    // Nobody ever asked for it: the cancellation waits, and there is nothing to show.
    let cancel = proto::NotificationServiceCancelRequest { notification_id: id.to_string() };
    let cancelled = client.cancel(cancel).await.unwrap().into_inner();
    let status = client.get(within(GET, get(cancelled.consistency_token))).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "NOT_FOUND"), "{status}");
    // Tokens that no call of ours answers.
    for forged in [token("another.topic", 0), token(&topic, 5_000)] {
        let status = client.get(within(GET, get(forged.to_text()))).await.unwrap_err();
        assert_eq!(reason(&status), "INVALID_REQUEST", "{status}");
    }
    // And one for what is not written yet: within the deadline it is not known.
    let mut ahead = token(&topic, partition);
    ahead.position.offset = offset + 1_000;
    let wait = Duration::from_secs(1);
    let status = refused_in_time(async || client.clone().get(within(wait, get(ahead.to_text()))).await).await;
    assert_eq!(reason(&status), "NOT_YET_PROCESSED", "{status}");
    stop(roles).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_sees_and_takes_back_ones_own_and_with_the_scope_everybodys() {
    let mut world = World::new().await;
    world.load(&[sms_only(1)]).await;
    let keys = world.dir().join("jwks.json");
    let signer = Signer::new("key-1");
    signer.publish(&keys);
    takes_tokens(&mut world.config, &keys);
    let (_process, channel) = front(&world).await;
    let mut client = NotificationServiceClient::new(channel);
    let roles = ready(&world, ["consumer-notification", "consumer-notification-update"]).await;
    let both = "notifications:send notifications:read";
    let portal = signer.token("portal", both, 300);
    let other = signer.token("scheduling", both, 300);
    let support = signer.token("support", &format!("{both} notifications:all"), 300);
    let tomorrow = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(24);
    let send_at = Some(patient_notify::api::convert::timestamp_to(tomorrow));
    let held = Wish { send_at, ..wish("held", 1) };
    let sent = client.send(bearing(&portal, held)).await.unwrap().into_inner();
    let own = client.get(bearing(&portal, of(&sent))).await.unwrap().into_inner();
    assert_eq!(own.notification.unwrap().state(), proto::State::Held);

    for status in [
        client.get(bearing(&other, of(&sent))).await.unwrap_err(),
        client.explain(bearing(&other, explain(&sent.notification_id))).await.unwrap_err(),
    ] {
        assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "NOT_FOUND"), "{status}");
    }
    let lists = |page: proto::NotificationServiceListResponse| page.notifications.len();
    let of_patient = || list(patient(1).as_str());
    for (token, count) in [(&portal, 1), (&other, 0), (&support, 1)] {
        let page = client.list(bearing(token, of_patient())).await.unwrap().into_inner();
        assert_eq!(lists(page), count);
    }
    let of_portal =
        || proto::NotificationServiceListRequest { caller: Some("portal".to_owned()), ..Default::default() };
    let status = client.list(bearing(&other, of_portal())).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::PermissionDenied, "SCOPE_MISSING"));
    assert_eq!(lists(client.list(bearing(&support, of_portal())).await.unwrap().into_inner()), 1);

    let cancel = || proto::NotificationServiceCancelRequest { notification_id: sent.notification_id.clone() };
    client.cancel(bearing(&other, cancel())).await.unwrap();
    let refused = |shown: &proto::NotificationServiceExplainResponse| {
        shown.entries.iter().filter_map(|entry| entry.why.clone()).find(|why| why.reason == "cancel_refused")
    };
    let line = {
        let client = tokio::sync::Mutex::new(&mut client);
        eventually("the refusal is written down", DEADLINE, async || {
            let ask = bearing(&support, explain(&sent.notification_id));
            refused(&client.lock().await.explain(ask).await.unwrap().into_inner())
        })
        .await
    };
    assert_eq!((line.state(), line.detail.as_str()), (proto::State::Held, "by scheduling"));
    let shown = client.get(bearing(&portal, of(&sent))).await.unwrap().into_inner().notification.unwrap();
    assert_eq!((shown.state(), shown.cancelled_at), (proto::State::Held, None));
    let taken_back = client.cancel(bearing(&support, cancel())).await.unwrap().into_inner();
    let ask = proto::NotificationServiceExplainRequest {
        consistency_token: Some(taken_back.consistency_token),
        ..explain(&sent.notification_id)
    };
    let shown = client.explain(bearing(&support, ask)).await.unwrap().into_inner();
    assert_eq!(shown.cancelled_by, "support");
    assert_eq!(shown.notification.unwrap().state(), proto::State::Cancelled);
    stop(roles).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_end_with_their_deadline_or_when_the_broker_is_away() {
    const CALL: Duration = Duration::from_secs(2);
    let world = World::new().await;
    let broker = BrokerProxy::start().await;
    let proxied = ("PATIENT_NOTIFY_KAFKA__BOOTSTRAP_SERVERS", world.addresses.proxied_brokers.as_str());
    let (mut process, channel) = front_with(&world, &[proxied]).await;
    let mut client: Client = NotificationServiceClient::new(channel);
    // The client goes on and never ends.
    let endless = |key: &'static str| {
        let first = tokio_stream::iter((0..3).map(move |n| item(wish(&format!("{key}-{n}"), 1))));
        first.chain(tokio_stream::pending())
    };
    // As `refused_in_time`: a busy machine may keep the answer for longer than the client waits.
    let answered = async |client: &Client, key: &'static str| {
        eventually("the server's own answer, in time", DEADLINE, async || {
            client.clone().send_many(within(CALL, endless(key))).await.ok()
        })
        .await
        .into_inner()
    };
    let answer = answered(&client, "slow").await;
    assert_eq!((answer.accepted, answer.refused), (3, 0));
    assert_eq!(answer.end.unwrap().reason, "DEADLINE_EXCEEDED");

    broker.proxy.cut().await;
    let answer = answered(&client, "away").await;
    assert_eq!((answer.accepted, answer.refused), (0, 3), "nothing is half accepted");
    let end = answer.end.unwrap();
    assert_eq!((end.code, end.reason.as_str()), (Code::Unavailable.into(), "BROKER_UNAVAILABLE"));
    assert!(end.retry_after.is_some());
    assert!(process.is_running());
    broker.proxy.restore().await;

    // A stream under way when the server stops is answered with what it has.
    let series = "patient_notify_grpc_streams{method=\"/patientnotify.v1.NotificationService/SendMany\"}";
    let stopped = async {
        eventually("the stream has begun", DEADLINE, async || process.metric(series).await == 1.0).await;
        process.terminate();
    };
    let (answer, ()) = tokio::join!(client.send_many(endless("stop")), stopped);
    let answer = answer.unwrap().into_inner();
    assert_eq!(answer.end.unwrap().reason, "SERVER_STOPPING");
    assert_eq!(answer.accepted + answer.refused, 3);
    assert_eq!(process.wait().await.code(), Some(0), "{}", process.log());
    broker.stop().await;
}

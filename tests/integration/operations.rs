//! What operators see and change: a paused channel sends nothing and loses nothing, lag
//! stays what it is, dead letters are read page by page and replayed, and all of it says
//! when the brokers are away.

use std::time::Duration;

use patient_notify::api::proto;
use patient_notify::api::proto::operations_service_client::OperationsServiceClient;
use patient_notify::domain::{Channel, NotificationRequested, Urgency};
use patient_notify::topic::names::{self, NOTIFICATIONS};
use tonic::Code;
use tonic::transport::Channel as Connection;

use crate::front::{assert_away, front, front_with};
use crate::harness::{
    Addresses, BrokerProxy, World, eventually, only, ready, request, sms_only, stays, stop,
};
use crate::tools::read_topic;

const SOON: Duration = Duration::from_secs(30);
/// A pause is heeded, and its end too, within this time; a loaded machine has twice as long.
const HEEDED: Duration = Duration::from_secs(10);
const HELD: &str = "delivery WHERE state = 'held' AND reason = 'channel_paused'";
const CANARY: &str = "CANARY-77aa";

type Client = OperationsServiceClient<Connection>;

async fn pause(client: &mut Client, channel: proto::Channel, except_critical: bool) -> proto::ChannelPause {
    let why = "the provider's number is being moved".to_owned();
    let request =
        proto::OperationsServicePauseChannelRequest { channel: channel.into(), why, except_critical };
    client.pause_channel(request).await.unwrap().into_inner().pause.unwrap()
}

async fn resume(client: &mut Client, channel: proto::Channel) -> bool {
    let request = proto::OperationsServiceResumeChannelRequest { channel: channel.into() };
    client.resume_channel(request).await.unwrap().into_inner().was_paused
}

async fn provider(client: &mut Client, channel: proto::Channel) -> proto::ProviderState {
    let answer = client.list_providers(proto::OperationsServiceListProvidersRequest {}).await.unwrap();
    let providers = answer.into_inner().providers;
    assert_eq!(providers.len(), 3);
    providers.into_iter().find(|one| one.channel == i32::from(channel)).unwrap()
}

fn messages(world: &World, channel: Channel) -> usize {
    usize::try_from(world.sandbox.log.count(channel)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_channel_sends_nothing_and_after_it_everything_once() {
    let world = World::new().await;
    world.load(&[sms_only(1), sms_only(2), sms_only(3), only(Channel::Email, 4)]).await;
    let (mut process, connection) = front(&world).await;
    let mut client = OperationsServiceClient::new(connection);
    let paused = pause(&mut client, proto::Channel::Sms, false).await;
    assert_eq!((paused.paused_by.as_str(), paused.except_critical), ("local", false));
    let roles = ready(&world, ["consumer-notification", "wrk-notifications"]).await;

    let critical = NotificationRequested { urgency: Urgency::Critical, ..request(3, "critical") };
    let requests = [request(1, "one"), request(2, "two"), critical, request(4, "by-email")];
    world.publish_requests(&requests, &NOTIFICATIONS).await;
    eventually("the text messages are held", SOON, async || world.count(HELD).await == 3).await;
    world.until_sent(1, SOON).await;
    assert_eq!((messages(&world, Channel::Sms), messages(&world, Channel::Email)), (0, 1), "lag is 0 too");
    let shown = provider(&mut client, proto::Channel::Sms).await;
    assert_eq!((shown.provider.as_str(), shown.enabled, shown.held_by_pause), ("twilio", true, 3));
    assert!(shown.pause.unwrap().why.contains("being moved"));
    assert!(provider(&mut client, proto::Channel::Email).await.pause.is_none());

    pause(&mut client, proto::Channel::Sms, true).await;
    eventually("the critical one goes out", HEEDED, async || messages(&world, Channel::Sms) == 1).await;
    stays("the others do not", Duration::from_secs(2), async || messages(&world, Channel::Sms) == 1).await;
    assert!(resume(&mut client, proto::Channel::Sms).await);
    world.until_sent(4, HEEDED).await;
    assert!(!resume(&mut client, proto::Channel::Sms).await, "it was resumed already");

    // A pause is heeded by senders that are in the middle of their work.
    pause(&mut client, proto::Channel::Email, false).await;
    let mut number = 0;
    eventually("one is held", HEEDED, async || {
        number += 1;
        world.publish_requests(&[request(4, &format!("live-{number}"))], &NOTIFICATIONS).await;
        world.count(HELD).await > 0
    })
    .await;
    world.until_no_lag(SOON).await;
    let before = messages(&world, Channel::Email);
    assert!(before < 1 + number);
    resume(&mut client, proto::Channel::Email).await;
    world.until_sent(i64::try_from(4 + number).unwrap(), SOON).await;
    assert_eq!(messages(&world, Channel::Email), 1 + number, "each once");
    world.assert_each_once().await;
    assert_eq!(world.count("audit WHERE subject_kind = 'channel' AND caller = 'local'").await, 5);
    stop(roles).await;
    process.terminate();
    assert_eq!(process.wait().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_is_told_as_the_brokers_and_the_senders_say_it() {
    let world = World::new().await;
    world.load(&[sms_only(1)]).await;
    let broker = BrokerProxy::start().await;
    let brokers = Addresses::from_environment().proxied_brokers;
    let proxied = ("PATIENT_NOTIFY_KAFKA__BOOTSTRAP_SERVERS", brokers.as_str());
    let (_process, connection) = front_with(&world, &[proxied]).await;
    let mut client = OperationsServiceClient::new(connection);
    world.publish_requests(&[request(1, "waits")], &NOTIFICATIONS).await;
    let group = "consumer-notification".to_owned();
    let one = proto::OperationsServiceGetLagRequest { group: group.clone() };
    let groups = client.get_lag(one.clone()).await.unwrap().into_inner().groups;
    assert_eq!((groups.len(), groups[0].lag), (1, 1), "{groups:?}");
    let behind: Vec<_> = groups[0].partitions.iter().filter(|partition| partition.lag == 1).collect();
    assert_eq!((behind.len(), behind[0].end, behind[0].committed), (1, 1, None));

    let roles = ready(&world, ["consumer-notification"]).await;
    world.until_sent(1, SOON).await;
    let all = proto::OperationsServiceGetLagRequest::default();
    let groups = client.get_lag(all.clone()).await.unwrap().into_inner().groups;
    assert_eq!(groups.iter().map(|group| group.lag).collect::<Vec<_>>(), [0, 0, 0]);
    let state = client.get_processor_state(proto::OperationsServiceGetProcessorStateRequest {}).await;
    let state = state.unwrap().into_inner();
    let full = NOTIFICATIONS.full_group(&world.config.kafka.topic_prefix).unwrap();
    let found = state.groups.iter().find(|found| found.group == full).unwrap();
    let partitions = world.committed(&NOTIFICATIONS).await.len();
    assert_eq!((found.state.as_str(), found.members.len()), ("Stable", 1), "{found:?}");
    let topic = format!("{}/", world.topic(&NOTIFICATIONS));
    let read = found.members[0].partitions.iter().filter(|one| one.starts_with(&topic)).count();
    assert_eq!(read, partitions, "{found:?}");
    assert!(state.groups.iter().all(|one| one.group == full || one.members.is_empty()));
    assert_eq!((state.senders.len(), state.senders[0].role.as_str()), (1, group.as_str()));
    assert_eq!(state.due.unwrap().urgent, 0);
    stop(roles).await;

    let nobody = proto::OperationsServiceGetLagRequest { group: "nobody".to_owned() };
    assert_eq!(client.get_lag(nobody).await.unwrap_err().code(), Code::NotFound);
    broker.proxy.cut().await;
    assert_away(&client.get_lag(one.clone()).await.unwrap_err(), "BROKER_UNAVAILABLE");
    broker.proxy.restore().await;
    eventually("it answers again", SOON, async || client.get_lag(one.clone()).await.is_ok()).await;
    broker.stop().await;
}

async fn page(
    client: &mut Client,
    request: proto::OperationsServiceListDeadLettersRequest,
) -> (Vec<proto::DeadLetter>, String) {
    let page = client.list_dead_letters(request).await.unwrap().into_inner();
    (page.dead_letters, page.next_page_token)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_read_page_by_page_and_replayed() {
    let world = World::new().await;
    let (mut process, connection) = front(&world).await;
    let mut client = OperationsServiceClient::new(connection);
    let roles = ready(&world, ["consumer-notification"]).await;
    let topic = world.topic(&NOTIFICATIONS);
    for number in 0..3 {
        let (key, value) = (format!("pat-{number}"), format!("{CANARY}-{number}"));
        world.publish_raw(&topic, Some(key.as_bytes()), Some(value.as_bytes()), &[]).await;
    }
    eventually("they are buried", SOON, async || world.dead_letters().await.len() == 3).await;
    world.until_no_lag(SOON).await;

    let of_topic = proto::OperationsServiceListDeadLettersRequest {
        topic: names::NOTIFICATIONS.name.to_owned(),
        page_size: 2,
        ..Default::default()
    };
    let (first, token) = page(&mut client, of_topic.clone()).await;
    let next = proto::OperationsServiceListDeadLettersRequest { page_token: token, ..of_topic.clone() };
    let (second, _) = page(&mut client, next).await;
    assert_eq!((first.len(), second.len()), (2, 1));
    let mut letters = first;
    letters.extend(second);
    assert!(letters.iter().all(|one| one.key.is_empty() && one.value.is_empty() && one.size_bytes > 0));
    assert!(letters.iter().all(|one| one.origin.starts_with(&topic) && !one.detail.contains(CANARY)));
    assert_eq!(world.count("audit").await, 0, "looking at headers is not audited");
    let reason = letters[0].reason.clone();
    let none =
        proto::OperationsServiceListDeadLettersRequest { reason: "none".to_owned(), ..of_topic.clone() };
    assert!(page(&mut client, none).await.0.is_empty());
    let contents = proto::OperationsServiceListDeadLettersRequest {
        include_contents: true,
        page_size: 0,
        reason: reason.clone(),
        ..of_topic.clone()
    };
    let (with_contents, _) = page(&mut client, contents).await;
    assert!(with_contents.iter().all(|one| one.value.starts_with(CANARY.as_bytes())));
    assert_eq!(world.count("audit WHERE detail = 'with contents'").await, 3);

    replayed(&world, &mut client, &letters, &of_topic).await;
    refused(&mut client, of_topic).await;
    stop(roles).await;
    process.terminate();
    assert_eq!(process.wait().await.code(), Some(0));
    assert!(!process.log().contains(CANARY), "contents are in the log");
}

async fn replayed(
    world: &World,
    client: &mut Client,
    letters: &[proto::DeadLetter],
    of_topic: &proto::OperationsServiceListDeadLettersRequest,
) {
    let topic = world.topic(&NOTIFICATIONS);
    let missing = letters[0].name.rsplit_once('/').unwrap().0.to_owned() + "/999";
    let replay = proto::OperationsServiceReplayDeadLettersRequest {
        names: vec![letters[0].name.clone(), missing.clone()],
        ..Default::default()
    };
    let results = client.replay_dead_letters(replay.clone()).await.unwrap().into_inner().results;
    assert_eq!(results.len(), 2);
    assert!(results[0].replayed_to.starts_with(&topic) && results[0].problem.is_empty(), "{results:?}");
    assert!(results[1].name == missing && !results[1].problem.is_empty(), "{results:?}");
    assert_eq!(world.count("audit WHERE action = 'OperationsService/ReplayDeadLetters'").await, 1);
    let again = client.replay_dead_letters(replay).await.unwrap().into_inner().results;
    assert!(again.iter().any(|one| one.problem.contains("it was removed")), "{again:?}");
    let reason = letters[0].reason.clone();
    let rest = proto::OperationsServiceReplayDeadLettersRequest {
        topic: names::NOTIFICATIONS.name.to_owned(),
        reason,
        limit: 2,
        ..Default::default()
    };
    let results = client.replay_dead_letters(rest).await.unwrap().into_inner().results;
    assert!(results.len() == 2 && results.iter().all(|one| one.problem.is_empty()), "{results:?}");
    let handled = proto::OperationsServiceListDeadLettersRequest {
        include_handled: true,
        page_size: 200,
        ..of_topic.clone()
    };
    let shown = page(client, handled).await.0;
    let is_left = |letter: &proto::DeadLetter| shown.iter().any(|one| one.name == letter.name);
    assert!(!letters.iter().any(is_left), "what is handled is removed: {}", shown.len());
    let copies = read_topic(&world.config.kafka, &topic).await;
    let mut from: Vec<String> = copies.iter().map(|one| one.header("dlq.replayed_from")).collect();
    from.retain(|name| !name.is_empty());
    from.sort();
    assert_eq!(from, letters.iter().map(|one| one.name.clone()).collect::<Vec<_>>(), "each once");
}

async fn refused(client: &mut Client, of_topic: proto::OperationsServiceListDeadLettersRequest) {
    for (field, request) in [
        ("page_size", proto::OperationsServiceListDeadLettersRequest { page_size: 201, ..of_topic.clone() }),
        (
            "topic",
            proto::OperationsServiceListDeadLettersRequest { topic: "x".to_owned(), ..of_topic.clone() },
        ),
        (
            "page_token",
            proto::OperationsServiceListDeadLettersRequest { page_token: "x".to_owned(), ..of_topic },
        ),
    ] {
        let refused = client.list_dead_letters(request).await.unwrap_err();
        assert!(refused.code() == Code::InvalidArgument && refused.message().contains(field), "{refused}");
    }
    let nothing = proto::OperationsServiceReplayDeadLettersRequest::default();
    assert_eq!(client.replay_dead_letters(nothing).await.unwrap_err().code(), Code::InvalidArgument);
    let silent = proto::OperationsServicePauseChannelRequest { channel: 1, ..Default::default() };
    assert_eq!(client.pause_channel(silent).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_changes_a_delivery_on_its_page() {
    let world = World::new().await;
    world.load(&[sms_only(1)]).await;
    let consumer = world.role("consumer-notification", |_| {});
    world.publish_requests(&[request(1, "key-1")], &NOTIFICATIONS).await;
    world.until_sent(1, SOON).await;
    // As a receipt does it. An index on state or reason, or with a condition on them, would
    // make every index of the table get an entry.
    let mut database = world.pool.get().await.unwrap();
    let transaction = database.transaction().await.unwrap();
    let receipt = "UPDATE delivery SET state = 'delivered', reason = 'receipt', updated_at = now()";
    assert_eq!(transaction.execute(receipt, &[]).await.unwrap(), 1);
    let on_page = "SELECT n_tup_hot_upd FROM pg_stat_xact_user_tables WHERE relname = 'delivery'";
    assert_eq!(transaction.query_one(on_page, &[]).await.unwrap().get::<_, i64>(0), 1);
    transaction.rollback().await.unwrap();
    consumer.stop().await.unwrap();
}

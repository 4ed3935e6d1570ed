//! The front over a real gRPC connection: OK means taken over, a key means one
//! message, and whatever is away is said in time.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use patient_notify::api::proto;
use patient_notify::api::proto::notification_service_client::NotificationServiceClient;
use patient_notify::api::proto::recipient_service_client::RecipientServiceClient;
use patient_notify::health::Health;
use patient_notify::roles::{self, Context};
use patient_notify::sandbox::inbox_router;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::harness::{BrokerProxy, Process, Proxy, World, eventually, free_address, patient, recipient};
use crate::recipients::state;
use crate::tools::{get, read_topic};

const DEADLINE: Duration = Duration::from_secs(60);
const CONSUMER: &str = "consumer-notification";

/// A front as a process, and a connection to it.
pub(crate) async fn front(world: &World) -> (Process, Channel) {
    front_with(world, &[]).await
}

pub(crate) async fn front_with(world: &World, variables: &[(&str, &str)]) -> (Process, Channel) {
    let mut process = world.process("app", variables);
    process.wait_for_log("front is listening", Duration::from_secs(30)).await;
    let elsewhere = variables.iter().find(|(name, _)| *name == "PATIENT_NOTIFY_APP__LISTEN");
    (process, connect_to(elsewhere.map_or(&world.config.app.listen, |(_, address)| address)).await)
}

async fn connect(world: &World) -> Channel {
    connect_to(&world.config.app.listen).await
}

async fn connect_to(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

pub(crate) fn wish(key: &str, number: u64) -> proto::NotificationServiceSendRequest {
    proto::NotificationServiceSendRequest {
        idempotency_key: key.to_owned(),
        patient_id: patient(number).as_str().to_owned(),
        purpose: proto::Purpose::General.into(),
        ..Default::default()
    }
}

pub(crate) fn within<T>(timeout: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    request
}

/// The server's own refusal, which has to come before the caller gives up. Where the
/// machine is so busy that an answer stays on its way for longer than the server leaves
/// it, the call is made again.
pub(crate) async fn refused_in_time<T>(mut call: impl AsyncFnMut() -> Result<T, Status>) -> Status {
    eventually("the server's own answer, in time", DEADLINE, async || {
        let status = call().await.err().expect("a refusal");
        status.get_details_error_info().is_some().then_some(status)
    })
    .await
}

pub(crate) fn of(sent: &proto::NotificationServiceSendResponse) -> proto::NotificationServiceGetRequest {
    proto::NotificationServiceGetRequest {
        notification_id: sent.notification_id.clone(),
        consistency_token: Some(sent.consistency_token.clone()),
    }
}

pub(crate) fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// Says that something is away, and when to come back.
pub(crate) fn assert_away(status: &Status, reason_expected: &str) {
    assert_eq!((status.code(), reason(status).as_str()), (Code::Unavailable, reason_expected), "{status}");
    let retry = status.get_details_retry_info().and_then(|info| info.retry_delay);
    assert!(retry.is_some_and(|delay| !delay.is_zero()), "a caller is told when to come back: {status}");
}

pub(crate) async fn until_state(
    client: &mut NotificationServiceClient<Channel>,
    sent: &proto::NotificationServiceSendResponse,
    state: proto::State,
) -> proto::NotificationServiceGetResponse {
    let client = tokio::sync::Mutex::new(client);
    eventually("the notification is in its state", DEADLINE, async || {
        let shown = client.lock().await.get(of(sent)).await.unwrap().into_inner();
        (shown.notification.as_ref().unwrap().state == i32::from(state)).then_some(shown)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_over_is_shown_and_delivered_once() {
    let world = World::new().await;
    world.load(&[recipient(1)]).await;
    let (mut process, channel) = front(&world).await;
    let mut client = NotificationServiceClient::new(channel);
    let consumer = world.role(CONSUMER, |_| {});

    let first = client.send(wish("key-1", 1)).await.unwrap().into_inner();
    let shown = client.get(within(Duration::from_secs(9), of(&first))).await.unwrap().into_inner();
    let notification = shown.notification.unwrap();
    assert_eq!(notification.notification_id, first.notification_id);
    assert_eq!(notification.patient_id, patient(1).as_str());
    assert!(!shown.why.is_empty(), "it says why");

    // The same again, and the same key with another payload: the first stands, here, and
    // at a server that does not know of it.
    let again = client.send(wish("key-1", 1)).await.unwrap().into_inner();
    let other = proto::NotificationServiceSendRequest {
        purpose: proto::Purpose::AppointmentReminder.into(),
        ..wish("key-1", 1)
    };
    let refused = client.send(other.clone()).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::AlreadyExists, "IDEMPOTENCY_KEY_REUSED"));
    let told = refused.get_details_error_info().unwrap().metadata;
    assert_eq!(
        (told["notification_id"].as_str(), told["differs"].as_str()),
        (&*first.notification_id, "purpose")
    );
    let (_elsewhere, channel) = front_with(&world, &[("PATIENT_NOTIFY_APP__LISTEN", &free_address())]).await;
    let other = NotificationServiceClient::new(channel).send(other).await.unwrap().into_inner();
    assert_eq!(again.notification_id, first.notification_id);
    assert_eq!(other.notification_id, first.notification_id);
    let mut named = Request::new(wish("key-1", 1));
    named.metadata_mut().insert("x-caller", "another-backend".parse().unwrap());
    let of_another = client.send(named).await.unwrap().into_inner();
    assert_ne!(of_another.notification_id, first.notification_id, "a key belongs to its caller");

    for sent in [&first, &of_another] {
        let shown = until_state(&mut client, sent, proto::State::Sent).await;
        let notification = shown.notification.unwrap();
        assert_eq!(notification.purpose, i32::from(proto::Purpose::General), "the first payload stands");
        assert_eq!((notification.deliveries.len(), notification.deliveries[0].attempts), (1, 1));
    }
    world.until_no_lag(DEADLINE).await;
    assert_eq!(world.sandbox.log.len(), 2, "one message a caller and key");
    consumer.stop().await.unwrap();
    process.terminate();
    assert_eq!(process.wait().await.code(), Some(0), "{}", process.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ok_never_leads_to_a_dead_letter() {
    let world = World::new().await;
    world.load(&[recipient(1)]).await;
    let (_process, channel) = front(&world).await;
    let mut client = NotificationServiceClient::new(channel);
    let consumer = world.role(CONSUMER, |_| {});
    let long_ago = prost_types::Timestamp { seconds: 1, nanos: 1 };
    let in_a_year = prost_types::Timestamp { seconds: Timestamp::now().as_second() + 360 * 86_400, nanos: 7 };
    let all_variables = (0..20).map(|n| (format!("v{n:0>63}"), "\u{10ffff}\n".repeat(250))).collect();
    let at_the_bounds = [
        proto::NotificationServiceSendRequest { variables: all_variables, ..wish(&"k".repeat(64), 1) },
        proto::NotificationServiceSendRequest { send_at: Some(long_ago), ..wish("long-ago", 1) },
        proto::NotificationServiceSendRequest {
            send_at: Some(in_a_year),
            expires_at: Some(prost_types::Timestamp { nanos: 2_000_000, ..in_a_year }),
            ..wish("in-a-year", 1)
        },
        proto::NotificationServiceSendRequest {
            urgency: proto::Urgency::Bulk.into(),
            channels: vec![
                proto::Channel::Push.into(),
                proto::Channel::Email.into(),
                proto::Channel::Sms.into(),
            ],
            recipient_id: Some(patient(1).as_str().to_owned()),
            ..wish("bulk", 1)
        },
    ];
    let mut sent = Vec::new();
    for message in at_the_bounds {
        sent.push(client.send(message).await.unwrap().into_inner());
    }
    for sent in &sent {
        client.get(within(Duration::from_secs(9), of(sent))).await.unwrap();
    }
    world.until_no_lag(DEADLINE).await;
    assert!(world.dead_letters().await.is_empty());
    consumer.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_of_a_request_is_told_at_once() {
    let world = World::new().await;
    let (_process, channel) = front(&world).await;
    let mut client = NotificationServiceClient::new(channel.clone());
    let status = client
        .send(proto::NotificationServiceSendRequest {
            idempotency_key: "two words".to_owned(),
            patient_id: "Jane CANARY".to_owned(),
            urgency: 77,
            channels: vec![1, 1],
            variables: [("v".to_owned(), "CANARY".repeat(100))].into(),
            ..Default::default()
        })
        .await
        .unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "INVALID_REQUEST"));
    let named: Vec<String> = status
        .get_details_bad_request()
        .unwrap()
        .field_violations
        .into_iter()
        .map(|violation| violation.field)
        .collect();
    assert_eq!(named, ["idempotency_key", "patient_id", "purpose", "urgency", "channels[1]", "variables"]);
    assert!(!format!("{status:?}").contains("CANARY"));

    let unknown = proto::NotificationServiceGetRequest {
        notification_id: uuid::Uuid::new_v4().to_string(),
        consistency_token: None,
    };
    let status = client.get(unknown).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::NotFound, "NOT_FOUND"), "{status}");
    let mut recipients = RecipientServiceClient::new(channel);
    let nobody = proto::RecipientServiceGetRequest { recipient_id: "nobody".to_owned() };
    assert_eq!(recipients.get(nobody).await.unwrap_err().code(), Code::NotFound);

    // Nobody consumes here: a token of Send is waited for, within the deadline.
    let sent = client.send(wish("not-yet", 1)).await.unwrap().into_inner();
    let status =
        refused_in_time(async || client.clone().get(within(Duration::from_secs(1), of(&sent))).await).await;
    assert_away(&status, "NOT_YET_PROCESSED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_reflection_and_inbox_share_the_port() {
    let world = World::new().await;
    let config = Arc::new(world.config.clone());
    let context = Context { config, health: Health::new(), shutdown: CancellationToken::new() };
    let inbox = inbox_router(Arc::clone(&world.sandbox.log));
    let running = tokio::spawn(roles::app::run_with(context.clone(), inbox));
    eventually("the front is ready", DEADLINE, async || {
        assert!(!running.is_finished(), "the front ended");
        context.health.ready().is_ok()
    })
    .await;
    let channel = connect(&world).await;

    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let serving = i32::from(tonic_health::pb::health_check_response::ServingStatus::Serving);
    for service in ["", "patientnotify.v1.NotificationService", "patientnotify.v1.RecipientService"] {
        let health = tokio::sync::Mutex::new(&mut health);
        eventually("the service serves", DEADLINE, async || {
            let ask = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
            let answer = health.lock().await.check(ask).await;
            answer.is_ok_and(|answer| answer.into_inner().status == serving)
        })
        .await;
    }
    let services = reflected(channel).await;
    for service in
        ["patientnotify.v1.NotificationService", "patientnotify.v1.RecipientService", "grpc.health.v1.Health"]
    {
        assert!(services.iter().any(|name| name == service), "{services:?}");
    }

    let base = format!("http://{}", world.config.app.listen);
    let (status, page) = get(&format!("{base}/inbox")).await;
    assert!(status == 200 && page.contains("<html"), "{page}");
    assert_eq!(get(&format!("{base}/inbox/messages")).await, (200, "[]".to_owned()));
    assert!(get(&base).await.1.contains("/inbox"));
    context.shutdown.cancel();
    running.await.unwrap().unwrap();
    assert!(
        tokio::net::TcpStream::connect(&world.config.app.listen).await.is_err(),
        "the port is free again"
    );
}

async fn reflected(channel: Channel) -> Vec<String> {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let message_request = Some(MessageRequest::ListServices(String::new()));
    let ask = ServerReflectionRequest { host: String::new(), message_request };
    let mut client = ServerReflectionClient::new(channel);
    let mut answers = client.server_reflection_info(tokio_stream::once(ask)).await.unwrap().into_inner();
    match answers.message().await.unwrap().unwrap().message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            list.service.into_iter().map(|one| one.name).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_is_told_in_time_and_forgotten_when_it_is_back() {
    const CALL: Duration = Duration::from_secs(2);
    let world = World::new().await;
    world.load(&[recipient(1)]).await;
    let consumer = world.role(CONSUMER, |_| {});
    let broker = BrokerProxy::start().await;
    let proxied = ("PATIENT_NOTIFY_KAFKA__BOOTSTRAP_SERVERS", world.addresses.proxied_brokers.as_str());
    let (mut process, channel) = front_with(&world, &[proxied]).await;
    let mut client = NotificationServiceClient::new(channel);
    client.send(wish("before", 1)).await.unwrap();

    broker.proxy.cut().await;
    let status = refused_in_time(async || client.clone().send(within(CALL, wish("during", 1))).await).await;
    assert_away(&status, "BROKER_UNAVAILABLE");
    assert!(process.is_running());

    broker.proxy.restore().await;
    let retried = {
        let client = tokio::sync::Mutex::new(&mut client);
        eventually("it serves again", DEADLINE, async || {
            client.lock().await.send(within(CALL, wish("during", 1))).await.ok()
        })
        .await
        .into_inner()
    };
    until_state(&mut client, &retried, proto::State::Sent).await;
    world.until_no_lag(DEADLINE).await;
    let stats = world.sandbox.log.stats();
    assert_eq!((stats.total, stats.duplicates), (2, 0), "the repeated call is one message");
    consumer.stop().await.unwrap();
    process.terminate();
    assert_eq!(process.wait().await.code(), Some(0), "{}", process.log());
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_away_does_not_keep_requests_from_being_taken_over() {
    let world = World::new().await;
    let database = Proxy::start(world.addresses.postgres_address()).await;
    let url =
        world.config.postgres.url.expose().replace(world.addresses.postgres_address(), &database.address);
    // Away at the start already: it serves all the same.
    database.cut().await;
    let (mut process, channel) = front_with(&world, &[("PATIENT_NOTIFY_POSTGRES__URL", &url)]).await;
    let mut client = NotificationServiceClient::new(channel.clone());
    let sent = client.send(wish("key-1", 1)).await.unwrap().into_inner();
    let lying =
        read_topic(&world.config.kafka, &world.topic(&patient_notify::topic::names::NOTIFICATIONS)).await;
    assert_eq!(lying.len(), 1, "taken over: it lies on the topic");
    let ask = proto::NotificationServiceGetRequest { consistency_token: None, ..of(&sent) };
    assert_away(&client.get(ask.clone()).await.unwrap_err(), "DATABASE_UNAVAILABLE");
    let mut recipients = RecipientServiceClient::new(channel);
    assert_away(&recipients.upsert(state(1)).await.unwrap_err(), "DATABASE_UNAVAILABLE");

    database.restore().await;
    let created = recipients.upsert(state(1)).await.unwrap().into_inner().created;
    assert!(created);
    assert_eq!(client.get(ask.clone()).await.unwrap_err().code(), Code::NotFound);
    // And in the middle, with connections that were good a moment ago.
    database.cut().await;
    assert_away(&client.get(ask.clone()).await.unwrap_err(), "DATABASE_UNAVAILABLE");
    client.send(wish("key-2", 1)).await.unwrap();
    database.restore().await;
    assert_eq!(client.get(ask).await.unwrap_err().code(), Code::NotFound);
    process.terminate();
    assert_eq!(process.wait().await.code(), Some(0), "{}", process.log());
}

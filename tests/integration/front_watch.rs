//! The front's Watch over a real gRPC connection: nothing is left out and nothing comes
//! twice, whatever server the stream is opened at and however it ended.

use std::time::Duration;

use patient_notify::api::proto;
use patient_notify::api::proto::notification_service_client::NotificationServiceClient;
use patient_notify::api::proto::notification_service_watch_request::Target;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

use crate::front::{assert_away, front, front_with, of, reason, until_state, wish};
use crate::harness::{BrokerProxy, Process, World, eventually, free_address, patient, ready, sms_only, stop};

const DEADLINE: Duration = Duration::from_secs(60);
const STREAMS: &str = "patient_notify_grpc_streams{method=\"/patientnotify.v1.NotificationService/Watch\"}";

type Client = NotificationServiceClient<Channel>;

/// A stream, and the last token that it gave.
struct Watch {
    stream: Streaming<proto::NotificationServiceWatchResponse>,
    token: String,
}

impl Watch {
    async fn open(client: &mut Client, target: Option<Target>, token: Option<String>) -> Self {
        let ask =
            proto::NotificationServiceWatchRequest { target, resume_token: token, ..Default::default() };
        Self::with(client, ask).await
    }

    async fn with(client: &mut Client, ask: proto::NotificationServiceWatchRequest) -> Self {
        let stream = client.watch(ask).await.unwrap().into_inner();
        Self { stream, token: String::new() }
    }

    /// The next message.
    async fn message(&mut self) -> Result<Option<proto::StatusChange>, Status> {
        let message = tokio::time::timeout(DEADLINE, self.stream.message()).await.expect("a sign of life")?;
        let message = message.expect("a stream ends with a status");
        self.token = message.resume_token;
        Ok(message.change)
    }

    /// The first message, which tells where the stream begins.
    async fn begun(mut self) -> Self {
        assert_eq!(self.message().await.unwrap(), None);
        assert!(!self.token.is_empty());
        self
    }

    /// The next changes up to one in this state, as sequences.
    async fn until(&mut self, id: &str, state: proto::State) -> Vec<i32> {
        let mut sequences = Vec::new();
        loop {
            let Some(change) = self.message().await.unwrap() else { continue };
            assert_eq!(change.notification_id, id);
            sequences.push(change.sequence);
            if change.state() == state {
                return sequences;
            }
        }
    }

    /// How it ends.
    async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.message().await {
                return status;
            }
        }
    }
}

fn one(id: &str) -> Option<Target> {
    Some(Target::NotificationId(id.to_owned()))
}

async fn open_streams(process: &mut Process, count: f64) {
    eventually("the streams are counted", DEADLINE, async || process.metric(STREAMS).await == count).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_resumed_at_another_server_when_its_own_stops() {
    let world = World::new().await;
    world.load(&[sms_only(1)]).await;
    let (mut first, channel) = front(&world).await;
    let (_second, elsewhere) = front_with(&world, &[("PATIENT_NOTIFY_APP__LISTEN", &free_address())]).await;
    let mut client = NotificationServiceClient::new(channel);
    let mut elsewhere = NotificationServiceClient::new(elsewhere);
    let roles = ready(&world, ["consumer-notification", "wrk-default"]).await;

    let mut watch = Watch::open(&mut client, None, None).await.begun().await;
    let one = client.send(wish("one", 1)).await.unwrap().into_inner();
    let early = watch.until(&one.notification_id, proto::State::Sent).await;
    assert_eq!(
        early,
        (1..=i32::try_from(early.len()).unwrap()).collect::<Vec<_>>(),
        "in order, none left out"
    );
    // A client that goes away frees its place.
    let gone = Watch::open(&mut client, None, None).await.begun().await;
    open_streams(&mut first, 2.0).await;
    drop(gone);
    open_streams(&mut first, 1.0).await;

    first.terminate();
    let told = watch.end().await;
    assert_away(&told, "SERVER_STOPPING");
    assert_eq!(first.wait().await.code(), Some(0), "{}", first.log());

    let two = elsewhere.send(wish("two", 1)).await.unwrap().into_inner();
    until_state(&mut elsewhere, &two, proto::State::Sent).await;
    let mut again = Watch::open(&mut elsewhere, None, Some(watch.token.clone())).await;
    let missed = again.until(&two.notification_id, proto::State::Sent).await;
    assert_eq!(missed[0], 1, "from where it ended, and nothing of before");
    // And it goes on.
    let three = elsewhere.send(wish("three", 1)).await.unwrap().into_inner();
    assert_eq!(again.until(&three.notification_id, proto::State::Sent).await[0], 1);
    stop(roles).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_about_its_target_and_begins_with_what_is() {
    let world = World::new().await;
    world.load(&[sms_only(1), sms_only(2)]).await;
    let heartbeat = ("PATIENT_NOTIFY_APP__WATCH_HEARTBEAT_MS", "300");
    let (_process, channel) = front_with(&world, &[heartbeat]).await;
    let mut client = NotificationServiceClient::new(channel);
    let roles = ready(&world, ["consumer-notification", "consumer-notification-update", "wrk-default"]).await;
    let of_patient = Some(Target::PatientId(patient(2).as_str().to_owned()));
    let mut second = Watch::open(&mut client, of_patient, None).await.begun().await;
    assert_eq!(second.message().await.unwrap(), None, "a sign of life");
    let sent = client.send(wish("one", 1)).await.unwrap().into_inner();
    let other = client.send(wish("two", 2)).await.unwrap().into_inner();
    second.until(&other.notification_id, proto::State::Sent).await;

    let now = until_state(&mut client, &sent, proto::State::Sent).await.notification.unwrap();
    let mut watch = Watch::open(&mut client, one(&sent.notification_id), None).await;
    let present = watch.message().await.unwrap().unwrap();
    assert_eq!((present.state(), present.sequence), (proto::State::Sent, now.sequence));
    let behind = proto::NotificationServiceWatchRequest {
        target: one(&sent.notification_id),
        after_sequence: now.sequence,
        consistency_token: Some(sent.consistency_token.clone()),
        ..Default::default()
    };
    let mut behind = Watch::with(&mut client, behind).await.begun().await;
    let read = proto::NotificationServiceMarkReadRequest {
        notification_id: sent.notification_id.clone(),
        engagement: proto::Engagement::Read.into(),
        occurred_at: None,
    };
    client.mark_read(read).await.unwrap();
    for watch in [&mut watch, &mut behind] {
        let change = loop {
            if let Some(change) = watch.message().await.unwrap() {
                break change;
            }
        };
        assert_eq!((change.sequence, change.reason.as_str()), (now.sequence + 1, "read"));
    }

    let open = |target, token: &str| proto::NotificationServiceWatchRequest {
        target,
        resume_token: Some(token.to_owned()),
        ..Default::default()
    };
    let unknown = client.watch(open(one(&uuid::Uuid::new_v4().to_string()), "")).await.unwrap_err();
    assert_eq!((unknown.code(), reason(&unknown).as_str()), (Code::NotFound, "NOT_FOUND"));
    let of_another = client.watch(open(None, &watch.token)).await.unwrap_err();
    assert_eq!(reason(&of_another), "INVALID_REQUEST");
    stop(roles).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_goes_ends_the_stream_and_its_token_goes_on() {
    let world = World::new().await;
    world.load(&[sms_only(1)]).await;
    let broker = BrokerProxy::start().await;
    let proxied = ("PATIENT_NOTIFY_KAFKA__BOOTSTRAP_SERVERS", world.addresses.proxied_brokers.as_str());
    let (_process, channel) = front_with(&world, &[proxied, ("PATIENT_NOTIFY_APP__STREAMS_MAX", "1")]).await;
    let mut client = NotificationServiceClient::new(channel);
    let roles = ready(&world, ["consumer-notification", "wrk-default"]).await;
    let sent = client.send(wish("one", 1)).await.unwrap().into_inner();
    until_state(&mut client, &sent, proto::State::Sent).await;
    let mut watch = Watch::open(&mut client, None, None).await.begun().await;
    let full = client.watch(proto::NotificationServiceWatchRequest::default()).await.unwrap_err();
    assert_eq!((full.code(), reason(&full).as_str()), (Code::ResourceExhausted, "OVERLOADED"));

    broker.proxy.cut().await;
    assert_away(&watch.end().await, "BROKER_UNAVAILABLE");
    let ask = || proto::NotificationServiceWatchRequest {
        resume_token: Some(watch.token.clone()),
        ..Default::default()
    };
    let away = {
        let client = tokio::sync::Mutex::new(&mut client);
        eventually("its place is free", DEADLINE, async || {
            let status = client.lock().await.watch(ask()).await.err()?;
            (status.code() != Code::ResourceExhausted).then_some(status)
        })
        .await
    };
    assert_away(&away, "BROKER_UNAVAILABLE");
    // What happens meanwhile is not lost.
    let (_direct, elsewhere) = front_with(&world, &[("PATIENT_NOTIFY_APP__LISTEN", &free_address())]).await;
    let mut elsewhere = NotificationServiceClient::new(elsewhere);
    let missed = elsewhere.send(wish("two", 1)).await.unwrap().into_inner();
    elsewhere.get(of(&missed)).await.unwrap();
    broker.proxy.restore().await;
    let stream = {
        let client = tokio::sync::Mutex::new(&mut client);
        eventually("it is opened again", DEADLINE, async || client.lock().await.watch(ask()).await.ok()).await
    };
    let mut again = Watch { stream: stream.into_inner(), token: String::new() };
    assert_eq!(again.until(&missed.notification_id, proto::State::Sent).await[0], 1);
    stop(roles).await;
    broker.stop().await;
}

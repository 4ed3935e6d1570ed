//! The front over real sockets, with a stand-in for the way to the broker and a
//! database that is away.

mod streams;

use axum::routing::get;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use tonic::transport::Channel;
use tonic::{Code, Request as Call};
use tonic_types::StatusExt as _;

use super::proto::notification_service_client::NotificationServiceClient;
use super::token::{Awaited, Token};
use super::*;
use crate::decode::Decoder;
use crate::domain::{Engagement, NotificationId};
use crate::plan::Settings;
use crate::record;
use crate::topic::progress::Progress;

/// Where requests lie.
const TOPIC: &str = "pat.notifications.v1";
/// A port of this machine that nobody listens on.
const NOWHERE: &str = "postgres://nobody@127.0.0.1:1/none";

fn app(listen: &str) -> config::App {
    config::App {
        listen: listen.to_owned(),
        request_max_bytes: 64 * 1024,
        concurrency: 8,
        streams_max: 2,
        streams_max_per_caller: 2,
        recent_keys_max: 100,
        watch_heartbeat_ms: 1_000,
        ..config::Config::from_defaults().app
    }
}

fn front(config: config::App, publisher: Publisher) -> Front {
    let postgres = config::Postgres {
        url: NOWHERE.to_owned().into(),
        pool_size: 1,
        pool_wait_timeout_ms: 500,
        connect_timeout_ms: 500,
        statement_timeout_ms: 500,
    };
    let health = Health::new();
    health.add_readiness("test", || Ok(()));
    Front {
        config,
        auth: config::Config::from_defaults().auth,
        publisher,
        webhooks: webhooks::Webhooks::default(),
        operations: operations::Setup::from_config(&config::Config::from_defaults()),
        schedule_max: Duration::from_secs(366 * 86_400),
        notifications: Arc::new(means()),
        appointments: config::Config::from_defaults().appointments,
        renderer: Arc::new(Renderer::embedded(&config::Config::from_defaults().plan).unwrap()),
        codes: None,
        pool: record::pool::pool(&postgres).unwrap(),
        extra_http: Router::new().route("/inbox", get(|| async { "inbox" })),
        links: vec![("Inbox".to_owned(), "/inbox".to_owned())],
        health,
        shutdown: CancellationToken::new(),
    }
}

/// Of a broker and a registry that nobody asks.
fn means() -> notification::Means {
    let config = config::Config::from_defaults();
    notification::Means {
        progress: Progress::new(&config.kafka),
        hub: notification::Hub::new(&config.kafka, Decoder::new(&config.registry, 1024).unwrap()),
        quiet_hours: notification::QuietDefaults {
            hours: Settings::new(&config.plan).unwrap().quiet_hours,
            time_zone: config.plan.default_time_zone,
        },
        heartbeat: Duration::from_secs(1),
        stream_idle: Duration::from_secs(30),
        recent_keys_max: 100,
    }
}

fn accepting() -> Publisher {
    let next = AtomicUsize::new(0);
    Publisher::new(move |what| {
        let caller = match what {
            Outgoing::Request(request) => request.caller,
            Outgoing::Update(update) => update.source,
        };
        assert_eq!(caller, "local");
        let offset = next.fetch_add(1, Ordering::Relaxed) as i64;
        async move { Ok(Position { topic: TOPIC.to_owned(), partition: 3, offset }) }
    })
}

/// Says that it has begun, and acknowledges once it is released.
fn waiting(begun: &CancellationToken, release: &CancellationToken) -> Publisher {
    let (begun, release) = (begun.clone(), release.clone());
    Publisher::new(move |_| {
        let (begun, release) = (begun.clone(), release.clone());
        async move {
            begun.cancel();
            release.cancelled().await;
            Ok(Position { topic: "t".to_owned(), partition: 0, offset: 0 })
        }
    })
}

async fn connect(serving: &Serving) -> Channel {
    let address = format!("http://{}", serving.address);
    Channel::from_shared(address).unwrap().connect().await.unwrap()
}

async fn start(publisher: Publisher) -> (Serving, Channel) {
    let serving = serve(front(app("127.0.0.1:0"), publisher)).await.unwrap();
    let channel = connect(&serving).await;
    (serving, channel)
}

fn message(key: &str) -> proto::NotificationServiceSendRequest {
    proto::NotificationServiceSendRequest {
        idempotency_key: key.to_owned(),
        patient_id: "pat-1".to_owned(),
        purpose: proto::Purpose::General.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn the_same_key_is_answered_with_the_same_id() {
    let (_serving, channel) = start(accepting()).await;
    let mut client = NotificationServiceClient::new(channel);
    let first = client.send(message("key-1")).await.unwrap().into_inner();
    let again = client.send(message("key-1")).await.unwrap().into_inner();
    let other = client.send(message("key-2")).await.unwrap().into_inner();
    assert_eq!(first.notification_id, NotificationId::for_request("local", "key-1").to_string());
    assert_eq!(first.notification_id, again.notification_id);
    assert_ne!(first.notification_id, other.notification_id);
    let token = Token::from_text(&other.consistency_token).unwrap();
    assert_eq!(token.position, Position { topic: TOPIC.to_owned(), partition: 3, offset: 2 });
    assert_eq!(token.awaited, Awaited::Notification);
}

fn mark_read(notification_id: String) -> proto::NotificationServiceMarkReadRequest {
    let engagement = proto::Engagement::Read.into();
    proto::NotificationServiceMarkReadRequest { notification_id, engagement, occurred_at: None }
}

#[tokio::test]
async fn a_cancellation_and_a_reading_need_no_database_and_say_what_to_wait_for() {
    let (_serving, channel) = start(accepting()).await;
    let mut client = NotificationServiceClient::new(channel);
    let notification_id = NotificationId::for_request("local", "key-1").to_string();
    let cancel = proto::NotificationServiceCancelRequest { notification_id: notification_id.clone() };
    let cancelled = client.cancel(cancel).await.unwrap().into_inner();
    let token = Token::from_text(&cancelled.consistency_token).unwrap();
    assert_eq!((token.position.offset, token.awaited), (0, Awaited::Cancelled));
    let read = client.mark_read(mark_read(notification_id)).await.unwrap().into_inner();
    let token = Token::from_text(&read.consistency_token).unwrap();
    assert_eq!((token.position.offset, token.awaited), (1, Awaited::Engaged(Engagement::Read)));
}

#[tokio::test]
async fn a_broker_that_is_away_is_told_before_the_callers_deadline() {
    fn within_a_second<T>(message: T) -> Call<T> {
        let mut call = Call::new(message);
        call.set_timeout(Duration::from_secs(1));
        call
    }

    let (_serving, channel) = start(waiting(&CancellationToken::new(), &CancellationToken::new())).await;
    let mut clients = [(); 3].map(|()| NotificationServiceClient::new(channel.clone()));
    let [first, second, third] = &mut clients;
    let notification_id = NotificationId::for_request("local", "key-1").to_string();
    let cancel = proto::NotificationServiceCancelRequest { notification_id: notification_id.clone() };
    let begun = Instant::now();
    let (sent, cancelled, read) = tokio::join!(
        first.send(within_a_second(message("key-1"))),
        second.cancel(within_a_second(cancel)),
        third.mark_read(within_a_second(mark_read(notification_id))),
    );
    assert!(begun.elapsed() < Duration::from_secs(1));
    for status in [sent.unwrap_err(), cancelled.unwrap_err(), read.unwrap_err()] {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert_eq!(status.get_details_error_info().unwrap().reason, "BROKER_UNAVAILABLE");
        assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    }
}

#[tokio::test]
async fn a_database_that_is_away_is_told() {
    let (_serving, channel) = start(accepting()).await;
    let mut client = NotificationServiceClient::new(channel);
    let sent = client.send(message("key-1")).await.unwrap().into_inner();
    let status = client
        .get(proto::NotificationServiceGetRequest {
            notification_id: sent.notification_id,
            consistency_token: Some(sent.consistency_token),
        })
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(status.get_details_error_info().unwrap().reason, "DATABASE_UNAVAILABLE");
}

#[tokio::test]
async fn calls_beyond_the_bound_are_refused_and_probes_are_not() {
    let (begun, release) = (CancellationToken::new(), CancellationToken::new());
    let config = config::App { concurrency: 1, ..app("127.0.0.1:0") };
    let serving = serve(front(config, waiting(&begun, &release))).await.unwrap();
    let mut client = NotificationServiceClient::new(connect(&serving).await);
    let mut second = NotificationServiceClient::new(connect(&serving).await);
    let held = tokio::spawn(async move { client.send(message("key-1")).await });
    begun.cancelled().await;
    let refused = second.send(message("key-2")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(refused.get_details_error_info().unwrap().reason, "OVERLOADED");
    let mut probe = tonic_health::pb::health_client::HealthClient::new(connect(&serving).await);
    probe.check(tonic_health::pb::HealthCheckRequest { service: String::new() }).await.unwrap();
    release.cancel();
    held.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_call_under_way_is_finished_when_the_server_stops() {
    let (begun, release) = (CancellationToken::new(), CancellationToken::new());
    let front = front(app("127.0.0.1:0"), waiting(&begun, &release));
    let (shutdown, health) = (front.shutdown.clone(), Arc::clone(&front.health));
    let serving = serve(front).await.unwrap();
    let mut client = NotificationServiceClient::new(connect(&serving).await);
    let call = tokio::spawn(async move { client.send(message("key-1")).await });
    begun.cancelled().await;
    shutdown.cancel();
    let address = serving.address;
    let finished = tokio::spawn(serving.finished());
    while health.ready().is_ok() {
        tokio::task::yield_now().await;
    }
    release.cancel();
    call.await.unwrap().unwrap();
    finished.await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "the port is free again");
}

#[tokio::test]
async fn http_health_and_reflection_share_the_port() {
    let (serving, channel) = start(accepting()).await;
    let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
    let get = |path: &str| http.get(format!("http://{}{path}", serving.address)).send();
    let index = get("/").await.unwrap().text().await.unwrap();
    assert!(index.contains(r#"href="/inbox""#), "{index}");
    assert_eq!(get("/inbox").await.unwrap().text().await.unwrap(), "inbox");
    assert_eq!(get("/nothing").await.unwrap().status(), 404);

    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let service = SERVICES[1].to_owned();
    let mut watch =
        health.watch(tonic_health::pb::HealthCheckRequest { service }).await.unwrap().into_inner();
    let serving_now = i32::from(tonic_health::pb::health_check_response::ServingStatus::Serving);
    while watch.message().await.unwrap().unwrap().status != serving_now {}

    let names = reflected(channel).await;
    for service in ["patientnotify.v1.NotificationService", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|name| name == service), "{names:?}");
    }
}

async fn reflected(channel: Channel) -> Vec<String> {
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(ask))
        .await
        .unwrap()
        .into_inner();
    match answers.message().await.unwrap().unwrap().message_response {
        Some(MessageResponse::ListServicesResponse(list)) => {
            list.service.into_iter().map(|service| service.name).collect()
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_too_large_or_unknown_is_refused() {
    let (_serving, channel) = start(accepting()).await;
    let mut large = message("key-1");
    large.variables.insert("v".to_owned(), "x".repeat(65 * 1024));
    let status = NotificationServiceClient::new(channel.clone()).send(large).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");

    let mut bare = tonic::client::Grpc::new(channel);
    bare.ready().await.unwrap();
    let path = axum::http::uri::PathAndQuery::from_static("/patientnotify.v9.Nothing/Do");
    let codec: tonic_prost::ProstCodec<proto::Notification, proto::Notification> = Default::default();
    let status = bare.unary(Call::new(proto::Notification::default()), path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented, "{status}");
}

#[tokio::test]
async fn a_taken_port_and_an_open_address_are_clear_errors() {
    let (serving, _channel) = start(accepting()).await;
    let refusal = |config| async { serve(front(config, accepting())).await.unwrap_err().to_string() };
    let taken = refusal(app(&serving.address.to_string())).await;
    assert!(taken.contains("another process has this port"), "{taken}");
    let open = refusal(app("0.0.0.0:0")).await;
    assert!(open.contains("app.allow_unauthenticated"), "{open}");
    let not_one = refusal(app("localhost")).await;
    assert!(not_one.contains("app.listen"), "{not_one}");
    let allowed = config::App { allow_unauthenticated: true, ..app("0.0.0.0:0") };
    assert!(serve(front(allowed, accepting())).await.is_ok());
}

/// A token of `sub` = local that a key of this set has signed.
fn key_set_and_token() -> (String, String) {
    let pem = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let key = jsonwebtoken::EncodingKey::from_ec_pem(pem.as_bytes()).unwrap();
    let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&key, jsonwebtoken::Algorithm::ES256).unwrap();
    let claims = serde_json::json!({
        "iss": "https://login.example.org",
        "aud": "patient-notify",
        "sub": "local",
        "scp": "notifications:send",
        "exp": jiff::Timestamp::now().as_second() + 300,
    });
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::ES256);
    let token = jsonwebtoken::encode(&header, &claims, &key).unwrap();
    (serde_json::json!({ "keys": [jwk] }).to_string(), token)
}

#[tokio::test]
async fn keys_that_are_away_are_told_and_calls_pass_once_they_come() {
    let (set, token) = key_set_and_token();
    let away = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = away.local_addr().unwrap();
    drop(away);
    let auth = config::Auth {
        jwks_url: format!("http://{address}/keys"),
        token_issuer: "https://login.example.org".to_owned(),
        token_audience: "patient-notify".to_owned(),
        reread_interval_ms: 100,
        ..config::Config::from_defaults().auth
    };
    // Also on an address that others reach: its callers are authenticated.
    let serving = serve(Front { auth, ..front(app("0.0.0.0:0"), accepting()) }).await.unwrap();
    let channel = format!("http://127.0.0.1:{}", serving.address.port());
    let channel = Channel::from_shared(channel).unwrap().connect().await.unwrap();
    let mut client = NotificationServiceClient::new(channel);
    let mut send = async || {
        let mut call = Call::new(message("key-1"));
        call.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        client.send(call).await
    };
    let status = send().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(status.get_details_error_info().unwrap().reason, "KEYS_UNAVAILABLE");
    assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());

    let issuer = TcpListener::bind(address).await.unwrap();
    let keys = Router::new().route("/keys", get(move || std::future::ready(set.clone())));
    tokio::spawn(async move { axum::serve(issuer, keys).await });
    let passes = async {
        while send().await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), passes).await.unwrap();
}

//! Who may call: by a token, by a certificate, for what its scopes say, and not more
//! often than it may.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use patient_notify::api::proto;
use patient_notify::api::proto::notification_service_client::NotificationServiceClient;
use patient_notify::api::proto::recipient_service_client::RecipientServiceClient;
use patient_notify::config::Config;
use patient_notify::domain::NotificationId;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use serde_json::json;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::front::{reason, wish};
use crate::harness::{World, eventually, free_address};

const DEADLINE: Duration = Duration::from_secs(30);
const ISSUER: &str = "https://login.example.org";
const AUDIENCE: &str = "patient-notify";

/// Signs tokens.
pub(crate) struct Signer {
    id: &'static str,
    key: EncodingKey,
}

impl Signer {
    pub(crate) fn new(id: &'static str) -> Self {
        let pem = KeyPair::generate().unwrap().serialize_pem();
        Self { id, key: EncodingKey::from_ec_pem(pem.as_bytes()).unwrap() }
    }

    pub(crate) fn publish(&self, path: &Path) {
        let mut jwk = Jwk::from_encoding_key(&self.key, Algorithm::ES256).unwrap();
        jwk.common.key_id = Some(self.id.to_owned());
        replace(path, &json!({ "keys": [jwk] }).to_string());
    }

    pub(crate) fn token(&self, caller: &str, scope: &str, lasts_s: i64) -> String {
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(Algorithm::ES256) };
        let exp = Timestamp::now().as_second() + lasts_s;
        let claims = json!({ "iss": ISSUER, "aud": AUDIENCE, "sub": caller, "scope": scope, "exp": exp });
        jsonwebtoken::encode(&header, &claims, &self.key).unwrap()
    }
}

/// As an operator's tool does it: readers see the old file or the new one.
fn replace(path: &Path, content: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(new, path).unwrap();
}

fn file(folder: &Path, name: &str) -> PathBuf {
    folder.join(name)
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

pub(crate) fn takes_tokens(config: &mut Config, keys: &Path) {
    config.auth.jwks_file = text(keys);
    config.auth.token_issuer = ISSUER.to_owned();
    config.auth.token_audience = AUDIENCE.to_owned();
    config.auth.reread_interval_ms = 100;
}

pub(crate) fn bearing<T>(token: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

fn nothing() -> proto::NotificationServiceGetRequest {
    proto::NotificationServiceGetRequest {
        notification_id: uuid::Uuid::new_v4().to_string(),
        consistency_token: None,
    }
}

#[track_caller]
fn assert_refused(status: &Status, code: Code, why: &str, says: &str) {
    assert_eq!((status.code(), reason(status).as_str()), (code, why), "{status}");
    assert!(status.message().contains(says), "{says:?} is not in {:?}", status.message());
}

async fn connect(address: &str) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_opens_what_its_scopes_say() {
    let mut world = World::new().await;
    let keys = file(&world.dir(), "jwks.json");
    let signer = Signer::new("key-1");
    signer.publish(&keys);
    takes_tokens(&mut world.config, &keys);
    // Whoever is authenticated may come from other machines.
    world.config.app.listen = world.config.app.listen.replace("127.0.0.1", "0.0.0.0");
    let mut process = world.process("app", &[]);
    process.wait_for_log("front is listening", DEADLINE).await;
    let channel = connect(&world.config.app.listen.replace("0.0.0.0", "127.0.0.1")).await;
    let mut notifications = NotificationServiceClient::new(channel.clone());
    let mut recipients = RecipientServiceClient::new(channel.clone());

    let sends = signer.token("scheduling", "notifications:send openid", 300);
    let sent = notifications.send(bearing(&sends, wish("key-1", 1))).await.unwrap().into_inner();
    let of_the_caller = NotificationId::for_request("scheduling", "key-1").to_string();
    assert_eq!(sent.notification_id, of_the_caller, "the key belongs to the token's `sub`");
    let status = notifications.get(bearing(&sends, nothing())).await.unwrap_err();
    assert_refused(&status, Code::PermissionDenied, "SCOPE_MISSING", "notifications:read");
    assert_eq!(status.get_details_error_info().unwrap().metadata["scope"], "notifications:read");
    let reads = signer.token("scheduling", "notifications:read", 300);
    let status = notifications.get(bearing(&reads, nothing())).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "the service has answered: {status}");
    let upsert = proto::RecipientServiceUpsertRequest { recipient_id: "rcp-1".into(), ..Default::default() };
    let status = recipients.upsert(bearing(&reads, upsert)).await.unwrap_err();
    assert_refused(&status, Code::PermissionDenied, "SCOPE_MISSING", "recipients:write");

    // A name of its own is nobody's word, and no token is no caller.
    let mut named = Request::new(wish("key-2", 1));
    named.metadata_mut().insert("x-caller", "scheduling".parse().unwrap());
    let status = notifications.send(named).await.unwrap_err();
    assert_refused(&status, Code::Unauthenticated, "UNAUTHENTICATED", "no bearer token");
    let old = signer.token("scheduling", "notifications:send", -300);
    let status = notifications.send(bearing(&old, wish("key-2", 1))).await.unwrap_err();
    assert_refused(&status, Code::Unauthenticated, "UNAUTHENTICATED", "has expired");
    assert!(!format!("{status:?}").contains(&old));
    let stranger = Signer::new("key-1").token("scheduling", "notifications:send", 300);
    let status = notifications.send(bearing(&stranger, wish("key-2", 1))).await.unwrap_err();
    assert_refused(&status, Code::Unauthenticated, "UNAUTHENTICATED", "signature");

    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let ask = tonic_health::pb::HealthCheckRequest { service: String::new() };
    health.check(ask).await.unwrap();

    // Keys rotate without a restart.
    let next = Signer::new("key-2");
    next.publish(&keys);
    let token = next.token("scheduling", "notifications:read", 300);
    let client = tokio::sync::Mutex::new(&mut notifications);
    eventually("the new key is taken", DEADLINE, async || {
        let status = client.lock().await.get(bearing(&token, nothing())).await.unwrap_err();
        status.code() == Code::NotFound
    })
    .await;
    let status = client.lock().await.get(bearing(&reads, nothing())).await.unwrap_err();
    // Within ten seconds of the last reading nobody looks whether the old key is there again.
    let refused = [Code::Unauthenticated, Code::Unavailable].contains(&status.code());
    assert!(refused && status.message().contains("key"), "{status}");

    let send = "method=\"/patientnotify.v1.NotificationService/Send\"";
    let expired = format!("patient_notify_calls_refused_total{{{send},reason=\"token_expired\"}}");
    assert!((process.metric(&expired).await - 1.0).abs() < f64::EPSILON, "{expired}");
    let log = process.log();
    assert!(log.contains("call refused"), "{log}");
    let parts = |token: &str| token.split('.').map(str::to_owned).collect::<Vec<_>>();
    let shown = [&sends, &old, &stranger].into_iter().flat_map(|token| parts(token).split_off(1));
    for part in shown {
        assert!(!log.contains(&part), "a token's claims and signature are in no log");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_more_than_its_rate_and_its_quota() {
    let mut world = World::new().await;
    let (keys, callers) = (file(&world.dir(), "jwks.json"), file(&world.dir(), "callers.toml"));
    let signer = Signer::new("key-1");
    signer.publish(&keys);
    takes_tokens(&mut world.config, &keys);
    replace(
        &callers,
        "[eager]\ncalls_per_second = 1\ncalls_burst = 3\n[frugal]\nnotifications_per_day = 4\n",
    );
    world.config.auth.callers_file = text(&callers);
    let first = world.role("app", |_| {});
    let address = free_address();
    let second = world.role("app", |config| config.app.listen.clone_from(&address));
    first.ready().await;
    second.ready().await;
    let mut one = NotificationServiceClient::new(connect(&world.config.app.listen).await);
    let mut other = NotificationServiceClient::new(connect(&address).await);

    let eager = signer.token("eager", "notifications:read", 300);
    let mut refused = None;
    for _ in 0..20 {
        let status = one.get(bearing(&eager, nothing())).await.unwrap_err();
        if status.code() != Code::NotFound {
            refused = Some(status);
            break;
        }
    }
    let status = refused.expect("20 calls take less than 17 seconds");
    assert_refused(&status, Code::ResourceExhausted, "QUOTA_EXCEEDED", "1 calls a second (3 at once)");
    assert_eq!(status.get_details_quota_failure().unwrap().violations[0].subject, "eager");
    let pause = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(!pause.is_zero() && pause <= Duration::from_secs(1), "{pause:?}");
    let calm = signer.token("calm", "notifications:read", 300);
    assert_eq!(one.get(bearing(&calm, nothing())).await.unwrap_err().code(), Code::NotFound);

    // A quota holds over all replicas, once they have told each other.
    let frugal = signer.token("frugal", "notifications:send", 300);
    for key in ["key-1", "key-2", "key-3"] {
        one.send(bearing(&frugal, wish(key, 1))).await.unwrap();
    }
    let invalid = proto::NotificationServiceSendRequest::default();
    assert_eq!(one.send(bearing(&frugal, invalid)).await.unwrap_err().code(), Code::InvalidArgument);
    let pool = world.pool.clone();
    let counted = async |wanted: i64| {
        let client = pool.get().await.unwrap();
        let rows = client
            .query("SELECT caller, sum(notifications)::bigint FROM caller_quota GROUP BY caller", &[])
            .await
            .unwrap();
        let rows: Vec<(String, i64)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        rows == [("frugal".to_owned(), wanted)]
    };
    eventually("three are counted", DEADLINE, async || counted(3).await).await;
    other.send(bearing(&frugal, wish("key-4", 1))).await.unwrap();
    eventually("four are counted", DEADLINE, async || counted(4).await).await;
    let client = tokio::sync::Mutex::new(&mut other);
    let status = eventually("the quota is used up", DEADLINE, async || {
        client.lock().await.send(bearing(&frugal, wish("key-5", 1))).await.err()
    })
    .await;
    assert_refused(&status, Code::ResourceExhausted, "QUOTA_EXCEEDED", "4 notifications a day (UTC)");
    assert!(status.get_details_retry_info().unwrap().retry_delay.unwrap() <= Duration::from_secs(86_400));

    // The table is read again without a restart.
    replace(&callers, "[frugal]\nnotifications_per_day = 5\n");
    eventually("there is one more", DEADLINE, async || {
        client.lock().await.send(bearing(&frugal, wish("key-5", 1))).await.is_ok()
    })
    .await;
    first.stop().await.unwrap();
    second.stop().await.unwrap();
    assert!(counted(5).await, "what was counted last is written at the end");
}

/// An authority, and certificates that it has signed.
struct Authority(Issuer<'static, KeyPair>, String);

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "authority");
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self(Issuer::new(params, key), pem)
    }

    /// Certificate and key in PEM form.
    fn sign(&self, dns: &str, uri: Option<&str>) -> (String, String) {
        let mut params = CertificateParams::new(vec![dns.to_owned()]).unwrap();
        params.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().unwrap())));
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}

/// A connection to a server that `trusted` has signed, with a client's certificate.
async fn secured(
    address: &str,
    trusted: &Authority,
    shown: Option<(String, String)>,
) -> Result<NotificationServiceClient<Channel>, String> {
    let mut tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&trusted.1)).domain_name("front");
    if let Some((certificate, key)) = shown {
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls).unwrap();
    let channel = endpoint.connect().await.map_err(|error| format!("{error:?}"))?;
    Ok(NotificationServiceClient::new(channel))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_its_callers_and_a_token_beside_it_decides() {
    let mut world = World::new().await;
    let (servers, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let names = ["jwks.json", "callers.toml", "server.pem", "server.key", "clients.pem"];
    let [keys, callers, certificate, key, client_ca] = names.map(|name| file(&world.dir(), name));
    let signer = Signer::new("key-1");
    signer.publish(&keys);
    takes_tokens(&mut world.config, &keys);
    let table = "[portal]\nidentities = ['spiffe://clinic/portal']\nscopes = ['notifications:send']\n";
    replace(&callers, table);
    let (pem, secret) = servers.sign("front", None);
    replace(&certificate, &pem);
    replace(&key, &secret);
    replace(&client_ca, &clients.1);
    world.config.auth.callers_file = text(&callers);
    world.config.auth.tls_certificate_file = text(&certificate);
    world.config.auth.tls_key_file = text(&key);
    world.config.auth.client_ca_file = text(&client_ca);
    let role = world.role("app", |_| {});
    role.ready().await;
    let address = world.config.app.listen.clone();

    let portal = || Some(clients.sign("pod-17", Some("spiffe://clinic/portal")));
    let mut client = secured(&address, &servers, portal()).await.unwrap();
    let sent = client.send(wish("key-1", 1)).await.unwrap().into_inner();
    assert_eq!(sent.notification_id, NotificationId::for_request("portal", "key-1").to_string());
    let status = client.get(nothing()).await.unwrap_err();
    assert_refused(&status, Code::PermissionDenied, "SCOPE_MISSING", "notifications:read");
    // With a token the call is the token's, also a bad one's.
    let reads = signer.token("scheduling", "notifications:read", 300);
    assert_eq!(client.get(bearing(&reads, nothing())).await.unwrap_err().code(), Code::NotFound);
    let status = client.send(bearing(&reads, wish("key-2", 1))).await.unwrap_err();
    assert_refused(&status, Code::PermissionDenied, "SCOPE_MISSING", "notifications:send");
    let old = signer.token("portal", "notifications:send", -300);
    let status = client.send(bearing(&old, wish("key-2", 1))).await.unwrap_err();
    assert_refused(&status, Code::Unauthenticated, "UNAUTHENTICATED", "has expired");

    let mut bare = secured(&address, &servers, None).await.unwrap();
    let status = bare.send(wish("key-2", 1)).await.unwrap_err();
    let says = "neither a bearer token nor a client certificate";
    assert_refused(&status, Code::Unauthenticated, "UNAUTHENTICATED", says);
    assert_eq!(bare.get(bearing(&reads, nothing())).await.unwrap_err().code(), Code::NotFound);
    let of_nobody = Some(clients.sign("pod-18", Some("spiffe://clinic/nobody")));
    let mut nobody = secured(&address, &servers, of_nobody).await.unwrap();
    let status = nobody.send(wish("key-2", 1)).await.unwrap_err();
    assert_refused(&status, Code::Unauthenticated, "UNAUTHENTICATED", "no one caller in auth.callers_file");
    // TLS 1.3 tells a client of its certificate's refusal with the first answer.
    let forged = Some(strangers.sign("pod-17", Some("spiffe://clinic/portal")));
    let outcome = match secured(&address, &servers, forged).await {
        Ok(mut client) => client.send(wish("key-2", 1)).await.map_err(|status| format!("{status:?}")),
        Err(error) => Err(error),
    };
    assert!(outcome.is_err(), "an authority that is not ours signs for nobody");
    let plain = Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy();
    let outcome = NotificationServiceClient::new(plain).send(bearing(&reads, wish("key-2", 1))).await;
    assert!(outcome.is_err(), "TLS only");

    // Another certificate, key and table, without a restart; a faulty table changes nothing.
    replace(&callers, "[portal");
    let others = Authority::new();
    let (pem, secret) = others.sign("front", None);
    replace(&certificate, &pem);
    replace(&key, &secret);
    let mut client = eventually("the new certificate is shown", DEADLINE, async || {
        secured(&address, &others, portal()).await.ok()
    })
    .await;
    client.send(wish("key-3", 1)).await.unwrap();
    replace(&callers, &table.replace("portal'", "nobody'"));
    let client = tokio::sync::Mutex::new(&mut client);
    eventually("the portal is nobody any more", DEADLINE, async || {
        let outcome = client.lock().await.send(wish("key-3", 1)).await;
        outcome.is_err_and(|status| status.code() == Code::Unauthenticated)
    })
    .await;
    role.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_credentials_only_this_machine_may_call_and_faults_are_told_at_once() {
    let mut world = World::new().await;
    let mut open = world.process("app", &[("PATIENT_NOTIFY_APP__LISTEN", "0.0.0.0:19080")]);
    assert_ne!(open.wait().await.code(), Some(0));
    let log = open.log();
    assert!(log.contains("app.listen") && log.contains("auth.client_ca_file"), "{log}");

    let mut local = world.process("app", &[]);
    local.wait_for_log("callers are not authenticated: only this machine may call", DEADLINE).await;
    local.wait_for_log("front is listening", DEADLINE).await;
    let mut client = NotificationServiceClient::new(connect(&world.config.app.listen).await);
    let mut named = Request::new(wish("key-1", 1));
    named.metadata_mut().insert("x-caller", "portal".parse().unwrap());
    let sent = client.send(named).await.unwrap().into_inner();
    assert_eq!(sent.notification_id, NotificationId::for_request("portal", "key-1").to_string());
    drop(local);

    let faulty = file(&world.dir(), "faulty");
    replace(&faulty, "[nothing] to be = used");
    takes_tokens(&mut world.config, &faulty);
    for key in [
        &mut world.config.auth.callers_file,
        &mut world.config.auth.tls_certificate_file,
        &mut world.config.auth.tls_key_file,
        &mut world.config.auth.client_ca_file,
    ] {
        *key = text(&faulty);
    }
    let error = format!("{:#}", world.role("app", |_| {}).ended().await.unwrap_err());
    for key in ["jwks_file", "callers_file", "tls_certificate_file", "tls_key_file", "client_ca_file"] {
        assert!(error.contains(&format!("auth.{key}")), "{key} is missing in {error}");
    }
}

//! Another backend that is called back: a server that checks each call as the Standard
//! Webhooks specification says, with none of the service's own code.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;
use sha2::Sha256;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::free_address;

/// How old a call may be, as the specification's libraries have it.
const AGE_MAX_S: i64 = 300;

/// A call whose signature was right.
#[derive(Debug, Clone)]
pub struct Call {
    /// `webhook-id`.
    pub id: String,
    /// The whole body.
    pub body: Value,
    /// What was answered; 0: nothing yet.
    pub status: u16,
    /// How many signatures it had.
    pub signatures: usize,
}

impl Call {
    /// Which notification, and the how manieth of its changes.
    pub fn of(&self) -> (String, i64) {
        let data = &self.body["data"];
        (data["notification_id"].as_str().unwrap().to_owned(), data["sequence"].as_i64().unwrap())
    }
}

/// What the receiver does with calls from now on.
#[derive(Debug, Clone, Default)]
pub struct Behaviour {
    /// Answered; 0: 204.
    pub status: u16,
    /// `Retry-After`.
    pub retry_after: Option<&'static str>,
    /// True: no answer until this changes.
    pub hangs: bool,
}

struct Inner {
    secret: Mutex<Vec<u8>>,
    calls: Mutex<Vec<Call>>,
    forged: Mutex<usize>,
    behaviour: watch::Sender<Behaviour>,
}

/// A receiver; it is gone when it is dropped.
pub struct Receiver {
    /// Where it listens.
    pub url: String,
    inner: Arc<Inner>,
    stop: CancellationToken,
}

/// A new secret in its written form.
pub fn new_secret() -> String {
    let bytes: Vec<u8> = uuid::Uuid::new_v4().into_bytes().into_iter().cycle().take(32).collect();
    format!("whsec_{}", BASE64_STANDARD.encode(bytes))
}

fn key(secret: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(secret.strip_prefix("whsec_").unwrap()).unwrap()
}

impl Receiver {
    /// Listens, and takes what this secret has signed.
    pub async fn start(secret: &str) -> Self {
        let address: SocketAddr = free_address().parse().unwrap();
        let inner = Arc::new(Inner {
            secret: Mutex::new(key(secret)),
            calls: Mutex::default(),
            forged: Mutex::default(),
            behaviour: watch::Sender::new(Behaviour::default()),
        });
        let stop = CancellationToken::new();
        let router = Router::new().route("/hooks", post(called)).with_state(Arc::clone(&inner));
        let listener = TcpListener::bind(address).await.unwrap();
        let stopped = stop.clone();
        tokio::spawn(async move {
            stopped.run_until_cancelled(axum::serve(listener, router).into_future()).await;
        });
        Self { url: format!("http://{address}/hooks"), inner, stop }
    }

    /// Takes what another secret has signed, and no longer what the one before has.
    pub fn takes(&self, secret: &str) {
        *self.inner.secret.lock() = key(secret);
    }

    /// Does something else from now on.
    pub fn does(&self, behaviour: Behaviour) {
        self.inner.behaviour.send_replace(behaviour);
    }

    /// Answers with this status from now on.
    pub fn answers(&self, status: u16) {
        self.does(Behaviour { status, ..Behaviour::default() });
    }

    /// Every call whose signature was right, in their order.
    pub fn calls(&self) -> Vec<Call> {
        self.inner.calls.lock().clone()
    }

    /// Those that it took.
    pub fn taken(&self) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.status == 204).collect()
    }

    /// Calls whose signature was wrong.
    pub fn forged(&self) -> usize {
        *self.inner.forged.lock()
    }

    /// The sequences that it took, by notification, in their order.
    pub fn sequences(&self) -> BTreeMap<String, Vec<i64>> {
        let mut sequences: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for call in self.taken() {
            let (notification, sequence) = call.of();
            sequences.entry(notification).or_default().push(sequence);
        }
        sequences
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn called(State(inner): State<Arc<Inner>>, headers: HeaderMap, body: Bytes) -> (StatusCode, HeaderMap) {
    let Some(signatures) = verified(&inner.secret.lock().clone(), &headers, &body) else {
        *inner.forged.lock() += 1;
        return (StatusCode::UNAUTHORIZED, HeaderMap::new());
    };
    let mut behaviours = inner.behaviour.subscribe();
    let behaviour = behaviours.borrow_and_update().clone();
    let status = if behaviour.status == 0 { 204 } else { behaviour.status };
    let id = headers["webhook-id"].to_str().unwrap().to_owned();
    let body = serde_json::from_slice(&body).unwrap();
    let place = {
        let mut calls = inner.calls.lock();
        calls.push(Call { id, body, status: 0, signatures });
        calls.len() - 1
    };
    if behaviour.hangs {
        let _ = tokio::time::timeout(Duration::from_secs(120), behaviours.changed()).await;
    }
    inner.calls.lock()[place].status = status;
    let mut answer = HeaderMap::new();
    if let Some(after) = behaviour.retry_after {
        answer.insert("retry-after", after.parse().unwrap());
    }
    (StatusCode::from_u16(status).unwrap(), answer)
}

/// How many signatures there are, if one of them is right and the time is near.
fn verified(key: &[u8], headers: &HeaderMap, body: &[u8]) -> Option<usize> {
    let header = |name: &str| headers.get(name)?.to_str().ok();
    let (id, at) = (header("webhook-id")?, header("webhook-timestamp")?);
    if (Timestamp::now().as_second() - at.parse::<i64>().ok()?).abs() > AGE_MAX_S {
        return None;
    }
    let mut mac = Hmac::<Sha256>::new_from_slice(key).ok()?;
    mac.update(format!("{id}.{at}.").as_bytes());
    mac.update(body);
    let signatures: Vec<&str> = header("webhook-signature")?.split(' ').collect();
    let is_ours = |signature: &&str| {
        let tag = signature.strip_prefix("v1,").and_then(|coded| BASE64_STANDARD.decode(coded).ok());
        tag.is_some_and(|tag| mac.clone().verify_slice(&tag).is_ok())
    };
    signatures.iter().any(is_ours).then_some(signatures.len())
}

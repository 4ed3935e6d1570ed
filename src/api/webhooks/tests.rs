//! Callbacks over real sockets, with a stand-in for the way to the broker.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::Instant as Clock;

use aws_lc_rs::hmac;
use base64::Engine as _;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::*;
use crate::api::{Outgoing, Position};
use crate::config::Config;
use crate::domain::{DeliveryId, DeliveryRef, Fact, ReceiptStatus};

const BASE_URL: &str = "https://front.example.org";
const PATH: &str = "/webhooks/twilio/00000000-0000-0000-0000-000000000007";
const FORM: &str = "application/x-www-form-urlencoded";
const DELIVERED: [(&str, &str); 4] =
    [("To", "+15550101"), ("MessageSid", "SM1"), ("MessageStatus", "delivered"), ("ErrorCode", "")];

type Seen = Arc<Mutex<Vec<NotificationUpdate>>>;

/// Callbacks in hand at once.
const PLACES: usize = 2;

/// A front's webhooks, and what they published.
struct Bench {
    address: SocketAddr,
    client: reqwest::Client,
    seen: Seen,
}

impl Bench {
    async fn new() -> Self {
        let seen = Seen::default();
        let kept = Arc::clone(&seen);
        let updates = Publisher::new(move |what| {
            let Outgoing::Update(update) = what else { panic!("a webhook asks for nothing") };
            kept.lock().unwrap().push(update);
            async { Ok(Position { topic: "t".to_owned(), partition: 0, offset: 0 }) }
        });
        Self { seen, ..Self::with(updates).await }
    }

    async fn with(updates: Publisher) -> Self {
        Self::bounded(updates, Sources::default()).await
    }

    async fn bounded(updates: Publisher, sources: Sources) -> Self {
        let mut sms = Config::from_defaults().sms;
        sms.status_callback_base_url = BASE_URL.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let twilio = Twilio::from_config(&sms).unwrap();
        let way = Way { updates, pool: pool() };
        let router = sources.before("twilio", status::routes(Arc::new(twilio), way, PLACES));
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
        Self { address, client, seen: Seen::default() }
    }

    async fn post(&self, path: &str, kind: &str, body: String, signature: Option<String>) -> (u16, bool) {
        let mut request =
            self.client.post(format!("http://{}{path}", self.address)).header(CONTENT_TYPE, kind).body(body);
        if let Some(signature) = signature {
            request = request.header(twilio::SIGNATURE, signature);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.headers().contains_key(RETRY_AFTER))
    }

    /// A callback as Twilio makes it.
    async fn call(&self, form: &[(&str, &str)]) -> (u16, bool) {
        self.post(PATH, FORM, encoded(form), Some(signature(PATH, form))).await
    }

    fn published(&self) -> Vec<NotificationUpdate> {
        self.seen.lock().unwrap().clone()
    }
}

/// To nowhere: a callback about a status asks no database.
fn pool() -> Pool {
    crate::record::pool::pool(&Config::from_defaults().postgres).unwrap()
}

fn encoded(form: &[(&str, &str)]) -> String {
    let url = reqwest::Url::parse_with_params("http://x/", form).unwrap();
    url.query().unwrap_or_default().to_owned()
}

fn signature(path: &str, form: &[(&str, &str)]) -> String {
    let token = Config::from_defaults().sms.auth_token;
    let mut sorted = form.to_vec();
    sorted.sort_unstable();
    let parameters: String = sorted.into_iter().flat_map(|(name, value)| [name, value]).collect();
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, token.expose().as_bytes());
    let tag = hmac::sign(&key, format!("{BASE_URL}{path}{parameters}").as_bytes());
    base64::engine::general_purpose::STANDARD.encode(tag)
}

#[tokio::test]
async fn a_signed_callback_is_published_before_it_is_answered() {
    let bench = Bench::new().await;
    assert_eq!(bench.call(&DELIVERED).await, (204, false));
    let published = bench.published();
    let delivery = DeliveryRef::Id(DeliveryId(Uuid::from_u128(7)));
    let receipt = Fact::Receipt { delivery, status: ReceiptStatus::Delivered, code: None };
    assert_eq!((published.len(), &published[0].fact), (1, &receipt));
    let with_query = format!("{PATH}?a=b%20c");
    let signed = Some(signature(&with_query, &DELIVERED));
    assert_eq!(bench.post(&with_query, FORM, encoded(&DELIVERED), signed).await.0, 204);
}

#[tokio::test]
async fn what_is_not_signed_is_refused_and_not_published() {
    let bench = Bench::new().await;
    let good = signature(PATH, &DELIVERED);
    let body = encoded(&DELIVERED);
    assert_eq!(bench.post(PATH, FORM, body.clone(), None).await.0, 403);
    assert_eq!(bench.post(PATH, FORM, body.clone(), Some("forged".to_owned())).await.0, 403);
    assert_eq!(bench.post(PATH, FORM, body.replace("SM1", "SM2"), Some(good.clone())).await.0, 403);
    let of_another = PATH.replace('7', "8");
    assert_eq!(bench.post(&of_another, FORM, body.clone(), Some(good.clone())).await.0, 403);
    assert_eq!(bench.post(PATH, "application/json", body.clone(), Some(good.clone())).await.0, 415);
    assert_eq!(bench.post("/webhooks/twilio/7", FORM, body.clone(), Some(good.clone())).await.0, 404);
    let long = format!("{body}&Pad={}", "x".repeat(status::BODY_MAX_BYTES));
    assert_eq!(bench.post(PATH, FORM, long, Some(good)).await.0, 413);
    assert!(bench.published().is_empty());
}

#[tokio::test]
async fn a_new_word_is_taken_and_what_is_no_status_is_not() {
    let bench = Bench::new().await;
    assert_eq!(bench.call(&[("MessageSid", "SM1"), ("MessageStatus", "teleported")]).await.0, 204);
    assert_eq!(bench.call(&[("MessageSid", "SM1"), ("Body", "hello")]).await.0, 400);
    assert!(bench.published().is_empty());
}

#[tokio::test]
async fn a_broker_that_is_away_is_told_in_time() {
    let away = |error: PublishError| {
        Bench::with(Publisher::new(move |_| {
            let error = error.clone();
            async move { Err(error) }
        }))
    };
    assert_eq!(away(PublishError::Broker("x".into())).await.call(&DELIVERED).await, (503, true));
    assert_eq!(away(PublishError::Registry("x".into())).await.call(&DELIVERED).await, (503, true));
    assert_eq!(away(PublishError::Refused("x".into())).await.call(&DELIVERED).await, (500, false));
    let silent = Bench::with(Publisher::new(|_| std::future::pending())).await;
    let begun = Clock::now();
    assert_eq!(silent.call(&DELIVERED).await, (503, true));
    assert!(begun.elapsed() < CALLBACK_MAX + Duration::from_secs(3));
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for_and_takes_no_place() {
    let bench = Bench::new().await;
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: {FORM}\r\ncontent-length: 9\r\n\
         expect: 100-continue\r\n{}: x\r\n\r\n",
        twilio::SIGNATURE
    );
    let mut sockets = Vec::new();
    for _ in 0..2 * PLACES {
        let mut socket = TcpStream::connect(bench.address).await.unwrap();
        socket.write_all(head.as_bytes()).await.unwrap();
        // The body is being waited for.
        let mut asked = [0; 25];
        socket.read_exact(&mut asked).await.unwrap();
        assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
        sockets.push(socket);
    }
    assert_eq!(bench.call(&DELIVERED).await.0, 204, "what is not signed has no place");
    for mut socket in sockets {
        let mut answer = [0; 12];
        socket.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 408");
    }
    assert_eq!(bench.published().len(), 1);
}

#[tokio::test]
async fn too_many_at_once_are_sent_away() {
    let (begun, release) = (Arc::new(Semaphore::new(0)), CancellationToken::new());
    let (told, held) = (Arc::clone(&begun), release.clone());
    let bench = Bench::with(Publisher::new(move |_| {
        told.add_permits(1);
        let held = held.clone();
        async move {
            held.cancelled().await;
            Ok(Position { topic: "t".to_owned(), partition: 0, offset: 0 })
        }
    }))
    .await;
    let bench = Arc::new(bench);
    let under_way: Vec<_> = (0..PLACES)
        .map(|_| {
            let bench = Arc::clone(&bench);
            tokio::spawn(async move { bench.call(&DELIVERED).await })
        })
        .collect();
    let _all = begun.acquire_many(u32::try_from(PLACES).unwrap()).await.unwrap();
    assert_eq!(bench.call(&DELIVERED).await, (503, true));
    release.cancel();
    for call in under_way {
        assert_eq!(call.await.unwrap().0, 204);
    }
}

#[tokio::test]
async fn without_an_address_for_callbacks_there_is_no_route() {
    let updates = Publisher::new(|_| std::future::pending());
    let config = Config::from_defaults();
    assert!(!router(Webhooks::from_config(&config), updates, pool()).has_routes());
}

#[tokio::test]
async fn without_a_bound_or_an_address_nobody_is_sent_away() {
    let mut config = Config::from_defaults().app;
    config.webhook_calls_per_second = 0;
    let updates =
        || Publisher::new(|_| async { Ok(Position { topic: "t".to_owned(), partition: 0, offset: 0 }) });
    let unbounded = Bench::bounded(updates(), Sources::from_config(&config)).await;
    config.webhook_calls_per_second = 1;
    config.webhook_calls_burst = 1;
    // This server tells its routes of no connection.
    let nowhere = Bench::bounded(updates(), Sources::from_config(&config)).await;
    for bench in [unbounded, nowhere] {
        for _ in 0..5 {
            assert_eq!(bench.call(&DELIVERED).await.0, 204);
        }
    }
}

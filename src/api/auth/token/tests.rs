//! Tokens and keys: what is taken, what is refused, and how keys come and go.

use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{EncodingKey, encode};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;

/// A key of the issuer.
struct Signer {
    id: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
    public: Vec<u8>,
}

impl Signer {
    fn new(id: &'static str, algorithm: Algorithm) -> Self {
        let kind = match algorithm {
            Algorithm::RS256 => &rcgen::PKCS_RSA_SHA256,
            Algorithm::EdDSA => &rcgen::PKCS_ED25519,
            _ => &rcgen::PKCS_ECDSA_P256_SHA256,
        };
        let pair = rcgen::KeyPair::generate_for(kind).unwrap();
        let pem = pair.serialize_pem();
        let key = match algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(pem.as_bytes()),
            Algorithm::EdDSA => EncodingKey::from_ed_pem(pem.as_bytes()),
            _ => EncodingKey::from_ec_pem(pem.as_bytes()),
        };
        let key = key.unwrap();
        Self { id, algorithm, key, public: pair.public_key_raw().to_vec() }
    }

    fn jwk(&self) -> Value {
        if self.algorithm == Algorithm::EdDSA {
            let x = BASE64_URL_SAFE_NO_PAD.encode(&self.public);
            return json!({ "kty": "OKP", "crv": "Ed25519", "x": x, "kid": self.id, "use": "sig" });
        }
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.id.to_owned());
        serde_json::to_value(jwk).unwrap()
    }

    fn sign(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.key).unwrap()
    }
}

fn at(seconds_from_now: i64) -> i64 {
    jiff::Timestamp::now().as_second() + seconds_from_now
}

fn claims() -> Value {
    json!({
        "iss": "https://login.example.org",
        "aud": ["another-service", "patient-notify"],
        "sub": "portal",
        "exp": at(300),
        "scope": "openid notifications:send notifications:read",
    })
}

fn with(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = claims();
    change(&mut claims);
    claims
}

fn config() -> config::Auth {
    config::Auth {
        token_issuer: "https://login.example.org".to_owned(),
        token_audience: "patient-notify".to_owned(),
        token_leeway_ms: 5_000,
        ..config::Config::from_defaults().auth
    }
}

fn write_keys(path: &Path, keys: &[Value]) {
    std::fs::write(path, serde_json::to_vec(&json!({ "keys": keys })).unwrap()).unwrap();
}

async fn tokens_of(keys: &[Value]) -> (TempDir, Tokens) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    write_keys(&path, keys);
    let config = config::Auth { jwks_file: path.to_str().unwrap().to_owned(), ..config() };
    let keys = Keys::new(&config).unwrap().unwrap();
    keys.reread().await.unwrap();
    (folder, Tokens::new(&config, keys))
}

#[tokio::test]
async fn a_token_of_each_algorithm_is_taken_with_its_name_and_scopes() {
    let signers = [
        Signer::new("rsa", Algorithm::RS256),
        Signer::new("ec", Algorithm::ES256),
        Signer::new("ed", Algorithm::EdDSA),
    ];
    let (_folder, tokens) = tokens_of(&signers.each_ref().map(Signer::jwk)).await;
    for signer in &signers {
        let token = signer.sign(&claims());
        for round in ["checked", "remembered"] {
            let caller = tokens.caller(&token).await.unwrap();
            assert_eq!(caller.name, "portal", "{} {round}", signer.id);
            assert!(caller.may(Scope::NotificationsSend) && caller.may(Scope::NotificationsRead));
            assert!(!caller.may(Scope::NotificationsAll));
        }
        let listed = signer.sign(&with(|claims| {
            claims["scope"] = Value::Null;
            claims["scp"] = json!(["recipients:write", "of:another"]);
        }));
        let caller = tokens.caller(&listed).await.unwrap();
        assert!(caller.may(Scope::RecipientsWrite) && !caller.may(Scope::NotificationsSend));
    }
    let without_key_id = encode(&Header::new(Algorithm::ES256), &claims(), &signers[1].key).unwrap();
    assert!(tokens.caller(&without_key_id).await.is_ok(), "there is one key for its algorithm");
}

#[tokio::test]
async fn what_a_token_must_say_is_asked_for_claim_by_claim() {
    let signer = Signer::new("ec", Algorithm::ES256);
    let (_folder, tokens) = tokens_of(&[signer.jwk()]).await;
    type Change = fn(&mut Value);
    let refused: [(Change, TokenFault); 16] = [
        (|c| c["exp"] = json!(at(-10)), TokenFault::Expired),
        (|c| c["exp"] = json!(-1), TokenFault::Claims),
        (|c| c["exp"] = json!("soon"), TokenFault::Claims),
        (|c| c["exp"] = Value::Null, TokenFault::Claims),
        (|c| c["nbf"] = json!(at(10)), TokenFault::NotYetValid),
        (|c| c["nbf"] = json!("then"), TokenFault::Claims),
        (|c| c["iss"] = json!("https://login.example.com"), TokenFault::Issuer),
        (|c| c["iss"] = Value::Null, TokenFault::Claims),
        (|c| c["aud"] = json!("another-service"), TokenFault::Audience),
        (|c| c["aud"] = json!([]), TokenFault::Audience),
        (|c| c["aud"] = Value::Null, TokenFault::Claims),
        (|c| c["sub"] = Value::Null, TokenFault::Claims),
        (|c| c["sub"] = json!("two words"), TokenFault::Subject),
        (|c| c["sub"] = json!(""), TokenFault::Subject),
        (|c| c["sub"] = json!("cron"), TokenFault::ReservedSubject),
        (|c| c["sub"] = json!("appointments"), TokenFault::ReservedSubject),
    ];
    for (change, fault) in refused {
        let claims = with(change);
        assert_eq!(tokens.caller(&signer.sign(&claims)).await, Err(fault), "{claims}");
    }
    for change in [(|c| c["exp"] = json!(at(-2))) as Change, |c| c["nbf"] = json!(at(2))] {
        assert!(tokens.caller(&signer.sign(&with(change))).await.is_ok(), "clocks differ");
    }
    let none = signer.sign(&with(|claims| claims["scope"] = Value::Null));
    assert!(!tokens.caller(&none).await.unwrap().may(Scope::NotificationsSend));
}

#[tokio::test]
async fn a_remembered_token_expires_all_the_same() {
    let signer = Signer::new("ec", Algorithm::ES256);
    let (_folder, mut tokens) = tokens_of(&[signer.jwk()]).await;
    let token = signer.sign(&with(|claims| claims["exp"] = json!(at(1))));
    tokens.leeway = Duration::ZERO;
    tokens.caller(&token).await.unwrap();
    let expires = async {
        while tokens.caller(&token).await != Err(TokenFault::Expired) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), expires).await.unwrap();
}

fn crafted(header: &Value, claims: &Value, signature: &[u8]) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).unwrap());
    format!("{}.{}.{}", part(header), part(claims), BASE64_URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test]
async fn an_algorithm_is_never_the_tokens_choice() {
    let (rsa, ec) = (Signer::new("rsa", Algorithm::RS256), Signer::new("ec", Algorithm::ES256));
    let stranger = Signer::new("ec", Algorithm::ES256);
    let symmetric =
        json!({ "kty": "oct", "kid": "shared", "alg": "HS256", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0" });
    let (_folder, tokens) = tokens_of(&[rsa.jwk(), ec.jwk(), symmetric]).await;
    let refusal = async |token: &str| tokens.caller(token).await.unwrap_err();

    assert_eq!(refusal(&stranger.sign(&claims())).await, TokenFault::Signature);
    let none = crafted(&json!({ "alg": "none", "kid": "rsa" }), &claims(), b"");
    assert_eq!(refusal(&none).await, TokenFault::Malformed);
    // The public key, which everybody has, as if it were a shared secret.
    let public = serde_json::to_vec(&rsa.jwk()).unwrap();
    for (id, secret) in [("rsa", public.as_slice()), ("shared", b"secret-secret-secret-secret")] {
        let header = Header { kid: Some(id.to_owned()), ..Header::new(Algorithm::HS256) };
        let token = encode(&header, &claims(), &EncodingKey::from_secret(secret)).unwrap();
        assert_eq!(refusal(&token).await, TokenFault::Algorithm);
    }
    let header = Header { kid: Some("rsa".to_owned()), ..Header::new(Algorithm::RS512) };
    let token = encode(&header, &claims(), &rsa.key).unwrap();
    assert_eq!(refusal(&token).await, TokenFault::Algorithm);
    let header = Header { kid: Some("rsa".to_owned()), ..Header::new(Algorithm::ES256) };
    let token = encode(&header, &claims(), &ec.key).unwrap();
    assert_eq!(refusal(&token).await, TokenFault::UnknownKey, "a key is for one algorithm");
    let header = Header {
        crit: Some(vec!["exp".to_owned()]),
        kid: Some("ec".to_owned()),
        ..Header::new(Algorithm::ES256)
    };
    let token = encode(&header, &claims(), &ec.key).unwrap();
    assert_eq!(refusal(&token).await, TokenFault::CriticalHeader);
    for bad in ["", "a.b", "a.b.c", &"x".repeat(9000)] {
        assert_eq!(refusal(bad).await, TokenFault::Malformed);
    }
    let text = refusal(&stranger.sign(&claims())).await.to_string();
    assert_eq!(text, "the bearer token's signature is wrong", "nothing of it is repeated");
}

#[tokio::test]
async fn a_set_without_a_usable_key_changes_nothing() {
    let signer = Signer::new("ec", Algorithm::ES256);
    let (folder, tokens) = tokens_of(&[signer.jwk()]).await;
    let path = folder.path().join("jwks.json");
    let encrypting = {
        let mut jwk = signer.jwk();
        jwk["use"] = json!("enc");
        jwk
    };
    let small =
        json!({ "kty": "RSA", "kid": "small", "n": BASE64_URL_SAFE_NO_PAD.encode([255; 128]), "e": "AQAB" });
    let for_another = {
        let mut jwk = signer.jwk();
        jwk["alg"] = json!("ES384");
        jwk
    };
    for key in [json!({ "kty": "new-kind" }), encrypting, small, for_another] {
        write_keys(&path, std::slice::from_ref(&key));
        let error = tokens.keys.reread().await.unwrap_err();
        assert!(error.contains("has no key that is taken"), "{key}: {error}");
    }
    std::fs::write(&path, "<html>").unwrap();
    assert!(tokens.keys.reread().await.unwrap_err().contains("is not a JSON Web Key Set"));
    std::fs::remove_file(&path).unwrap();
    assert!(tokens.keys.reread().await.unwrap_err().contains("cannot be read"));
    assert!(tokens.caller(&signer.sign(&claims())).await.is_ok(), "the last keys are used");
}

/// An issuer on a real port.
struct Issuer {
    url: String,
    answer: Arc<Mutex<(StatusCode, String)>>,
    asked: Arc<AtomicUsize>,
    /// How long the next answer takes; only that one.
    delay_ms: Arc<AtomicU64>,
}

impl Issuer {
    async fn start() -> Self {
        let answer = Arc::new(Mutex::new((StatusCode::SERVICE_UNAVAILABLE, String::new())));
        let asked = Arc::new(AtomicUsize::new(0));
        let delay_ms = Arc::new(AtomicU64::new(0));
        let (current, count, delay) = (Arc::clone(&answer), Arc::clone(&asked), Arc::clone(&delay_ms));
        let handler = move || {
            let answer = current.lock().clone();
            let delay = Duration::from_millis(delay.swap(0, Ordering::Relaxed));
            count.fetch_add(1, Ordering::Relaxed);
            async move {
                tokio::time::sleep(delay).await;
                answer
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let router = Router::new().route("/keys", get(handler));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { url, answer, asked, delay_ms }
    }

    fn has(&self, keys: &[Value]) {
        *self.answer.lock() = (StatusCode::OK, json!({ "keys": keys }).to_string());
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn a_slow_old_answer_does_not_replace_newer_keys() {
    let issuer = Issuer::start().await;
    let config = config::Auth { jwks_url: issuer.url.clone(), ..config() };
    let keys = Keys::new(&config).unwrap().unwrap();
    let (old, new) = (Signer::new("old", Algorithm::ES256), Signer::new("new", Algorithm::ES256));
    issuer.has(&[old.jwk()]);
    issuer.delay_ms.store(300, Ordering::Relaxed);
    let later = async {
        while issuer.asked() == 0 {
            tokio::task::yield_now().await;
        }
        issuer.has(&[new.jwk()]);
        keys.reread().await
    };
    let (first, second) = tokio::join!(keys.reread(), later);
    assert_eq!((first, second), (Ok(true), Ok(true)));
    assert!(keys.current().unwrap().find(Some("new"), Algorithm::ES256).is_some());
}

#[tokio::test]
async fn keys_rotate_at_their_address_and_nobody_can_make_us_ask_often() {
    let issuer = Issuer::start().await;
    let config = config::Auth { jwks_url: issuer.url.clone(), jwks_stale_max_ms: 60_000, ..config() };
    let keys = Keys::new(&config).unwrap().unwrap();
    let tokens = Tokens::new(&config, Arc::clone(&keys));
    let (old, new) = (Signer::new("old", Algorithm::ES256), Signer::new("new", Algorithm::EdDSA));

    assert!(keys.reread().await.unwrap_err().contains("answered 503"));
    assert_eq!(tokens.caller(&old.sign(&claims())).await, Err(TokenFault::KeysAway));
    issuer.has(&[old.jwk()]);
    assert_eq!(keys.reread().await, Ok(true));
    assert_eq!(keys.reread().await, Ok(false), "the same again");
    let old_token = old.sign(&claims());
    tokens.caller(&old_token).await.unwrap();

    // A new key is found by the first token that names it, and by all at once.
    issuer.has(&[new.jwk()]);
    let before = issuer.asked();
    let new_token = new.sign(&claims());
    let calls = (0..20).map(|_| tokens.caller(&new_token));
    assert!(futures::future::join_all(calls).await.iter().all(Result::is_ok));
    assert_eq!(issuer.asked(), before + 1);
    assert_eq!(tokens.caller(&old_token).await, Err(TokenFault::KeyNotLookedFor), "also what was remembered");
    for id in ["made-up-1", "made-up-2"] {
        let made_up = Signer::new(id, Algorithm::ES256);
        // It could be a new key: nobody has looked.
        assert_eq!(tokens.caller(&made_up.sign(&claims())).await, Err(TokenFault::KeyNotLookedFor));
    }
    assert_eq!(issuer.asked(), before + 1, "at most once in ten seconds");
    let other = Keys::new(&config).unwrap().unwrap();
    other.reread().await.unwrap();
    let other = Tokens::new(&config, other);
    assert_eq!(other.caller(&old_token).await, Err(TokenFault::UnknownKey), "looked for in vain");

    *issuer.answer.lock() = (StatusCode::OK, "x".repeat(300 * 1024));
    assert!(keys.reread().await.unwrap_err().contains("more than"));
    assert!(tokens.caller(&new_token).await.is_ok(), "the last keys are used");
    let stale = Keys::new(&config::Auth { jwks_stale_max_ms: 0, ..config.clone() }).unwrap().unwrap();
    issuer.has(&[new.jwk()]);
    stale.reread().await.unwrap();
    while stale.current().is_some() {
        tokio::task::yield_now().await;
    }
    let tokens = Tokens::new(&config, stale);
    assert_eq!(tokens.caller(&new_token).await, Err(TokenFault::KeysAway), "but not for ever");
}

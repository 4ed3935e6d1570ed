//! The token issuer's public keys: read from a file or an address, again and again.
//!
//! A key of another kind than those we take (above all a symmetric one) is passed
//! over; a reading that gives no usable key changes nothing. While the source is
//! away the last keys are used, for `auth.jwks_stale_max_ms` at most.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use parking_lot::RwLock;
use reqwest::{Client, redirect};
use serde::Deserialize;
use tokio::sync::{Mutex, Semaphore};

use super::files;
use super::recent::Recent;
use super::token::Verified;
use crate::config;

/// Bytes of a key set that are read.
const KEY_SET_MAX_BYTES: usize = 256 * 1024;
/// Keys of a set that are looked at.
const KEYS_MAX: usize = 128;
/// Least size of an RSA key.
const RSA_MIN_BYTES: usize = 256;
/// Between two readings that unknown keys ask for: whoever makes key ids up must not
/// make us call the issuer each time.
pub(super) const UNKNOWN_KEY_PAUSE: Duration = Duration::from_secs(10);
/// Calls that wait for such a reading at once; more are told to come back.
const WAITING_MAX: usize = 64;
/// Verified tokens that are remembered.
const VERIFIED_MAX: usize = 16_384;

/// A key that tokens may be signed with, and the only algorithm that it is for.
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// The usable keys of one reading, and the tokens that were verified with them: what
/// is remembered goes with the keys.
pub(super) struct KeySet {
    keys: Vec<Key>,
    source: Vec<u8>,
    pub(super) verified: Recent<Verified>,
}

#[derive(Deserialize)]
struct Listed {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// Reads a JSON Web Key Set. The error is for people.
    fn parse(source: Vec<u8>) -> Result<Self, String> {
        let listed: Listed = serde_json::from_slice(&source)
            .map_err(|_| "is not a JSON Web Key Set (JSON with a list `keys`)".to_owned())?;
        let usable = |value| serde_json::from_value::<Jwk>(value).ok().as_ref().and_then(usable);
        let keys: Vec<Key> = listed.keys.into_iter().take(KEYS_MAX).filter_map(usable).collect();
        if keys.is_empty() {
            return Err("has no key that is taken: RSA of at least 2048 bits (RS256), P-256 (ES256) or \
                        Ed25519 (EdDSA), for signatures"
                .to_owned());
        }
        Ok(Self { keys, source, verified: Recent::new(VERIFIED_MAX) })
    }

    /// The key that a token names, if it is for this algorithm. A token that names
    /// none is checked with the only key for its algorithm.
    pub(super) fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Option<&DecodingKey> {
        let mut fitting = self.keys.iter().filter(|key| key.algorithm == algorithm);
        match id {
            Some(id) => fitting.find(|key| key.id.as_deref() == Some(id)).map(|key| &key.key),
            None => fitting.next().filter(|_| fitting.next().is_none()).map(|key| &key.key),
        }
    }
}

/// The key, when it is of a kind that we take and meant for signatures.
fn usable(jwk: &Jwk) -> Option<Key> {
    let common = &jwk.common;
    let signs = common.public_key_use.as_ref().is_none_or(|meant| *meant == PublicKeyUse::Signature);
    let verifies = common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
    let (algorithm, word) = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) if modulus_bytes(&rsa.n) >= RSA_MIN_BYTES => {
            (Algorithm::RS256, KeyAlgorithm::RS256)
        }
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        _ => return None,
    };
    let meant = common.key_algorithm.as_ref().is_none_or(|named| *named == word);
    if !(signs && verifies && meant) {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some(Key { id: common.key_id.clone(), algorithm, key })
}

fn modulus_bytes(text: &str) -> usize {
    BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .map_or(0, |bytes| bytes.len() - bytes.iter().take_while(|&&byte| byte == 0).count())
}

enum Source {
    File(PathBuf),
    Address { client: Client, url: String },
}

impl Source {
    /// The bytes that lie there. The error is for people.
    async fn read(&self) -> Result<Vec<u8>, String> {
        match self {
            Self::File(path) => files::read(path, KEY_SET_MAX_BYTES),
            Self::Address { client, url } => {
                let away = |error: reqwest::Error| format!("auth.jwks_url: {}", error.without_url());
                let mut answer = client.get(url).send().await.map_err(away)?;
                if !answer.status().is_success() {
                    return Err(format!("auth.jwks_url: answered {}", answer.status().as_u16()));
                }
                let mut body = Vec::new();
                while let Some(chunk) = answer.chunk().await.map_err(away)? {
                    if body.len() + chunk.len() > KEY_SET_MAX_BYTES {
                        return Err(format!("auth.jwks_url: answered more than {KEY_SET_MAX_BYTES} bytes"));
                    }
                    body.extend_from_slice(&chunk);
                }
                Ok(body)
            }
        }
    }

    const fn key(&self) -> &'static str {
        match self {
            Self::File(_) => "auth.jwks_file",
            Self::Address { .. } => "auth.jwks_url",
        }
    }
}

struct Known {
    set: Arc<KeySet>,
    read_at: Instant,
}

/// The keys in force.
pub(super) struct Keys {
    source: Source,
    stale_max: Duration,
    known: RwLock<Option<Known>>,
    reading: Mutex<()>,
    asked: Mutex<Option<Instant>>,
    waiting: Semaphore,
}

impl Keys {
    /// Keys of the configured source, which is not read yet. `None`: there is none.
    pub(super) fn new(config: &config::Auth) -> Result<Option<Arc<Self>>, String> {
        let source = if !config.jwks_file.is_empty() {
            Source::File(PathBuf::from(&config.jwks_file))
        } else if !config.jwks_url.is_empty() {
            let timeout = Duration::from_millis(config.jwks_timeout_ms);
            let builder = Client::builder().timeout(timeout).redirect(redirect::Policy::none());
            let local = config::is_loopback_url(&config.jwks_url);
            let builder = if local { builder.no_proxy() } else { builder };
            let client = builder.build().map_err(|error| format!("auth.jwks_url: {error}"))?;
            Source::Address { client, url: config.jwks_url.clone() }
        } else {
            return Ok(None);
        };
        Ok(Some(Arc::new(Self {
            source,
            stale_max: Duration::from_millis(config.jwks_stale_max_ms),
            known: RwLock::new(None),
            reading: Mutex::new(()),
            asked: Mutex::new(None),
            waiting: Semaphore::new(WAITING_MAX),
        })))
    }

    /// A file is there from the beginning; an address may be away.
    pub(super) const fn is_file(&self) -> bool {
        matches!(self.source, Source::File(_))
    }

    /// The keys in force; `None` when they were never read, or too long ago.
    pub(super) fn current(&self) -> Option<Arc<KeySet>> {
        let known = self.known.read();
        known.as_ref().filter(|known| known.read_at.elapsed() <= self.stale_max).map(|k| Arc::clone(&k.set))
    }

    /// Reads the source, one reading at a time: a slow old answer must not replace a
    /// newer one. True when the keys are other ones than before. The error is for
    /// people; the keys are then what they were.
    pub(super) async fn reread(&self) -> Result<bool, String> {
        let _alone = self.reading.lock().await;
        let read_at = Instant::now();
        let source = self.source.read().await?;
        if let Some(known) = self.known.write().as_mut().filter(|known| known.set.source == source) {
            known.read_at = read_at;
            return Ok(false);
        }
        let set = KeySet::parse(source).map_err(|wrong| format!("{} {wrong}", self.source.key()))?;
        *self.known.write() = Some(Known { set: Arc::new(set), read_at });
        Ok(true)
    }

    /// A token names a key that is not known: perhaps it is new. Reads the source, at
    /// most every 10 s whoever asks, and returns when that is done. False when it was
    /// not read for this call: whether there is such a key is then not known.
    pub(super) async fn look_for_new(self: &Arc<Self>) -> bool {
        let Ok(_place) = self.waiting.try_acquire() else { return false };
        let keys = Arc::clone(self);
        // A caller that hangs up must not take the reading with it.
        let reading = tokio::spawn(async move {
            let mut asked = keys.asked.lock().await;
            if asked.is_some_and(|at| at.elapsed() < UNKNOWN_KEY_PAUSE) {
                return false;
            }
            *asked = Some(Instant::now());
            let read = keys.reread().await;
            match &read {
                Ok(true) => tracing::info!("token keys have changed"),
                Ok(false) => {}
                Err(error) => tracing::warn!(error, "token keys cannot be read; the last ones stay"),
            }
            read.is_ok()
        });
        // It does not panic; and if it did, nothing was read.
        reading.await.unwrap_or(false)
    }
}

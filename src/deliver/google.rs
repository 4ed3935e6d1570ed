//! Access tokens as Google gives them to service accounts (RFC 7523): a signed
//! statement of who we are is exchanged for a bearer token.

use std::path::Path;
use std::time::{Duration, Instant};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::RwLock;
use reqwest::header::HeaderValue;
use reqwest::{Client, Url};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::http;
use crate::domain::Reason;

const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
/// How long our statement is good for: Google's longest.
const ASSERTION_LIFETIME_S: i64 = 3600;
/// A token is renewed this long before it ends (or at half of its life, if that is sooner).
const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// After a failed exchange everybody gets its reason for this long, so that a
/// queue of senders does not become a queue of exchanges.
const FAILURE_HOLDS: Duration = Duration::from_secs(1);

/// Google's service account file, as far as it is needed.
#[derive(Deserialize)]
struct ServiceAccount {
    client_email: String,
    private_key: String,
    token_uri: String,
    #[serde(default)]
    private_key_id: Option<String>,
}

#[derive(Serialize)]
struct Assertion<'a> {
    iss: &'a str,
    scope: &'static str,
    aud: &'a str,
    iat: i64,
    exp: i64,
}

#[derive(Deserialize)]
struct Granted {
    access_token: String,
    expires_in: u64,
}

/// A token in force.
#[derive(Clone)]
pub(super) struct Token {
    /// `Bearer …`, marked as sensitive.
    pub(super) header: HeaderValue,
    renew_at: Instant,
    ends_at: Instant,
}

/// Where tokens come from; one exchange at a time.
pub(super) struct Tokens {
    client: Client,
    token_uri: Url,
    client_email: String,
    header: Header,
    key: EncodingKey,
    current: RwLock<Option<Token>>,
    exchange: Mutex<Option<(Instant, Reason)>>,
}

impl Tokens {
    /// Reads a service account file. The problem is in words, without the
    /// file's content.
    pub(super) fn from_file(path: &Path, client: Client) -> Result<Self, String> {
        let text =
            std::fs::read(path).map_err(|error| format!("{} cannot be read ({error})", path.display()))?;
        let account: ServiceAccount = serde_json::from_slice(&text).map_err(|_| {
            format!(
                "{} is not a service account file (JSON with client_email, private_key and token_uri)",
                path.display()
            )
        })?;
        let key = EncodingKey::from_rsa_pem(account.private_key.as_bytes())
            .map_err(|_| format!("{}: private_key is not an RSA key in PEM form", path.display()))?;
        let token_uri = http::parse_base_url(&account.token_uri)
            .map_err(|problem| format!("{}: token_uri {problem}", path.display()))?;
        let header = Header { kid: account.private_key_id, ..Header::new(Algorithm::RS256) };
        Ok(Self {
            client,
            token_uri,
            client_email: account.client_email,
            header,
            key,
            current: RwLock::new(None),
            exchange: Mutex::new(None),
        })
    }

    /// A token that is good now. The error says why there is none; nothing was
    /// sent to anybody but the token server.
    pub(super) async fn get(&self) -> Result<Token, Reason> {
        if let Some(token) = self.fresh() {
            return Ok(token);
        }
        let mut last_failure = self.exchange.lock().await;
        if let Some(token) = self.fresh() {
            return Ok(token);
        }
        let recent = last_failure.filter(|(at, _)| at.elapsed() < FAILURE_HOLDS);
        let reason = match recent {
            Some((_, reason)) => reason,
            None => match self.fetch().await {
                Ok(token) => {
                    *self.current.write() = Some(token.clone());
                    *last_failure = None;
                    return Ok(token);
                }
                Err(reason) => {
                    *last_failure = Some((Instant::now(), reason));
                    reason
                }
            },
        };
        // Renewal starts before the end, so the old token may still do.
        self.current.read().clone().filter(|token| Instant::now() < token.ends_at).ok_or(reason)
    }

    /// Forgets a token that was refused, unless another one came meanwhile.
    pub(super) fn drop_token(&self, refused: &Token) {
        let mut current = self.current.write();
        if current.as_ref().is_some_and(|token| token.header == refused.header) {
            *current = None;
        }
    }

    fn fresh(&self) -> Option<Token> {
        self.current.read().clone().filter(|token| Instant::now() < token.renew_at)
    }

    async fn fetch(&self) -> Result<Token, Reason> {
        let issued_at = jiff::Timestamp::now().as_second();
        let claims = Assertion {
            iss: &self.client_email,
            scope: SCOPE,
            aud: self.token_uri.as_str(),
            iat: issued_at,
            exp: issued_at + ASSERTION_LIFETIME_S,
        };
        let assertion = jsonwebtoken::encode(&self.header, &claims, &self.key)
            .map_err(|_| Reason::ProviderCredentials)?;
        let asked_at = Instant::now();
        let form = [("grant_type", GRANT_TYPE), ("assertion", assertion.as_str())];
        let response =
            self.client.post(self.token_uri.clone()).form(&form).send().await.map_err(|error| {
                if error.is_connect() { Reason::ProviderUnreachable } else { Reason::ProviderTimeout }
            })?;
        match response.status().as_u16() {
            200 => {}
            400..=403 => return Err(Reason::ProviderCredentials),
            _ => return Err(Reason::ProviderError),
        }
        let body = http::bounded_body(response).await.ok_or(Reason::ProviderTimeout)?;
        let granted: Granted = serde_json::from_slice(&body).map_err(|_| Reason::ProviderError)?;
        let mut header = HeaderValue::from_str(&format!("Bearer {}", granted.access_token))
            .map_err(|_| Reason::ProviderError)?;
        header.set_sensitive(true);
        let lifetime = Duration::from_secs(granted.expires_in);
        Ok(Token {
            header,
            renew_at: asked_at + lifetime.saturating_sub(RENEW_BEFORE.min(lifetime / 2)),
            ends_at: asked_at + lifetime,
        })
    }
}

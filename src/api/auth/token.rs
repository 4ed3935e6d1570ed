//! Bearer tokens: JSON Web Tokens that the configured issuer has signed.
//!
//! The algorithm is the key's, never the token's: a token must name the one that its
//! key is for, and no symmetric key is ever taken. A verified token is remembered by
//! its digest until it expires, or until the keys change.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::digest::{SHA256, digest};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Header, Validation, decode, decode_header};
use serde::Deserialize;

use super::keys::Keys;
use super::recent::Digest;
use super::{Caller, Scope};
use crate::config;
use crate::domain::ids::{is_opaque, is_own_caller};

/// Bytes of a token.
const TOKEN_MAX_BYTES: usize = 8 * 1024;

/// What is wrong with a token. Nothing of it is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenFault {
    #[error("the bearer token is no signed JWT of at most 8192 bytes, or its algorithm is unknown")]
    Malformed,
    #[error("the bearer token's algorithm is none of RS256, ES256 and EdDSA")]
    Algorithm,
    #[error("the bearer token has a critical header (`crit`) that is not understood")]
    CriticalHeader,
    #[error("the bearer token's key (`kid`) is none of the issuer's, or not for its algorithm")]
    UnknownKey,
    #[error("the bearer token's signature is wrong")]
    Signature,
    #[error("the bearer token is from another issuer (`iss`)")]
    Issuer,
    #[error("the bearer token is for another audience (`aud`)")]
    Audience,
    #[error("the bearer token has expired (`exp`)")]
    Expired,
    #[error("the bearer token is not valid yet (`nbf`)")]
    NotYetValid,
    #[error("the bearer token's `sub` is not 1 to 64 characters of A-Z a-z 0-9 . _ : -")]
    Subject,
    #[error("the bearer token's `sub` is a name of the service's own; no caller may have it")]
    ReservedSubject,
    #[error(
        "the bearer token lacks one of `iss`, `aud`, `exp` and `sub`, or one of its claims has a wrong form"
    )]
    Claims,
    #[error("the keys that tokens are checked with are away")]
    KeysAway,
    #[error("the bearer token's key (`kid`) is not known, and may be new")]
    KeyNotLookedFor,
}

impl TokenFault {
    /// The metric label.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::Algorithm => "token_algorithm",
            Self::CriticalHeader => "token_critical_header",
            Self::UnknownKey => "token_key",
            Self::Signature => "token_signature",
            Self::Issuer => "token_issuer",
            Self::Audience => "token_audience",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::Subject => "token_subject",
            Self::ReservedSubject => "token_subject_reserved",
            Self::Claims => "token_claims",
            Self::KeysAway => "keys_away",
            Self::KeyNotLookedFor => "token_key_not_looked_for",
        }
    }
}

/// A token that was checked, and until when it is good (seconds of the epoch).
#[derive(Clone)]
pub(super) struct Verified {
    caller: Caller,
    good_until_s: f64,
}

/// Words of scopes: one text with spaces between, or a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    Text(String),
    List(Vec<String>),
}

impl Words {
    /// Those that mean something here; a token may be for other services too.
    fn scopes(&self) -> Vec<Scope> {
        match self {
            Self::Text(text) => text.split(' ').filter_map(Scope::parse).collect(),
            Self::List(list) => list.iter().filter_map(|word| Scope::parse(word)).collect(),
        }
    }
}

#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: f64,
    scope: Option<Words>,
    scp: Option<Words>,
}

/// Checks bearer tokens.
pub(super) struct Tokens {
    keys: Arc<Keys>,
    issuer: String,
    audience: String,
    leeway: Duration,
}

impl Tokens {
    pub(super) fn new(config: &config::Auth, keys: Arc<Keys>) -> Self {
        Self {
            keys,
            issuer: config.token_issuer.clone(),
            audience: config.token_audience.clone(),
            leeway: Duration::from_millis(config.token_leeway_ms),
        }
    }

    /// Who the bearer of this token is.
    pub(super) async fn caller(&self, token: &str) -> Result<Caller, TokenFault> {
        if token.len() > TOKEN_MAX_BYTES {
            return Err(TokenFault::Malformed);
        }
        let digest = digest_of(token);
        let set = self.keys.current().ok_or(TokenFault::KeysAway)?;
        if let Some(known) = set.verified.get(&digest) {
            return if now_s() <= known.good_until_s { Ok(known.caller) } else { Err(TokenFault::Expired) };
        }
        let header = header(token)?;
        let (set, missing) = if set.find(header.kid.as_deref(), header.alg).is_some() {
            (set, TokenFault::UnknownKey)
        } else {
            let looked = self.keys.look_for_new().await;
            let missing = if looked { TokenFault::UnknownKey } else { TokenFault::KeyNotLookedFor };
            (self.keys.current().ok_or(TokenFault::KeysAway)?, missing)
        };
        let key = set.find(header.kid.as_deref(), header.alg).ok_or(missing)?;
        let claims =
            decode::<Claims>(token, key, &self.validation(header.alg)).map_err(|e| fault(e.kind()))?.claims;
        if !is_opaque(&claims.sub) {
            return Err(TokenFault::Subject);
        }
        if is_own_caller(&claims.sub) {
            return Err(TokenFault::ReservedSubject);
        }
        let scopes = [claims.scope, claims.scp].iter().flatten().flat_map(Words::scopes).collect();
        let verified = Verified {
            caller: Caller::new(claims.sub, scopes),
            good_until_s: claims.exp + self.leeway.as_secs_f64(),
        };
        set.verified.put(digest, verified.clone());
        Ok(verified.caller)
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["iss", "aud", "exp", "sub"]);
        validation.set_issuer(&[&self.issuer]);
        validation.set_audience(&[&self.audience]);
        validation.leeway = self.leeway.as_secs();
        validation.validate_nbf = true;
        validation
    }
}

/// A header that can be of a token for us.
fn header(token: &str) -> Result<Header, TokenFault> {
    let header = decode_header(token).map_err(|_| TokenFault::Malformed)?;
    if !matches!(header.alg, Algorithm::RS256 | Algorithm::ES256 | Algorithm::EdDSA) {
        return Err(TokenFault::Algorithm);
    }
    // Whatever it asks for, it asks for being refused by those who do not know it.
    if header.crit.is_some() {
        return Err(TokenFault::CriticalHeader);
    }
    Ok(header)
}

const fn fault(kind: &ErrorKind) -> TokenFault {
    match kind {
        ErrorKind::InvalidSignature => TokenFault::Signature,
        ErrorKind::InvalidIssuer => TokenFault::Issuer,
        ErrorKind::InvalidAudience => TokenFault::Audience,
        ErrorKind::ExpiredSignature => TokenFault::Expired,
        ErrorKind::ImmatureSignature => TokenFault::NotYetValid,
        ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) | ErrorKind::Json(_) => {
            TokenFault::Claims
        }
        _ => TokenFault::Malformed,
    }
}

fn digest_of(token: &str) -> Digest {
    let mut bytes = Digest::default();
    bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    bytes
}

fn now_s() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests;

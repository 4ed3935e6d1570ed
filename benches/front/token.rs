//! A token as the callers of a real front carry one.

use std::path::Path;

use jiff::Timestamp;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use patient_notify::config::Config;
use rcgen::{KeyPair, PKCS_RSA_SHA256};
use serde_json::json;

const KEY: &str = "bench";
const ISSUER: &str = "https://login.example.org";
const AUDIENCE: &str = "patient-notify";
const LASTS_S: i64 = 3_600;

/// Has the front take tokens of a new key, which is published in `folder`; gives one.
/// RS256, as most issuers sign.
pub fn require(config: &mut Config, folder: &Path) -> anyhow::Result<String> {
    let pair = KeyPair::generate_for(&PKCS_RSA_SHA256)?;
    let key = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes())?;
    let mut jwk = Jwk::from_encoding_key(&key, Algorithm::RS256)?;
    jwk.common.key_id = Some(KEY.to_owned());
    let file = folder.join("jwks.json");
    std::fs::write(&file, json!({ "keys": [jwk] }).to_string())?;
    config.auth.jwks_file = file.to_string_lossy().into_owned();
    config.auth.token_issuer = ISSUER.to_owned();
    config.auth.token_audience = AUDIENCE.to_owned();
    // Limits are on, and never reached.
    config.auth.calls_per_second = 1_000_000;
    config.auth.calls_burst = 1_000_000;

    let header = Header { kid: Some(KEY.to_owned()), ..Header::new(Algorithm::RS256) };
    let claims = json!({
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "scheduling",
        "scope": "notifications:send",
        "exp": Timestamp::now().as_second() + LASTS_S,
    });
    Ok(jsonwebtoken::encode(&header, &claims, &key)?)
}

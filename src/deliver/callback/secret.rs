//! A secret that signs callbacks.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::domain::Redacted;

/// Bytes of a file.
const FILE_MAX_BYTES: u64 = 1024;
/// Bytes of a secret, as the specification bounds them.
const SECRET_MIN_BYTES: usize = 24;
const SECRET_MAX_BYTES: usize = 64;
/// What a secret begins with.
const PREFIX: &str = "whsec_";

/// A key of HMAC-SHA256.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Secret(Redacted<Vec<u8>>);

impl Secret {
    /// Reads `whsec_<base64>`. The error repeats nothing of it.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let mut text = String::new();
        let file = File::open(path).map_err(|error| format!("cannot be read: {error}"))?;
        let read = file.take(FILE_MAX_BYTES).read_to_string(&mut text);
        read.map_err(|error| format!("cannot be read: {}", error.kind()))?;
        Self::parse(text.trim())
    }

    fn parse(text: &str) -> Result<Self, String> {
        let bytes = text.strip_prefix(PREFIX).and_then(|coded| BASE64_STANDARD.decode(coded).ok());
        bytes
            .filter(|bytes| (SECRET_MIN_BYTES..=SECRET_MAX_BYTES).contains(&bytes.len()))
            .map(|bytes| Self(Redacted::new(bytes)))
            .ok_or_else(|| "must hold whsec_ and the base64 of 24 to 64 random bytes".to_owned())
    }

    /// `v1,<base64>` of the signature over `<id>.<timestamp>.<payload>`.
    pub(super) fn signature(&self, id: &str, timestamp_s: i64, payload: &[u8]) -> String {
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.0.expose());
        let mut context = hmac::Context::with_key(&key);
        context.update(format!("{id}.{timestamp_s}.").as_bytes());
        context.update(payload);
        format!("v1,{}", BASE64_STANDARD.encode(context.sign()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the specification's reference libraries.
    #[test]
    fn the_signature_is_that_of_the_specification() {
        let secret = Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signed =
            secret.signature("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_is_long_enough_and_never_shown() {
        let short = format!("whsec_{}", BASE64_STANDARD.encode([7; 23]));
        let long = format!("whsec_{}", BASE64_STANDARD.encode([7; 65]));
        for bad in ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_!", &short, &long] {
            let wrong = Secret::parse(bad).unwrap_err();
            assert!(bad.is_empty() || bad == "whsec_" || !wrong.contains(bad));
        }
        let good = format!("whsec_{}", BASE64_STANDARD.encode([7; 24]));
        assert_eq!(format!("{:?}", Secret::parse(&good).unwrap()), "Secret([redacted])");
    }
}

//! The service account of the FCM sandbox: an RSA key, and the file in Google's
//! form that a client reads.

use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::DecodingKey;
use serde_json::{Value, json};

/// Who the service account is.
pub(super) const CLIENT_EMAIL: &str = "notifier@sandbox.iam.gserviceaccount.com";
/// The Firebase project.
pub(super) const PROJECT_ID: &str = "sandbox";
const FILE_NAME: &str = "service-account.json";

pub(super) struct Account {
    pub(super) file: PathBuf,
    pub(super) public_key: DecodingKey,
}

impl Account {
    /// Writes the file into `dir`. The key of a file that is there already is
    /// kept, so that clients survive a restart of the sandbox.
    pub(super) fn prepare(dir: &Path, token_uri: &str) -> io::Result<Self> {
        let file = dir.join(FILE_NAME);
        std::fs::create_dir_all(dir)?;
        let failed = |_| io::Error::other("no RSA key could be made");
        let key = match existing(&file) {
            Some(key) => key,
            None => KeyPair::generate(KeySize::Rsa2048).map_err(failed)?,
        };
        let private = key.as_der().map_err(failed)?;
        let account = json!({
            "type": "service_account",
            "project_id": PROJECT_ID,
            "private_key_id": "sandbox",
            "private_key": pem(private.as_ref()),
            "client_email": CLIENT_EMAIL,
            "client_id": "0",
            "token_uri": token_uri,
        });
        write_private(&file, account.to_string().as_bytes())?;
        Ok(Self { file, public_key: DecodingKey::from_rsa_der(key.public_key().as_ref()) })
    }
}

fn existing(file: &Path) -> Option<KeyPair> {
    let account: Value = serde_json::from_slice(&std::fs::read(file).ok()?).ok()?;
    let lines = account["private_key"].as_str()?.lines().filter(|line| !line.starts_with("-----"));
    let der = STANDARD.decode(lines.collect::<String>()).ok()?;
    KeyPair::from_pkcs8(&der).ok()
}

fn pem(der: &[u8]) -> String {
    let mut text = String::from("-----BEGIN PRIVATE KEY-----\n");
    let encoded = STANDARD.encode(der);
    for line in encoded.as_bytes().chunks(64) {
        text.extend(line.iter().map(|&byte| char::from(byte)));
        text.push('\n');
    }
    text.push_str("-----END PRIVATE KEY-----\n");
    text
}

/// Writes beside and renames, so that no reader sees half of it; only the owner may read it.
fn write_private(file: &Path, content: &[u8]) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let beside = file.with_extension("json.new");
    let mut options = std::fs::OpenOptions::new();
    let mut new = options.write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    new.write_all(content)?;
    std::fs::rename(&beside, file)
}

//! Callbacks to other backends: an address, and the secrets that sign what goes there, as
//! [Standard Webhooks](https://www.standardwebhooks.com) has it.

mod call;
mod secret;

use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Client, Url};
use serde::Deserialize;

use super::http;
use crate::domain::{Redacted, State};
pub use call::Answer;
use secret::Secret;

/// Two while one follows the other.
const SECRETS_MAX: usize = 2;
/// Bytes of an address.
const URL_MAX_BYTES: usize = 2048;

/// `[<caller>.callback]` of the callers file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Entry {
    url: String,
    secret_files: Vec<PathBuf>,
    states: Vec<String>,
}

/// Where a caller is called back; the secrets are still in their files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    url: Redacted<Url>,
    secret_files: Vec<PathBuf>,
    states: Vec<State>,
}

/// Where a caller is called back, and how what goes there is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The caller's name.
    pub caller: String,
    /// States that it wants to know of.
    pub states: Vec<State>,
    url: Redacted<Url>,
    secrets: Vec<Secret>,
}

impl Entry {
    /// Checks everything but the secrets, which only the process that calls has. Each
    /// fault is given to `fault`.
    pub fn check(&self, fault: &mut dyn FnMut(String)) -> Option<Address> {
        let url = url(&self.url).map_err(|wrong| fault(format!("callback.url {wrong}"))).ok();
        if !(1..=SECRETS_MAX).contains(&self.secret_files.len()) {
            fault("callback.secret_files must name one file, or two while secrets are exchanged".to_owned());
        }
        let mut states = Vec::new();
        for word in &self.states {
            match State::parse(word) {
                Some(state) => states.push(state),
                None => fault(format!("callback.states: there is no state {word:?}")),
            }
        }
        if self.states.is_empty() {
            states = State::ALL.to_vec();
        }
        states.sort_unstable();
        states.dedup();
        Some(Address { url: Redacted::new(url?), secret_files: self.secret_files.clone(), states })
    }
}

impl Address {
    /// Reads the secrets.
    ///
    /// # Errors
    /// A line for each file that cannot be used; nothing of its content.
    pub fn read(&self, caller: &str) -> Result<Endpoint, Vec<String>> {
        let (mut secrets, mut faults) = (Vec::new(), Vec::new());
        for path in &self.secret_files {
            match Secret::read(path) {
                Ok(secret) => secrets.push(secret),
                Err(wrong) => faults.push(format!("callback.secret_files: {}: {wrong}", path.display())),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        Ok(Endpoint {
            caller: caller.to_owned(),
            states: self.states.clone(),
            url: self.url.clone(),
            secrets,
        })
    }
}

impl Endpoint {
    /// Digest of the address, to see whether it is still the same.
    #[must_use]
    pub fn url_digest(&self) -> Vec<u8> {
        let text = self.url.expose().as_str();
        aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref().to_vec()
    }

    /// A client for this end alone; a call lasts at most `timeout`.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn client(&self, timeout: Duration, concurrency: usize) -> reqwest::Result<Client> {
        http::client(self.url.expose(), timeout, concurrency)
    }
}

/// HTTPS, or HTTP on this machine; nothing else is safe to send to.
fn url(text: &str) -> Result<Url, &'static str> {
    if text.len() > URL_MAX_BYTES {
        return Err("is longer than 2048 bytes");
    }
    let url = Url::parse(text).map_err(|_| "is not a URL")?;
    let is_safe = url.scheme() == "https" || (url.scheme() == "http" && http::is_loopback(&url));
    if !is_safe || url.host_str().is_none() {
        return Err("must begin with https:// and name a host; http:// is for this machine only");
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Err("must have neither user, password nor fragment: what is called is proved by its secret");
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(entry: &str) -> Vec<String> {
        let mut faults = Vec::new();
        toml::from_str::<Entry>(entry).unwrap().check(&mut |wrong| faults.push(wrong));
        faults
    }

    #[test]
    fn an_address_is_https_or_on_this_machine() {
        let with = |url: &str| faults(&format!("url = {url:?}\nsecret_files = ['/x']"));
        for good in [
            "https://portal.example.org/hooks?a=b",
            "http://127.0.0.1:8080/",
            "http://[::1]:1/",
            "http://localhost/x",
        ] {
            assert_eq!(with(good), [""; 0], "{good}");
        }
        for bad in [
            "",
            "http://portal.example.org/",
            "ftp://127.0.0.1/",
            "https://u:p@x.org/",
            "https://x.org/#f",
            "x.org",
        ] {
            assert_eq!(with(bad).len(), 1, "{bad}");
        }
        assert!(!format!("{:?}", with("http://portal.example.org/s3cret")).contains("s3cret"));
    }

    #[test]
    fn every_fault_is_told_and_no_states_are_all() {
        let found = faults("url = 'http://x.org'\nsecret_files = []\nstates = ['sent', 'gone']");
        assert_eq!(found.len(), 3, "{found:?}");
        let all = "url = 'https://x.org'\nsecret_files = ['/a', '/b']";
        let address = toml::from_str::<Entry>(all).unwrap().check(&mut |_| {}).unwrap();
        assert_eq!(address.states.len(), State::ALL.len());
        assert_eq!(address.read("portal").unwrap_err().len(), 2, "each file that is missing");
    }
}

//! What the HTTP providers share: the client, bounded bodies, `Retry-After`,
//! and what a lost answer means.

use std::time::Duration;

use jiff::Timestamp;
use jiff::fmt::rfc2822;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, Response, Url, redirect};

use super::SendOutcome;
use crate::domain::Reason;

/// Bytes of an answer that are read; a longer one is treated as unreadable.
const BODY_MAX_BYTES: usize = 64 * 1024;
/// Bytes of a page of a list that are read.
const LIST_MAX_BYTES: usize = 2 * 1024 * 1024;
/// Longest pause that a provider's `Retry-After` can ask of us.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(60 * 60);
/// Longest time for one connection, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Idle connections are closed before the usual 60 s of servers and load balancers.
const IDLE_TIMEOUT: Duration = Duration::from_secs(45);

/// A client for one provider: idle connections for every call that may run side
/// by side, no redirects (they would carry credentials elsewhere), and a
/// connect time-out below the call's own, so that "not reached" and "not
/// answered" stay apart. Servers on loopback are called without the proxy of
/// the environment.
pub(super) fn client(base_url: &Url, timeout: Duration, concurrency: usize) -> reqwest::Result<Client> {
    let builder = Client::builder()
        .connect_timeout(CONNECT_TIMEOUT.min(timeout / 2))
        .timeout(timeout)
        .pool_max_idle_per_host(concurrency)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .tcp_nodelay(true)
        .redirect(redirect::Policy::none())
        .user_agent(concat!("patient-notify/", env!("CARGO_PKG_VERSION")));
    if is_loopback(base_url) { builder.no_proxy().build() } else { builder.build() }
}

pub(super) fn is_loopback(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

/// Parses a base URL: http or https, with a host, without query or fragment.
pub(super) fn parse_base_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("is not a URL ({error})"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err("must begin with http:// or https:// and name a host".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must have neither query nor fragment".to_owned());
    }
    Ok(url)
}

/// `base` with a path after its own.
pub(super) fn join(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url
}

/// The outcome of a call that ended without a status.
pub(super) fn lost(error: &reqwest::Error) -> SendOutcome {
    if error.is_connect() || error.is_builder() {
        SendOutcome::Transient { reason: Reason::ProviderUnreachable, after: None }
    } else {
        SendOutcome::Ambiguous(Reason::ProviderTimeout)
    }
}

/// The body, or `None` when it is lost on the way or longer than 64 KiB.
pub(super) async fn bounded_body(response: Response) -> Option<Vec<u8>> {
    read(response, BODY_MAX_BYTES).await
}

/// The same for a page of a list, up to 2 MiB.
pub(super) async fn bounded_list(response: Response) -> Option<Vec<u8>> {
    read(response, LIST_MAX_BYTES).await
}

async fn read(mut response: Response, max_bytes: usize) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        if body.len() + chunk.len() > max_bytes {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    Some(body)
}

/// `Retry-After`, in seconds or as a date, at most one hour.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let after = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = rfc2822::DateTimeParser::new().parse_timestamp(text).ok()?;
            Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO)
        }
    };
    Some(after.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn after(value: &'static str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, HeaderValue::from_static(value));
        retry_after(&headers, "2026-11-22T10:00:00Z".parse().unwrap())
    }

    #[test]
    fn retry_after_is_read_in_both_forms_and_bounded() {
        assert_eq!(after("7"), Some(Duration::from_secs(7)));
        assert_eq!(after("999999"), Some(RETRY_AFTER_MAX));
        assert_eq!(after("Sun, 22 Nov 2026 10:00:30 GMT"), Some(Duration::from_secs(30)));
        assert_eq!(after("Sun, 22 Nov 2026 09:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(after("soon"), None);
    }

    #[test]
    fn a_path_goes_after_the_base_urls_own() {
        let base = parse_base_url("https://api.example.org/twilio/").unwrap();
        assert_eq!(join(&base, "/2010").as_str(), "https://api.example.org/twilio/2010");
        assert!(parse_base_url("ftp://x").is_err());
        assert!(parse_base_url("https://x/?a=b").is_err());
    }
}

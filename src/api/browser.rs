//! Calls from browser pages: gRPC-Web, and which pages may call (CORS).
//!
//! A browser says by `Origin` whose page calls. It is let in when the origin is
//! configured, or when a page of this front itself calls on this machine. The host's
//! name alone proves nothing: a name of somebody else's may point here.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, HOST, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

/// What a page may send along.
const HEADERS: HeaderValue =
    HeaderValue::from_static("authorization, content-type, grpc-timeout, x-caller, x-grpc-web, x-user-agent");
/// What a page may read: an error that comes at once stands in the headers.
const EXPOSED: HeaderValue = HeaderValue::from_static("grpc-status, grpc-message, grpc-status-details-bin");
/// How long a browser need not ask again, in seconds.
const MAX_AGE_S: HeaderValue = HeaderValue::from_static("3600");

/// Pages that may call.
#[derive(Debug, Clone, Default)]
pub struct Origins(Arc<HashSet<String>>);

impl Origins {
    /// Comma-separated origins, for example `https://board.example.org`.
    #[must_use]
    pub fn parse(list: &str) -> Self {
        let origins = list.split(',').map(|origin| origin.trim().to_ascii_lowercase());
        Self(Arc::new(origins.filter(|origin| !origin.is_empty()).collect()))
    }

    fn allow(&self, origin: &str, host: Option<&str>) -> bool {
        self.0.contains(&origin.to_ascii_lowercase()) || is_own(origin, host)
    }
}

/// A page of this front, on this machine.
fn is_own(origin: &str, host: Option<&str>) -> bool {
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    let (Some(authority), Some(host)) = (authority, host) else { return false };
    let name = match authority.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => authority,
    };
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    authority.eq_ignore_ascii_case(host)
        && (name.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback()))
}

/// Middleware of the project's services: answers what a browser asks before a call, and
/// refuses pages that may not call. Whoever is no browser says no origin, and passes.
pub async fn admit(State(origins): State<Origins>, request: Request, next: Next) -> Response {
    let Some(origin) = request.headers().get(ORIGIN).cloned() else { return next.run(request).await };
    // HTTP/2 says the host in the address.
    let host = request.uri().authority().map(|authority| authority.as_str().to_owned());
    let host = host.or_else(|| request.headers().get(HOST)?.to_str().ok().map(str::to_owned));
    let allowed = origin.to_str().is_ok_and(|origin| origins.allow(origin, host.as_deref()));
    if !allowed {
        return (StatusCode::FORBIDDEN, "this page may not call; app.browser_origins has those that may\n")
            .into_response();
    }
    let asks = request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    if request.method() == Method::OPTIONS && asks {
        let mut response = StatusCode::NO_CONTENT.into_response();
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST"));
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
        headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE_S);
        readable(headers, origin);
        return response;
    }
    let mut response = next.run(request).await;
    readable(response.headers_mut(), origin);
    response
}

fn readable(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    headers.append(VARY, HeaderValue::from_static("origin"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_configured_pages_and_our_own_on_this_machine_may_call() {
        let origins = Origins::parse("https://Board.example.org, http://127.0.0.1:8080");
        let host = Some("127.0.0.1:19080");
        for (origin, expected) in [
            ("https://board.example.org", true),
            ("https://board.example.org:8443", false),
            ("http://board.example.org", false),
            ("http://127.0.0.1:8080", true),
            ("http://127.0.0.1:19080", true),
            ("http://127.0.0.1:19081", false),
            ("https://evil.example", false),
            ("null", false),
            ("", false),
        ] {
            assert_eq!(origins.allow(origin, host), expected, "{origin}");
        }
        assert!(origins.allow("http://localhost:19080", Some("localhost:19080")));
        assert!(origins.allow("http://[::1]:19080", Some("[::1]:19080")));
        let rebound = "http://evil.example:19080";
        assert!(
            !origins.allow(rebound, Some("evil.example:19080")),
            "a name of somebody else's that points here"
        );
        assert!(!Origins::parse("").allow("https://board.example.org", host));
    }
}

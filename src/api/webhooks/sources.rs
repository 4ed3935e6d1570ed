//! How often one source may call, whatever it says: before anything is read of a call, so
//! that a source that floods costs next to nothing, and takes nothing from the others.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};

use crate::api::auth::peer_address;
use crate::api::rates::{Rate, Rates};
use crate::config;
use crate::metrics;

/// Sources by their addresses. Clones are the same one; the default bounds nobody.
#[derive(Clone, Default)]
pub struct Sources(Arc<Inner>);

#[derive(Default)]
struct Inner {
    /// `None`: as often as they like.
    rate: Option<Rate>,
    /// What the proxy before us writes the source into; `None`: there is none.
    header: Option<HeaderName>,
    rates: Rates,
}

impl Sources {
    /// As it is configured.
    #[must_use]
    pub fn from_config(config: &config::App) -> Self {
        let rate = NonZeroU32::new(config.webhook_calls_per_second)
            .map(|per_second| Rate { per_second, burst: config.webhook_calls_burst });
        // An empty one is no name of a header, and what is one was checked with the rest.
        let header = config.webhook_source_header.parse().ok();
        Self(Arc::new(Inner { rate, header, rates: Rates::default() }))
    }

    /// Puts the bound before routes; `kind` is their label on metrics.
    pub(super) fn before(&self, kind: &'static str, routes: Router) -> Router {
        routes.layer(middleware::from_fn_with_state((self.clone(), kind), admit))
    }
}

async fn admit(
    State((sources, kind)): State<(Sources, &'static str)>,
    request: Request,
    next: Next,
) -> Response {
    match sources.0.take(&request, Instant::now()) {
        Ok(()) => next.run(request).await,
        Err(retry_after_s) => {
            metrics::webhook(kind, "too_often");
            (StatusCode::TOO_MANY_REQUESTS, [(header::RETRY_AFTER, retry_after_s.to_string())])
                .into_response()
        }
    }
}

impl Inner {
    /// Or the whole seconds until the source may call again.
    fn take(&self, request: &Request, now: Instant) -> Result<(), u64> {
        let Some(rate) = self.rate else { return Ok(()) };
        let told = self.header.as_ref().and_then(|name| last_address(request.headers(), name));
        let Some(address) = told.or_else(|| peer_address(request.extensions()).map(|peer| peer.ip())) else {
            return Ok(());
        };
        self.rates.take(&network(address).to_string(), rate, now).map_err(|pause| pause.as_secs() + 1)
    }
}

/// The address that the proxy next to us has seen: it writes it behind those that it
/// was told, which anybody may make up.
fn last_address(headers: &HeaderMap, name: &HeaderName) -> Option<IpAddr> {
    let last = headers.get_all(name).iter().next_back()?.to_str().ok()?;
    let last = last.rsplit(',').next()?.trim();
    last.parse().ok().or_else(|| last.parse().ok().map(|with_port: SocketAddr| with_port.ip()))
}

/// Who has one address of IPv6 has the 64 bits behind its network too.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_proxy_next_to_us_is_believed_and_nobody_before_it() {
        let name = HeaderName::from_static("x-forwarded-for");
        let read = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(&name, line.parse().unwrap());
            }
            last_address(&headers, &name).map(|address| address.to_string())
        };
        assert_eq!(read(&["10.0.0.1, 203.0.113.7"]).as_deref(), Some("203.0.113.7"));
        assert_eq!(read(&["10.0.0.1", "203.0.113.8"]).as_deref(), Some("203.0.113.8"));
        assert_eq!(read(&["203.0.113.7:4711"]).as_deref(), Some("203.0.113.7"));
        assert_eq!(read(&["2001:db8::1"]).as_deref(), Some("2001:db8::1"));
        assert_eq!((read(&["unknown"]), read(&[""]), read(&[])), (None, None, None));
    }

    #[test]
    fn a_network_of_ipv6_is_one_source() {
        let of = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(of("2001:db8:0:1:ffff::7"), of("2001:db8:0:1::8"));
        assert_ne!(of("2001:db8:0:1::8"), of("2001:db8:0:2::8"));
        assert_eq!(of("::ffff:203.0.113.7"), "203.0.113.7", "a mapped address is one of IPv4");
        assert_ne!(of("203.0.113.7"), of("203.0.113.8"));
    }
}

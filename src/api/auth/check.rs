//! Before each call: who calls, may they, and not too often.
//!
//! A call with a bearer token is its token's caller, whatever certificate secures the
//! connection; a bad token is refused and never falls back to the certificate. A
//! stream is checked when it begins: how long it lasts is bounded elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use axum::http::{Extensions, HeaderMap, header};
use tonic::metadata::MetadataMap;
use tonic::transport::server::TcpConnectInfo;

use super::keys::UNKNOWN_KEY_PAUSE;
use super::limits;
use super::methods::Method;
use super::quota::Allowance;
use super::tls::Peer;
use super::token::TokenFault;
use super::{Auth, Caller, Scope};
use crate::api::error::ApiError;
use crate::api::guard::Request;
use crate::api::validate::Violations;

/// Why a call is refused, and the metric label of that.
struct Refusal {
    error: ApiError,
    reason: &'static str,
}

impl Refusal {
    const fn new(reason: &'static str, error: ApiError) -> Self {
        Self { error, reason }
    }

    fn unauthenticated(reason: &'static str, wrong: &str) -> Self {
        Self::new(reason, ApiError::Unauthenticated(wrong.to_owned()))
    }
}

impl From<TokenFault> for Refusal {
    fn from(fault: TokenFault) -> Self {
        match fault {
            TokenFault::KeysAway => Self::new(fault.as_str(), ApiError::KeysAway),
            TokenFault::KeyNotLookedFor => {
                Self::new(fault.as_str(), ApiError::KeyNotLookedFor { retry_after: UNKNOWN_KEY_PAUSE })
            }
            _ => Self::new(fault.as_str(), ApiError::Unauthenticated(fault.to_string())),
        }
    }
}

/// Puts the [`Caller`] into the call's extensions and gives its name, or says why it may
/// not call.
///
/// # Errors
/// The answer to one that may not; it is noted.
pub(crate) async fn check(
    auth: &Auth,
    method: &'static Method,
    request: &mut Request,
) -> Result<String, ApiError> {
    let caller = match caller(auth, request.headers(), request.extensions().get()).await {
        Ok(caller) => caller,
        Err(refusal) => return Err(refused(auth, method, None, request, refusal)),
    };
    match admit(auth, method, &caller) {
        Ok(allowance) => {
            let name = caller.name.clone();
            request.extensions_mut().insert(caller);
            if let Some(allowance) = allowance {
                request.extensions_mut().insert(allowance);
            }
            Ok(name)
        }
        Err(refusal) => Err(refused(auth, method, Some(&caller), request, refusal)),
    }
}

fn refused(
    auth: &Auth,
    method: &'static Method,
    caller: Option<&Caller>,
    request: &Request,
    refusal: Refusal,
) -> ApiError {
    auth.refusals.note(method, refusal.reason, caller, peer_address(request.extensions()));
    refusal.error
}

/// Where a request comes from, by its connection.
pub(in crate::api) fn peer_address(extensions: &Extensions) -> Option<SocketAddr> {
    let secured = extensions.get::<Peer>().map(|peer| peer.address);
    secured.or_else(|| extensions.get::<TcpConnectInfo>().and_then(|info| info.remote_addr))
}

async fn caller(auth: &Auth, headers: &HeaderMap, peer: Option<&Peer>) -> Result<Caller, Refusal> {
    if !auth.authenticates() {
        return named_by_itself(headers);
    }
    if let Some(tokens) = &auth.tokens
        && let Some(token) = bearer(headers)?
    {
        return Ok(tokens.caller(token).await?);
    }
    if let Some(identities) = peer.and_then(|peer| peer.identities.as_ref())
        && auth.takes_certificates
    {
        return auth.callers().of_certificate(identities).cloned().ok_or_else(|| {
            Refusal::unauthenticated(
                "certificate_of_nobody",
                "the client certificate's URI and DNS names are those of no one caller in auth.callers_file",
            )
        });
    }
    let wanted = match (auth.tokens.is_some(), auth.takes_certificates) {
        (true, true) => "the call has neither a bearer token nor a client certificate",
        (true, false) => "the call has no bearer token (`authorization: Bearer …`)",
        _ => "the call has no client certificate",
    };
    Err(Refusal::unauthenticated("nothing_shown", wanted))
}

/// Nobody proves anything here: only this machine can call, or a mesh stands in front.
fn named_by_itself(headers: &HeaderMap) -> Result<Caller, Refusal> {
    let mut faults = Violations::default();
    let name = faults.caller(&MetadataMap::from_headers(entry_of(headers)));
    faults.finish().map_err(|error| Refusal::new("name", error))?;
    Ok(Caller::new(name, Scope::ALL.to_vec()))
}

/// The one header that is looked at, so that the others need not be copied.
fn entry_of(headers: &HeaderMap) -> HeaderMap {
    use crate::api::validate::CALLER_ENTRY;
    headers.get(CALLER_ENTRY).map_or_else(HeaderMap::new, |value| {
        HeaderMap::from_iter([(header::HeaderName::from_static(CALLER_ENTRY), value.clone())])
    })
}

/// The bearer token; `None` when the call has no `authorization`.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let token = value.to_str().ok().and_then(|text| text.split_once(' ')).and_then(|(scheme, token)| {
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim()).filter(|token| !token.is_empty())
    });
    match (token, values.next()) {
        (Some(token), None) => Ok(Some(token)),
        _ => Err(Refusal::unauthenticated(
            "authorization_form",
            "`authorization` must be there once and have the form `Bearer <token>`",
        )),
    }
}

fn admit(auth: &Auth, method: &Method, caller: &Caller) -> Result<Option<Allowance>, Refusal> {
    if !caller.may(method.scope) {
        return Err(Refusal::new("scope", ApiError::Forbidden(method.scope)));
    }
    if !auth.authenticates() {
        return Ok(None);
    }
    let limits = auth.callers().limits(&caller.name);
    limits::take(&auth.rates, &caller.name, limits, Instant::now())
        .map_err(|error| Refusal::new("rate", error))?;
    Ok((limits.notifications_per_day > 0)
        .then(|| Allowance::new(Arc::clone(&auth.quotas), caller.name.clone(), limits.notifications_per_day)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(values: &[&str]) -> Result<Option<String>, &'static str> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, value.parse().unwrap());
        }
        bearer(&headers).map(|token| token.map(str::to_owned)).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn one_bearer_token_is_read_and_nothing_else() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&["Bearer abc"]), Ok(Some("abc".to_owned())));
        assert_eq!(read(&["bearer  abc"]), Ok(Some("abc".to_owned())));
        for bad in [&["Basic abc"] as &[_], &["Bearer"], &["Bearer "], &["abc"], &["Bearer a", "Bearer b"]] {
            assert_eq!(read(bad), Err("authorization_form"), "{bad:?}");
        }
    }
}

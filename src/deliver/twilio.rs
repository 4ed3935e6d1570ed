//! SMS by Twilio's REST protocol (2010-04-01).
//!
//! Twilio has no idempotency key on create. What makes an unknown outcome
//! decidable is the short code in each body: [`Twilio::look_up`] searches for it.

use std::time::Duration;

use base64::Engine as _;
use jiff::{Span, Timestamp};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Client, Url};
use serde::Deserialize;

use super::{LookUp, Message, SendOutcome, http};
use crate::config::Sms;
use crate::domain::{DeliveryId, Reason, Redacted};

/// A look-up reads at most this many pages of [`PAGE_SIZE`] messages.
const PAGES_MAX: usize = 5;
const PAGE_SIZE: &str = "200";
/// What Twilio is to do when a callback is not taken: by itself it repeats one only when
/// it could not connect. Among the 4xx is the 429 of a front that is called too often.
pub const CALLBACK_OVERRIDES: &str = "#rc=3&rp=4xx,5xx,ct,rt";
/// Pause after a 429 that names none.
const THROTTLE_DEFAULT: Duration = Duration::from_secs(1);

/// A client of one Twilio account.
pub(super) struct Twilio {
    client: Client,
    base_url: Url,
    messages_url: Url,
    authorization: HeaderValue,
    from_number: String,
    status_callback_base_url: Option<String>,
    timeout: Duration,
}

#[derive(Deserialize)]
struct Created {
    sid: String,
}

#[derive(Deserialize)]
struct Refused {
    code: Option<u32>,
}

#[derive(Deserialize)]
struct Page {
    messages: Vec<Listed>,
    next_page_uri: Option<String>,
}

#[derive(Deserialize)]
struct Listed {
    sid: String,
    #[serde(default)]
    body: Option<String>,
}

impl Twilio {
    /// Builds the client; gives every fault as (key, problem).
    pub(super) fn from_config(config: &Sms) -> Result<Self, Vec<(&'static str, String)>> {
        let mut faults = Vec::new();
        if config.account_sid.is_empty() || !config.account_sid.bytes().all(|b| b.is_ascii_alphanumeric()) {
            faults.push(("sms.account_sid", "must be the account's SID (letters and digits)".to_owned()));
        }
        if config.auth_token.expose().is_empty() {
            faults.push(("sms.auth_token", "must not be empty".to_owned()));
        }
        if config.from_number.is_empty() {
            faults.push(("sms.from_number", "must be a number that the account owns".to_owned()));
        }
        let callback = (!config.status_callback_base_url.is_empty())
            .then(|| config.status_callback_base_url.trim_end_matches('/').to_owned());
        if let Some(Err(problem)) = callback.as_deref().map(http::parse_base_url) {
            faults.push(("sms.status_callback_base_url", problem));
        }
        let timeout = Duration::from_millis(config.timeout_ms);
        let base_url = http::parse_base_url(&config.base_url)
            .map_err(|problem| faults.push(("sms.base_url", problem)))
            .ok();
        let pair = format!("{}:{}", config.account_sid, config.auth_token.expose());
        let encoded = base64::engine::general_purpose::STANDARD.encode(pair);
        let mut authorization =
            HeaderValue::from_str(&format!("Basic {encoded}")).expect("base64 is always a header value");
        authorization.set_sensitive(true);
        let (Some(base_url), true) = (base_url, faults.is_empty()) else {
            return Err(faults);
        };
        let client = http::client(&base_url, timeout, config.concurrency)
            .map_err(|error| vec![("sms.base_url", format!("no HTTP client could be made ({error})"))])?;
        let path = format!("/2010-04-01/Accounts/{}/Messages.json", config.account_sid);
        Ok(Self {
            client,
            messages_url: http::join(&base_url, &path),
            base_url,
            authorization,
            from_number: config.from_number.clone(),
            status_callback_base_url: callback,
            timeout,
        })
    }

    /// Creates one message.
    pub(super) async fn send(&self, message: &Message, body: &str) -> SendOutcome {
        let callback = self
            .status_callback_base_url
            .as_ref()
            .map(|base| format!("{base}/webhooks/twilio/{}{CALLBACK_OVERRIDES}", message.delivery_id));
        let mut form = Vec::with_capacity(4);
        form.push(("To", message.address.expose().as_str()));
        form.push(("From", self.from_number.as_str()));
        form.push(("Body", body));
        if let Some(callback) = &callback {
            form.push(("StatusCallback", callback.as_str()));
        }
        let request = self
            .client
            .post(self.messages_url.clone())
            .header(AUTHORIZATION, self.authorization.clone())
            .form(&form);
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) => return http::lost(&error),
        };
        let status = response.status().as_u16();
        let after = http::retry_after(response.headers(), Timestamp::now());
        let body = http::bounded_body(response).await;
        if matches!(status, 200 | 201) {
            // Created, but without its SID no receipt would find it: a look-up does.
            return body
                .and_then(|body| serde_json::from_slice::<Created>(&body).ok())
                .map_or(SendOutcome::Ambiguous(Reason::ProviderTimeout), |created| SendOutcome::Sent {
                    provider_message_id: created.sid,
                });
        }
        let code = body.and_then(|body| serde_json::from_slice::<Refused>(&body).ok()?.code);
        refusal(status, code, after)
    }

    /// Looks for the message in the account's own list: first among those sent
    /// since `since`, then among the newest to this number, because a message
    /// that still waits at Twilio has no date of sending.
    pub(super) async fn look_up(
        &self,
        delivery_id: DeliveryId,
        address: &Redacted<String>,
        since: Timestamp,
    ) -> LookUp {
        let search = async {
            let since = since.saturating_sub(Span::new().minutes(5)).unwrap_or(since);
            let since = since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            match self.search(delivery_id, address, Some(&since), PAGES_MAX).await {
                LookUp::NotFound => self.search(delivery_id, address, None, 1).await,
                other => other,
            }
        };
        tokio::time::timeout(self.timeout, search)
            .await
            .unwrap_or(LookUp::Unavailable(Reason::ProviderTimeout))
    }

    /// Reads at most `pages_max` pages. With `since`, running out of pages means
    /// that we cannot say; without, the newest page is all that was asked for.
    async fn search(
        &self,
        delivery_id: DeliveryId,
        address: &Redacted<String>,
        since: Option<&str>,
        pages_max: usize,
    ) -> LookUp {
        let code = delivery_id.short_code();
        let mut url = self.messages_url.clone();
        url.query_pairs_mut().append_pair("To", address.expose()).append_pair("PageSize", PAGE_SIZE);
        if let Some(since) = since {
            url.query_pairs_mut().append_pair("DateSent>", since);
        }
        for _ in 0..pages_max {
            let page = match self.page(url).await {
                Ok(page) => page,
                Err(reason) => return LookUp::Unavailable(reason),
            };
            let hit = page.messages.into_iter().find(|m| m.body.as_ref().is_some_and(|b| b.contains(&code)));
            if let Some(found) = hit {
                return LookUp::Found { provider_message_id: found.sid };
            }
            // Only a path is followed: another host would get our credentials.
            match page.next_page_uri.filter(|uri| uri.starts_with('/') && !uri.starts_with("//")) {
                None => return LookUp::NotFound,
                Some(uri) => match self.base_url.join(&uri) {
                    Ok(next) => url = next,
                    Err(_) => return LookUp::Unavailable(Reason::ProviderError),
                },
            }
        }
        if since.is_some() { LookUp::Unavailable(Reason::ProviderError) } else { LookUp::NotFound }
    }

    /// Asks for one message of the account's list: whether the provider answers, and us.
    pub(super) async fn greet(&self) -> Result<(), Reason> {
        let mut url = self.messages_url.clone();
        url.query_pairs_mut().append_pair("PageSize", "1");
        self.page(url).await.map(drop)
    }

    async fn page(&self, url: Url) -> Result<Page, Reason> {
        let request = self.client.get(url).header(AUTHORIZATION, self.authorization.clone());
        let response = request.send().await.map_err(|error| {
            if error.is_connect() { Reason::ProviderUnreachable } else { Reason::ProviderTimeout }
        })?;
        match response.status().as_u16() {
            200 => {}
            401 | 403 => return Err(Reason::ProviderCredentials),
            429 => return Err(Reason::Throttled),
            _ => return Err(Reason::ProviderError),
        }
        let body = http::bounded_list(response).await.ok_or(Reason::ProviderTimeout)?;
        serde_json::from_slice(&body).map_err(|_| Reason::ProviderError)
    }
}

/// What a status other than "created" means. A 5xx other than 500, 502 and 503
/// (a gateway's 504 above all) may hide a message that was taken.
fn refusal(status: u16, code: Option<u32>, after: Option<Duration>) -> SendOutcome {
    match (status, code) {
        (400, Some(21211 | 21214 | 21217 | 21614)) => SendOutcome::Permanent(Reason::InvalidAddress),
        (400, Some(21610)) => SendOutcome::Permanent(Reason::OptedOut),
        (401 | 403, _) => SendOutcome::Transient { reason: Reason::ProviderCredentials, after },
        (429, _) => SendOutcome::Throttled { after: after.unwrap_or(THROTTLE_DEFAULT) },
        (408 | 500 | 502 | 503 | 300..=399, _) => {
            SendOutcome::Transient { reason: Reason::ProviderError, after }
        }
        (400..=499, _) => SendOutcome::Permanent(Reason::ProviderRefused),
        _ => SendOutcome::Ambiguous(Reason::ProviderTimeout),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_its_class() {
        use SendOutcome::{Ambiguous, Permanent, Throttled, Transient};
        let second = Some(Duration::from_secs(1));
        let cases = [
            (400, Some(21211), Permanent(Reason::InvalidAddress)),
            (400, Some(21614), Permanent(Reason::InvalidAddress)),
            (400, Some(21610), Permanent(Reason::OptedOut)),
            (400, Some(21602), Permanent(Reason::ProviderRefused)),
            (400, None, Permanent(Reason::ProviderRefused)),
            (404, None, Permanent(Reason::ProviderRefused)),
            (401, None, Transient { reason: Reason::ProviderCredentials, after: second }),
            (403, None, Transient { reason: Reason::ProviderCredentials, after: second }),
            (429, Some(20429), Throttled { after: Duration::from_secs(1) }),
            (302, None, Transient { reason: Reason::ProviderError, after: second }),
            (500, None, Transient { reason: Reason::ProviderError, after: second }),
            (502, None, Transient { reason: Reason::ProviderError, after: second }),
            (503, None, Transient { reason: Reason::ProviderError, after: second }),
            (504, None, Ambiguous(Reason::ProviderTimeout)),
            (524, None, Ambiguous(Reason::ProviderTimeout)),
        ];
        for (status, code, expected) in cases {
            assert_eq!(refusal(status, code, second), expected, "{status} {code:?}");
        }
    }
}

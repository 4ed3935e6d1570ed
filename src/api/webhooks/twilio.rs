//! What Twilio calls: whether it has signed it, and what a status callback says.

use aws_lc_rs::{constant_time, hmac};
use axum::extract::rejection::FormRejection;
use axum::extract::{Form, FromRequest as _, Request};
use base64::Engine as _;
use jiff::Timestamp;

use super::Answer;
use super::gate::Gate;
use crate::config;
use crate::deliver::TWILIO_CALLBACK_OVERRIDES;
use crate::domain::ids::is_opaque;
use crate::domain::{DeliveryId, DeliveryRef, Fact, NotificationUpdate, ReceiptStatus};

/// The header of the signature.
pub(super) const SIGNATURE: &str = "x-twilio-signature";
/// Who says so, on the topic.
pub(super) const SOURCE: &str = "twilio";
/// Longest error code, in digits.
const CODE_MAX_CHARS: usize = 64;

/// The parameters of a callback as they came, decoded. They name the recipient: not
/// to be logged.
pub(super) type Parameters = Vec<(String, String)>;

/// What it takes to know a callback of Twilio.
pub struct Twilio {
    key: hmac::Key,
    /// The address that was given to Twilio, in each spelling that it may sign.
    base_urls: Vec<String>,
}

/// What a callback says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// Something about the message.
    Update(NotificationUpdate),
    /// A status that this version does not know.
    UnknownStatus,
    /// It is no callback about the status of a message.
    Nothing,
}

impl Twilio {
    /// `None` when Twilio was given no address to report to, and when there is no
    /// token to know it by.
    #[must_use]
    pub fn from_config(sms: &config::Sms) -> Option<Self> {
        let token = sms.auth_token.expose().as_bytes();
        let base_url = sms.status_callback_base_url.trim_end_matches('/');
        (!base_url.is_empty() && !token.is_empty()).then(|| Self {
            key: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, token),
            base_urls: spellings(base_url),
        })
    }

    /// True when the signature (base64 of the HMAC-SHA1 of the whole URL and of the
    /// parameters, each name followed by its value, sorted) is Twilio's.
    ///
    /// The URL is the one that was given to Twilio; what a proxy has made of host and
    /// scheme does not matter. With or without its fragment, which no request has: Twilio
    /// does not say. A parameter that comes twice with the same value is
    /// signed once, as Twilio's own libraries do.
    pub(super) fn has_signed(&self, path_and_query: &str, form: &Parameters, signature: &[u8]) -> bool {
        let Ok(signature) = base64::engine::general_purpose::STANDARD.decode(signature) else {
            return false;
        };
        let mut sorted: Vec<&(String, String)> = form.iter().collect();
        sorted.sort_unstable();
        sorted.dedup();
        let fragments = ["", TWILIO_CALLBACK_OVERRIDES];
        let mut spelled =
            self.base_urls.iter().flat_map(|base_url| fragments.map(|fragment| (base_url, fragment)));
        let parameters = || sorted.iter().flat_map(|(name, value)| [name, value]);
        spelled.any(|(base_url, fragment)| {
            let mut context = hmac::Context::with_key(&self.key);
            context.update(base_url.as_bytes());
            context.update(path_and_query.as_bytes());
            context.update(fragment.as_bytes());
            parameters().for_each(|part| context.update(part.as_bytes()));
            constant_time::verify_slices_are_equal(context.sign().as_ref(), &signature).is_ok()
        })
    }
}

/// The parameters of a call that Twilio has signed.
pub(super) async fn signed_form(
    twilio: &Twilio,
    gate: &Gate,
    request: Request,
) -> Result<Parameters, Answer> {
    let signature = request.headers().get(SIGNATURE).cloned().ok_or(Answer::BadSignature)?;
    let uri = request.uri().clone();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let call = gate.read(request).await?;
    let Form(form): Form<Parameters> = Form::from_request(call.into_request(), &())
        .await
        .map_err(|rejection: FormRejection| Answer::BadBody(rejection.status()))?;
    if twilio.has_signed(path, &form, signature.as_bytes()) { Ok(form) } else { Err(Answer::BadSignature) }
}

/// Twilio does not always sign the port as it was given: it may leave one out, or
/// name the scheme's own.
fn spellings(base_url: &str) -> Vec<String> {
    let mut all = vec![base_url.to_owned()];
    if let Some((scheme, rest)) = base_url.split_once("://") {
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let is_port = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match authority.rsplit_once(':') {
            Some((host, port)) if is_port(port) => all.push(format!("{scheme}://{host}{path}")),
            _ => {
                let port = if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 };
                all.push(format!("{scheme}://{authority}:{port}{path}"));
            }
        }
    }
    all
}

/// Reads a callback whose signature is right. The same callback again gives the same
/// update id.
///
/// It happened `now`: the only time that Twilio passes on (`RawDlrDoneDate`) is the
/// carrier's, to the minute, in a time zone that nobody knows.
pub(super) fn read(delivery_id: DeliveryId, form: &Parameters, now: Timestamp) -> Said {
    let sid = value(form, "MessageSid").or_else(|| value(form, "SmsSid"));
    let (Some(sid), Some(word)) = (sid, value(form, "MessageStatus")) else {
        return Said::Nothing;
    };
    let Some(status) = status(word) else {
        return Said::UnknownStatus;
    };
    let update_id = format!("{sid}:{word}");
    if !is_opaque(&update_id) {
        return Said::Nothing;
    }
    let is_code = |code: &&str| code.len() <= CODE_MAX_CHARS && code.bytes().all(|b| b.is_ascii_digit());
    let code = value(form, "ErrorCode").filter(is_code).map(str::to_owned);
    Said::Update(NotificationUpdate {
        update_id,
        occurred_at: now,
        source: SOURCE.to_owned(),
        patient_id: None,
        fact: Fact::Receipt { delivery: DeliveryRef::Id(delivery_id), status, code },
    })
}

/// The value of a parameter that is there once and not empty: the signature does not
/// say which of two came first.
pub(super) fn value<'a>(form: &'a Parameters, name: &str) -> Option<&'a str> {
    let mut values = form.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_str());
    let value = values.next()?;
    (values.next().is_none() && !value.is_empty()).then_some(value)
}

/// Twilio's word in ours; `None` for one that we do not know.
fn status(word: &str) -> Option<ReceiptStatus> {
    Some(match word {
        "accepted" | "scheduled" | "queued" | "sending" => ReceiptStatus::Accepted,
        "sent" => ReceiptStatus::Sent,
        // Text messages have no `read`; whatever was read has arrived.
        "delivered" | "read" => ReceiptStatus::Delivered,
        "undelivered" => ReceiptStatus::Undelivered,
        "failed" | "canceled" => ReceiptStatus::Failed,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn twilio(base_url: &str) -> Twilio {
        let token = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"12345");
        Twilio { key: token, base_urls: spellings(base_url) }
    }

    fn form(parameters: &[(&str, &str)]) -> Parameters {
        parameters.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn signed(base_url: &str, form: &Parameters, signature: &str) -> bool {
        twilio(base_url).has_signed("/myapp.php?foo=1&bar=2", form, signature.as_bytes())
    }

    const DOCUMENTED: [(&str, &str); 5] = [
        ("To", "+18005551212"),
        ("From", "+14158675310"),
        ("Digits", "1234"),
        ("CallSid", "CA1234567890ABCDE"),
        ("Caller", "+14158675310"),
    ];
    const DOCUMENTED_SIGNATURE: &str = "L/OH5YylLD5NRKLltdqwSvS0BnU=";

    /// The worked example of Twilio's security page, and the one of its libraries' tests.
    #[test]
    fn the_documented_signatures_are_right() {
        assert!(signed("https://example.com", &form(&DOCUMENTED), DOCUMENTED_SIGNATURE));
        let of_libraries = form(&[
            ("CallSid", "CA1234567890ABCDE"),
            ("Caller", "+14158675309"),
            ("Digits", "1234"),
            ("From", "+14158675309"),
            ("To", "+18005551212"),
        ]);
        assert!(signed("https://mycompany.com", &of_libraries, "RSOYDt4T1cUTdK1PDd93/VVr8B8="));
    }

    #[test]
    fn whatever_is_changed_is_noticed() {
        let good = form(&DOCUMENTED);
        for at in 0..good.len() {
            let mut changed = good.clone();
            changed[at].1.push('0');
            assert!(!signed("https://example.com", &changed, DOCUMENTED_SIGNATURE), "{}", good[at].0);
            changed.remove(at);
            assert!(!signed("https://example.com", &changed, DOCUMENTED_SIGNATURE), "no {}", good[at].0);
        }
        let mut more = good.clone();
        more.push(("MessageStatus".to_owned(), "delivered".to_owned()));
        assert!(!signed("https://example.com", &more, DOCUMENTED_SIGNATURE));
        assert!(!signed("https://example.org", &good, DOCUMENTED_SIGNATURE), "another host");
        assert!(!signed("http://example.com", &good, DOCUMENTED_SIGNATURE), "another scheme");
        for bad in ["", "=", "L/OH5YylLD5NRKLltdqwSvS0Bn", "L/OH", "\u{e9}"] {
            assert!(!signed("https://example.com", &good, bad), "{bad:?}");
        }
        let other = Twilio {
            key: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"54321"),
            base_urls: spellings("https://example.com"),
        };
        assert!(!other.has_signed("/myapp.php?foo=1&bar=2", &good, DOCUMENTED_SIGNATURE.as_bytes()));
    }

    #[test]
    fn empty_and_repeated_parameters_are_signed_as_twilio_does() {
        let signature = |text: &str| {
            let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, b"12345");
            let tag = hmac::sign(&key, text.as_bytes());
            base64::engine::general_purpose::STANDARD.encode(tag)
        };
        let url = "https://example.com/myapp.php?foo=1&bar=2";
        let check = |parameters: &[(&str, &str)], text: &str| {
            assert!(
                signed("https://example.com", &form(parameters), &signature(&format!("{url}{text}"))),
                "{text}"
            );
        };
        check(&[], "");
        check(&[], TWILIO_CALLBACK_OVERRIDES);
        check(&[("b", ""), ("a", "1")], "a1b");
        check(&[("a", "2"), ("B", "x"), ("a", "1"), ("a", "2")], "Bxa1a2");
    }

    #[test]
    fn a_port_may_be_spelled_in_two_ways() {
        let all = |base_url| spellings(base_url);
        assert_eq!(all("https://x.org"), ["https://x.org", "https://x.org:443"]);
        assert_eq!(all("http://x.org/p"), ["http://x.org/p", "http://x.org:80/p"]);
        assert_eq!(all("https://x.org:8443/p"), ["https://x.org:8443/p", "https://x.org/p"]);
        assert_eq!(all("http://[::1]"), ["http://[::1]", "http://[::1]:80"]);
        assert!(signed("https://example.com:8443", &form(&DOCUMENTED), DOCUMENTED_SIGNATURE));
    }

    #[test]
    fn without_an_address_or_a_token_there_is_no_webhook() {
        let mut sms = config::Config::from_defaults().sms;
        assert!(Twilio::from_config(&sms).is_none());
        sms.status_callback_base_url = "https://x.org/".to_owned();
        assert_eq!(Twilio::from_config(&sms).unwrap().base_urls[0], "https://x.org");
        sms.auth_token = String::new().into();
        assert!(Twilio::from_config(&sms).is_none(), "anybody could sign with an empty token");
    }

    #[test]
    fn each_word_of_twilio_has_ours() {
        use ReceiptStatus::{Accepted, Delivered, Failed, Sent, Undelivered};
        let cases = [
            ("accepted", Some(Accepted)),
            ("scheduled", Some(Accepted)),
            ("queued", Some(Accepted)),
            ("sending", Some(Accepted)),
            ("sent", Some(Sent)),
            ("delivered", Some(Delivered)),
            ("read", Some(Delivered)),
            ("undelivered", Some(Undelivered)),
            ("failed", Some(Failed)),
            ("canceled", Some(Failed)),
            ("received", None),
            ("Delivered", None),
            ("", None),
        ];
        for (word, expected) in cases {
            assert_eq!(status(word), expected, "{word}");
        }
    }

    fn said(parameters: &[(&str, &str)]) -> Said {
        read(DeliveryId(Uuid::from_u128(7)), &form(parameters), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_callback_becomes_a_receipt_and_a_repeat_the_same() {
        let parameters = [("MessageSid", "SM1"), ("MessageStatus", "undelivered"), ("ErrorCode", "30005")];
        let Said::Update(update) = said(&parameters) else { panic!("it is one") };
        assert_eq!((update.update_id.as_str(), update.source.as_str()), ("SM1:undelivered", "twilio"));
        assert_eq!(update.patient_id, None);
        let delivery = DeliveryRef::Id(DeliveryId(Uuid::from_u128(7)));
        let status = ReceiptStatus::Undelivered;
        assert_eq!(update.fact, Fact::Receipt { delivery, status, code: Some("30005".to_owned()) });
        assert_eq!(said(&parameters), Said::Update(update));
    }

    #[test]
    fn what_is_no_error_code_is_left_out() {
        for code in ["", "30005a", "<script>", &"1".repeat(65)] {
            let parameters = [("SmsSid", "SM1"), ("MessageStatus", "failed"), ("ErrorCode", code)];
            let Said::Update(update) = said(&parameters) else { panic!("it is one: {code}") };
            assert!(matches!(update.fact, Fact::Receipt { code: None, .. }), "{code}");
        }
    }

    #[test]
    fn what_is_not_about_the_status_of_a_message_is_told_from_a_new_word() {
        assert_eq!(said(&[("MessageSid", "SM1"), ("MessageStatus", "teleported")]), Said::UnknownStatus);
        let long = "S".repeat(64);
        for parameters in [
            &[("MessageStatus", "sent")][..],
            &[("MessageSid", "SM1")],
            &[("MessageSid", "SM1"), ("MessageStatus", "")],
            &[("MessageSid", "S M"), ("MessageStatus", "sent")],
            &[("MessageSid", &long), ("MessageStatus", "sent")],
            &[("MessageSid", "SM1"), ("MessageStatus", "sent"), ("MessageStatus", "delivered")],
        ] {
            assert_eq!(said(parameters), Said::Nothing, "{parameters:?}");
        }
    }
}

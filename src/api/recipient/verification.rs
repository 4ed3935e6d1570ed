//! Codes that prove an address. They go straight to the provider within the call: a code
//! stands in clear nowhere but in this call and in the message itself.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use tokio::time::timeout_at;
use uuid::Uuid;

use super::fields::address;
use super::{Recipients, recipient_id, show};
use crate::api::convert::timestamp_to;
use crate::api::error::ApiError;
use crate::api::guard::Deadline;
use crate::api::proto;
use crate::config;
use crate::deliver::{CodeMessage, CodeSender, SendOutcome};
use crate::domain::{Channel, Reason, Redacted, Urgency};
use crate::metrics;
use crate::record::RecordError;
use crate::record::pauses;
use crate::record::recipients::{self, Attestation, CodeError, CodeFor, StartLimits, Touch};

/// Codes are the numbers below, with their leading zeros.
const CODES: u32 = 1_000_000;
const CODE_DIGITS: usize = 6;
/// When to come back to a provider that does not say it.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What codes are made and sent with.
#[derive(Debug)]
pub struct Codes {
    key: hmac::Key,
    sender: CodeSender,
    limits: StartLimits,
}

/// An address of a request, checked.
struct Asked {
    channel: Channel,
    address: Redacted<String>,
    mac: hmac::Tag,
}

impl Asked {
    fn code_for(&self) -> CodeFor<'_> {
        CodeFor { channel: self.channel, address: &self.address, address_mac: self.mac.as_ref() }
    }
}

impl Codes {
    /// `None`: no key is configured. `sender` is asked for only where there is one.
    ///
    /// # Errors
    /// Those of `sender`.
    pub fn new<E>(
        config: &config::App,
        sender: impl FnOnce() -> Result<CodeSender, E>,
    ) -> Result<Option<Arc<Self>>, E> {
        let secret = config.code_key.expose();
        if secret.is_empty() {
            return Ok(None);
        }
        let limits = StartLimits {
            per_address: config.codes_per_address_per_hour,
            per_caller: config.codes_per_caller_per_hour,
        };
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        Ok(Some(Arc::new(Self { key, sender: sender()?, limits })))
    }

    fn address_mac(&self, channel: Channel, address: &Redacted<String>) -> hmac::Tag {
        hmac::sign(&self.key, format!("address:{channel}:{}", address.expose()).as_bytes())
    }

    /// The id makes equal codes look different.
    fn code_text(id: Uuid, code: &Redacted<String>) -> String {
        format!("code:{id}:{}", code.expose())
    }

    fn code_mac(&self, id: Uuid, code: &Redacted<String>) -> hmac::Tag {
        hmac::sign(&self.key, Self::code_text(id, code).as_bytes())
    }

    /// Takes as long for every code.
    fn is_right(&self, id: Uuid, code: &Redacted<String>, stored: &[u8]) -> bool {
        hmac::verify(&self.key, Self::code_text(id, code).as_bytes(), stored).is_ok()
    }

    fn asked(&self, recipient: &str, channel: i32, text: String) -> Result<Asked, ApiError> {
        let mut faults = recipient_id(recipient);
        let point = address("", channel, text, &mut faults);
        faults.finish()?;
        let (channel, address) = point.ok_or_else(|| ApiError::invalid("channel", "is required"))?;
        let mac = self.address_mac(channel, &address);
        Ok(Asked { channel, address, mac })
    }
}

/// By the generator of the standard kind: seeded by the system, and not to be foretold.
fn draw() -> Redacted<String> {
    Redacted::new(format!("{:0CODE_DIGITS$}", rand::random_range(0..CODES)))
}

fn is_code(text: &str) -> bool {
    text.len() == CODE_DIGITS && text.bytes().all(|b| b.is_ascii_digit())
}

impl Recipients {
    fn codes(&self) -> Result<&Codes, ApiError> {
        self.codes.as_deref().ok_or_else(|| ApiError::Precondition {
            reason: "CODES_DISABLED",
            message: "this server sends no codes: app.code_key is not set".to_owned(),
        })
    }

    pub(super) async fn start_code(
        &self,
        caller: &str,
        deadline: Deadline,
        message: proto::RecipientServiceStartVerificationRequest,
    ) -> Result<proto::RecipientServiceStartVerificationResponse, ApiError> {
        let codes = self.codes()?;
        let asked = codes.asked(&message.recipient_id, message.channel, message.address)?;
        self.passable(codes, asked.channel).await?;
        let (id, code) = (Uuid::new_v4(), draw());
        let touch = Touch { recipient: &message.recipient_id, caller };
        let code_mac = codes.code_mac(id, &code);
        let new = (id, code_mac.as_ref());
        let started = recipients::start_code(&self.pool, touch, asked.code_for(), new, codes.limits)
            .await
            .inspect_err(|error| {
                if matches!(error, recipients::ChangeError::Code(CodeError::TooMany { .. })) {
                    metrics::verification(asked.channel, "too_many");
                }
            })?;
        let channel = asked.channel;
        let going = codes.sender.send(CodeMessage {
            id,
            recipient_id: touch.id(),
            channel,
            address: asked.address,
            locale: started.locale.unwrap_or_default(),
            code,
        });
        // What may have gone out stays valid.
        let outcome = timeout_at(deadline.for_work(), going).await.map_err(|_| ApiError::DeadlineExceeded)?;
        let outcome = outcome.map_err(|error| RecordError::bug(error.to_string()))?;
        metrics::verification(channel, outcome.as_str());
        if let Some(refusal) = refusal(channel, &outcome) {
            recipients::code_not_sent(&self.pool, id).await?;
            return Err(refusal);
        }
        let expires_at = Some(timestamp_to(started.expires_at));
        Ok(proto::RecipientServiceStartVerificationResponse { expires_at })
    }

    /// Nobody has switched the channel off, for good or for now.
    async fn passable(&self, codes: &Codes, channel: Channel) -> Result<(), ApiError> {
        if !codes.sender.enabled(channel) {
            let message = format!("{channel} is switched off");
            return Err(ApiError::Precondition { reason: "CHANNEL_DISABLED", message });
        }
        let paused = pauses::pauses(&self.pool).await?;
        if paused.iter().any(|pause| pause.holds(channel, Urgency::High)) {
            let message = format!("operators have paused {channel}; start again once it is resumed");
            return Err(ApiError::Precondition { reason: "CHANNEL_PAUSED", message });
        }
        Ok(())
    }

    pub(super) async fn confirm_code(
        &self,
        caller: &str,
        message: proto::RecipientServiceConfirmVerificationRequest,
    ) -> Result<proto::RecipientServiceConfirmVerificationResponse, ApiError> {
        let codes = self.codes()?;
        let asked = codes.asked(&message.recipient_id, message.channel, message.address)?;
        if !is_code(&message.code) {
            return Err(ApiError::invalid("code", "must be six digits"));
        }
        let code = Redacted::new(message.code);
        let how = match asked.channel {
            Channel::Sms => "code by text message",
            Channel::Email | Channel::Push => "code by e-mail",
        };
        let attestation = Attestation { by: caller.to_owned(), how: how.to_owned(), at: None };
        let touch = Touch { recipient: &message.recipient_id, caller };
        let is_right = |id: Uuid, stored: &[u8]| codes.is_right(id, &code, stored);
        let confirmed =
            recipients::confirm_code(&self.pool, touch, asked.code_for(), is_right, &attestation).await;
        match &confirmed {
            Ok(_) => metrics::verification(asked.channel, "confirmed"),
            Err(recipients::ChangeError::Code(CodeError::Wrong { .. })) => {
                metrics::verification(asked.channel, "wrong_code");
            }
            Err(_) => {}
        }
        let contact_point = Some(show::contact_point(confirmed?));
        Ok(proto::RecipientServiceConfirmVerificationResponse { contact_point })
    }
}

/// Why a code certainly went to nobody; `None`: it went, or may have gone.
fn refusal(channel: Channel, outcome: &SendOutcome) -> Option<ApiError> {
    match outcome {
        SendOutcome::Sent { .. } | SendOutcome::Ambiguous(_) => None,
        SendOutcome::Permanent(Reason::ChannelDisabled) => Some(ApiError::Precondition {
            reason: "CHANNEL_DISABLED",
            message: format!("{channel} is switched off"),
        }),
        SendOutcome::Permanent(reason) => Some(ApiError::Precondition {
            reason: "ADDRESS_REFUSED",
            message: format!("the provider does not write to this address ({reason})"),
        }),
        SendOutcome::Transient { after, .. } => {
            Some(ApiError::ProviderAway { channel, retry_after: after.unwrap_or(RETRY_AFTER) })
        }
        SendOutcome::Throttled { after } => Some(ApiError::ProviderAway { channel, retry_after: *after }),
    }
}

/// What a caller is told of a code that proves nothing.
pub(super) fn told(error: &CodeError) -> ApiError {
    let reason = match error {
        CodeError::Unknown => return ApiError::NotFound("verification"),
        CodeError::Wrong { left } => return ApiError::WrongCode { tries_left: *left },
        CodeError::TooMany { whose, limit, retry_after } => {
            return ApiError::OverQuota {
                subject: whose.clone(),
                limit: format!("{limit} codes an hour"),
                retry_after: *retry_after,
            };
        }
        CodeError::Expired => "CODE_EXPIRED",
        CodeError::Used => "CODE_USED",
        CodeError::Void(_) => "CODE_VOID",
    };
    ApiError::Precondition { reason, message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_six_digits_and_differ() {
        let drawn: std::collections::HashSet<String> = (0..200).map(|_| draw().into_exposed()).collect();
        assert!(drawn.iter().all(|code| is_code(code)), "{drawn:?}");
        assert!(drawn.len() > 190, "{}", drawn.len());
        for bad in ["", "12345", "1234567", "12345a", "12 345", "\u{661}\u{662}\u{663}"] {
            assert!(!is_code(bad), "{bad}");
        }
    }

    #[test]
    fn only_what_certainly_went_to_nobody_is_refused() {
        let after = Duration::from_secs(7);
        assert!(refusal(Channel::Sms, &SendOutcome::Sent { provider_message_id: "SM1".into() }).is_none());
        assert!(refusal(Channel::Sms, &SendOutcome::Ambiguous(Reason::ProviderTimeout)).is_none());
        let told = |outcome| refusal(Channel::Sms, &outcome).unwrap().into_status();
        for (outcome, reason) in [
            (SendOutcome::Permanent(Reason::OptedOut), "ADDRESS_REFUSED"),
            (SendOutcome::Permanent(Reason::ChannelDisabled), "CHANNEL_DISABLED"),
            (SendOutcome::Throttled { after }, "PROVIDER_UNAVAILABLE"),
            (SendOutcome::Transient { reason: Reason::ProviderError, after: None }, "PROVIDER_UNAVAILABLE"),
        ] {
            let status = told(outcome);
            let info = tonic_types::StatusExt::get_details_error_info(&status).unwrap();
            assert_eq!(info.reason, reason);
        }
    }
}

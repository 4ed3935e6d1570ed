//! What an SMTP reply, or the lack of one, means at each stage of the dialogue.

use std::time::Duration;

use lettre::transport::smtp::Error as SmtpError;

use crate::deliver::SendOutcome;
use crate::domain::Reason;

/// Pause after 421 or a 4.7.x (rate, greylisting): SMTP has no `Retry-After`.
const THROTTLE_PAUSE: Duration = Duration::from_secs(30);

/// Where in the dialogue something went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Connection, greeting, EHLO, STARTTLS.
    Connect,
    /// AUTH.
    Auth,
    /// MAIL and the DATA command.
    Envelope,
    /// RCPT.
    Recipient,
    /// The message itself and the answer to it.
    Content,
}

/// Nobody was reached, so nothing was sent.
pub(super) const fn unreachable_now() -> SendOutcome {
    SendOutcome::Transient { reason: Reason::ProviderUnreachable, after: None }
}

/// The outcome of an error at a stage.
pub(super) fn failure(stage: Stage, error: &SmtpError) -> SendOutcome {
    let Some(code) = error.status() else {
        return match stage {
            Stage::Content => SendOutcome::Ambiguous(Reason::ProviderTimeout),
            // The server offers no way to log in that we know.
            Stage::Auth if error.is_client() => {
                SendOutcome::Transient { reason: Reason::ProviderCredentials, after: None }
            }
            Stage::Connect | Stage::Auth | Stage::Envelope | Stage::Recipient if error.is_client() => {
                SendOutcome::Transient { reason: Reason::ProviderError, after: None }
            }
            Stage::Connect | Stage::Auth | Stage::Envelope | Stage::Recipient => unreachable_now(),
        };
    };
    let text = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    refusal(stage, u16::from(code), enhanced_code(&text))
}

/// The enhanced status code (RFC 3463) at the head of a reply's text.
fn enhanced_code(text: &str) -> Option<(u16, u16, u16)> {
    let mut parts = text.split_whitespace().next()?.split('.').map(str::parse::<u16>);
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(Ok(class @ (2 | 4 | 5))), Some(Ok(subject)), Some(Ok(detail)), None) => {
            Some((class, subject, detail))
        }
        _ => None,
    }
}

/// What a negative reply means. A policy refusal (5.7.x) of a recipient says
/// nothing of the address, so it does not count as an invalid one.
fn refusal(stage: Stage, code: u16, enhanced: Option<(u16, u16, u16)>) -> SendOutcome {
    let transient = |reason| SendOutcome::Transient { reason, after: None };
    match (code, enhanced, stage) {
        (421, _, _) | (400..=499, Some((_, 7, _)), _) => SendOutcome::Throttled { after: THROTTLE_PAUSE },
        (530 | 534 | 535 | 538, _, _) | (_, _, Stage::Auth) => transient(Reason::ProviderCredentials),
        (400..=499, _, _) | (500..=599, _, Stage::Connect) => transient(Reason::ProviderError),
        (_, Some((5, 1, _) | (5, 2, 1)), Stage::Recipient | Stage::Content)
        | (550 | 551 | 553, None, Stage::Recipient) => SendOutcome::Permanent(Reason::InvalidAddress),
        (500..=599, _, _) => SendOutcome::Permanent(Reason::ProviderRefused),
        _ => transient(Reason::ProviderError),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reply_has_its_class() {
        use SendOutcome::{Permanent, Throttled, Transient};
        let transient = |reason| Transient { reason, after: None };
        let throttled = Throttled { after: THROTTLE_PAUSE };
        let cases = [
            (Stage::Recipient, 550, "5.1.1 no such user", Permanent(Reason::InvalidAddress)),
            (Stage::Recipient, 550, "no such user", Permanent(Reason::InvalidAddress)),
            (Stage::Recipient, 553, "5.1.3 bad syntax", Permanent(Reason::InvalidAddress)),
            (Stage::Recipient, 550, "5.7.1 relaying denied", Permanent(Reason::ProviderRefused)),
            (Stage::Recipient, 552, "5.2.2 mailbox full", Permanent(Reason::ProviderRefused)),
            (Stage::Envelope, 550, "sender refused", Permanent(Reason::ProviderRefused)),
            (Stage::Content, 554, "5.6.0 content refused", Permanent(Reason::ProviderRefused)),
            (Stage::Recipient, 452, "4.2.2 mailbox full", transient(Reason::ProviderError)),
            (Stage::Content, 451, "4.3.0 try later", transient(Reason::ProviderError)),
            (Stage::Recipient, 450, "4.7.1 greylisted", throttled.clone()),
            (Stage::Envelope, 421, "too many", throttled),
            (Stage::Auth, 535, "5.7.8 bad credentials", transient(Reason::ProviderCredentials)),
            (Stage::Envelope, 530, "5.7.0 authenticate first", transient(Reason::ProviderCredentials)),
            (Stage::Connect, 554, "no service", transient(Reason::ProviderError)),
        ];
        for (stage, code, text, expected) in cases {
            assert_eq!(refusal(stage, code, enhanced_code(text)), expected, "{stage:?} {code} {text}");
        }
    }
}

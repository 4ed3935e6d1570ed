//! The outside: SMS, e-mail and push providers, and the words that they carry.
//!
//! A provider is an enum, not a trait: there are three, and tests use stub
//! servers that speak the real protocols.

pub mod breaker;
pub mod callback;
pub mod catalog;
pub mod codes;
mod fcm;
mod google;
mod gsm7;
mod http;
mod providers;
pub mod render;
mod smtp;
mod templates;
mod twilio;
pub mod unsubscribe;
mod variables;

#[cfg(test)]
mod tests;

pub use codes::{CodeMessage, CodeSender};
pub use providers::{DeliverError, Fault, Providers, provider_name};
pub use render::{RenderError, Renderer};
pub use twilio::CALLBACK_OVERRIDES as TWILIO_CALLBACK_OVERRIDES;
pub use unsubscribe::UnsubscribeLinks;

use std::time::Duration;

use crate::domain::{Channel, DeliveryId, Purpose, Reason, RecipientId, Redacted, Urgency};

/// What goes to a provider. One delivery, one attempt group: within a group the
/// provider sees the same key, so that a repeat can be recognised.
#[derive(Debug, Clone)]
pub struct Message {
    /// Which delivery.
    pub delivery_id: DeliveryId,
    /// Who gets it, and what for: what a link in it may end.
    pub recipient_id: RecipientId,
    /// See `recipient_id`.
    pub purpose: Purpose,
    /// Grows when a repeat is known to be a new attempt, not the same one.
    pub attempt_group: i32,
    /// Bulk takes at most half of a provider's calls.
    pub urgency: Urgency,
    /// Phone number, mailbox or device token.
    pub address: Redacted<String>,
    /// What the recipient reads.
    pub content: Content,
}

/// Words of a message, by channel.
#[derive(Debug, Clone)]
pub enum Content {
    /// At most 160 GSM-7 characters.
    Sms {
        /// The whole text.
        body: Redacted<String>,
    },
    /// Plain text and HTML.
    Email {
        /// Subject line.
        subject: Redacted<String>,
        /// Plain text part.
        text: Redacted<String>,
        /// HTML part.
        html: Redacted<String>,
    },
    /// What a lock screen may show: nothing that says why.
    Push {
        /// First line.
        title: Redacted<String>,
        /// Second line.
        body: Redacted<String>,
        /// What a tap opens.
        link: String,
    },
}

impl Content {
    /// The channel that carries it.
    #[must_use]
    pub const fn channel(&self) -> Channel {
        match self {
            Self::Sms { .. } => Channel::Sms,
            Self::Email { .. } => Channel::Email,
            Self::Push { .. } => Channel::Push,
        }
    }
}

/// What came of one call to a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SendOutcome {
    /// The provider has it.
    Sent {
        /// The provider's id of the message.
        provider_message_id: String,
    },
    /// Never on this address.
    Permanent(Reason),
    /// Not now; certainly not sent.
    Transient {
        /// Why.
        reason: Reason,
        /// The provider's own wish of a pause.
        after: Option<Duration>,
    },
    /// Asked to slow down; certainly not sent, and not an attempt.
    Throttled {
        /// The pause that it asked for.
        after: Duration,
    },
    /// The bytes left and no answer came: it may have been sent.
    Ambiguous(Reason),
}

impl SendOutcome {
    /// The metric label.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Sent { .. } => "sent",
            Self::Permanent(_) => "permanent",
            Self::Transient { .. } => "transient",
            Self::Throttled { .. } => "throttled",
            Self::Ambiguous(_) => "ambiguous",
        }
    }
}

/// What a provider's own records say of an unknown outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookUp {
    /// It was sent, under this id.
    Found {
        /// The provider's id of the message.
        provider_message_id: String,
    },
    /// It was not sent.
    NotFound,
    /// This provider cannot be asked.
    Unsupported,
    /// It can, but not now.
    Unavailable(Reason),
}

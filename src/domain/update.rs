//! What becomes known about a delivery, a notification or a recipient after a
//! message was handed to a provider.

use jiff::Timestamp;

use super::ids::{DeliveryId, NotificationId, PatientId};
use super::notification::{Channel, Purpose};

super::notification::words! {
    /// What a provider says of a message; [`Receipt`](super::Receipt) orders them.
    ReceiptStatus {
        /// The provider has it, in a queue or not.
        Accepted = "accepted",
        /// It left the provider.
        Sent = "sent",
        /// It arrived.
        Delivered = "delivered",
        /// It arrived, and the recipient called it spam.
        Complained = "complained",
        /// It did not arrive.
        Undelivered = "undelivered",
        /// The provider could not send it.
        Failed = "failed",
        /// The mailbox sent it back.
        Bounced = "bounced",
        /// The device or mailbox is gone.
        TokenInvalid = "token_invalid",
    }
}

super::notification::words! {
    /// What a recipient did; greater says more. An axis of its own beside the state.
    Engagement {
        /// It was shown.
        Seen = "seen",
        /// It was opened.
        Read = "read",
        /// Its link was followed.
        Acted = "acted",
    }
}

/// Which delivery an update is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DeliveryRef {
    /// By our id.
    Id(DeliveryId),
    /// By the provider's id of the message, at most 256 characters.
    ProviderMessage(String),
}

/// What became known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// A provider's word about a delivery.
    Receipt {
        /// Which one.
        delivery: DeliveryRef,
        /// The word. `TokenInvalid` also retires the address.
        status: ReceiptStatus,
        /// The provider's own code, at most 64 characters.
        code: Option<String>,
    },
    /// The recipient did something with a notification.
    Engaged {
        /// Which one.
        notification_id: NotificationId,
        /// What.
        engagement: Engagement,
    },
    /// The recipient's consent changed.
    Consent {
        /// Whose, by the portal's identifier; see [`RecipientId::from_external`](super::RecipientId::from_external).
        recipient: String,
        /// On which channel; `None`: on all.
        channel: Option<Channel>,
        /// For which purpose; `None`: for all.
        purpose: Option<Purpose>,
        /// True for an opt-in.
        granted: bool,
    },
    /// Whoever asked for a notification takes it back.
    Cancelled {
        /// Which one.
        notification_id: NotificationId,
    },
    /// A newer writer says something that this version does not know.
    Unknown,
}

impl Fact {
    /// Its kind: a metric label, and the word in the database.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Receipt { .. } => "receipt",
            Self::Engaged { .. } => "engaged",
            Self::Consent { .. } => "consent",
            Self::Cancelled { .. } => "cancelled",
            Self::Unknown => "unknown",
        }
    }
}

/// A decoded record of `pat.notification-updates.v1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotificationUpdate {
    /// The same update again has the same one; opaque.
    pub update_id: String,
    /// When it happened, by the source's clock.
    pub occurred_at: Timestamp,
    /// Who says so: a provider, a portal, a caller; opaque.
    pub source: String,
    /// Whom it is about, where that is known.
    pub patient_id: Option<PatientId>,
    /// What became known.
    pub fact: Fact,
}

impl NotificationUpdate {
    /// The record's key on the topic: the patient where the source knows whom it is
    /// about, else what it names.
    #[must_use]
    pub fn key(&self) -> String {
        if let Some(patient_id) = &self.patient_id {
            return patient_id.as_str().to_owned();
        }
        match &self.fact {
            Fact::Engaged { notification_id, .. } | Fact::Cancelled { notification_id } => {
                notification_id.to_string()
            }
            Fact::Receipt { delivery: DeliveryRef::Id(delivery_id), .. } => delivery_id.to_string(),
            Fact::Receipt { delivery: DeliveryRef::ProviderMessage(message_id), .. } => message_id.clone(),
            Fact::Consent { recipient, .. } => recipient.clone(),
            Fact::Unknown => self.update_id.clone(),
        }
    }
}

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
        /// True for an opt-in. One for all purposes only takes back a refusal of all of
        /// them: what was refused by itself, or never agreed to, stays as it was.
        granted: bool,
    },
    /// A notification is taken back.
    Cancelled {
        /// Which one.
        notification_id: NotificationId,
        /// It counts only when this caller asked for it; `None`: whoever did.
        caller: Option<String>,
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
    /// about, else what it names by an identifier of ours or of the portal.
    #[must_use]
    pub fn key(&self) -> String {
        if let Some(patient_id) = &self.patient_id {
            return patient_id.as_str().to_owned();
        }
        match &self.fact {
            Fact::Engaged { notification_id, .. } | Fact::Cancelled { notification_id, .. } => {
                notification_id.to_string()
            }
            Fact::Receipt { delivery: DeliveryRef::Id(delivery_id), .. } => delivery_id.to_string(),
            Fact::Consent { recipient, .. } => recipient.clone(),
            // Nobody vouches for what a provider puts into its ids, and keys are not secret.
            Fact::Receipt { delivery: DeliveryRef::ProviderMessage(_), .. } | Fact::Unknown => {
                self.update_id.clone()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_is_the_patient_or_what_is_named_and_never_a_providers_word() {
        let notification_id = NotificationId::for_request("portal", "key-1");
        let delivery_id = DeliveryId::for_channel(notification_id, Channel::Sms);
        let receipt = |delivery| Fact::Receipt { delivery, status: ReceiptStatus::Sent, code: None };
        let recipient = "rcp-1".to_owned();
        for (fact, key) in [
            (Fact::Cancelled { notification_id, caller: None }, notification_id.to_string()),
            (Fact::Engaged { notification_id, engagement: Engagement::Read }, notification_id.to_string()),
            (receipt(DeliveryRef::Id(delivery_id)), delivery_id.to_string()),
            (receipt(DeliveryRef::ProviderMessage("jane@example.org".to_owned())), "upd-1".to_owned()),
            (Fact::Consent { recipient, channel: None, purpose: None, granted: false }, "rcp-1".to_owned()),
            (Fact::Unknown, "upd-1".to_owned()),
        ] {
            let mut update = NotificationUpdate {
                update_id: "upd-1".to_owned(),
                occurred_at: Timestamp::UNIX_EPOCH,
                source: "portal".to_owned(),
                patient_id: None,
                fact,
            };
            assert_eq!(update.key(), key);
            update.patient_id = PatientId::parse("pat-1");
            assert_eq!(update.key(), "pat-1");
        }
    }
}

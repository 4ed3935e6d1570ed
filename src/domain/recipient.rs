//! Who may be written to, where, and when.

use jiff::civil::Time;

use super::ids::RecipientId;
use super::notification::{Channel, Purpose};
use super::redacted::Redacted;

super::notification::words! {
    /// What a recipient is to the patient.
    Relation {
        /// The patient.
        Patient = "patient",
        /// Somebody who acts for the patient.
        Proxy = "proxy",
    }
}

/// Times of day between which a recipient is left in peace, in the recipient's
/// own zone; `start` after `end` runs over midnight, equal means never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuietHours {
    /// First minute of peace.
    pub start: Time,
    /// First minute after it.
    pub end: Time,
}

/// A verified address on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactPoint {
    /// Where it belongs.
    pub channel: Channel,
    /// Phone number (E.164), mailbox, or device token.
    pub address: Redacted<String>,
}

/// Everything about a recipient that a plan depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipient {
    /// Ours.
    pub id: RecipientId,
    /// The portal's.
    pub external_id: String,
    /// What the recipient is to the patient.
    pub relation: Relation,
    /// BCP 47 tag; `None`: the default.
    pub locale: Option<String>,
    /// IANA time zone; `None`: the default.
    pub time_zone: Option<String>,
    /// `None`: the default.
    pub quiet_hours: Option<QuietHours>,
    /// Order of channels; empty: the default.
    pub channel_order: Vec<Channel>,
    /// Verified and not retired; the best of a channel first.
    pub contact_points: Vec<ContactPoint>,
    /// The newest entry of the consent ledger for each (channel, purpose) that has one.
    pub consents: Vec<(Channel, Purpose, bool)>,
    /// Content and addresses are gone.
    pub erased: bool,
}

impl Recipient {
    /// May this purpose use this channel? The ledger's newest entry decides.
    /// Without one, care messages are allowed and campaigns are not.
    #[must_use]
    pub fn consents_to(&self, channel: Channel, purpose: Purpose) -> bool {
        self.consents
            .iter()
            .find(|(c, p, _)| *c == channel && *p == purpose)
            .map_or(purpose != Purpose::Campaign, |(_, _, granted)| *granted)
    }

    /// The best address on a channel.
    #[must_use]
    pub fn contact_point(&self, channel: Channel) -> Option<&ContactPoint> {
        self.contact_points.iter().find(|point| point.channel == channel)
    }
}

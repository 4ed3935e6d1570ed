//! Who may be written to, where, and when.

use jiff::Timestamp;
use jiff::civil::Time;

use super::ids::RecipientId;
use super::notification::{Channel, Purpose, words};
use super::redacted::Redacted;

words! {
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

/// What a recipient who is not the patient may hear, and when. The default limits
/// nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Nothing before this time.
    pub valid_from: Option<Timestamp>,
    /// Nothing from this time on.
    pub valid_until: Option<Timestamp>,
    /// These only; empty: everything.
    pub purposes: Vec<Purpose>,
    /// When it was granted; `None`: nobody knows.
    pub granted_at: Option<Timestamp>,
    /// The patient granted it, and nobody in the patient's stead.
    pub granted_by_patient: bool,
    /// When the patient comes or came of age; `None`: long ago.
    pub of_age_at: Option<Timestamp>,
}

impl Access {
    /// From when on nothing is heard: the end that was set, or the patient's coming
    /// of age, unless the patient granted it at that time or later.
    #[must_use]
    pub fn ends_at(&self) -> Option<Timestamp> {
        let outlives = |of_age_at: &Timestamp| {
            self.granted_by_patient && self.granted_at.is_some_and(|granted| granted >= *of_age_at)
        };
        let of_age_at = self.of_age_at.filter(|at| !outlives(at));
        [self.valid_until, of_age_at].into_iter().flatten().min()
    }
}

words! {
    /// What a device runs.
    Platform {
        /// Android.
        Android = "android",
        /// iOS or iPadOS.
        Ios = "ios",
        /// A browser.
        Web = "web",
    }
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
    /// What a proxy may hear; `None`: the recipient is not linked to the patient.
    pub access: Option<Access>,
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

//! Links by which a recipient ends one kind of e-mail without logging in (RFC 8058).
//!
//! A link's token says by itself whose e-mail of which purpose it ends, and is signed:
//! nothing is stored, and nobody can make one for somebody else. It names no address and
//! no patient, because links travel through mail servers and logs.

use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::config::Email;
use crate::domain::{Channel, Purpose, RecipientId};

/// How long a link works: longer than a mail is kept in sight.
const TOKEN_LIFE: SignedDuration = SignedDuration::from_hours(400 * 24);
/// The layout of a token: version, key id, channel, purpose, expiry, recipient, MAC.
const VERSION: u8 = 1;
const KEY_ID_BYTES: usize = 4;
const SIGNED_BYTES: usize = 1 + KEY_ID_BYTES + 1 + 1 + 4 + 16;
const MAC_BYTES: usize = 16;

/// What a link ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscription {
    /// Whose.
    pub recipient_id: RecipientId,
    /// On which channel.
    pub channel: Channel,
    /// Messages for this purpose.
    pub purpose: Purpose,
}

impl Subscription {
    /// May one click end it? Not test results, and not the answer to what the patient
    /// has just booked: whoever wants none of these says so in the portal.
    #[must_use]
    pub const fn ends_by_click(self) -> bool {
        match self.purpose {
            Purpose::Campaign | Purpose::General | Purpose::AppointmentReminder => true,
            Purpose::TestResult | Purpose::AppointmentConfirmation => false,
        }
    }
}

struct Key {
    id: [u8; KEY_ID_BYTES],
    key: hmac::Key,
}

impl Key {
    /// `None` for an empty secret, by which anybody could sign.
    fn of(secret: &str) -> Option<Self> {
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&digest::digest(&digest::SHA256, secret.as_bytes()).as_ref()[..KEY_ID_BYTES]);
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        (!secret.is_empty()).then_some(Self { id, key })
    }

    fn mac(&self, signed: &[u8]) -> [u8; MAC_BYTES] {
        let mut mac = [0; MAC_BYTES];
        mac.copy_from_slice(&hmac::sign(&self.key, signed).as_ref()[..MAC_BYTES]);
        mac
    }
}

/// Makes links, and reads their tokens.
pub struct UnsubscribeLinks {
    base_url: String,
    current: Key,
    /// Links of before the last change of the key still work.
    previous: Option<Key>,
}

impl UnsubscribeLinks {
    /// `None` without a key.
    #[must_use]
    pub fn from_config(config: &Email) -> Option<Self> {
        Some(Self {
            base_url: config.unsubscribe_base_url.trim_end_matches('/').to_owned(),
            current: Key::of(config.unsubscribe_key.expose())?,
            previous: Key::of(config.unsubscribe_previous_key.expose()),
        })
    }

    /// The link; `None` when there is no address for it, or no link may end this.
    #[must_use]
    pub fn url(&self, what: Subscription, now: Timestamp) -> Option<String> {
        let wanted = !self.base_url.is_empty() && what.ends_by_click();
        wanted.then(|| format!("{}/webhooks/unsubscribe/{}", self.base_url, self.token(what, now)))
    }

    fn token(&self, what: Subscription, now: Timestamp) -> String {
        let until = now.saturating_add(TOKEN_LIFE).unwrap_or(Timestamp::MAX).as_second();
        let mut bytes = Vec::with_capacity(SIGNED_BYTES + MAC_BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.current.id);
        bytes.push(channel_code(what.channel));
        bytes.push(purpose_code(what.purpose));
        bytes.extend_from_slice(&u32::try_from(until).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(what.recipient_id.0.as_bytes());
        bytes.extend_from_slice(&self.current.mac(&bytes));
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What a token ends; `None` when it is not ours, or has expired.
    #[must_use]
    pub fn read(&self, token: &str, now: Timestamp) -> Option<Subscription> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(token).ok()?;
        if bytes.len() != SIGNED_BYTES + MAC_BYTES || bytes[0] != VERSION {
            return None;
        }
        let (signed, mac) = bytes.split_at(SIGNED_BYTES);
        let (id, rest) = signed[1..].split_at(KEY_ID_BYTES);
        let key = std::iter::once(&self.current).chain(&self.previous).find(|key| key.id == id)?;
        aws_lc_rs::constant_time::verify_slices_are_equal(&key.mac(signed), mac).ok()?;
        let (codes, rest) = rest.split_at(2);
        let (until, recipient) = rest.split_at(4);
        let until = u32::from_be_bytes(until.try_into().ok()?);
        let what = Subscription {
            recipient_id: RecipientId(Uuid::from_slice(recipient).ok()?),
            channel: Channel::ALL.iter().copied().find(|one| channel_code(*one) == codes[0])?,
            purpose: Purpose::ALL.iter().copied().find(|one| purpose_code(*one) == codes[1])?,
        };
        (now.as_second() <= i64::from(until)).then_some(what)
    }
}

/// Stands in links that are out in the world: never to be changed.
const fn channel_code(channel: Channel) -> u8 {
    match channel {
        Channel::Sms => 1,
        Channel::Email => 2,
        Channel::Push => 3,
    }
}

/// As [`channel_code`].
const fn purpose_code(purpose: Purpose) -> u8 {
    match purpose {
        Purpose::TestResult => 1,
        Purpose::AppointmentReminder => 2,
        Purpose::AppointmentConfirmation => 3,
        Purpose::General => 4,
        Purpose::Campaign => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn links(key: &str, previous: &str) -> UnsubscribeLinks {
        let mut email = Config::from_defaults().email;
        email.unsubscribe_base_url = "https://notify.example.org/".to_owned();
        email.unsubscribe_key = key.to_owned().into();
        email.unsubscribe_previous_key = previous.to_owned().into();
        UnsubscribeLinks::from_config(&email).unwrap()
    }

    fn subscription(purpose: Purpose) -> Subscription {
        Subscription { recipient_id: RecipientId::from_external("pat-1"), channel: Channel::Email, purpose }
    }

    fn token(links: &UnsubscribeLinks, purpose: Purpose) -> String {
        let url = links.url(subscription(purpose), NOW).unwrap();
        url.strip_prefix("https://notify.example.org/webhooks/unsubscribe/").unwrap().to_owned()
    }

    #[test]
    fn a_link_is_read_back_and_lasts_for_a_year() {
        let links = links("key-1", "");
        for purpose in [Purpose::Campaign, Purpose::General, Purpose::AppointmentReminder] {
            let token = token(&links, purpose);
            assert!(token.len() < 64 && !token.contains("pat"), "{token}");
            let day = SignedDuration::from_hours(24);
            assert_eq!(links.read(&token, NOW + day * 366), Some(subscription(purpose)));
            assert_eq!(links.read(&token, NOW + day * 401), None);
        }
    }

    #[test]
    fn results_are_not_ended_by_a_click() {
        let links = links("key-1", "");
        for purpose in [Purpose::TestResult, Purpose::AppointmentConfirmation] {
            assert_eq!(links.url(subscription(purpose), NOW), None, "{purpose}");
        }
    }

    #[test]
    fn whatever_is_changed_is_noticed() {
        let links = links("key-1", "");
        let good = BASE64_URL_SAFE_NO_PAD.decode(token(&links, Purpose::Campaign)).unwrap();
        for at in 0..good.len() {
            let mut changed = good.clone();
            changed[at] ^= 1;
            assert_eq!(links.read(&BASE64_URL_SAFE_NO_PAD.encode(&changed), NOW), None, "byte {at}");
            assert_eq!(links.read(&BASE64_URL_SAFE_NO_PAD.encode(&good[..at]), NOW), None, "{at} bytes");
        }
        for other in ["", "x", "%", &"A".repeat(10_000)] {
            assert_eq!(links.read(other, NOW), None);
        }
    }

    #[test]
    fn links_outlive_one_change_of_the_key() {
        let old = token(&links("key-1", ""), Purpose::Campaign);
        assert!(links("key-2", "key-1").read(&old, NOW).is_some());
        assert!(links("key-3", "key-2").read(&old, NOW).is_none());
        assert!(UnsubscribeLinks::from_config(&Config::from_defaults().email).is_none(), "no key, no links");
    }
}

//! Checks of requests; every fault of a request is reported at once.

use std::str::FromStr as _;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use tonic::metadata::MetadataMap;
use tonic_types::FieldViolation;
use uuid::Uuid;

use super::error::ApiError;
use crate::domain::ids::{is_opaque, is_own_caller};
use crate::domain::{Channel, NotificationId, PatientId};

/// Metadata entry with the caller's name, where callers are not authenticated.
pub(super) const CALLER_ENTRY: &str = "x-caller";
/// The caller's name where there is no such entry.
const CALLER_DEFAULT: &str = "local";
/// How far a caller's clock may be ahead of ours.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(5);
/// Records on the topics have no earlier times.
pub const EARLIEST: Timestamp = Timestamp::constant(946_684_800, 0);
/// Longest mailbox (RFC 5321).
const MAILBOX_MAX_BYTES: usize = 254;
/// Longest device token: a longer one does not fit an index entry of the database.
const PUSH_TOKEN_MAX_BYTES: usize = 2048;

const OPAQUE: &str = "must be 1 to 64 characters of A-Z a-z 0-9 . _ : -";

/// The faults found so far. Descriptions never repeat a value: it may be health
/// information.
#[derive(Debug, Default)]
pub struct Violations(Vec<FieldViolation>);

impl Violations {
    /// Notes a fault.
    pub fn add(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.0.push(FieldViolation::new(field, description));
    }

    /// Notes a fault unless `holds`.
    pub fn require(&mut self, holds: bool, field: &str, description: &str) {
        if !holds {
            self.add(field, description);
        }
    }

    /// Ends the checks.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] with all faults, when there is one.
    pub fn finish(self) -> Result<(), ApiError> {
        if self.0.is_empty() { Ok(()) } else { Err(ApiError::Invalid(self.0)) }
    }

    /// An identifier from outside.
    pub fn opaque(&mut self, field: &str, text: &str) {
        let description = if text.is_empty() { "is required" } else { OPAQUE };
        self.require(is_opaque(text), field, description);
    }

    /// A patient's identifier; `None` when it is faulty, which is noted.
    pub fn patient_id(&mut self, field: &str, text: &str) -> Option<PatientId> {
        self.opaque(field, text);
        PatientId::parse(text)
    }

    /// A notification's identifier; the nil UUID when it is faulty, which is noted.
    pub fn notification_id(&mut self, field: &str, text: &str) -> NotificationId {
        let id = Uuid::try_parse(text);
        self.require(id.is_ok(), field, "must be a UUID, as Send answered it");
        NotificationId(id.unwrap_or_default())
    }

    /// A word of the contract that may be left out; `None` also for an unknown
    /// number, which is noted.
    pub fn word<P, D>(&mut self, field: &str, number: i32, convert: fn(P) -> Option<D>) -> Option<D>
    where
        P: TryFrom<i32>,
    {
        match P::try_from(number) {
            Ok(word) => convert(word),
            Err(_) => {
                self.add(field, "has a number that the contract does not know");
                None
            }
        }
    }

    /// A word of the contract that must be there; `None` when it is faulty, which is noted.
    pub fn required_word<P, D>(&mut self, field: &str, number: i32, convert: fn(P) -> Option<D>) -> Option<D>
    where
        P: TryFrom<i32>,
    {
        self.require(number != 0, field, "is required");
        self.word(field, number, convert)
    }

    /// Channels in order, none unspecified, none twice.
    pub fn channels(&mut self, field: &str, numbers: &[i32]) -> Vec<Channel> {
        let mut channels = Vec::new();
        // Beyond this there is certainly one named twice; it bounds the answer.
        for (index, &number) in numbers.iter().enumerate().take(Channel::ALL.len() + 1) {
            let field = format!("{field}[{index}]");
            if let Some(channel) = self.required_word(&field, number, super::convert::channel_from) {
                self.require(!channels.contains(&channel), &field, "names a channel a second time");
                channels.push(channel);
            }
        }
        channels
    }

    /// A time that may be absent; `None` also when it is out of range, which is noted.
    pub fn timestamp(&mut self, field: &str, time: Option<prost_types::Timestamp>) -> Option<Timestamp> {
        let time = time?;
        let valid = (0..1_000_000_000).contains(&time.nanos);
        let converted = Timestamp::new(time.seconds, time.nanos).ok().filter(|_| valid);
        self.require(converted.is_some(), field, "is not a valid time");
        converted
    }

    /// A time that has passed, allowing for clocks that differ.
    pub fn past(&mut self, field: &str, time: Option<Timestamp>, now: Timestamp) {
        let late = time.is_some_and(|time| time.duration_since(now) > CLOCK_SKEW);
        self.require(!late, field, "must not be in the future");
    }

    /// An IANA zone that must be there, in its canonical spelling; empty when it is
    /// faulty, which is noted.
    pub fn time_zone(&mut self, field: &str, name: &str) -> String {
        let zone = TimeZone::get(name).ok().filter(|zone| !zone.is_unknown());
        let known = zone.as_ref().and_then(TimeZone::iana_name);
        self.require(known.is_some(), field, "must be an IANA time zone, for example Europe/Vienna");
        known.unwrap_or_default().to_owned()
    }

    /// Text on one line, at most so many characters.
    pub fn line(&mut self, field: &str, text: &str, max_chars: usize) {
        let short = text.chars().count() <= max_chars;
        self.require(short, field, &format!("has more than {max_chars} characters"));
        self.require(!text.chars().any(char::is_control), field, "has a control character");
    }

    /// The caller's name.
    pub fn caller(&mut self, metadata: &MetadataMap) -> String {
        let Some(entry) = metadata.get(CALLER_ENTRY) else {
            return CALLER_DEFAULT.to_owned();
        };
        let name = entry.to_str().unwrap_or_default();
        self.opaque(CALLER_ENTRY, name);
        let own = "is a name of the service's own; no caller may have it";
        self.require(!is_own_caller(name), CALLER_ENTRY, own);
        name.to_owned()
    }

    /// An address in the form of its channel.
    pub fn address(&mut self, field: &str, channel: Channel, address: &str) {
        let (valid, description) = match channel {
            Channel::Sms => (is_e164(address), "must be a phone number in E.164 form: + and 8 to 15 digits"),
            Channel::Email => (is_mailbox(address), "must be a mailbox, name@example.org"),
            Channel::Push => {
                (is_push_token(address), "must be a device token of 1 to 2048 visible ASCII characters")
            }
        };
        self.require(valid, field, description);
    }
}

/// E.164: a country code, which has no leading zero, and a number; 8 to 15 digits.
fn is_e164(text: &str) -> bool {
    text.strip_prefix('+').is_some_and(|digits| {
        (8..=15).contains(&digits.len())
            && digits.bytes().all(|b| b.is_ascii_digit())
            && !digits.starts_with('0')
    })
}

fn is_mailbox(text: &str) -> bool {
    text.len() <= MAILBOX_MAX_BYTES && lettre::Address::from_str(text).is_ok()
}

fn is_push_token(text: &str) -> bool {
    (1..=PUSH_TOKEN_MAX_BYTES).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(check: impl FnOnce(&mut Violations)) -> usize {
        let mut violations = Violations::default();
        check(&mut violations);
        match violations.finish() {
            Err(ApiError::Invalid(all)) => all.len(),
            _ => 0,
        }
    }

    #[test]
    fn addresses_have_the_form_of_their_channel() {
        let good = [
            (Channel::Sms, "+15550100001"),
            (Channel::Email, "jane.doe+portal@mail.example.org"),
            (Channel::Push, "fGh7:APA91b-_x"),
        ];
        let long = "x".repeat(2049);
        let bad = [
            (Channel::Sms, "15550100001"),
            (Channel::Sms, "+0555010000"),
            (Channel::Sms, "+1555"),
            (Channel::Sms, "+1 555 010 0001"),
            (Channel::Sms, "+1234567890123456"),
            (Channel::Email, "jane"),
            (Channel::Email, "Jane <jane@example.org>"),
            (Channel::Email, "jane@example.org\r\nBcc: x@example.org"),
            (Channel::Push, ""),
            (Channel::Push, "a b"),
            (Channel::Push, &long),
        ];
        for (channel, address) in good {
            assert_eq!(faults(|v| v.address("address", channel, address)), 0, "{channel} {address}");
        }
        for (channel, address) in bad {
            assert_eq!(faults(|v| v.address("address", channel, address)), 1, "{channel} {address}");
        }
    }

    #[test]
    fn the_caller_is_checked_and_local_by_default() {
        let mut metadata = MetadataMap::new();
        let mut violations = Violations::default();
        assert_eq!(violations.caller(&metadata), "local");
        metadata.insert(CALLER_ENTRY, "portal-backend".parse().unwrap());
        assert_eq!(violations.caller(&metadata), "portal-backend");
        assert!(violations.finish().is_ok());
        metadata.insert(CALLER_ENTRY, "portal backend".parse().unwrap());
        assert_eq!(faults(|v| drop(v.caller(&metadata))), 1);
        for own in crate::domain::ids::OWN_CALLERS {
            metadata.insert(CALLER_ENTRY, own.parse().unwrap());
            assert_eq!(faults(|v| drop(v.caller(&metadata))), 1, "{own}");
        }
    }

    #[test]
    fn times_are_checked() {
        let time = |seconds, nanos| Some(prost_types::Timestamp { seconds, nanos });
        assert_eq!(
            faults(|v| {
                v.timestamp("t", time(1, 2));
            }),
            0
        );
        assert_eq!(
            faults(|v| {
                v.timestamp("t", time(1, -1));
            }),
            1
        );
        assert_eq!(
            faults(|v| {
                v.timestamp("t", time(i64::MAX, 0));
            }),
            1
        );
        let now = Timestamp::from_second(1_000_000).unwrap();
        assert_eq!(faults(|v| v.past("t", Some(now + SignedDuration::from_secs(299)), now)), 0);
        assert_eq!(faults(|v| v.past("t", Some(now + SignedDuration::from_secs(301)), now)), 1);
    }
}

//! Checks of fields that several requests have.

use icu_locale_core::LanguageIdentifier;
use jiff::Timestamp;
use jiff::tz::TimeZone;

use crate::api::convert::{channel_from, minute_from, purpose_from};
use crate::api::proto;
use crate::api::validate::Violations;
use crate::domain::{Channel, QuietHours, Redacted};
use crate::record::recipients::{ConsentUpsert, LEDGER_WORDS};

const HOW_MAX_CHARS: usize = 200;
const PAGE_SIZE: usize = 50;
const PAGE_SIZE_MAX: i32 = 200;

/// A BCP 47 tag in its canonical spelling.
pub(super) fn locale(field: &str, tag: &str, faults: &mut Violations) -> Option<String> {
    if tag.is_empty() {
        return None;
    }
    // The parser takes underscores too; the contract does not.
    let parsed = LanguageIdentifier::try_from_str(tag).ok().filter(|_| !tag.contains('_'));
    let known = parsed.filter(|parsed| !parsed.language.is_unknown());
    faults.require(known.is_some(), field, "must be a BCP 47 language tag, for example pt-BR");
    known.map(|parsed| parsed.to_string())
}

/// An IANA zone in its canonical spelling.
pub(super) fn time_zone(field: &str, name: &str, faults: &mut Violations) -> Option<String> {
    if name.is_empty() {
        return None;
    }
    let zone = TimeZone::get(name).ok();
    let known = zone.as_ref().filter(|zone| !zone.is_unknown()).and_then(TimeZone::iana_name);
    faults.require(known.is_some(), field, "must be an IANA time zone, for example Europe/Vienna");
    known.map(str::to_owned)
}

pub(super) fn quiet_hours(
    field: &str,
    quiet: Option<&proto::QuietHours>,
    faults: &mut Violations,
) -> Option<QuietHours> {
    let quiet = quiet?;
    let (start, end) = (minute_from(&quiet.start), minute_from(&quiet.end));
    faults.require(start.is_some(), &format!("{field}.start"), "must be HH:MM, 00:00 to 23:59");
    faults.require(end.is_some(), &format!("{field}.end"), "must be HH:MM, 00:00 to 23:59");
    start.zip(end).map(|(start, end)| QuietHours { start, end })
}

/// A consent or refusal; `None` when it is faulty, which is noted.
pub(super) fn consent(
    prefix: &str,
    entry: proto::Consent,
    now: Timestamp,
    faults: &mut Violations,
) -> Option<ConsentUpsert> {
    let field = |name: &str| format!("{prefix}.{name}");
    let channel = faults.required_word(&field("channel"), entry.channel, channel_from);
    let purpose = faults.required_word(&field("purpose"), entry.purpose, purpose_from);
    let given_at = required_past(&field("given_at"), entry.given_at, now, faults);
    faults.opaque(&field("recorded_by"), &entry.recorded_by);
    how(&field("how"), &entry.how, faults);
    let ours = LEDGER_WORDS.contains(&entry.how.as_str());
    faults.require(!ours, &field("how"), "is a word that only this service enters; say it otherwise");
    Some(ConsentUpsert {
        channel: channel?,
        purpose: purpose?,
        granted: entry.granted,
        given_at: given_at?,
        recorded_by: entry.recorded_by,
        how: entry.how,
    })
}

/// A time that must be there and must have passed; `None` when it is faulty, which is
/// noted.
pub(super) fn required_past(
    field: &str,
    time: Option<prost_types::Timestamp>,
    now: Timestamp,
    faults: &mut Violations,
) -> Option<Timestamp> {
    faults.require(time.is_some(), field, "is required");
    let time = faults.timestamp(field, time);
    faults.past(field, time, now);
    time
}

/// How something came about, in the caller's words.
pub(super) fn how(field: &str, text: &str, faults: &mut Violations) {
    faults.require(!text.is_empty(), field, "is required");
    check_text(field, text, HOW_MAX_CHARS, faults);
}

/// An address that is not a device.
pub(super) fn address(
    prefix: &str,
    channel: i32,
    address: String,
    faults: &mut Violations,
) -> Option<(Channel, Redacted<String>)> {
    let field = |name: &str| format!("{prefix}{name}");
    let channel = faults.required_word(&field("channel"), channel, channel_from)?;
    if channel == Channel::Push {
        faults.add(field("channel"), "must be SMS or e-mail: devices are registered and unregistered");
        return None;
    }
    faults.address(&field("address"), channel, &address);
    Some((channel, Redacted::new(address)))
}

/// Entries of a page.
pub(super) fn page_size(size: i32, faults: &mut Violations) -> usize {
    let holds = (0..=PAGE_SIZE_MAX).contains(&size);
    faults.require(holds, "page_size", "must be 0 to 200");
    usize::try_from(size).ok().filter(|&size| size > 0).unwrap_or(PAGE_SIZE)
}

pub(super) fn check_text(field: &str, text: &str, max_chars: usize, faults: &mut Violations) {
    faults.require(
        text.chars().count() <= max_chars,
        field,
        &format!("has more than {max_chars} characters"),
    );
    faults.require(!text.chars().any(char::is_control), field, "has a control character");
}

//! The embedded templates and the form of their files.
//!
//! ```text
//! +++
//! [variables]
//! appointment_date = { kind = "date", optional = true }
//! +++
//! === subject
//! …
//! === text
//! …
//! ```
//!
//! The head (TOML) is the allow-list. An SMS has no sections, an e-mail has
//! `subject`, `text` and `html`, a push has `title` and `body`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::variables::Variable;
use crate::domain::{Channel, Purpose};

/// The frame of every HTML part.
pub(super) const LAYOUT: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/templates/layout.html.j2"));

/// A file of the table.
pub(super) struct Source {
    pub(super) locale: &'static str,
    pub(super) purpose: Purpose,
    pub(super) channel: Channel,
    pub(super) text: &'static str,
}

macro_rules! sources {
    (@file $locale:literal, $purpose:ident, $purpose_word:literal, $channel:ident, $channel_word:literal) => {
        Source {
            locale: $locale,
            purpose: Purpose::$purpose,
            channel: Channel::$channel,
            text: include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"), "/templates/", $locale, "/", $purpose_word, ".", $channel_word, ".j2"
            )),
        }
    };
    ($($locale:literal: [$($purpose:ident = $word:literal),+ $(,)?]),+ $(,)?) => {
        &[$($(
            sources!(@file $locale, $purpose, $word, Sms, "sms"),
            sources!(@file $locale, $purpose, $word, Email, "email"),
            sources!(@file $locale, $purpose, $word, Push, "push"),
        )+)+]
    };
}

/// Every embedded template; a new locale is a new folder and one more entry.
pub(super) const SOURCES: &[Source] = sources! {
    "en": [
        TestResult = "test_result",
        AppointmentReminder = "appointment_reminder",
        AppointmentConfirmation = "appointment_confirmation",
        General = "general",
        Campaign = "campaign",
    ],
    "es": [
        TestResult = "test_result",
        AppointmentReminder = "appointment_reminder",
        AppointmentConfirmation = "appointment_confirmation",
        General = "general",
        Campaign = "campaign",
    ],
};

macro_rules! code_sources {
    ($($locale:literal),+ $(,)?) => {
        &[$(
            ($locale, Channel::Sms, include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"), "/templates/", $locale, "/verification_code.sms.j2"
            ))),
            ($locale, Channel::Email, include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"), "/templates/", $locale, "/verification_code.email.j2"
            ))),
        )+]
    };
}

/// Words around a code that proves an address: locale, channel and file.
pub(super) const CODE_SOURCES: &[(&str, Channel, &str)] = code_sources!("en", "es");

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    #[serde(default)]
    variables: BTreeMap<String, Variable>,
}

/// A file, taken apart.
pub(super) struct Parsed {
    pub(super) variables: BTreeMap<String, Variable>,
    /// In the order of [`section_names`].
    pub(super) sections: Vec<String>,
}

/// The sections of a channel's template.
pub(super) const fn section_names(channel: Channel) -> &'static [&'static str] {
    match channel {
        Channel::Sms => &["body"],
        Channel::Email => &["subject", "text", "html"],
        Channel::Push => &["title", "body"],
    }
}

/// Takes a file apart; the problem is in words.
pub(super) fn parse(channel: Channel, text: &str) -> Result<Parsed, String> {
    let rest = text.strip_prefix("+++\n").ok_or("must begin with a +++ line")?;
    let (head, body) = rest.split_once("+++\n").ok_or("has no second +++ line")?;
    let head: Head = toml::from_str(head).map_err(|error| format!("head: {}", error.message()))?;
    for (name, variable) in &head.variables {
        variable.kind.check().map_err(|problem| format!("variable {name}: {problem}"))?;
    }
    let names = section_names(channel);
    if channel == Channel::Sms {
        return Ok(Parsed { variables: head.variables, sections: vec![body.trim().to_owned()] });
    }
    let mut sections = Vec::with_capacity(names.len());
    let mut rest = body.trim_start();
    for (index, name) in names.iter().enumerate() {
        rest = rest
            .strip_prefix(&format!("=== {name}\n"))
            .ok_or_else(|| format!("section {name} is missing or not in its place"))?;
        let end = names.get(index + 1).and_then(|next| rest.find(&format!("=== {next}\n")));
        let (section, after) = rest.split_at(end.unwrap_or(rest.len()));
        sections.push(section.trim().to_owned());
        rest = after;
    }
    Ok(Parsed { variables: head.variables, sections })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_embedded_file_can_be_taken_apart() {
        for source in SOURCES {
            let parsed = parse(source.channel, source.text);
            let sections = parsed.map(|parsed| parsed.sections.len());
            assert_eq!(
                sections,
                Ok(section_names(source.channel).len()),
                "{} {}",
                source.locale,
                source.purpose
            );
        }
    }

    #[test]
    fn faults_are_named() {
        let fault = |text| parse(Channel::Push, text).err().unwrap();
        assert!(fault("hello").contains("begin with a +++ line"));
        assert!(fault("+++\n+++\n=== title\nx").contains("section body"));
        assert!(
            fault("+++\n[variables]\nx = { kind = \"text\", max_chars = 900 }\n+++\n").contains("max_chars")
        );
        assert!(fault("+++\n[variables]\nx = { kind = \"anything\" }\n+++\n").contains("head:"));
    }
}

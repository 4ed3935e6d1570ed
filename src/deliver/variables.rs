//! Variables of templates: which ones a template allows, of which kind, and how
//! a caller's value becomes words. A kind is the reason why a diagnosis cannot
//! travel in a variable: there are dates, times, choices from a list, and short
//! names of places, but no free text of any length.

use std::collections::BTreeMap;

use jiff::civil::{Date, Time, Weekday};
use serde::Deserialize;

/// Longest text that a template may allow.
const TEXT_MAX_CHARS: usize = 80;

/// What a variable may hold.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Kind {
    /// A day, `YYYY-MM-DD`; shown in the locale's manner.
    Date,
    /// A time of day, `HH:MM`; shown in the locale's manner.
    Time,
    /// A short text; what is longer is cut between words.
    Text { max_chars: usize },
    /// One of a few keys, each with its words in this locale.
    Choice { words: BTreeMap<String, String> },
}

/// One variable of a template.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Variable {
    /// What it may hold.
    #[serde(flatten)]
    pub(super) kind: Kind,
    /// Without it the template has other words.
    #[serde(default)]
    pub(super) optional: bool,
}

impl Kind {
    /// Is the declaration itself usable?
    pub(super) fn check(&self) -> Result<(), String> {
        match self {
            Self::Date | Self::Time => Ok(()),
            Self::Text { max_chars } if (1..=TEXT_MAX_CHARS).contains(max_chars) => Ok(()),
            Self::Text { .. } => Err(format!("max_chars must be 1 to {TEXT_MAX_CHARS}")),
            Self::Choice { words } if words.is_empty() => Err("a choice needs words".to_owned()),
            Self::Choice { .. } => Ok(()),
        }
    }

    /// The value in the words of a language; `None` when it is not of this kind.
    pub(super) fn words(&self, value: &str, language: Language) -> Option<String> {
        match self {
            Self::Date => Some(language.date(value.parse().ok()?)),
            Self::Time => Some(language.time(value.parse().ok()?)),
            Self::Text { max_chars } => Some(cut(value, *max_chars)),
            Self::Choice { words } => words.get(value).cloned(),
        }
    }

    /// The longest words that any value can become.
    pub(super) fn longest(&self, language: Language) -> String {
        match self {
            Self::Date => longest((1..=12).flat_map(|month| {
                // Seven days in a row: every weekday, of two digits, in each month.
                (10..17).map(move |day| language.date(Date::constant(2026, month, day)))
            })),
            Self::Time => language.time(Time::constant(12, 30, 0, 0)),
            Self::Text { max_chars } => "W".repeat(*max_chars),
            Self::Choice { words } => longest(words.values().cloned()),
        }
    }
}

fn longest(texts: impl Iterator<Item = String>) -> String {
    texts.max_by_key(|text| text.chars().count()).unwrap_or_default()
}

/// One line without control characters, at most `max_chars` long, cut between words.
fn cut(value: &str, max_chars: usize) -> String {
    let clean: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut text = String::new();
    for word in clean.split_whitespace() {
        let gap = usize::from(!text.is_empty());
        if text.chars().count() + gap + word.chars().count() > max_chars {
            break;
        }
        if gap == 1 {
            text.push(' ');
        }
        text.push_str(word);
    }
    if text.is_empty() { clean.trim().chars().take(max_chars).collect() } else { text }
}

/// A language whose manner of dates and times is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Language {
    English,
    Spanish,
}

impl Language {
    /// The language of a locale's folder.
    pub(super) fn of(locale: &str) -> Option<Self> {
        match locale.split('-').next() {
            Some("en") => Some(Self::English),
            Some("es") => Some(Self::Spanish),
            _ => None,
        }
    }

    fn date(self, date: Date) -> String {
        let month = usize::try_from(date.month() - 1).unwrap_or_default();
        match self {
            Self::English => {
                const MONTHS: [&str; 12] =
                    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
                let weekday = match date.weekday() {
                    Weekday::Monday => "Mon",
                    Weekday::Tuesday => "Tue",
                    Weekday::Wednesday => "Wed",
                    Weekday::Thursday => "Thu",
                    Weekday::Friday => "Fri",
                    Weekday::Saturday => "Sat",
                    Weekday::Sunday => "Sun",
                };
                format!("{weekday}, {} {}", MONTHS[month], date.day())
            }
            Self::Spanish => {
                const MONTHS: [&str; 12] =
                    ["ene", "feb", "mar", "abr", "may", "jun", "jul", "ago", "sep", "oct", "nov", "dic"];
                let weekday = match date.weekday() {
                    Weekday::Monday => "lun",
                    Weekday::Tuesday => "mar",
                    Weekday::Wednesday => "mié",
                    Weekday::Thursday => "jue",
                    Weekday::Friday => "vie",
                    Weekday::Saturday => "sáb",
                    Weekday::Sunday => "dom",
                };
                format!("{weekday} {} {}", date.day(), MONTHS[month])
            }
        }
    }

    fn time(self, time: Time) -> String {
        match self {
            Self::English => {
                let (hour, half) = match time.hour() {
                    0 => (12, "AM"),
                    hour @ 1..=11 => (hour, "AM"),
                    12 => (12, "PM"),
                    hour => (hour - 12, "PM"),
                };
                format!("{hour}:{:02} {half}", time.minute())
            }
            Self::Spanish => format!("{}:{:02}", time.hour(), time.minute()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_times_are_shown_in_the_locales_manner() {
        let (en, es) = (Language::English, Language::Spanish);
        assert_eq!(Kind::Date.words("2026-11-30", en).unwrap(), "Mon, Nov 30");
        assert_eq!(Kind::Date.words("2026-12-02", es).unwrap(), "mié 2 dic");
        assert_eq!(Kind::Time.words("14:05", en).unwrap(), "2:05 PM");
        assert_eq!(Kind::Time.words("00:30", en).unwrap(), "12:30 AM");
        assert_eq!(Kind::Time.words("14:05", es).unwrap(), "14:05");
        assert_eq!(Kind::Date.words("tomorrow", en), None);
        assert_eq!(Kind::Time.words("late", es), None);
    }

    #[test]
    fn text_is_one_line_and_cut_between_words() {
        let kind = Kind::Text { max_chars: 12 };
        assert_eq!(kind.words("Main Street\r\nClinic", Language::English).unwrap(), "Main Street");
        assert_eq!(kind.words("Krankenhausverwaltung", Language::English).unwrap(), "Krankenhausv");
    }

    #[test]
    fn a_choice_takes_no_other_key() {
        let words = BTreeMap::from([("moved".to_owned(), "moved to".to_owned())]);
        let kind = Kind::Choice { words };
        assert_eq!(kind.words("moved", Language::English).unwrap(), "moved to");
        assert_eq!(kind.words("diagnosis", Language::English), None);
    }
}

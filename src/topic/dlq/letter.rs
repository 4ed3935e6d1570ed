//! What lies on a dead-letter topic: dead letters, and markers of what was done
//! with them.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use thiserror::Error;

use crate::domain::Redacted;

use super::super::dead_letter::OURS;

/// Header of a marker: the offset, on the marker's partition, that was handled.
pub(super) const HANDLED: &str = "dlq.handled";
/// Header of a marker: what was done.
pub(super) const ACTION: &str = "dlq.action";
/// Header of a marker: when.
pub(super) const AT: &str = "dlq.at";
/// Header of a marker: who did it.
pub(super) const BY: &str = "dlq.by";
/// Header of a marker: where a replayed record lies now.
pub(super) const REPLAYED_TO: &str = "dlq.replayed_to";
/// Header of a replayed record: the dead letter that it was.
pub(super) const REPLAYED_FROM: &str = "dlq.replayed_from";

/// What was done with a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It was written to its topic once more.
    Replayed,
    /// It was given up.
    Dropped,
}

impl Action {
    /// The word that stands for it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::Dropped => "dropped",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        [Self::Replayed, Self::Dropped].into_iter().find(|action| action.as_str() == word)
    }
}

/// A record's place: the name of a dead letter, and where it came from. Written
/// `topic/partition/offset`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Name of the topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
}

/// Text that is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not topic/partition/offset, for example pat.test-results.v1.dlq/3/17; `dlq list` prints them")]
pub struct PlaceError;

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let mut parts = text.split('/');
        let (Some(topic), Some(partition), Some(offset), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(PlaceError);
        };
        let partition = partition.parse().ok().filter(|partition| *partition >= 0).ok_or(PlaceError)?;
        let offset = offset.parse().ok().filter(|offset| *offset >= 0).ok_or(PlaceError)?;
        if topic.is_empty() {
            return Err(PlaceError);
        }
        Ok(Self { topic: topic.to_owned(), partition, offset })
    }
}

/// Key, value and headers as they were on the record's own topic, raw. PHI.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Contents {
    /// Key.
    pub key: Option<Vec<u8>>,
    /// Value.
    pub payload: Option<Vec<u8>>,
    /// Headers that are not ours.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// A dead letter.
#[derive(Debug, Clone)]
pub struct Letter {
    /// Where it lies; its name for people.
    pub place: Place,
    /// When it became a dead letter, milliseconds since 1970.
    pub buried_ms: Option<i64>,
    /// Our headers (`dlq.…`) as printable text, in their order.
    pub ours: Vec<(String, String)>,
    /// The record itself.
    pub contents: Redacted<Contents>,
}

/// What was done with a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handled {
    /// What.
    pub action: Action,
    /// When.
    pub at: Option<Timestamp>,
    /// Who, where it is known.
    pub by: Option<String>,
    /// Where the replayed record lies.
    pub to: Option<String>,
}

impl fmt::Display for Handled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.action.as_str())?;
        if let Some(to) = &self.to {
            write!(f, " to {to}")?;
        }
        if let Some(at) = self.at {
            write!(f, " at {at}")?;
        }
        if let Some(by) = &self.by {
            write!(f, " by {by}")?;
        }
        Ok(())
    }
}

impl Letter {
    /// A header of ours as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.ours.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Why it is one; `-` for a record that our consumers did not write.
    #[must_use]
    pub fn reason(&self) -> &str {
        self.header("dlq.reason").unwrap_or("-")
    }

    /// The reason in a sentence for people.
    #[must_use]
    pub fn detail(&self) -> &str {
        self.header("dlq.detail").unwrap_or_default()
    }

    /// Where it was.
    #[must_use]
    pub fn origin(&self) -> Option<Place> {
        Some(Place {
            topic: self.header("dlq.topic")?.to_owned(),
            partition: self.header("dlq.partition")?.parse().ok()?,
            offset: self.header("dlq.offset")?.parse().ok()?,
        })
    }

    /// When it was published on its own topic.
    #[must_use]
    pub fn published(&self) -> Option<Timestamp> {
        Timestamp::from_millisecond(self.header("dlq.timestamp_ms")?.parse().ok()?).ok()
    }

    /// True when only the beginning of its key and value was kept.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.header("dlq.cut").is_some()
    }

    /// Bytes of key and value that are kept.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let contents = self.contents.expose();
        contents.key.as_ref().map_or(0, Vec::len) + contents.payload.as_ref().map_or(0, Vec::len)
    }
}

/// A record of a dead-letter topic.
pub(super) enum Lying {
    Letter(Box<Letter>),
    Marker { target: i64, handled: Handled },
}

impl Lying {
    pub(super) fn parse(message: &BorrowedMessage<'_>) -> Self {
        let mut ours = Vec::new();
        let mut headers = Vec::new();
        for header in message.headers().iter().flat_map(|headers| headers.iter()) {
            if header.key.starts_with(OURS) {
                ours.push((printable(header.key), text(header.value.unwrap_or_default())));
            } else {
                headers.push((header.key.to_owned(), header.value.map(<[u8]>::to_vec)));
            }
        }
        if let Some((target, handled)) = marker(&ours) {
            return Self::Marker { target, handled };
        }
        let contents = Contents {
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec),
            headers,
        };
        Self::Letter(Box::new(Letter {
            place: Place {
                topic: message.topic().to_owned(),
                partition: message.partition(),
                offset: message.offset(),
            },
            buried_ms: message.timestamp().to_millis(),
            ours,
            contents: Redacted::new(contents),
        }))
    }
}

fn marker(ours: &[(String, String)]) -> Option<(i64, Handled)> {
    let value = |name: &str| ours.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let target = value(HANDLED)?.parse().ok()?;
    let handled = Handled {
        action: Action::parse(value(ACTION)?)?,
        at: value(AT).and_then(|at| at.parse().ok()),
        by: value(BY).map(str::to_owned),
        to: value(REPLAYED_TO).map(str::to_owned),
    };
    Some((target, handled))
}

fn text(bytes: &[u8]) -> String {
    printable(&String::from_utf8_lossy(bytes))
}

/// The text without what would steer a terminal or break a line.
#[must_use]
pub fn printable(text: &str) -> String {
    text.chars().map(|one| if one.is_control() { char::REPLACEMENT_CHARACTER } else { one }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_and_nothing_else_is_one() {
        let place = Place { topic: "a.b.dlq".to_owned(), partition: 3, offset: 17 };
        assert_eq!(place.to_string(), "a.b.dlq/3/17");
        assert_eq!(place.to_string().parse(), Ok(place));
        for text in
            ["", "a", "a/1", "/1/2", "a/-1/2", "a/1/-2", "a/1/2/3", "a/x/2", "a/1/", "a/99999999999/1"]
        {
            assert_eq!(text.parse::<Place>(), Err(PlaceError), "{text}");
        }
    }

    #[test]
    fn a_marker_is_one_only_when_it_is_whole() {
        let of = |pairs: &[(&str, &str)]| {
            let ours: Vec<_> = pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
            marker(&ours)
        };
        let (target, handled) =
            of(&[(HANDLED, "12"), (ACTION, "dropped"), (AT, "2026-01-02T03:04:05Z"), (BY, "ann")]).unwrap();
        assert_eq!((target, handled.action, handled.to.as_deref()), (12, Action::Dropped, None));
        assert_eq!(handled.to_string(), "dropped at 2026-01-02T03:04:05Z by ann");
        assert_eq!(of(&[(HANDLED, "12")]), None);
        assert_eq!(of(&[(HANDLED, "x"), (ACTION, "dropped")]), None);
        assert_eq!(of(&[(HANDLED, "1"), (ACTION, "burnt")]), None);
        assert_eq!(of(&[("dlq.reason", "undecodable")]), None);
    }

    #[test]
    fn nothing_steers_the_terminal() {
        assert_eq!(text(b"a\x1b[2Jb\nc\xff"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}");
    }

    #[test]
    fn what_is_printed_for_developers_has_no_contents() {
        let contents = Contents { key: Some(b"CANARY".to_vec()), payload: None, headers: Vec::new() };
        let letter = Letter {
            place: Place { topic: "t".to_owned(), partition: 0, offset: 0 },
            buried_ms: None,
            ours: Vec::new(),
            contents: Redacted::new(contents),
        };
        assert!(!format!("{letter:?}").contains("67, 65"), "{letter:?}");
        assert_eq!((letter.size_bytes(), letter.reason(), letter.origin()), (6, "-", None));
    }
}

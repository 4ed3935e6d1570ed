//! Where a record came to lie on its topic, and the consistency token made of it.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use uuid::Uuid;

use crate::domain::{Engagement, NotificationId};

/// Longest token that is looked at, in characters.
const MAX_CHARS: usize = 512;
/// Room for all of a token's content but the topic: every answer to a call makes one.
const CONTENT_BYTES: usize = 96;
// Lead the content of tokens that wait for a notification, and of those that wait
// for what became known of one, so that their form can change.
const OF_REQUEST: &str = "1";
const OF_UPDATE: &str = "2";
// Stands before either of them with the notification that the token is about.
const ABOUT: &str = "3";
/// Stands for [`Awaited::Cancelled`] beside the words of [`Engagement`].
const CANCELLED: &str = "cancelled";

/// A record's place on the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// Full name.
    pub topic: String,
    /// Partition, from 0.
    pub partition: i32,
    /// Offset, from 0.
    pub offset: i64,
}

/// What can be seen of a notification once the record was processed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// That there is one.
    Notification,
    /// That it was taken back.
    Cancelled,
    /// That its recipient did this, or more.
    Engaged(Engagement),
}

/// What a Get needs to wait for what an earlier call was told OK for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Where the record lies.
    pub position: Position,
    /// What it will bring.
    pub awaited: Awaited,
    /// To which notification; `None` in tokens of earlier versions.
    pub about: Option<NotificationId>,
}

impl Token {
    /// The opaque text that callers hold.
    #[must_use]
    pub fn to_text(&self) -> String {
        let Position { topic, partition, offset } = &self.position;
        let mut content = String::with_capacity(CONTENT_BYTES + topic.len());
        let mut add = |parts: &[&str]| {
            for part in parts {
                content.push_str(part);
                content.push(':');
            }
        };
        if let Some(NotificationId(id)) = self.about {
            add(&[ABOUT, id.hyphenated().encode_lower(&mut Uuid::encode_buffer())]);
        }
        match self.awaited {
            Awaited::Notification => add(&[OF_REQUEST]),
            Awaited::Cancelled => add(&[OF_UPDATE, CANCELLED]),
            Awaited::Engaged(engagement) => add(&[OF_UPDATE, engagement.as_str()]),
        }
        // Writing to a String cannot fail.
        let _ = write!(content, "{partition}:{offset}:{topic}");
        URL_SAFE_NO_PAD.encode(content)
    }

    /// Reads a token back; `None` when it is not one of ours.
    #[must_use]
    pub fn from_text(text: &str) -> Option<Self> {
        if text.len() > MAX_CHARS {
            return None;
        }
        let content = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let (about, content) = match content.split_once(':')? {
            (ABOUT, rest) => {
                let (id, rest) = rest.split_once(':')?;
                (Some(NotificationId(Uuid::try_parse(id).ok()?)), rest)
            }
            _ => (None, content.as_str()),
        };
        let (awaited, place) = match content.split_once(':')? {
            (OF_REQUEST, place) => (Awaited::Notification, place),
            (OF_UPDATE, rest) => {
                let (word, place) = rest.split_once(':')?;
                (awaited(word)?, place)
            }
            _ => return None,
        };
        Some(Self { position: position(place)?, awaited, about })
    }
}

fn awaited(word: &str) -> Option<Awaited> {
    if word == CANCELLED { Some(Awaited::Cancelled) } else { Engagement::parse(word).map(Awaited::Engaged) }
}

fn position(place: &str) -> Option<Position> {
    let mut parts = place.splitn(3, ':');
    let partition = parts.next()?.parse().ok().filter(|&partition: &i32| partition >= 0)?;
    let offset = parts.next()?.parse().ok().filter(|&offset: &i64| offset >= 0)?;
    let topic = parts.next().filter(|topic| !topic.is_empty())?.to_owned();
    Some(Position { topic, partition, offset })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_and_others_are_refused() {
        let position =
            Position { topic: "t1.pat.notifications.v1".to_owned(), partition: 29, offset: 1 << 40 };
        let engaged = Engagement::ALL.iter().map(|&engagement| Awaited::Engaged(engagement));
        for awaited in [Awaited::Notification, Awaited::Cancelled].into_iter().chain(engaged) {
            for about in [None, Some(NotificationId::for_request("local", "key-1"))] {
                let token = Token { position: position.clone(), awaited, about };
                assert_eq!(Token::from_text(&token.to_text()), Some(token));
            }
        }
        for (content, good) in [
            ("1:0:0:topic", true),
            ("2:cancelled:0:0:topic", true),
            ("3:0:0:topic", false),
            ("1:-1:0:topic", false),
            ("1:0:x:topic", false),
            ("1:0:0:", false),
            ("1:0", false),
            ("2:0:0:topic", false),
            ("2:heard:0:0:topic", false),
        ] {
            let text = URL_SAFE_NO_PAD.encode(content);
            assert_eq!(Token::from_text(&text).is_some(), good, "{content}");
        }
        assert_eq!(Token::from_text("not a token"), None);
        assert_eq!(Token::from_text(&"A".repeat(513)), None);
    }
}

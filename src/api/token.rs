//! Where a request came to lie on its topic, and the consistency token made of it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Longest token that is looked at, in characters.
const MAX_CHARS: usize = 512;
/// Leads the token's content, so that its form can change.
const VERSION: &str = "1";

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

impl Position {
    /// The opaque text that callers hold.
    #[must_use]
    pub fn to_token(&self) -> String {
        URL_SAFE_NO_PAD.encode(format!(
            "{VERSION}:{}:{}:{}",
            self.partition, self.offset, self.topic
        ))
    }

    /// Reads a token back; `None` when it is not one of ours.
    #[must_use]
    pub fn from_token(token: &str) -> Option<Self> {
        if token.len() > MAX_CHARS {
            return None;
        }
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        let mut parts = text.splitn(4, ':');
        if parts.next()? != VERSION {
            return None;
        }
        let partition = parts
            .next()?
            .parse()
            .ok()
            .filter(|&partition: &i32| partition >= 0)?;
        let offset = parts.next()?.parse().ok().filter(|&offset: &i64| offset >= 0)?;
        let topic = parts.next().filter(|topic| !topic.is_empty())?.to_owned();
        Some(Self {
            topic,
            partition,
            offset,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_back_and_others_are_refused() {
        let position = Position {
            topic: "t1.pat.notifications.v1".to_owned(),
            partition: 29,
            offset: 1 << 40,
        };
        assert_eq!(Position::from_token(&position.to_token()), Some(position));
        for bad in [
            "1:0:0:topic",
            "2:0:0:topic",
            "1:-1:0:topic",
            "1:0:x:topic",
            "1:0:0:",
            "1:0",
        ] {
            let token = URL_SAFE_NO_PAD.encode(bad);
            assert_eq!(
                Position::from_token(&token).is_some(),
                bad == "1:0:0:topic",
                "{bad}"
            );
        }
        assert_eq!(Position::from_token("not a token"), None);
        assert_eq!(Position::from_token(&"A".repeat(513)), None);
    }
}

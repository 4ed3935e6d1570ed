//! Dead letters: pages of them, and their replay.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use super::{ApiError, Operations, Violations, away, of_dlq, proto};
use crate::api::convert::timestamp_to;
use crate::record::RecordError;
use crate::record::audit::{self, AuditEntry};
use crate::topic::dlq::{self, Handled, Handler, Letter, Letters, Place, Reader, Remover};

/// Entries of a page, where none were asked for and at most.
const PAGE_DEFAULT: usize = 50;
const PAGE_MAX: usize = 200;
/// Dead letters that one call looks at.
const LOOKED_MAX: usize = 10_000;
/// Bytes of keys and values on one page: clients take 4 MiB unless they are told otherwise.
const CONTENTS_MAX_BYTES: usize = 2 * 1024 * 1024;
/// Dead letters that one call replays.
const REPLAY_MAX: usize = 100;
/// Longest reason, in characters.
const REASON_MAX_CHARS: usize = 64;
/// Longest subject of an audit line, in bytes.
const SUBJECT_MAX_BYTES: usize = 64;

/// What a page is of.
struct Wanted {
    topics: Vec<String>,
    page_size: usize,
    after: Option<Place>,
}

/// What is to be replayed: named ones, or else the oldest ones of topics.
struct Chosen {
    places: Vec<Place>,
    topics: Vec<String>,
    limit: usize,
}

impl Operations {
    fn topics(&self, faults: &mut Violations, word: &str) -> Vec<String> {
        let prefix = &self.setup.kafka.topic_prefix;
        if word.is_empty() {
            return dlq::topics(prefix);
        }
        let meant = dlq::topic_meant(prefix, word);
        faults.require(meant.is_some(), "topic", "must be a topic that our consumers read");
        meant.into_iter().collect()
    }

    fn wanted(&self, message: &proto::OperationsServiceListDeadLettersRequest) -> Result<Wanted, ApiError> {
        let mut faults = Violations::default();
        let topics = self.topics(&mut faults, &message.topic);
        check_reason(&mut faults, &message.reason);
        let page_size = usize::try_from(message.page_size).unwrap_or(usize::MAX);
        faults.require(page_size <= PAGE_MAX, "page_size", "must be 0 to 200");
        let after = (!message.page_token.is_empty()).then(|| from_token(&message.page_token)).map(|place| {
            let place = place.filter(|place| topics.contains(&place.topic));
            faults.require(place.is_some(), "page_token", "must be one that this request was answered with");
            place
        });
        faults.finish()?;
        let page_size = if page_size == 0 { PAGE_DEFAULT } else { page_size };
        Ok(Wanted { topics, page_size, after: after.flatten() })
    }

    pub(super) async fn list(
        &self,
        caller: &str,
        message: &proto::OperationsServiceListDeadLettersRequest,
        until: Instant,
    ) -> Result<proto::OperationsServiceListDeadLettersResponse, ApiError> {
        let wanted = self.wanted(message)?;
        let _place = self.broker_call()?;
        let mut reader = Reader::new(&self.setup.kafka).map_err(of_dlq)?;
        let mut letters = in_time(until, Letters::of_topics(&reader, &wanted.topics)).await?;
        if let Some(place) = &wanted.after {
            letters = letters.after(place);
        }
        let (mut page, mut bytes, mut last) = (Vec::new(), 0, None);
        let mut looked = 0;
        let is_over = loop {
            if page.len() >= wanted.page_size || looked >= LOOKED_MAX || bytes >= CONTENTS_MAX_BYTES {
                break false;
            }
            let (letter, handled) = match timeout_at(until, letters.next(&mut reader)).await {
                Ok(Ok(Some(found))) => found,
                Ok(Ok(None)) => break true,
                Ok(Err(error)) => return Err(of_dlq(error)),
                Err(_) if last.is_some() => break false,
                Err(_) => return Err(away("no dead letter was read before the deadline".to_owned())),
            };
            looked += 1;
            last = Some(letter.place.clone());
            let is_meant = message.reason.is_empty() || letter.reason() == message.reason;
            if is_meant && (message.include_handled || handled.is_none()) {
                bytes += if message.include_contents { letter.size_bytes() } else { 0 };
                page.push(shown(&letter, handled.as_ref(), message.include_contents));
            }
        };
        if message.include_contents && !page.is_empty() {
            let names: Vec<&str> = page.iter().map(|letter| letter.name.as_str()).collect();
            self.audit(caller, "OperationsService/ListDeadLetters", &names, "with contents").await?;
        }
        let next_page_token = last.filter(|_| !is_over).map(|place| to_token(&place)).unwrap_or_default();
        Ok(proto::OperationsServiceListDeadLettersResponse { dead_letters: page, next_page_token })
    }

    pub(super) async fn replay(
        &self,
        caller: &str,
        message: &proto::OperationsServiceReplayDeadLettersRequest,
        until: Instant,
    ) -> Result<proto::OperationsServiceReplayDeadLettersResponse, ApiError> {
        let Chosen { places, topics, limit } = self.to_replay(message)?;
        let _place = self.broker_call()?;
        let mut reader = Reader::new(&self.setup.kafka).map_err(of_dlq)?;
        let mut letters = if places.is_empty() {
            in_time(until, Letters::of_topics(&reader, &topics)).await?
        } else {
            let prefix = &self.setup.kafka.topic_prefix;
            in_time(until, Letters::named(&reader, prefix, &places)).await?
        };
        let mut chosen = Vec::new();
        let mut results = Vec::new();
        let mut looked = 0;
        while chosen.len() < limit && looked < LOOKED_MAX {
            let Some((letter, handled)) = in_time(until, letters.next(&mut reader)).await? else { break };
            looked += 1;
            match handled {
                Some(handled) if !places.is_empty() && !message.again => {
                    let why = format!("it was {handled}; `again` replays it once more");
                    results.push(not_replayed(&letter.place, why));
                }
                Some(_) if places.is_empty() => {}
                _ if message.reason.is_empty() || letter.reason() == message.reason => chosen.push(letter),
                _ => {}
            }
        }
        let missing: Vec<_> =
            letters.missing().iter().map(|one| not_replayed(&one.place, one.why.clone())).collect();
        self.replay_all(caller, &mut reader, &chosen, until, &mut results).await?;
        results.extend(missing);
        Ok(proto::OperationsServiceReplayDeadLettersResponse { results })
    }

    fn to_replay(
        &self,
        message: &proto::OperationsServiceReplayDeadLettersRequest,
    ) -> Result<Chosen, ApiError> {
        let mut faults = Violations::default();
        let is_named = !message.names.is_empty();
        faults.require(is_named || !message.topic.is_empty(), "names", "or `topic` is required");
        faults.require(!is_named || message.topic.is_empty(), "topic", "must be empty with `names`");
        faults.require(message.names.len() <= REPLAY_MAX, "names", "must be at most 100");
        check_reason(&mut faults, &message.reason);
        let limit = usize::try_from(message.limit).unwrap_or(usize::MAX);
        faults.require(limit <= REPLAY_MAX, "limit", "must be 0 to 100");
        let topics = self.topics(&mut faults, &message.topic);
        let mut places: Vec<Place> = Vec::new();
        for (at, name) in message.names.iter().take(REPLAY_MAX).enumerate() {
            match name.parse() {
                Ok(place) if !places.contains(&place) => places.push(place),
                Ok(_) => faults.add(format!("names[{at}]"), "is named twice"),
                Err(_) => faults.add(format!("names[{at}]"), "must be topic/partition/offset"),
            }
        }
        faults.finish()?;
        Ok(Chosen { places, topics, limit: if limit == 0 { REPLAY_MAX } else { limit } })
    }

    /// One after the other, so that those of a partition keep their order.
    async fn replay_all(
        &self,
        caller: &str,
        reader: &mut Reader,
        chosen: &[Letter],
        until: Instant,
        results: &mut Vec<proto::ReplayedDeadLetter>,
    ) -> Result<(), ApiError> {
        if chosen.is_empty() {
            return Ok(());
        }
        let handler = in_time(until, Handler::new(&self.setup.kafka, reader, Some(caller))).await?;
        let names: Vec<String> = chosen.iter().map(|letter| letter.place.to_string()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        self.audit(caller, "OperationsService/ReplayDeadLetters", &names, "asked for").await?;
        let (mut replayed, mut is_away) = (0, false);
        for letter in chosen {
            if is_away || Instant::now() >= until {
                results
                    .push(not_replayed(&letter.place, "there was no time left; repeat the call".to_owned()));
                continue;
            }
            match handler.replay(letter, None).await {
                Ok(to) => {
                    replayed += 1;
                    results.push(proto::ReplayedDeadLetter {
                        name: letter.place.to_string(),
                        replayed_to: to.to_string(),
                        problem: String::new(),
                    });
                }
                Err(error) if error.is_unavailable() && replayed == 0 => return Err(away(error.to_string())),
                Err(error) => {
                    is_away = error.is_unavailable();
                    results.push(not_replayed(&letter.place, error.to_string()));
                }
            }
        }
        tracing::warn!(caller, replayed, asked = chosen.len(), "dead letters were replayed");
        if !is_away {
            self.remove_handled(reader, chosen, until).await;
        }
        Ok(())
    }

    /// Removes what is handled from the beginning of the partitions of these letters. What
    /// is not removed now is removed by the next replay, or by its retention.
    async fn remove_handled(&self, reader: &mut Reader, letters: &[Letter], until: Instant) {
        let touched: BTreeSet<_> =
            letters.iter().map(|letter| (&letter.place.topic, letter.place.partition)).collect();
        let remove = async {
            let remover = Remover::new(&self.setup.kafka)?;
            for (topic, partition) in touched {
                remover.remove_handled(reader, topic, partition).await?;
            }
            Ok::<(), dlq::DlqError>(())
        };
        match timeout_at(until, remove).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "handled dead letters are not removed now"),
            Err(_) => tracing::warn!("handled dead letters are not removed: there was no time left"),
        }
    }

    async fn audit(
        &self,
        caller: &str,
        action: &'static str,
        names: &[&str],
        detail: &str,
    ) -> Result<(), ApiError> {
        let at = RecordError::at("audit_dead_letters");
        let mut client = self.pool.get().await.map_err(RecordError::from)?;
        let tx = client.transaction().await.map_err(&at)?;
        for name in names {
            let subject = &name[..name.floor_char_boundary(SUBJECT_MAX_BYTES)];
            let entry =
                AuditEntry { caller, action, subject_kind: "dead_letter", subject, detail: Some(detail) };
            audit::append(&tx, &entry).await?;
        }
        tx.commit().await.map_err(&at)?;
        Ok(())
    }
}

async fn in_time<T>(
    until: Instant,
    work: impl Future<Output = Result<T, dlq::DlqError>>,
) -> Result<T, ApiError> {
    match timeout_at(until, work).await {
        Ok(done) => done.map_err(of_dlq),
        Err(_) => Err(away("no answer before the deadline".to_owned())),
    }
}

fn check_reason(faults: &mut Violations, reason: &str) {
    faults.require(reason.chars().count() <= REASON_MAX_CHARS, "reason", "must be at most 64 characters");
}

fn to_token(place: &Place) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(place.to_string())
}

fn from_token(text: &str) -> Option<Place> {
    String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(text).ok()?).ok()?.parse().ok()
}

fn not_replayed(place: &Place, problem: String) -> proto::ReplayedDeadLetter {
    proto::ReplayedDeadLetter { name: place.to_string(), replayed_to: String::new(), problem }
}

fn shown(letter: &Letter, handled: Option<&Handled>, with_contents: bool) -> proto::DeadLetter {
    let contents = letter.contents.expose();
    let bytes = |part: &Option<Vec<u8>>| part.clone().filter(|_| with_contents).unwrap_or_default();
    let buried_at = letter.buried_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok());
    proto::DeadLetter {
        name: letter.place.to_string(),
        origin: letter.origin().map(|place| place.to_string()).unwrap_or_default(),
        reason: letter.reason().to_owned(),
        detail: letter.detail().to_owned(),
        published_at: letter.published().map(timestamp_to),
        buried_at: buried_at.map(timestamp_to),
        size_bytes: i64::try_from(letter.size_bytes()).unwrap_or(i64::MAX),
        cut: letter.is_cut(),
        handled: handled.map(ToString::to_string).unwrap_or_default(),
        key: bytes(&contents.key),
        value: bytes(&contents.payload),
    }
}

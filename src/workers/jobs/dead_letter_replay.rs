//! `dead_letter_replay`: dead letters of a topic are written to it once more, at a bounded
//! rate, by the same [`Handler`] as a person's.
//!
//! Only those that lay there when the job began: what is replayed and cannot be processed
//! again comes to lie behind them. After an interruption it goes on behind the last letter
//! of which it was written down that it is done; those in between are known by their
//! markers. What was replayed twice all the same meets its claim, and is not sent twice.

use std::time::{Duration, Instant};

use futures::future::join_all;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::attend::Attempt;
use super::fault::Fault;
use crate::config;
use crate::record::replays::ReplayOrder;
use crate::topic::dlq::{Handler, Letter, Letters, NotHandled, Place, Reader, Removal, Remover};

/// Letters on their way at a time, and their bytes.
const HAND_MAX: usize = 16;
const HAND_MAX_BYTES: usize = 4 * 1024 * 1024;
/// Letters that are passed over until it is written down how far the job is.
const PASSED_MAX: u64 = 5_000;

/// How far a replay is. `partition` and `offset` are those of the dead-letter topic.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct Progress {
    /// Partition and the offset before which it ends.
    ends: Option<Vec<(i32, i64)>>,
    /// Partition and offset of the last letter that is done.
    done_to: Option<(i32, i64)>,
    /// Letters that were written to their topic.
    replayed: u64,
    /// Letters that cannot be.
    refused: u64,
}

/// A replay under way.
struct Replay<'a> {
    attempt: &'a Attempt,
    order: ReplayOrder,
    progress: Progress,
    handler: Handler,
}

pub(super) async fn run(attempt: &Attempt, kafka: &config::Kafka) -> Result<(), Fault> {
    let order: ReplayOrder = serde_json::from_value(attempt.job.arguments.clone())
        .map_err(|_| Fault::Hopeless("arguments_unusable"))?;
    let mut progress: Progress = serde_json::from_value(attempt.job.progress.clone())
        .map_err(|_| Fault::Hopeless("progress_unusable"))?;
    let mut reader = Reader::new(kafka)?;
    let letters = Letters::of_topics(&reader, std::slice::from_ref(&order.topic)).await?;
    if !letters.absent().is_empty() {
        return Err(Fault::Failed("no_topic"));
    }
    let place = |(partition, offset): (i32, i64)| Place { topic: order.topic.clone(), partition, offset };
    let ends: Vec<Place> = match &progress.ends {
        Some(ends) => ends.iter().copied().map(place).collect(),
        None => letters.ends(&reader).await?,
    };
    progress.ends = Some(ends.iter().map(|end| (end.partition, end.offset)).collect());
    attempt.reached(&progress).await?;
    let mut letters = letters.until(&ends);
    if let Some(done_to) = progress.done_to {
        letters = letters.after(&place(done_to));
    }
    let handler = Handler::new(kafka, &reader, Some(&attempt.job.requested_by)).await?;
    let mut replay = Replay { attempt, order, progress, handler };
    replay.all(&mut reader, letters).await?;
    remove_handled(kafka, &mut reader, &ends).await
}

impl Replay<'_> {
    async fn all(&mut self, reader: &mut Reader, mut letters: Letters) -> Result<(), Fault> {
        let mut next_hand = Instant::now();
        while self.left() > 0 {
            let (hand, is_over) = self.hand(reader, &mut letters).await?;
            self.attempt.pause_until(next_hand).await?;
            let count = u32::try_from(hand.len()).unwrap_or(u32::MAX);
            next_hand = Instant::now() + Duration::from_secs(1) * count / self.order.rate_per_s.max(1);
            self.handle(&hand).await?;
            self.attempt.reached(&self.progress).await?;
            if is_over {
                break;
            }
        }
        Ok(())
    }

    /// How many more may be replayed.
    fn left(&self) -> u64 {
        self.order.limit.map_or(u64::MAX, |limit| limit.saturating_sub(self.progress.replayed))
    }

    /// The next letters that are meant, and whether there are no more. Letters that are
    /// passed over behind the last one of a hand are looked at again after an interruption.
    async fn hand(
        &mut self,
        reader: &mut Reader,
        letters: &mut Letters,
    ) -> Result<(Vec<Letter>, bool), Fault> {
        let left = usize::try_from(self.left()).unwrap_or(usize::MAX);
        let rate = usize::try_from(self.order.rate_per_s).unwrap_or(usize::MAX).max(1);
        let count_max = HAND_MAX.min(left).min(rate);
        let (mut hand, mut bytes, mut passed) = (Vec::new(), 0, 0);
        while hand.len() < count_max && bytes < HAND_MAX_BYTES {
            let Some((letter, handled)) = letters.next(reader).await? else { return Ok((hand, true)) };
            if handled.is_none() && self.means(&letter) {
                bytes += letter.size_bytes();
                hand.push(letter);
                continue;
            }
            passed += 1;
            if hand.is_empty() {
                self.progress.done_to = Some((letter.place.partition, letter.place.offset));
                if passed % PASSED_MAX == 0 {
                    self.attempt.reached(&self.progress).await?;
                }
            }
        }
        Ok((hand, false))
    }

    fn means(&self, letter: &Letter) -> bool {
        let origin = letter.origin().map(|place| place.partition);
        self.order.reason.as_ref().is_none_or(|reason| letter.reason() == reason)
            && self.order.partition.is_none_or(|partition| origin == Some(partition))
    }

    /// Side by side; those of one partition begin, and are written, in their order.
    async fn handle(&mut self, hand: &[Letter]) -> Result<(), Fault> {
        let handled = join_all(hand.iter().map(|letter| self.handler.replay(letter, None))).await;
        let mut away = false;
        for (letter, handled) in hand.iter().zip(handled) {
            match handled {
                Ok(_) => self.progress.replayed += 1,
                Err(error) if error.is_unavailable() => away = true,
                Err(error) => {
                    self.progress.refused += 1;
                    warn!(letter = %letter.place, why = word(&error), "a dead letter cannot be replayed");
                }
            }
            if !away {
                self.progress.done_to = Some((letter.place.partition, letter.place.offset));
            }
        }
        if away {
            self.attempt.reached(&self.progress).await?;
            return Err(Fault::Away("brokers_away"));
        }
        Ok(())
    }
}

/// Why a letter is not replayed, without the words of its headers.
const fn word(error: &NotHandled) -> &'static str {
    match error {
        NotHandled::Cut { .. } => "cut",
        NotHandled::Foreign { .. } => "foreign",
        NotHandled::NoTopic { .. } => "no_topic",
        NotHandled::NotWritten(_) => "not_written",
        NotHandled::NotMarked { .. } => "not_marked",
    }
}

/// Removes what is handled from the beginning of each partition. What the brokers refuse
/// stays until its retention ends, as the removal by hand does.
async fn remove_handled(kafka: &config::Kafka, reader: &mut Reader, ends: &[Place]) -> Result<(), Fault> {
    let remover = Remover::new(kafka)?;
    for end in ends.iter().filter(|end| end.offset > 0) {
        if let Removal::Refused { cause } = remover.remove_handled(reader, &end.topic, end.partition).await? {
            warn!(topic = end.topic, partition = end.partition, %cause, "what is handled is not removed");
        }
    }
    Ok(())
}

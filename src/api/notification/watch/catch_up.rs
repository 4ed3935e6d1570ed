//! What lies between a resume token and the place where a stream joined the tail.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use super::WatchError;
use super::hub::{Event, broker, change_of};
use crate::decode::Decoder;
use crate::topic::tail::{Step, Tail, TailError, Tailed};

/// Changes that one stream catches up with, at most.
pub(super) const CATCH_UP_MAX: i64 = 1_000_000;
/// Longest wait for the next record of a partition that has more.
const SILENCE_MAX: Duration = Duration::from_secs(10);

/// A reader of the stretch that a stream has missed.
pub(in crate::api::notification) struct CatchUp {
    tail: Tail,
    decoder: Arc<Decoder>,
    /// Partition → where its stretch ends.
    ends: HashMap<usize, i64>,
    /// Was read and is not decoded yet.
    in_hand: Option<Tailed>,
    _place: OwnedSemaphorePermit,
}

impl CatchUp {
    /// A reader from `from` to `to` (exclusive) of each partition; `None`: there is
    /// nothing between them.
    pub(super) async fn open(
        tail: Tail,
        decoder: Arc<Decoder>,
        from: &[i64],
        to: &[i64],
        place: OwnedSemaphorePermit,
    ) -> Result<Option<Self>, WatchError> {
        let extent = tail.extent().await.map_err(|error| broker(&error))?;
        let mut stretches = Vec::new();
        let mut sum = 0_i64;
        for (partition, &from) in from.iter().enumerate() {
            let kept = extent.low.get(partition).zip(extent.high.get(partition));
            // A token from another topic, or from before it was made anew, may lie behind its end.
            if kept.is_none_or(|(&low, &high)| from < low || from > high) {
                return Err(WatchError::TooOld);
            }
            match to.get(partition) {
                Some(&to) if to > from => {
                    sum = sum.saturating_add(to - from);
                    stretches.push((partition, from, to));
                }
                _ => {}
            }
        }
        if sum > CATCH_UP_MAX {
            return Err(WatchError::TooOld);
        }
        if stretches.is_empty() {
            return Ok(None);
        }
        tail.read_from(stretches.iter().map(|&(partition, from, _)| (partition, from)))
            .map_err(|error| broker(&error))?;
        let ends = stretches.into_iter().map(|(partition, _, to)| (partition, to)).collect();
        Ok(Some(Self { tail, decoder, ends, in_hand: None, _place: place }))
    }

    /// The next change; `None`: that was all. May be dropped while it waits.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, WatchError> {
        while self.in_hand.is_none() && !self.ends.is_empty() {
            let step = timeout(SILENCE_MAX, self.tail.next()).await;
            let silent = |_| WatchError::Broker("no record for a while".to_owned());
            match step.map_err(silent)? {
                Ok(Step::Record(record)) => {
                    let Some(&end) = self.ends.get(&record.partition) else { continue };
                    if record.offset + 1 >= end {
                        self.ends.remove(&record.partition);
                    }
                    if record.offset < end {
                        self.in_hand = Some(record);
                    }
                }
                Ok(Step::End(partition, next)) => {
                    if self.ends.get(&partition).is_some_and(|&end| next >= end) {
                        self.ends.remove(&partition);
                    }
                }
                Err(TailError::Gone { .. }) => return Err(WatchError::TooOld),
                Err(error) => return Err(broker(&error)),
            }
        }
        let Some(record) = &self.in_hand else { return Ok(None) };
        let event = change_of(&self.decoder, record).await?;
        self.in_hand = None;
        Ok(Some(event))
    }
}

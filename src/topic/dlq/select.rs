//! Which dead letters are meant: those of topics, or named ones.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::letter::{Handled, Letter, Lying, Place};
use super::read::{Reader, Walk};
use super::{DlqError, topic_meant};

/// A named dead letter that is not there, and why, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// What was named.
    pub place: Place,
    /// Why it is not there.
    pub why: String,
}

/// A partition that is still to be looked at.
struct Part {
    topic: String,
    partition: i32,
    /// Only these offsets; `None`: all.
    only: Option<BTreeSet<i64>>,
    /// None before this offset.
    from: i64,
    /// None from this offset on.
    end: i64,
}

/// Dead letters one after the other: by topic, partition and offset, so each
/// partition's oldest first. Holds one at a time.
pub struct Letters {
    left: VecDeque<Part>,
    open: Option<(Walk, Part)>,
    missing: Vec<Missing>,
    absent: Vec<String>,
}

impl Letters {
    /// Every dead letter of these dead-letter topics (full names), as far as they
    /// exist; see [`Letters::absent`].
    ///
    /// # Errors
    /// When the brokers do not answer.
    pub async fn of_topics(reader: &Reader, topics: &[String]) -> Result<Self, DlqError> {
        let mut left = VecDeque::new();
        let mut absent = Vec::new();
        for topic in topics {
            match reader.partitions(topic).await? {
                Some(count) => {
                    let part = |partition| Part {
                        topic: topic.clone(),
                        partition,
                        only: None,
                        from: 0,
                        end: i64::MAX,
                    };
                    left.extend((0..count).map(part));
                }
                None => absent.push(topic.clone()),
            }
        }
        Ok(Self { left, open: None, missing: Vec::new(), absent })
    }

    /// These dead letters, each once. A place's topic may be written in any way that
    /// [`topic_meant`] understands. What is not there is found in
    /// [`Letters::missing`] at the end.
    ///
    /// # Errors
    /// When the brokers do not answer.
    pub async fn named(reader: &Reader, prefix: &str, places: &[Place]) -> Result<Self, DlqError> {
        let mut missing = Vec::new();
        let mut parts: BTreeMap<(String, i32), BTreeSet<i64>> = BTreeMap::new();
        for place in places {
            match topic_meant(prefix, &place.topic) {
                Some(topic) => {
                    parts.entry((topic, place.partition)).or_default().insert(place.offset);
                }
                None => missing.push(Missing {
                    place: place.clone(),
                    why: "no dead-letter topic of ours is called that".to_owned(),
                }),
            }
        }
        let mut left = VecDeque::new();
        let mut counts: BTreeMap<String, i32> = BTreeMap::new();
        for ((topic, partition), only) in parts {
            let count = match counts.get(&topic) {
                Some(&count) => count,
                None => {
                    let count = reader.partitions(&topic).await?;
                    let count = count.ok_or_else(|| DlqError::NoTopic { topic: topic.clone() })?;
                    *counts.entry(topic.clone()).or_insert(count)
                }
            };
            let part = Part { topic, partition, only: Some(only), from: 0, end: i64::MAX };
            if partition < count {
                left.push_back(part);
            } else {
                missing.extend(part.missing(|_| format!("the topic has {count} partitions, counted from 0")));
            }
        }
        Ok(Self { left, open: None, missing, absent: Vec::new() })
    }

    /// Goes on behind this place, which one of these topics has: for the next page of
    /// what is asked for piece by piece.
    #[must_use]
    pub fn after(mut self, place: &Place) -> Self {
        let at =
            self.left.iter().position(|part| part.topic == place.topic && part.partition == place.partition);
        self.left.drain(..at.unwrap_or(self.left.len()));
        if let Some(part) = self.left.front_mut() {
            part.from = place.offset.saturating_add(1);
        }
        self
    }

    /// Where each partition that is still to be looked at ends now.
    ///
    /// # Errors
    /// When the brokers do not answer.
    pub async fn ends(&self, reader: &Reader) -> Result<Vec<Place>, DlqError> {
        let mut ends = Vec::with_capacity(self.left.len());
        for part in &self.left {
            let (_, high) = reader.bounds(&part.topic, part.partition).await?;
            ends.push(part.place(high));
        }
        Ok(ends)
    }

    /// Goes no further than these places, as [`Letters::ends`] gave them: for work that
    /// must not meet what came of it. A partition that has none is left out.
    #[must_use]
    pub fn until(mut self, ends: &[Place]) -> Self {
        for part in &mut self.left {
            let end = ends.iter().find(|end| end.topic == part.topic && end.partition == part.partition);
            part.end = end.map_or(0, |end| end.offset);
        }
        self
    }

    /// The next dead letter, and what was done with it.
    ///
    /// # Errors
    /// When the brokers do not answer.
    pub async fn next(&mut self, reader: &mut Reader) -> Result<Option<(Letter, Option<Handled>)>, DlqError> {
        loop {
            if let Some((walk, part)) = &mut self.open {
                while let Some(step) = walk.next(reader).await? {
                    if !part.takes(step.offset) {
                        continue;
                    }
                    match step.lying {
                        Lying::Letter(letter) => return Ok(Some((*letter, step.handled))),
                        // Among all of a topic nobody has named it.
                        Lying::Marker { .. } if part.only.is_none() => {}
                        Lying::Marker { .. } => {
                            self.missing.push(Missing {
                                place: part.place(step.offset),
                                why: "this is a note of what was done with another one".to_owned(),
                            });
                        }
                    }
                }
            }
            if let Some((_, part)) = self.open.take() {
                self.missing.extend(part.missing(|_| "there is no such record".to_owned()));
            }
            let Some(part) = self.left.pop_front() else {
                return Ok(None);
            };
            let (low, high) = reader.bounds(&part.topic, part.partition).await?;
            self.begin(part, low, high);
        }
    }

    fn begin(&mut self, mut part: Part, low: i64, high: i64) {
        let (mut from, mut end) = (low.max(part.from), high.min(part.end));
        if let Some(only) = &mut part.only {
            let there = only.range(low..high.max(low)).copied().collect();
            let away = std::mem::replace(only, there);
            for offset in away.iter().copied().filter(|offset| !(low..high).contains(offset)) {
                let why = if offset < low {
                    "it was removed: everything up to it was handled, or its time was over"
                } else {
                    "there is no such record yet"
                };
                self.missing.push(Missing { place: part.place(offset), why: why.to_owned() });
            }
        }
        if let Some(only) = &part.only {
            let (Some(&first), Some(&last)) = (only.first(), only.last()) else { return };
            (from, end) = (first, last + 1);
        }
        let walk = Walk::new(&part.topic, part.partition, from, end, high);
        self.open = Some((walk, part));
    }

    /// What was named and is not there, as far as it was looked for.
    #[must_use]
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }

    /// Topics that were asked for and that the brokers do not have.
    #[must_use]
    pub fn absent(&self) -> &[String] {
        &self.absent
    }
}

impl Part {
    fn place(&self, offset: i64) -> Place {
        Place { topic: self.topic.clone(), partition: self.partition, offset }
    }

    /// True when this offset is meant; a named one is meant once.
    fn takes(&mut self, offset: i64) -> bool {
        self.only.as_mut().is_none_or(|only| only.remove(&offset))
    }

    /// Those that are named and have not come.
    fn missing(&self, why: impl Fn(i64) -> String) -> Vec<Missing> {
        let offsets = self.only.iter().flatten().copied();
        offsets.map(|offset| Missing { place: self.place(offset), why: why(offset) }).collect()
    }
}

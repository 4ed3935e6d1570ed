//! Successive readings of one group, and what follows from them: rates, time to drain, state.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::Serialize;

use super::evaluate::{Finding, Sample, State, drain_seconds, findings, state};
use super::reading::{GroupReading, PartitionReading};

/// Readings that a window keeps, at most: when they come faster, it spans less.
const READINGS_MAX: usize = 240;
/// Commits that have not moved for this long do not move, unless it is told otherwise:
/// longer than commits are apart, short enough for somebody who looks.
const STALL_AFTER: Duration = Duration::from_secs(3);

/// The readings of the last time of one group.
#[derive(Debug, Clone)]
pub struct Window {
    span: Duration,
    stall_after: Duration,
    readings: VecDeque<GroupReading>,
}

/// How a group stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct GroupStanding {
    /// Full name of the group.
    pub group: String,
    /// The brokers' word for the group's state; `None`: they do not know it.
    pub group_state: Option<String>,
    /// Members of the group.
    pub members: usize,
    /// When the last reading was taken, in milliseconds since 1970.
    pub at_ms: i64,
    /// The worst of its partitions.
    pub state: State,
    /// Its topics, by name; also those that do not exist.
    pub topics: Vec<TopicStanding>,
    /// Its partitions, by topic and number.
    pub partitions: Vec<PartitionStanding>,
}

/// How a group stands in one topic.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TopicStanding {
    /// Full name.
    pub topic: String,
    /// The worst of its partitions.
    pub state: State,
    /// [`Finding::TopicMissing`], or nothing.
    pub findings: Vec<Finding>,
    /// Records that wait.
    pub lag_messages: i64,
    /// Age of the oldest of them in milliseconds; `None`: there is none, or it is not known.
    pub oldest_age_ms: Option<u64>,
    /// Records per second that come in; `None`: the window holds one reading only.
    pub arrival_rate: Option<f64>,
    /// Records per second that are committed; `None` as above.
    pub processing_rate: Option<f64>,
    /// Seconds until the lag is gone at these rates; infinite when it does not go, or when a
    /// partition of it is stalled or stopped; `None` as above.
    #[serde(serialize_with = "finite_or_text")]
    pub drain_seconds: Option<f64>,
}

/// How a group stands in one partition.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PartitionStanding {
    /// The last reading.
    #[serde(flatten)]
    pub reading: PartitionReading,
    /// How it stands.
    pub state: State,
    /// What is unusual.
    pub findings: Vec<Finding>,
    /// Records per second that come in; `None`: the window holds one reading of it only.
    pub arrival_rate: Option<f64>,
    /// Records per second that are committed; `None` as above.
    pub processing_rate: Option<f64>,
    /// Seconds until the lag is gone at these rates; infinite when it does not go; `None` as
    /// above.
    #[serde(serialize_with = "finite_or_text")]
    pub drain_seconds: Option<f64>,
}

impl Window {
    /// An empty window. Rates are means over `span`, which should hold several readings.
    #[must_use]
    pub fn new(span: Duration) -> Self {
        Self { span, stall_after: STALL_AFTER, readings: VecDeque::new() }
    }

    /// After how long without a commit that moves a partition with lag is stalled.
    #[must_use]
    pub fn stalled_after(mut self, stall_after: Duration) -> Self {
        self.stall_after = stall_after;
        self
    }

    /// Takes the next reading, and forgets those that are older than the span.
    pub fn push(&mut self, reading: GroupReading) {
        let from = reading.taken.saturating_sub(self.span);
        self.readings.push_back(reading);
        // The newest one that is old enough stays: rates are to span the whole window.
        while self.readings.get(1).is_some_and(|second| second.taken <= from)
            || self.readings.len() > READINGS_MAX
        {
            self.readings.pop_front();
        }
    }

    /// The last reading.
    #[must_use]
    pub fn last(&self) -> Option<&GroupReading> {
        self.readings.back()
    }

    /// How the group stands; `None` before the first reading.
    #[must_use]
    pub fn standing(&self) -> Option<GroupStanding> {
        let last = self.readings.back()?;
        let histories = self.histories();
        let partitions: Vec<PartitionStanding> = last
            .partitions
            .iter()
            .map(|one| {
                let history = histories.get(&(one.topic.as_str(), one.partition));
                self.partition(one, history.map_or(&[], Vec::as_slice))
            })
            .collect();
        let topics = topics(&partitions, &last.missing_topics);
        Some(GroupStanding {
            group: last.group.clone(),
            group_state: last.group_state.clone(),
            members: last.members,
            at_ms: last.at_ms,
            state: topics.iter().map(|topic| topic.state).max().unwrap_or(State::Ok),
            topics,
            partitions,
        })
    }

    /// The readings by partition, oldest first. One whose end went back was made anew: what
    /// was before belongs to another partition.
    fn histories(&self) -> BTreeMap<(&str, i32), Vec<Seen<'_>>> {
        let mut histories: BTreeMap<(&str, i32), Vec<Seen<'_>>> = BTreeMap::new();
        for reading in &self.readings {
            for one in &reading.partitions {
                let history = histories.entry((one.topic.as_str(), one.partition)).or_default();
                if history.last().is_some_and(|before| one.high < before.one.high) {
                    history.clear();
                }
                history.push(Seen { taken: reading.taken, one });
            }
        }
        histories
    }

    fn partition(&self, one: &PartitionReading, history: &[Seen<'_>]) -> PartitionStanding {
        let rates = rates(history);
        let samples: Vec<Sample> = history
            .iter()
            .map(|seen| Sample {
                taken: seen.taken,
                committed: seen.one.committed,
                lag: seen.one.lag_messages,
            })
            .collect();
        PartitionStanding {
            reading: one.clone(),
            state: state(one, &samples, rates.map(|(_, processing)| processing), self.stall_after),
            findings: findings(one),
            arrival_rate: rates.map(|(arrival, _)| arrival),
            processing_rate: rates.map(|(_, processing)| processing),
            drain_seconds: rates
                .map(|(arrival, processing)| drain_seconds(one.lag_messages, arrival, processing)),
        }
    }
}

/// JSON has no infinite number: it becomes the text `+Inf`, as Prometheus writes it.
#[expect(clippy::ref_option, reason = "serde asks for this signature")]
fn finite_or_text<S: serde::Serializer>(value: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(value) if value.is_infinite() => serializer.serialize_str("+Inf"),
        other => other.serialize(serializer),
    }
}

/// A partition in one of the readings.
#[derive(Debug, Clone, Copy)]
struct Seen<'a> {
    taken: Duration,
    one: &'a PartitionReading,
}

/// Records per second that came in and that were committed, from the first to the last
/// reading; `None` when no time lies between them. A commit that went back counts as nothing.
#[expect(clippy::cast_precision_loss, reason = "records, far below 2^52")]
fn rates(history: &[Seen<'_>]) -> Option<(f64, f64)> {
    let (first, last) = (history.first()?, history.last()?);
    let seconds = last.taken.saturating_sub(first.taken).as_secs_f64();
    if seconds <= 0.0 {
        return None;
    }
    let arrived = (last.one.high - first.one.high).max(0);
    let step = |before: &PartitionReading, now: &PartitionReading| match (before.committed, now.committed) {
        (Some(before), Some(now)) => (now - before).max(0),
        (None, Some(now)) => (now - before.low).max(0),
        _ => 0,
    };
    let processed: i64 = history.windows(2).map(|pair| step(pair[0].one, pair[1].one)).sum();
    Some((arrived as f64 / seconds, processed as f64 / seconds))
}

/// Partitions by topic, and the topics that are missing.
fn topics(partitions: &[PartitionStanding], missing: &[String]) -> Vec<TopicStanding> {
    let mut topics: BTreeMap<&str, Vec<&PartitionStanding>> = BTreeMap::new();
    for one in partitions {
        topics.entry(&one.reading.topic).or_default().push(one);
    }
    let mut all: Vec<TopicStanding> = topics.into_iter().map(|(name, of)| topic(name, &of)).collect();
    all.extend(missing.iter().map(|name| TopicStanding {
        topic: name.clone(),
        state: State::Stopped,
        findings: vec![Finding::TopicMissing],
        lag_messages: 0,
        oldest_age_ms: None,
        arrival_rate: None,
        processing_rate: None,
        drain_seconds: None,
    }));
    all.sort_by(|a, b| a.topic.cmp(&b.topic));
    all
}

fn topic(name: &str, partitions: &[&PartitionStanding]) -> TopicStanding {
    let sum = |rate: fn(&PartitionStanding) -> Option<f64>| {
        partitions.iter().filter_map(|one| rate(one)).reduce(|a, b| a + b)
    };
    let lag_messages = partitions.iter().map(|one| one.reading.lag_messages).sum();
    let (arrival_rate, processing_rate) = (sum(|one| one.arrival_rate), sum(|one| one.processing_rate));
    let stands = partitions.iter().any(|one| matches!(one.state, State::Stalled | State::Stopped));
    TopicStanding {
        topic: name.to_owned(),
        state: partitions.iter().map(|one| one.state).max().unwrap_or(State::Ok),
        findings: Vec::new(),
        lag_messages,
        oldest_age_ms: partitions.iter().filter_map(|one| one.reading.oldest_age_ms).max(),
        arrival_rate,
        processing_rate,
        drain_seconds: arrival_rate.zip(processing_rate).map(|(arrival, processing)| {
            if stands { f64::INFINITY } else { drain_seconds(lag_messages, arrival, processing) }
        }),
    }
}

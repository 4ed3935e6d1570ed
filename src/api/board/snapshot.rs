//! What viewers get: one document, complete each time.

use std::collections::BTreeMap;
use std::time::Instant;

use serde::Serialize;

use super::verdict::Verdict;
use crate::lag::GroupStanding;
use crate::record::funnel::Funnel;

/// A part of the page that is read by itself.
#[derive(Debug, Clone)]
pub(super) struct Panel<T> {
    /// What was read last; `None`: nothing yet.
    pub(super) data: Option<T>,
    /// When.
    pub(super) read_at: Option<Instant>,
    /// What was wrong with the last try; `None`: nothing.
    pub(super) error: Option<String>,
}

impl<T> Default for Panel<T> {
    fn default() -> Self {
        Self { data: None, read_at: None, error: None }
    }
}

impl<T> Panel<T> {
    fn is_known(&self) -> bool {
        self.data.is_some() || self.error.is_some()
    }

    /// What was read, or what was wrong.
    pub(super) fn take(&mut self, read: Result<T, String>) {
        match read {
            Ok(data) => *self = Self { data: Some(data), read_at: Some(Instant::now()), error: None },
            Err(error) => self.error = Some(error),
        }
    }
}

/// A panel as it is shown.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Shown<T> {
    data: Option<T>,
    /// Seconds since it was read.
    read_ago_s: Option<u64>,
    error: Option<String>,
}

impl<T: Clone> Panel<T> {
    pub(super) fn shown(&self) -> Shown<T> {
        Shown {
            data: self.data.clone(),
            read_ago_s: self.read_at.map(|at| at.elapsed().as_secs()),
            error: self.error.clone(),
        }
    }
}

/// Everything that is read.
#[derive(Debug, Clone, Default)]
pub(super) struct Panels {
    /// One a group, by name.
    pub(super) groups: BTreeMap<String, Panel<Group>>,
    pub(super) queues: Panel<Vec<Queue>>,
    pub(super) providers: Panel<Vec<Provider>>,
    pub(super) funnel: Panel<Steps>,
    pub(super) batches: Panel<Vec<Batch>>,
    pub(super) cron: Panel<Vec<Tick>>,
    pub(super) letters: Panel<Vec<Letters>>,
    pub(super) wanted: Panel<Vec<Wanted>>,
}

impl Panels {
    /// All that decides whether patients wait has been read, or found to be away.
    pub(super) fn are_known(&self) -> bool {
        let groups = !self.groups.is_empty() && self.groups.values().all(Panel::is_known);
        groups && self.queues.is_known() && self.providers.is_known()
    }
}

/// The document.
#[derive(Debug, Serialize)]
pub(super) struct Snapshot {
    /// When it was made, in milliseconds since 1970.
    pub(super) at_ms: i64,
    pub(super) verdict: Verdict,
    pub(super) groups: BTreeMap<String, Shown<Group>>,
    pub(super) queues: Shown<Vec<Queue>>,
    pub(super) providers: Shown<Vec<Provider>>,
    pub(super) funnel: Shown<Steps>,
    pub(super) batches: Shown<Vec<Batch>>,
    pub(super) cron: Shown<Vec<Tick>>,
    pub(super) letters: Shown<Vec<Letters>>,
    pub(super) wanted: Shown<Vec<Wanted>>,
}

/// A consumer group.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Group {
    pub(super) members: usize,
    pub(super) state: &'static str,
    pub(super) topics: Vec<Topic>,
}

/// How a group stands in a topic.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Topic {
    pub(super) topic: String,
    pub(super) state: &'static str,
    pub(super) lag: i64,
    pub(super) oldest_s: Option<f64>,
    pub(super) arrival_per_s: Option<f64>,
    pub(super) done_per_s: Option<f64>,
    /// `None`: not known; -1: it does not drain.
    pub(super) drain_s: Option<f64>,
    pub(super) partitions: Vec<Partition>,
}

/// A cell of the heatmap.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Partition {
    pub(super) number: i32,
    pub(super) lag: i64,
    pub(super) oldest_s: Option<f64>,
    pub(super) state: &'static str,
}

/// A queue of due rows.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Queue {
    pub(super) queue: String,
    pub(super) urgency: String,
    pub(super) due: i64,
    pub(super) oldest_s: f64,
}

/// A channel's provider.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Provider {
    pub(super) channel: &'static str,
    pub(super) provider: &'static str,
    pub(super) enabled: bool,
    /// Processes that leave it alone, of those that send.
    pub(super) open_at: usize,
    pub(super) senders: usize,
    /// Who paused it, since when; `None`: nobody.
    pub(super) paused: Option<String>,
    pub(super) held_by_pause: i64,
}

/// The funnel.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Steps {
    pub(super) purposes: Vec<Purpose>,
    pub(super) channels: Vec<ChannelEnds>,
    /// Notifications of a purpose that are looked at, at most, and how far back in hours.
    pub(super) looked_max: i64,
    pub(super) hours: i32,
}

/// Of one purpose.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Purpose {
    pub(super) purpose: String,
    pub(super) accepted: i64,
    pub(super) sent: i64,
    pub(super) delivered: i64,
    pub(super) read: i64,
    pub(super) waiting: i64,
    pub(super) failed: i64,
    pub(super) suppressed: BTreeMap<String, i64>,
}

/// Of one channel and provider: deliveries by state.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ChannelEnds {
    pub(super) channel: String,
    pub(super) provider: String,
    pub(super) states: BTreeMap<String, i64>,
}

/// A batch.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Batch {
    pub(super) id: String,
    pub(super) caller: String,
    pub(super) state: &'static str,
    pub(super) published: i64,
    pub(super) stored: i64,
    pub(super) per_s: Option<f64>,
}

/// A tick of cron.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Tick {
    pub(super) job: String,
    pub(super) due_at: String,
    pub(super) state: String,
    pub(super) fault: Option<String>,
    pub(super) took_s: Option<f64>,
}

/// Records on a dead-letter topic, handled ones that are still kept included.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Letters {
    pub(super) topic: String,
    pub(super) kept: i64,
}

/// What the scaler wants for a consumer.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Wanted {
    pub(super) deployment: String,
    pub(super) replicas: Option<u32>,
    pub(super) rate_per_s: Option<f64>,
    pub(super) stale: bool,
    /// Why, in sentences.
    pub(super) why: String,
}

/// -1 for what never ends: JSON has no infinite number.
fn finite(seconds: f64) -> f64 {
    if seconds.is_finite() { seconds } else { -1.0 }
}

#[expect(clippy::cast_precision_loss, reason = "a time")]
fn seconds(ms: Option<u64>) -> Option<f64> {
    ms.map(|ms| ms as f64 / 1000.0)
}

impl From<GroupStanding> for Group {
    fn from(standing: GroupStanding) -> Self {
        let topics = standing.topics.iter().map(|topic| Topic {
            topic: topic.topic.clone(),
            state: topic.state.as_str(),
            lag: topic.lag_messages,
            oldest_s: seconds(topic.oldest_age_ms),
            arrival_per_s: topic.arrival_rate,
            done_per_s: topic.processing_rate,
            drain_s: topic.drain_seconds.map(finite),
            partitions: standing
                .partitions
                .iter()
                .filter(|one| one.reading.topic == topic.topic)
                .map(|one| Partition {
                    number: one.reading.partition,
                    lag: one.reading.lag_messages,
                    oldest_s: seconds(one.reading.oldest_age_ms),
                    state: one.state.as_str(),
                })
                .collect(),
        });
        Self { members: standing.members, state: standing.state.as_str(), topics: topics.collect() }
    }
}

impl From<Funnel> for Steps {
    fn from(funnel: Funnel) -> Self {
        let purposes = funnel.purposes.into_iter().map(|(purpose, steps)| Purpose {
            purpose,
            accepted: steps.accepted,
            sent: steps.sent,
            delivered: steps.delivered,
            read: steps.read,
            waiting: steps.waiting,
            failed: steps.failed,
            suppressed: steps.suppressed,
        });
        let channels = funnel.channels.into_iter().map(|((channel, provider), states)| ChannelEnds {
            channel,
            provider,
            states,
        });
        Self {
            purposes: purposes.collect(),
            channels: channels.collect(),
            looked_max: crate::record::funnel::LOOKED_MAX,
            hours: crate::record::funnel::HOURS,
        }
    }
}

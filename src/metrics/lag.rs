//! Lag as it was last read, told at each scrape. Whoever reads a group holds a
//! [`LagTeller`]; with it, or with a partition that is no longer owned, the series go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use opentelemetry::KeyValue;
use opentelemetry::metrics::AsyncInstrument;
use parking_lot::RwLock;

use super::INSTRUMENTS;
use crate::lag::{GroupStanding, PartitionStanding, State, TopicStanding};

/// Partitions of a topic that are told, at most; it bounds the number of series.
const PARTITIONS_MAX: i32 = 1024;

/// Who tells, groups as a whole first: what an owner says of its partitions is newer.
static TELLERS: RwLock<BTreeMap<(Scope, u64), Arc<Told>>> = RwLock::new(BTreeMap::new());

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scope {
    Group,
    Owned,
}

/// Whether this partition (topic by its full name) is owned now.
type Owns = Box<dyn Fn(&str, i32) -> bool + Send + Sync>;

struct Told {
    owns: Owns,
    last: RwLock<Option<(GroupStanding, Instant)>>,
}

/// Tells `/metrics` how a group stands. Dropping it ends its series.
#[derive(Debug)]
pub struct LagTeller {
    key: (Scope, u64),
}

impl LagTeller {
    /// For a process that reads the group as its member: `owns` is asked at each scrape.
    #[must_use]
    pub fn of_owned(owns: impl Fn(&str, i32) -> bool + Send + Sync + 'static) -> Self {
        Self::new(Scope::Owned, Box::new(owns))
    }

    /// For a process that looks at the whole group from outside. It tells no rates: those of
    /// the members add up.
    #[must_use]
    pub fn of_group() -> Self {
        Self::new(Scope::Group, Box::new(|_, _| true))
    }

    fn new(scope: Scope, owns: Owns) -> Self {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let key = (scope, NUMBERS.fetch_add(1, Ordering::Relaxed));
        TELLERS.write().insert(key, Arc::new(Told { owns, last: RwLock::default() }));
        Self { key }
    }

    /// Takes what was read now; it stands until the next.
    pub fn tell(&self, standing: GroupStanding) {
        if let Some(told) = TELLERS.read().get(&self.key) {
            *told.last.write() = Some((standing, Instant::now()));
        }
    }
}

impl Drop for LagTeller {
    fn drop(&mut self) {
        TELLERS.write().remove(&self.key);
    }
}

/// What an instrument of partitions shows; `None`: not known.
pub(super) type OfPartition = fn(&PartitionStanding, Instant) -> Option<f64>;
/// What an instrument of topics shows; `None`: not known.
pub(super) type OfTopic = fn(&TopicStanding) -> Option<f64>;

pub(super) fn observe_partitions(instrument: &dyn AsyncInstrument<f64>, value: OfPartition) {
    for_each(|_, told, standing, read| {
        for one in &standing.partitions {
            let (topic, partition) = (&one.reading.topic, one.reading.partition);
            if partition < PARTITIONS_MAX
                && (told.owns)(topic, partition)
                && let Some(value) = value(one, read)
            {
                let partition = KeyValue::new("partition", i64::from(partition));
                let [group, topic] = labels(&standing.group, topic);
                instrument.observe(finite(value), &[group, topic, partition]);
            }
        }
    });
}

/// `rates`: those of the members add up, so that nobody else tells them.
pub(super) fn observe_topics(instrument: &dyn AsyncInstrument<f64>, value: OfTopic, rates: bool) {
    for_each(|scope, told, standing, _| {
        if rates && scope == Scope::Group {
            return;
        }
        for one in &standing.topics {
            let partitions =
                standing.partitions.iter().filter(|partition| partition.reading.topic == one.topic);
            let owned = partitions.map(|one| &one.reading).any(|one| (told.owns)(&one.topic, one.partition));
            if owned && let Some(value) = value(one) {
                instrument.observe(finite(value), &labels(&standing.group, &one.topic));
            }
        }
    });
}

pub(super) fn observe_reading_age(instrument: &dyn AsyncInstrument<f64>) {
    for_each(|_, _, standing, read| {
        let group = KeyValue::new("group", Arc::<str>::from(standing.group.as_str()));
        instrument.observe(read.elapsed().as_secs_f64(), &[group]);
    });
}

fn for_each(mut each: impl FnMut(Scope, &Told, &GroupStanding, Instant)) {
    // A copy, so that nobody waits for a scrape.
    let tellers: Vec<_> = TELLERS.read().iter().map(|(key, told)| (key.0, Arc::clone(told))).collect();
    for (scope, told) in tellers {
        if let Some((standing, read)) = &*told.last.read() {
            each(scope, &told, standing, *read);
        }
    }
}

fn labels(group: &str, topic: &str) -> [KeyValue; 2] {
    let topic = INSTRUMENTS.get().map_or_else(|| KeyValue::new("topic", "other"), |i| i.topic(topic));
    [KeyValue::new("group", Arc::<str>::from(group)), topic]
}

/// The SDK takes no infinite value: [`super::render`] shows the largest number as `+Inf`.
fn finite(value: f64) -> f64 {
    if value.is_infinite() { f64::MAX } else { value }
}

#[expect(clippy::cast_precision_loss, reason = "records, far below 2^52")]
pub(super) fn messages(one: &PartitionStanding, _: Instant) -> Option<f64> {
    Some(one.reading.lag_messages as f64)
}

/// The age as it was read; a record that does not move has aged since.
#[expect(clippy::cast_precision_loss, reason = "a time")]
pub(super) fn seconds(one: &PartitionStanding, read: Instant) -> Option<f64> {
    if one.reading.lag_messages == 0 {
        return Some(0.0);
    }
    let age = one.reading.oldest_age_ms? as f64 / 1000.0;
    Some(if stands(one) { age + read.elapsed().as_secs_f64() } else { age })
}

pub(super) fn stalled(one: &PartitionStanding, _: Instant) -> Option<f64> {
    Some(f64::from(u8::from(stands(one))))
}

#[expect(clippy::cast_precision_loss, reason = "records, far below 2^52")]
pub(super) fn lost_records(one: &PartitionStanding, _: Instant) -> Option<f64> {
    Some(one.reading.lost_records() as f64)
}

pub(super) fn retention_headroom(one: &PartitionStanding, _: Instant) -> Option<f64> {
    one.reading.retention_headroom_ms().map(|headroom_ms| headroom_ms / 1000.0)
}

fn stands(one: &PartitionStanding) -> bool {
    matches!(one.state, State::Stalled | State::Stopped)
}

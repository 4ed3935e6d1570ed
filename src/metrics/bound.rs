//! Series that every message writes to. Looking a series up by its labels costs more than writing to
//! it, so each is looked up once and kept.

use std::collections::HashMap;
use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{BoundCounter, BoundHistogram, Counter, Histogram};
use parking_lot::RwLock;

use super::word;

/// An instrument whose series can be kept.
pub(super) trait Bind {
    /// One of its series.
    type Series: Clone;

    fn bind(&self, labels: &[KeyValue]) -> Self::Series;
}

impl Bind for Counter<u64> {
    type Series = BoundCounter<u64>;

    fn bind(&self, labels: &[KeyValue]) -> Self::Series {
        self.bind(labels)
    }
}

impl Bind for Histogram<f64> {
    type Series = BoundHistogram<f64>;

    fn bind(&self, labels: &[KeyValue]) -> Self::Series {
        self.bind(labels)
    }
}

/// An instrument with two labels of static words.
pub(super) struct ByWords<I: Bind> {
    instrument: I,
    labels: [&'static str; 2],
    known: RwLock<HashMap<[&'static str; 2], I::Series>>,
}

impl<I: Bind> ByWords<I> {
    /// Of an instrument with these labels.
    pub(super) fn new(instrument: I, labels: [&'static str; 2]) -> Self {
        Self { instrument, labels, known: RwLock::default() }
    }

    /// The series with these values.
    pub(super) fn of(&self, values: [&'static str; 2]) -> I::Series {
        if let Some(series) = self.known.read().get(&values) {
            return series.clone();
        }
        let labels = [word(self.labels[0], values[0]), word(self.labels[1], values[1])];
        self.known.write().entry(values).or_insert_with(|| self.instrument.bind(&labels)).clone()
    }
}

/// Series of one topic, by outcome.
type Outcomes = HashMap<&'static str, BoundCounter<u64>>;

/// A counter by topic and outcome.
pub(super) struct ByTopic {
    instrument: Counter<u64>,
    topics: RwLock<HashMap<Arc<str>, Outcomes>>,
}

impl ByTopic {
    /// Of a counter with the labels `topic` and `outcome`.
    pub(super) fn new(instrument: Counter<u64>) -> Self {
        Self { instrument, topics: RwLock::default() }
    }

    /// Adds to the series; `label` makes the topic's label, which may be that of several topics.
    pub(super) fn add(&self, topic: &str, outcome: &'static str, n: u64, label: impl FnOnce() -> KeyValue) {
        if let Some(series) = self.topics.read().get(topic).and_then(|series| series.get(outcome)) {
            return series.add(n);
        }
        let labels = [word("outcome", outcome), label()];
        if labels[1].value.as_str() != topic {
            // One of too many topics: it is not kept.
            return self.instrument.add(n, &labels);
        }
        let mut topics = self.topics.write();
        let series = topics.entry(Arc::from(topic)).or_default();
        series.entry(outcome).or_insert_with(|| self.instrument.bind(&labels)).add(n);
    }
}

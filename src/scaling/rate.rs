//! What a pod handles while it is busy: what the pods tell, held against what the brokers saw.

use std::collections::VecDeque;
use std::time::Duration;

use serde::Serialize;

use super::demand::Backlog;
use super::reading::Reading;
use super::settings::Settings;

/// Where a pod's rate comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RateSource {
    /// The pods tell it.
    Told,
    /// The pods told it some minutes ago, and tell nothing now.
    Last,
    /// No pod has told it for long, or ever: the planned one.
    Planned,
    /// The brokers saw the group do less than what the pods tell, with a backlog everywhere.
    SeenLess,
    /// The brokers saw the group do more than that.
    SeenMore,
}

impl RateSource {
    /// In a sentence, after the rate.
    pub(super) const fn in_words(self) -> &'static str {
        match self {
            Self::Told => "told by the pods",
            Self::Last => "told by the pods some minutes ago",
            Self::Planned => "as planned: no pod tells it",
            Self::SeenLess => "seen by the brokers; the pods tell more",
            Self::SeenMore => "seen by the brokers; the pods tell less",
        }
    }
}

/// What the pods told last counts for this long.
const LAST_COUNTS_FOR: Duration = Duration::from_secs(600);
/// What the brokers saw is a mean over this time: commits of a second and a moved partition
/// weigh little in it.
const SEEN_OVER: Duration = Duration::from_secs(30);
/// The pods' own figures differ by so much from what is seen without being wrong.
const DIFFERS: f64 = 1.15;
/// Time in which a changed rate counts by two thirds, when it rises and when it falls: too few
/// pods are dearer than too many.
const RISES_IN_S: f64 = 60.0;
const FALLS_IN_S: f64 = 15.0;

/// The rate over time.
#[derive(Debug, Default)]
pub(super) struct Rate {
    told: Option<(Duration, f64)>,
    smooth: Option<(Duration, f64)>,
    seen: VecDeque<Look>,
}

/// What the brokers said at one moment, as far as it tells how much is handled.
#[derive(Debug, Clone, Copy)]
struct Look {
    at: Duration,
    replicas: u32,
    lag: f64,
    arrival_per_s: f64,
    everywhere: bool,
}

impl Rate {
    /// The rate of a pod at this reading, in records a second, within its bounds.
    pub(super) fn take(&mut self, reading: &Reading, settings: &Settings) -> (f64, RateSource) {
        let usable = |rate: &f64| rate.is_finite() && *rate > 0.0;
        if let Some(told) = reading.true_rate_per_s.filter(usable) {
            self.told = Some((reading.at, told));
        }
        let (rate, source) = match self.told {
            Some((at, rate)) if at == reading.at => (rate, RateSource::Told),
            Some((at, rate)) if reading.at.saturating_sub(at) <= LAST_COUNTS_FOR => (rate, RateSource::Last),
            _ => (settings.planned_rate_per_s, RateSource::Planned),
        };
        let (rate, source) = match self.seen(reading, settings) {
            Some((seen, true)) if seen * DIFFERS < rate => (seen, RateSource::SeenLess),
            Some((seen, _)) if seen > rate * DIFFERS => (seen, RateSource::SeenMore),
            _ => (rate, source),
        };
        let rate = rate.clamp(settings.rate_min_per_s, settings.rate_max_per_s);
        (self.smoothed(reading.at, rate), source)
    }

    /// Records a second that a pod handled of late, and whether all of them had work all the
    /// time. `None`: pods came or went, or too little has been seen.
    fn seen(&mut self, reading: &Reading, settings: &Settings) -> Option<(f64, bool)> {
        let backlog = Backlog::of(reading, settings, 1.0);
        let now = Look {
            at: reading.at,
            replicas: reading.replicas,
            lag: backlog.lag,
            arrival_per_s: backlog.arrival_per_s?,
            everywhere: backlog.everywhere,
        };
        if self.seen.back().is_some_and(|last| last.replicas != now.replicas || last.at >= now.at) {
            self.seen.clear();
        }
        self.seen.push_back(now);
        while self.seen.get(1).is_some_and(|second| now.at.saturating_sub(second.at) >= SEEN_OVER) {
            self.seen.pop_front();
        }
        let first = self.seen.front()?;
        let over = now.at.saturating_sub(first.at);
        if over < SEEN_OVER || now.replicas == 0 {
            return None;
        }
        let looks = self.seen.len().saturating_sub(1).max(1);
        #[expect(clippy::cast_precision_loss, reason = "a handful of looks")]
        let arrival = self.seen.iter().skip(1).map(|look| look.arrival_per_s).sum::<f64>() / looks as f64;
        let handled = arrival - (now.lag - first.lag) / over.as_secs_f64();
        let busy = self.seen.iter().all(|look| look.everywhere);
        (handled > 0.0).then(|| (handled / f64::from(now.replicas), busy))
    }

    fn smoothed(&mut self, at: Duration, rate: f64) -> f64 {
        let smooth = match self.smooth {
            Some((before, old)) => {
                let within_s = if rate > old { RISES_IN_S } else { FALLS_IN_S };
                let passed_s = at.saturating_sub(before).as_secs_f64();
                old + (rate - old) * (1.0 - (-passed_s / within_s).exp())
            }
            None => rate,
        };
        self.smooth = Some((at, smooth));
        smooth
    }
}

//! How many replicas.

use std::collections::VecDeque;
use std::time::Duration;

use super::demand::{self, Backlog, Demand, moving_partitions};
use super::explanation::{Bound, Explanation, Reason};
use super::quantum;
use super::rate::{Rate, RateSource};
use super::reading::Reading;
use super::settings::Settings;

/// Stalled partitions that an explanation names.
const STALLED_NAMED_MAX: usize = 10;
/// Decisions that are looked back at, at most: when they come faster, it is for less long.
const WANTS_MAX: usize = 4096;

/// A number of replicas, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Within the least and the most that are allowed.
    pub replicas: u32,
    /// What it came down to.
    pub reason: Reason,
    /// The numbers.
    pub explanation: Explanation,
}

/// Decides for one deployment. It remembers what it decided, what it would have liked to, and
/// a pod's rate; nothing of that is needed to begin anew.
#[derive(Debug)]
pub struct Decider {
    settings: Settings,
    rate: Rate,
    standing: Option<u32>,
    wants: VecDeque<(Duration, u32)>,
}

/// What one decision goes by.
struct Weighed {
    surge: f64,
    backlog: Backlog,
    demand: Demand,
    rate_per_s: f64,
    rate_source: RateSource,
    by_rebalance: f64,
    raw: f64,
    quantised: u32,
    /// With room for what grows within the dead band.
    roomy: u32,
    bounded_by: Option<Bound>,
}

impl Decider {
    /// With nothing remembered.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, rate: Rate::default(), standing: None, wants: VecDeque::new() }
    }

    /// Decides by the next reading. Readings come in the order in which they were taken.
    pub fn decide(&mut self, reading: &Reading) -> Decision {
        let standing = self.within(self.standing.unwrap_or(reading.replicas));
        let weighed = self.weigh(reading, standing);
        let (replicas, reason) = self.settle(reading, &weighed, standing);
        self.standing = Some(replicas);
        let explanation = self.explain(reading, &weighed, (standing, replicas), reason);
        Decision { replicas, reason, explanation }
    }

    fn weigh(&mut self, reading: &Reading, standing: u32) -> Weighed {
        let settings = &self.settings;
        let (rate_per_s, rate_source) = self.rate.take(reading, settings);
        let surge = demand::surge(reading);
        let backlog = Backlog::of(reading, settings, surge);
        let demand = Demand::of(reading, settings, rate_per_s, surge);
        let max = settings.replicas_max;
        // Partitions move from those that go, or to those that come; what arrives in them
        // meanwhile has to be caught up with.
        let without = quantum::least(&demand, demand.pods(), max).max(settings.replicas_min);
        let moved = f64::from(without.abs_diff(standing)) / f64::from(without.max(standing).max(1));
        let waits = backlog.arrival_per_s.unwrap_or(0.0) * moved * settings.rebalance_s;
        let by_rebalance = waits / (rate_per_s * settings.catch_up_s);
        let raw = demand.pods() + by_rebalance;
        let quantised = quantum::least(&demand, raw, max);
        let (roomy, _) =
            self.bound(quantum::least(&demand, raw * (1.0 + settings.dead_band), max), rate_per_s);
        let short = !quantum::carries(&demand, raw, max, max, 0.0);
        let (bounded, bound) = self.bound(quantised, rate_per_s);
        let bounded_by = bound.or((short && bounded == max).then_some(Bound::Maximum));
        Weighed {
            surge,
            backlog,
            demand,
            rate_per_s,
            rate_source,
            by_rebalance,
            raw,
            quantised,
            roomy,
            bounded_by,
        }
    }

    fn settle(&mut self, reading: &Reading, weighed: &Weighed, standing: u32) -> (u32, Reason) {
        let settings = &self.settings;
        let carried = quantum::carries(
            &weighed.demand,
            weighed.raw,
            standing,
            settings.replicas_max,
            settings.dead_band,
        );
        if reading.circuit_open {
            self.remember(reading.at, standing);
            return (standing, Reason::CircuitOpen);
        }
        if weighed.roomy > standing && !carried {
            self.remember(reading.at, weighed.roomy);
            return (weighed.roomy, self.why(weighed));
        }
        if weighed.backlog.arrival_per_s.is_none() {
            self.remember(reading.at, standing);
            return (standing, Reason::ArrivalUnknown);
        }
        if weighed.roomy >= standing {
            self.remember(reading.at, standing);
            let exact = weighed.roomy == standing;
            return (standing, if exact { self.why(weighed) } else { Reason::KeptWithinBand });
        }
        if weighed.backlog.stands(settings) {
            self.remember(reading.at, standing);
            return (standing, Reason::KeptInBacklog);
        }
        self.remember(reading.at, weighed.roomy);
        match self.enough_for_long(reading.at).filter(|enough| *enough < standing) {
            Some(enough) => (enough, self.why(weighed)),
            None => (standing, Reason::KeptForNow),
        }
    }

    /// What the count follows from when nothing keeps the one before.
    fn why(&self, weighed: &Weighed) -> Reason {
        match weighed.bounded_by {
            Some(Bound::Minimum) => Reason::Minimum,
            Some(Bound::Maximum) => Reason::Maximum,
            Some(Bound::ProviderBudget) => Reason::ProviderBudget,
            None if weighed.backlog.stands(&self.settings) && weighed.demand.by_backlog >= 1.0 => {
                Reason::Backlog
            }
            None => Reason::Arrival,
        }
    }

    fn remember(&mut self, at: Duration, want: u32) {
        self.wants.push_back((at, want));
        let hold = Duration::from_secs_f64(self.settings.scale_down_hold_s.max(0.0));
        let from = at.saturating_sub(hold);
        // The newest one that is old enough stays: it says that the whole time was looked at.
        while self.wants.get(1).is_some_and(|second| second.0 <= from) || self.wants.len() > WANTS_MAX {
            self.wants.pop_front();
        }
    }

    /// The most that was wanted for as long as fewer must have been enough; `None`: it has
    /// not been looked at for so long.
    fn enough_for_long(&self, at: Duration) -> Option<u32> {
        let looked_for = at.saturating_sub(self.wants.front()?.0).as_secs_f64();
        let most = self.wants.iter().map(|(_, want)| *want).max();
        most.filter(|_| looked_for >= self.settings.scale_down_hold_s || self.wants.len() >= WANTS_MAX)
    }

    fn within(&self, replicas: u32) -> u32 {
        replicas.max(self.settings.replicas_min).min(self.settings.replicas_max)
    }

    /// Bounded by the providers, then by the least and the most, which are stronger.
    fn bound(&self, replicas: u32, rate_per_s: f64) -> (u32, Option<Bound>) {
        let settings = &self.settings;
        // A rate that fell because the providers take less is no reason for more pods.
        let rate_per_s = rate_per_s.max(settings.planned_rate_per_s);
        let fed = settings.provider_budget_per_s.map(|budget| (budget / rate_per_s).ceil().max(1.0));
        let (replicas, bound) = match fed {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
            Some(fed) if f64::from(replicas) > fed => (fed as u32, Some(Bound::ProviderBudget)),
            _ => (replicas, None),
        };
        if replicas < settings.replicas_min {
            (settings.replicas_min, Some(Bound::Minimum))
        } else if replicas > settings.replicas_max {
            (settings.replicas_max, Some(Bound::Maximum))
        } else {
            (replicas, bound)
        }
    }

    fn explain(
        &self,
        reading: &Reading,
        weighed: &Weighed,
        (before, after): (u32, u32),
        reason: Reason,
    ) -> Explanation {
        let stalled = || reading.partitions.iter().filter(|one| one.stalled);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it saturates")]
        let backlog = weighed.backlog.beyond_rest as u64;
        Explanation {
            deployment: self.settings.deployment.clone(),
            replicas: after,
            replicas_before: before,
            members: reading.replicas,
            reason,
            arrival_per_s: weighed.backlog.arrival_per_s,
            surge: weighed.surge,
            lag: moving_partitions(reading).map(|one| one.lag).fold(0, u64::saturating_add),
            backlog,
            oldest_age_s: weighed.backlog.oldest_age_s,
            rate_per_s: weighed.rate_per_s,
            rate_source: weighed.rate_source,
            utilisation: self.settings.utilisation,
            catch_up_s: self.settings.catch_up_s,
            wanted_by_arrival: weighed.demand.by_arrival,
            wanted_by_backlog: weighed.demand.by_backlog,
            wanted_by_rebalance: weighed.by_rebalance,
            beyond_one_pod: weighed.demand.beyond_one_pod,
            raw: weighed.raw,
            quantised: weighed.quantised,
            bounded_by: weighed.bounded_by,
            partitions: weighed.demand.partitions,
            largest_share: quantum::largest_share(weighed.demand.partitions, after),
            stalled: stalled()
                .take(STALLED_NAMED_MAX)
                .map(|one| format!("{}/{}", one.topic, one.number))
                .collect(),
            stalled_partitions: u32::try_from(stalled().count()).unwrap_or(u32::MAX),
        }
    }
}

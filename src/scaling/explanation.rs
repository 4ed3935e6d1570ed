//! Why so many.

use std::fmt;

use serde::Serialize;

use super::rate::RateSource;

/// A surge below this is what comes in a little unevenly.
const SURGE_SHOWN: f64 = 1.1;

/// What a decision came down to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// So many carry what comes in.
    Arrival,
    /// And what waits besides.
    Backlog,
    /// Fewer would do; there are to be so many at least.
    Minimum,
    /// More would help; there may be so many at most.
    Maximum,
    /// More would only wait for the providers.
    ProviderBudget,
    /// Fewer would do, were there no backlog.
    KeptInBacklog,
    /// Fewer would do, but not for long enough yet.
    KeptForNow,
    /// Another count would not be worth its rebalance.
    KeptWithinBand,
    /// A circuit is open: more pods would only wait, and fewer would be missed later.
    CircuitOpen,
    /// It is not known how much comes in.
    ArrivalUnknown,
}

impl Reason {
    /// All of them, for metrics.
    pub const ALL: [Self; 10] = [
        Self::Arrival,
        Self::Backlog,
        Self::Minimum,
        Self::Maximum,
        Self::ProviderBudget,
        Self::KeptInBacklog,
        Self::KeptForNow,
        Self::KeptWithinBand,
        Self::CircuitOpen,
        Self::ArrivalUnknown,
    ];

    /// As it is shown and labelled.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Arrival => "arrival",
            Self::Backlog => "backlog",
            Self::Minimum => "minimum",
            Self::Maximum => "maximum",
            Self::ProviderBudget => "provider_budget",
            Self::KeptInBacklog => "kept_in_backlog",
            Self::KeptForNow => "kept_for_now",
            Self::KeptWithinBand => "kept_within_band",
            Self::CircuitOpen => "circuit_open",
            Self::ArrivalUnknown => "arrival_unknown",
        }
    }

    const fn in_words(self) -> &'static str {
        match self {
            Self::Arrival => "That is what comes in.",
            Self::Backlog => "That is for what waits besides what comes in.",
            Self::Minimum => "Fewer would do, but this is the least that is allowed.",
            Self::Maximum => "More would help, but this is the most that is allowed.",
            Self::ProviderBudget => "More would only wait: the providers take no more.",
            Self::KeptInBacklog => "Fewer would do, but none is taken away while records wait.",
            Self::KeptForNow => "Fewer would do, but not for long enough yet.",
            Self::KeptWithinBand => "Another count would not be worth its rebalance.",
            Self::CircuitOpen => "A provider's circuit is open: what there is stays until it closes.",
            Self::ArrivalUnknown => "How much comes in is not known yet: what there is stays.",
        }
    }
}

/// What cut or raised the count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// The least that is allowed.
    Minimum,
    /// The most that is allowed.
    Maximum,
    /// What the providers take.
    ProviderBudget,
}

/// The numbers of a decision. Its [`Display`](fmt::Display) is the answer to "why 9?".
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Explanation {
    /// The deployment.
    pub deployment: String,
    /// Replicas that were decided.
    pub replicas: u32,
    /// Replicas that were decided before; at first those that were there.
    pub replicas_before: u32,
    /// Members of the group at the time.
    pub members: u32,
    /// What it came down to.
    pub reason: Reason,
    /// Records a second that come in, by their mean times `surge`; `None`: not known.
    pub arrival_per_s: Option<f64>,
    /// What came in over the last few seconds as a multiple of the mean; 1 or more.
    pub surge: f64,
    /// Records that are not committed, without those of stalled partitions.
    pub lag: u64,
    /// Of them, what is more than what is under way when nothing waits.
    pub backlog: u64,
    /// Age of the oldest of them, in seconds; `None`: none, or not known.
    pub oldest_age_s: Option<f64>,
    /// Records a second of a busy pod.
    pub rate_per_s: f64,
    /// Where that comes from.
    pub rate_source: RateSource,
    /// Share of its time that a pod is planned to be busy.
    pub utilisation: f64,
    /// A backlog is to be gone within this many seconds.
    pub catch_up_s: f64,
    /// Pods for what comes in.
    pub wanted_by_arrival: f64,
    /// Pods for what waits.
    pub wanted_by_backlog: f64,
    /// Pods for what will wait because of the rebalance; 0 when the count stays.
    pub wanted_by_rebalance: f64,
    /// Of these, what single partitions would want beyond one pod each, which does not exist.
    pub beyond_one_pod: f64,
    /// Pods for all of it.
    pub raw: f64,
    /// The least count whose fullest pod carries its partitions.
    pub quantised: u32,
    /// What cut or raised that; `None`: nothing.
    pub bounded_by: Option<Bound>,
    /// Partitions that count.
    pub partitions: u32,
    /// Partitions of the fullest pod, with the decided replicas.
    pub largest_share: u32,
    /// Partitions that were left out because they do not move, as `topic/number`: ten at most.
    pub stalled: Vec<String>,
    /// How many they are.
    pub stalled_partitions: u32,
}

impl fmt::Display for Explanation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} replicas for {}, {} before, {} in the group. ",
            self.replicas, self.deployment, self.replicas_before, self.members
        )?;
        let surge = match self.surge {
            surge if surge >= SURGE_SHOWN => format!(" ({surge:.1} times the mean of late)"),
            _ => String::new(),
        };
        match self.arrival_per_s {
            Some(arrival) => write!(
                out,
                "{arrival:.0} records/s come in{surge} and a busy pod handles {:.0}/s ({}): {:.1} pods at {:.0} % busy. ",
                self.rate_per_s,
                self.rate_source.in_words(),
                self.wanted_by_arrival,
                self.utilisation * 100.0
            )?,
            None => {
                write!(
                    out,
                    "A busy pod handles {:.0}/s ({}). ",
                    self.rate_per_s,
                    self.rate_source.in_words()
                )?;
            }
        }
        write!(out, "{} records are not committed", self.lag)?;
        if let Some(age_s) = self.oldest_age_s {
            write!(out, ", the oldest for {age_s:.1} s")?;
        }
        write!(
            out,
            "; {} of them wait, to be gone in {:.0} s: {:.1} pods. ",
            self.backlog, self.catch_up_s, self.wanted_by_backlog
        )?;
        self.rest(out)?;
        out.write_str(self.reason.in_words())
    }
}

impl Explanation {
    fn rest(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.wanted_by_rebalance > 0.0 {
            write!(out, "The rebalance: {:.1}. ", self.wanted_by_rebalance)?;
        }
        if self.beyond_one_pod > 0.0 {
            write!(out, "Left out, because one partition has one pod: {:.1}. ", self.beyond_one_pod)?;
        }
        write!(
            out,
            "Together {:.1}; {} carry it, and with {} the fullest pod has {} of {} partitions. ",
            self.raw, self.quantised, self.replicas, self.largest_share, self.partitions
        )?;
        if self.stalled_partitions > 0 {
            let more = if self.stalled.len() < self.stalled_partitions as usize { ", …" } else { "" };
            write!(
                out,
                "{} stalled partitions are left out ({}{more}): pods would not move them. ",
                self.stalled_partitions,
                self.stalled.join(", ")
            )?;
        }
        Ok(())
    }
}

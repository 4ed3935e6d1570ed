//! What happens in a simulated hour.

use std::f64::consts::TAU;

use super::PARTITIONS;

/// Records a second that a pod handles when all is well.
const POD_PER_S: f64 = 500.0;

/// What happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trace {
    Diurnal,
    Step,
    Burst,
    Ramp,
    Skewed,
    SlowProvider,
    Poison,
    Deploy,
    Outage,
    RateTooHigh,
    RateTooLow,
}

impl Trace {
    pub(super) const ALL: [Self; 11] = [
        Self::Diurnal,
        Self::Step,
        Self::Burst,
        Self::Ramp,
        Self::Skewed,
        Self::SlowProvider,
        Self::Poison,
        Self::Deploy,
        Self::Outage,
        Self::RateTooHigh,
        Self::RateTooLow,
    ];

    /// In file names.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Diurnal => "diurnal",
            Self::Step => "step",
            Self::Burst => "burst",
            Self::Ramp => "ramp",
            Self::Skewed => "skewed-keys",
            Self::SlowProvider => "slow-provider",
            Self::Poison => "poison-partition",
            Self::Deploy => "rolling-deploy",
            Self::Outage => "metric-outage",
            Self::RateTooHigh => "rate-50-too-high",
            Self::RateTooLow => "rate-50-too-low",
        }
    }

    /// In a sentence.
    pub(super) const fn in_words(self) -> &'static str {
        match self {
            Self::Diurnal => "a day in four hours, 1,200/s to 5,800/s",
            Self::Step => "1,200/s, five times as much from 600 s to 2,400 s",
            Self::Burst => "600/s, ten times as much for two minutes, twice",
            Self::Ramp => "1,000/s to 6,500/s within half an hour, and back within ten minutes",
            Self::Skewed => "three partitions get five times as much; 2,500/s, 4,500/s from 900 s to 2,400 s",
            Self::SlowProvider => "3,500/s; for four minutes a pod handles a tenth",
            Self::Poison => "3,500/s; one partition stands still for half an hour",
            Self::Deploy => "4,000/s; all pods are replaced at 900 s and at 2,400 s",
            Self::Outage => {
                "2,500/s, twice as much from 900 s; the brokers tell no lag from 840 s to 1,080 s; \
                 from 1,800 s to 2,700 s the pods tell no rate"
            }
            Self::RateTooHigh => "2,000/s, 5,000/s, 3,000/s; the pods tell a rate 50 % too high",
            Self::RateTooLow => "2,000/s, 5,000/s, 3,000/s; the pods tell a rate 50 % too low",
        }
    }

    /// How long it goes on.
    pub(super) const fn seconds(self) -> u32 {
        if matches!(self, Self::Diurnal) { 14_400 } else { 3_600 }
    }

    /// Records that come in, a second.
    pub(super) fn arrival_per_s(self, at: u32) -> f64 {
        let time = f64::from(at);
        match self {
            Self::Diurnal => 3_500.0 - 2_300.0 * (TAU * time / 14_400.0).cos(),
            Self::Step => between(at, 600, 2_400, 6_000.0, 1_200.0),
            Self::Burst if at < 1_800 => between(at, 600, 720, 6_000.0, 600.0),
            Self::Burst => between(at, 2_100, 2_220, 6_000.0, 600.0),
            Self::Ramp if at < 2_400 => 1_000.0 + 5_500.0 * ((time - 600.0) / 1_800.0).max(0.0),
            Self::Ramp => 1_000.0 + 5_500.0 * (1.0 - (time - 2_400.0) / 600.0).max(0.0),
            Self::Skewed => between(at, 900, 2_400, 4_500.0, 2_500.0),
            Self::SlowProvider | Self::Poison => 3_500.0,
            Self::Deploy => 4_000.0,
            Self::Outage => between(at, 900, 3_600, 5_000.0, 2_500.0),
            Self::RateTooHigh | Self::RateTooLow if at < 900 => 2_000.0,
            Self::RateTooHigh | Self::RateTooLow => between(at, 900, 2_400, 5_000.0, 3_000.0),
        }
    }

    /// Of what comes in, a partition's share over that of the others.
    pub(super) fn weight(self, partition: usize) -> f64 {
        if self == Self::Skewed && partition.is_multiple_of(PARTITIONS / 3) { 5.0 } else { 1.0 }
    }

    /// Records that a busy pod handles, a second.
    pub(super) fn pod_per_s(self, at: u32) -> f64 {
        match self {
            Self::SlowProvider => between(at, 900, 1_140, POD_PER_S / 10.0, POD_PER_S),
            _ => POD_PER_S,
        }
    }

    /// What the pods tell of that; `None`: nothing.
    pub(super) fn told_per_s(self, at: u32) -> Option<f64> {
        let rate = self.pod_per_s(at);
        match self {
            Self::Outage if (1_800..2_700).contains(&at) => None,
            Self::RateTooHigh => Some(rate * 1.5),
            Self::RateTooLow => Some(rate * 0.5),
            _ => Some(rate),
        }
    }

    /// Whether the brokers tell nobody how far the group is.
    pub(super) fn lag_unknown(self, at: u32) -> bool {
        self == Self::Outage && (840..1_080).contains(&at)
    }

    /// The partition whose next record cannot be handled, nor put aside.
    pub(super) fn stuck(self, at: u32) -> Option<usize> {
        (self == Self::Poison && (600..2_400).contains(&at)).then_some(7)
    }

    /// Its records are late whoever scales: nobody's age counts them.
    pub(super) fn left_out(self) -> Option<usize> {
        (self == Self::Poison).then_some(7)
    }

    /// Whether all pods begin to be replaced in this second.
    pub(super) fn deploys(self, at: u32) -> bool {
        self == Self::Deploy && (at == 900 || at == 2_400)
    }
}

fn between(at: u32, from: u32, to: u32, within: f64, without: f64) -> f64 {
    if (from..to).contains(&at) { within } else { without }
}

//! What a decision goes by.

/// One deployment's numbers.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The deployment, as operators call it; for texts only.
    pub deployment: String,
    /// Replicas, at least; 1 or more.
    pub replicas_min: u32,
    /// Replicas, at most; not below `replicas_min`.
    pub replicas_max: u32,
    /// A record is to be handled within this many seconds.
    pub objective_s: f64,
    /// A backlog is to be gone within this many seconds.
    pub catch_up_s: f64,
    /// Records a second that a busy pod handles, as planned: counts while none is known.
    pub planned_rate_per_s: f64,
    /// A pod's rate is never taken for less than this, so that a provider that hangs does not
    /// ask for all pods at once.
    pub rate_min_per_s: f64,
    /// Nor for more than this, so that a good minute does not take most of them away.
    pub rate_max_per_s: f64,
    /// For how long a partition that changes its owner is not read, in seconds.
    pub rebalance_s: f64,
    /// Share of its time that a pod is planned to be busy, in 0..=1.
    pub utilisation: f64,
    /// Seconds from a record's arrival to its commit when nothing waits: a provider's call and
    /// the pause between commits. So much of the arrival is lag, and no backlog.
    pub in_flight_s: f64,
    /// Share by which the fullest pod may be above plan, or must be below it, before the
    /// count changes.
    pub dead_band: f64,
    /// What the providers take from this deployment, in records a second; `None`: no bound.
    pub provider_budget_per_s: Option<f64>,
    /// Fewer replicas only when fewer have been enough for this many seconds.
    pub scale_down_hold_s: f64,
}

impl Settings {
    /// The plan of `consumer-test-result-notification`: 6 to 15 pods of 500/s, as
    /// `deploy/keda/base` has it.
    #[must_use]
    pub fn results() -> Self {
        Self {
            deployment: "consumer-test-result-notification".to_owned(),
            replicas_min: 6,
            replicas_max: 15,
            objective_s: 10.0,
            catch_up_s: 20.0,
            planned_rate_per_s: 500.0,
            rate_min_per_s: 50.0,
            rate_max_per_s: 2000.0,
            rebalance_s: 5.0,
            utilisation: 0.8,
            in_flight_s: 2.0,
            dead_band: 0.05,
            provider_budget_per_s: None,
            scale_down_hold_s: 120.0,
        }
    }
}

//! The deployments that are decided on, as `[scaler]` says.

use crate::config;
use crate::scaling::Settings;
use crate::topic::names::{NOTIFICATION_UPDATES, NOTIFICATIONS, NOTIFICATIONS_BULK, TEST_RESULTS, Topic};

/// A consumer's deployment.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    /// Its name without a prefix: that of its ScaledObject, its role and its group.
    pub name: &'static str,
    /// Full name of its group.
    pub group: String,
    /// What it reads; the lane that wants most replicas counts.
    pub lanes: Vec<Lane>,
}

/// Topics that are decided on together.
#[derive(Debug, Clone, PartialEq)]
pub struct Lane {
    /// Full names.
    pub topics: Vec<String>,
    /// The numbers for them.
    pub settings: Settings,
}

/// All three consumers. Bulk is a lane of its own: the larger want of the two counts, not
/// their sum, because bulk runs in what urgent work leaves.
#[must_use]
pub fn deployments(config: &config::Config) -> Vec<Deployment> {
    let scaler = &config.scaler;
    let prefix = &config.kafka.topic_prefix;
    let results = (scaler.results_replicas_min, scaler.results_replicas_max);
    let requests = (scaler.requests_replicas_min, scaler.requests_replicas_max);
    let updates = (scaler.updates_replicas_min, scaler.updates_replicas_max);
    let lane = |topic: &Topic, replicas, rate| Lane {
        topics: vec![topic.full_name(prefix)],
        settings: settings(scaler, topic, replicas, rate),
    };
    let mut bulk = lane(&NOTIFICATIONS_BULK, requests, scaler.bulk_rate_per_s);
    bulk.settings.catch_up_s = seconds(scaler.bulk_catch_up_ms);
    // Bulk has no hurry: it is late when it would not be gone in that time.
    bulk.settings.objective_s = bulk.settings.objective_s.max(bulk.settings.catch_up_s);
    vec![
        deployment(prefix, &TEST_RESULTS, vec![lane(&TEST_RESULTS, results, scaler.results_rate_per_s)]),
        deployment(
            prefix,
            &NOTIFICATIONS,
            vec![lane(&NOTIFICATIONS, requests, scaler.requests_rate_per_s), bulk],
        ),
        deployment(
            prefix,
            &NOTIFICATION_UPDATES,
            vec![lane(&NOTIFICATION_UPDATES, updates, scaler.updates_rate_per_s)],
        ),
    ]
}

fn deployment(prefix: &str, topic: &Topic, lanes: Vec<Lane>) -> Deployment {
    let name = topic.group.unwrap_or(topic.name);
    Deployment { name, group: topic.full_group(prefix).unwrap_or_default(), lanes }
}

fn settings(scaler: &config::Scaler, topic: &Topic, (min, max): (u32, u32), rate_per_s: u32) -> Settings {
    let rate = f64::from(rate_per_s);
    let budget = scaler.provider_budget_per_s;
    Settings {
        deployment: topic.group.unwrap_or(topic.name).to_owned(),
        replicas_min: min,
        replicas_max: max,
        objective_s: seconds(scaler.objective_ms),
        catch_up_s: seconds(scaler.catch_up_ms),
        planned_rate_per_s: rate,
        rate_min_per_s: rate * RATE_MIN,
        rate_max_per_s: rate * RATE_MAX,
        rebalance_s: seconds(scaler.rebalance_ms),
        utilisation: f64::from(scaler.utilisation_percent) / 100.0,
        // Updates call no provider.
        provider_budget_per_s: (budget > 0 && *topic != NOTIFICATION_UPDATES).then(|| f64::from(budget)),
        scale_down_hold_s: seconds(scaler.scale_down_hold_ms),
        ..Settings::results()
    }
}

/// A pod's rate is taken for no less than a tenth of the plan, so that a provider that hangs does
/// not ask for all pods at once, and for no more than four times of it, so that a good minute
/// does not take most of them away.
const RATE_MIN: f64 = 0.1;
const RATE_MAX: f64 = 4.0;

#[expect(clippy::cast_precision_loss, reason = "at most an hour")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_plan_of_the_manifests() {
        let all = deployments(&config::Config::from_defaults());
        let names: Vec<_> = all.iter().map(|one| one.name).collect();
        let consumers =
            ["consumer-test-result-notification", "consumer-notification", "consumer-notification-update"];
        assert_eq!(names, consumers);
        let of = |lane: &Lane| (lane.settings.replicas_min, lane.settings.replicas_max);
        assert_eq!(of(&all[0].lanes[0]), (6, 15));
        assert!(all[1].lanes.iter().all(|lane| of(lane) == (3, 10)) && all[1].lanes.len() == 2);
        assert_eq!(of(&all[2].lanes[0]), (3, 8));
        assert_eq!(all[0].lanes[0].settings, Settings::results());
    }

    #[test]
    fn a_providers_budget_bounds_what_calls_providers() {
        let mut config = config::Config::from_defaults();
        config.scaler.provider_budget_per_s = 1_000;
        let budgets: Vec<_> =
            deployments(&config).iter().map(|one| one.lanes[0].settings.provider_budget_per_s).collect();
        assert_eq!(budgets, [Some(1_000.0), Some(1_000.0), None]);
    }
}

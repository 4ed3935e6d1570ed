//! Reads one deployment's group, again and again, and decides.

use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::decisions::Decisions;
use super::deployments::{Deployment, Lane};
use super::pods::{Pods, Told};
use crate::lag::{GroupStanding, Reader, State, Window};
use crate::metrics::{self, LagTeller};
use crate::scaling::{Decider, Explanation, Partition, Reading};

/// Arrivals are means over this time.
const SPAN: Duration = Duration::from_secs(30);
/// And over this time of late, for all partitions together: two readings.
const OF_LATE: Duration = Duration::from_secs(4);
/// A partition whose commits have not moved for this long is left out: longer than a
/// rebalance takes, in which nothing moves either.
const STALLED_AFTER: Duration = Duration::from_secs(30);

/// Decides on one deployment until it is told to stop.
///
/// `every`: how often; `give_up`: longest time that one reading may take.
pub async fn watch(
    deployment: Deployment,
    reader: Reader,
    pods: Option<Pods>,
    decisions: Decisions,
    (every, give_up): (Duration, Duration),
    stop: CancellationToken,
) {
    let name = deployment.name;
    let mut watcher = Watcher::new(deployment, pods);
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let looked = tokio::time::timeout(give_up, watcher.look(&reader));
        let Some(looked) = stop.run_until_cancelled(looked).await else { return };
        match looked {
            Ok(Ok(explanation)) => {
                metrics::scaler_decision(name, explanation.replicas, explanation.reason.as_str());
                decisions.decided(name, explanation);
            }
            Ok(Err(error)) => failed(name, &decisions, error),
            Err(_) => {
                failed(name, &decisions, format!("the brokers took longer than {} s", give_up.as_secs()))
            }
        }
        let stale = decisions.of(name).is_none_or(|in_force| in_force.stale);
        metrics::scaler_stale(name, stale);
    }
}

fn failed(deployment: &'static str, decisions: &Decisions, error: String) {
    tracing::warn!(deployment, error, "the lag could not be read; the last decision stands for a while");
    decisions.failed(deployment, error);
}

struct Watcher {
    name: &'static str,
    window: Window,
    of_late: Window,
    /// When the readings began, by the clock that only goes forward.
    began: Instant,
    teller: LagTeller,
    lanes: Vec<(Lane, Decider)>,
    pods: Option<Pods>,
    told: Option<u32>,
}

impl Watcher {
    fn new(deployment: Deployment, pods: Option<Pods>) -> Self {
        let lanes = deployment.lanes.into_iter().map(|lane| {
            let decider = Decider::new(lane.settings.clone());
            (lane, decider)
        });
        Self {
            name: deployment.name,
            window: Window::new(SPAN).stalled_after(STALLED_AFTER),
            of_late: Window::new(OF_LATE),
            began: Instant::now(),
            teller: LagTeller::of_group(),
            lanes: lanes.collect(),
            pods,
            told: None,
        }
    }

    /// Reads brokers and pods side by side, and decides.
    async fn look(&mut self, reader: &Reader) -> Result<Explanation, String> {
        let pods = async {
            match &self.pods {
                Some(pods) => pods.ask().await,
                None => Told::default(),
            }
        };
        let (read, told) = tokio::join!(reader.read(), pods);
        let read = read.map_err(|error| error.to_string())?;
        self.of_late.push(read.clone());
        self.window.push(read);
        let standing = self.window.standing().ok_or("nothing was read")?;
        let explanation = self.decide(&standing, told).ok_or("nothing is decided on")?;
        self.teller.tell(standing);
        if self.told != Some(explanation.replicas) {
            self.told = Some(explanation.replicas);
            tracing::info!(
                deployment = self.name,
                replicas = explanation.replicas,
                reason = explanation.reason.as_str(),
                pods_silent = told.silent,
                why = %explanation,
                "decided"
            );
        }
        Ok(explanation)
    }

    /// The lane that wants most replicas counts.
    fn decide(&mut self, standing: &GroupStanding, told: Told) -> Option<Explanation> {
        let at = self.began.elapsed();
        let of_late = self.of_late.standing()?;
        let decisions = self.lanes.iter_mut().map(|(lane, decider)| {
            decider.decide(&reading(standing, &of_late, &lane.topics, told, at)).explanation
        });
        // The first of equals: the urgent lane.
        decisions.reduce(|best, next| if next.replicas > best.replicas { next } else { best })
    }
}

/// What a decision goes by, of these topics.
fn reading(
    standing: &GroupStanding,
    of_late: &GroupStanding,
    topics: &[String],
    told: Told,
    at: Duration,
) -> Reading {
    let of_lane = standing.partitions.iter().filter(|one| topics.contains(&one.reading.topic));
    // Both are of the same last reading, so their partitions are the same.
    let of_lane_now = standing
        .partitions
        .iter()
        .zip(&of_late.partitions)
        .filter(|(one, _)| topics.contains(&one.reading.topic) && one.state != State::Stalled);
    let arrival_now_per_s = of_lane_now.filter_map(|(_, now)| now.arrival_rate).reduce(|a, b| a + b);
    let partitions = of_lane.map(|one| Partition {
        topic: one.reading.topic.clone(),
        number: one.reading.partition,
        lag: u64::try_from(one.reading.lag_messages).unwrap_or(0),
        arrival_per_s: one.arrival_rate,
        oldest_age_s: one.reading.oldest_age_ms.map(|age_ms| Duration::from_millis(age_ms).as_secs_f64()),
        // Nobody reads a stopped one: a pod would.
        stalled: one.state == State::Stalled,
    });
    Reading {
        at,
        arrival_now_per_s,
        partitions: partitions.collect(),
        replicas: u32::try_from(standing.members).unwrap_or(u32::MAX),
        true_rate_per_s: told.true_rate_per_s,
        circuit_open: told.circuit_open,
    }
}

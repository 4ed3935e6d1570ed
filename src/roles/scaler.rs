//! `scaler`: how many replicas the consumers need, for KEDA, and why, for people.

use std::time::Duration;

use anyhow::Context as _;
use tokio::task::JoinSet;

use super::{Context, Unavailable};
use crate::lag::Reader;
use crate::scaler::{Decisions, Pods, ServeError, deployments, serve, watch};

/// Runs until the context's shutdown. Any number of replicas read and decide by themselves;
/// either may be asked.
///
/// # Errors
/// When the configuration cannot be used, or the port is taken. Brokers and pods that are away
/// are none: KEDA then gets an error, and the HPA keeps what there is.
pub async fn run(ctx: Context) -> anyhow::Result<()> {
    let config = &ctx.config.scaler;
    let all = deployments(&ctx.config);
    let decisions =
        Decisions::new(all.iter().map(|one| one.name), Duration::from_millis(config.stale_after_ms));
    let times = (Duration::from_millis(config.interval_ms), Duration::from_millis(config.stale_after_ms));
    let timeout = Duration::from_millis(config.processors_timeout_ms);
    let mut watchers = JoinSet::new();
    for deployment in all {
        let topics = deployment.lanes.iter().flat_map(|lane| lane.topics.clone());
        let reader = Reader::of_topics(&ctx.config.kafka, &deployment.group, topics)?;
        let pods = Pods::new(&config.processors_url, deployment.name, timeout)?;
        let stop = ctx.shutdown.clone();
        watchers.spawn(watch(deployment, reader, pods, decisions.clone(), times, stop));
    }
    let serving =
        serve(&config.listen, decisions, ctx.shutdown.clone()).await.map_err(|error| match error {
            ServeError::Listen { .. } => anyhow::Error::new(error).context(Unavailable("the scaler's port")),
            other => other.into(),
        })?;
    // Whether or not anything could be read: who asks is to get an error with a reason.
    ctx.health.add_readiness("scaler", || Ok(()));
    tracing::info!(address = %serving.address, "scaler is listening");
    let ended = serving.finished().await.context("scaler");
    ctx.shutdown.cancel();
    while let Some(one) = watchers.join_next().await {
        one.context("a watcher of a group")?;
    }
    ended
}

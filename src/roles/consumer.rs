//! What the stream processors have in common: only the topics and what is on
//! them differ.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::wiring;
use crate::decode::{Decoder, RecordKind};
use crate::deliver::Providers;
use crate::lag;
use crate::plan::Settings;
use crate::processor::{self, Flow, Notify, Parts};
use crate::record::Store;
use crate::topic::names::{self, Topic};
use crate::topic::producer::Producer;
use crate::topic::{Consumer, ConsumerOptions, DeadLetters};

/// Runs a processor of these topics, which one group reads.
///
/// # Errors
/// When the configuration cannot be used, or the processor breaks.
pub async fn run(ctx: Context, topics: &[Topic], kind: RecordKind) -> anyhow::Result<()> {
    let providers = Providers::from_config(&ctx.config)?;
    run_with(ctx, topics, kind, providers).await
}

/// As [`run`], with given providers; for benchmarks of everything around them.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    ctx: Context,
    topics: &[Topic],
    kind: RecordKind,
    providers: Providers,
) -> anyhow::Result<()> {
    let fatal = CancellationToken::new();
    let store = wiring::store(&ctx)?;
    let (dispatcher, recorders) = wiring::dispatcher(&ctx, &store, &fatal, providers, role_of(topics))?;
    let flow = Flow::Notify(Notify { kind, settings: Settings::new(&ctx.config.plan)?, dispatcher });
    let ended = process(&ctx, topics, flow, store, fatal).await;
    wiring::join_recorders(recorders, &ctx).await;
    ended
}

/// What a sender of these topics calls itself: the name of its group.
fn role_of(topics: &[Topic]) -> &'static str {
    topics.iter().find_map(|topic| topic.group).unwrap_or("consumer")
}

/// Reads these topics as their group, and does with them what `flow` says.
///
/// # Errors
/// When the configuration cannot be used, or the processor breaks.
pub(super) async fn process(
    ctx: &Context,
    topics: &[Topic],
    flow: Flow,
    store: Store,
    fatal: CancellationToken,
) -> anyhow::Result<()> {
    let config = &ctx.config;
    let prefix = &config.kafka.topic_prefix;
    let group = topics
        .iter()
        .find_map(|topic| topic.full_group(prefix))
        .context("no consumer group reads this topic")?;
    wiring::probe_database(ctx, &store);
    let producer = Arc::new(Producer::new(&config.kafka)?);
    let parts = Parts {
        config: config.processor.clone(),
        flow,
        decoder: Decoder::new(&config.registry, config.processor.payload_max_bytes)?,
        store,
        dead_letters: DeadLetters::new(Arc::clone(&producer), group.clone()),
    };
    let consumer = Arc::new(Consumer::start(ConsumerOptions {
        group,
        topics: topics.iter().map(|topic| topic.full_name(prefix)).collect(),
        bulk_topics: vec![names::NOTIFICATIONS_BULK.full_name(prefix)],
        kafka: config.kafka.clone(),
        processor: config.processor.clone(),
    })?);
    let every = Duration::from_millis(config.metrics.lag_interval_ms);
    let stop = CancellationToken::new();
    let watching = tokio::spawn(lag::watch(&consumer, every, stop.clone())?);
    let ended = processor::run(parts, consumer, &ctx.health, ctx.shutdown.clone(), fatal).await;
    stop.cancel();
    watching.await?;
    ended?;
    producer.flush(Duration::from_millis(config.kafka.produce_timeout_ms)).await?;
    Ok(())
}

//! Membership of the consumer group: what is assigned, and the callbacks of
//! librdkafka, which run on the poll thread inside `poll`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use rdkafka::{Offset, TopicPartitionList};
use tracing::{info, warn};

use super::busy::Completed;
use super::client::{QuietContext, kafka_client_config};
use super::consumer::Options;
use super::intake::Intake;
use super::partition::{Bounds, Partition};
use crate::metrics;

pub(super) type Assigned = HashMap<(Arc<str>, i32), Arc<Partition>>;

/// State that the poll thread, its callbacks and the handle share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) intake: Arc<Intake>,
    pub(super) assigned: Mutex<Assigned>,
    pub(super) epoch: AtomicU64,
    /// Records completed since the last commit, and since the start.
    pub(super) completed: Arc<Completed>,
    pub(super) stopping: AtomicBool,
    /// In the group, and a broker answers.
    pub(super) joined: AtomicBool,
    pub(super) started: Instant,
    pub(super) heartbeat_ms: AtomicU64,
    pub(super) fatal: Mutex<Option<String>>,
}

impl Shared {
    pub(super) fn beat(&self) {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heartbeat_ms.store(elapsed, Ordering::Relaxed);
    }

    pub(super) fn partitions(&self) -> Vec<Arc<Partition>> {
        self.assigned.lock().values().cloned().collect()
    }

    fn assign(&self, list: &TopicPartitionList) {
        let bounds = Bounds {
            queue_max_records: self.options.processor.queue_max_records,
            queue_max_bytes: self.options.processor.queue_max_bytes,
            window_max_records: self.options.processor.window_max_records,
        };
        let mut assigned = self.assigned.lock();
        // A commit that met the rebalance was refused: what stays is offered again.
        assigned.values().for_each(|partition| partition.offer_anew());
        for element in list.elements() {
            let topic: Arc<str> = element.topic().into();
            let epoch = self.epoch.fetch_add(1, Ordering::Relaxed) + 1;
            let partition = Partition::new(
                Arc::clone(&topic),
                element.partition(),
                epoch,
                self.options.bulk_topics.iter().any(|bulk| **bulk == *topic),
                bounds,
                Arc::clone(&self.completed),
            );
            self.intake.add(&partition);
            assigned.insert((topic, element.partition()), partition);
        }
        self.joined.store(true, Ordering::Relaxed);
        info!(partitions = list.count(), assigned = assigned.len(), "partitions assigned");
    }

    /// Stops the intake of partitions, waits for what was begun, and says what
    /// may be committed.
    pub(super) fn drain(&self, partitions: &[Arc<Partition>], on_wait: impl Fn()) -> TopicPartitionList {
        let deadline = Instant::now() + Duration::from_millis(self.options.processor.drain_timeout_ms);
        for partition in partitions {
            partition.close_intake();
            self.intake.remove(partition);
        }
        self.intake.notify_all();
        for partition in partitions {
            while !partition.wait_idle(deadline.min(Instant::now() + Duration::from_millis(50))) {
                on_wait();
                if Instant::now() >= deadline {
                    warn!(
                        topic = &*partition.topic,
                        partition = partition.partition,
                        unfinished = partition.outstanding(),
                        "the drain ran out of time; the next owner meets their claims"
                    );
                    break;
                }
            }
        }
        // Of the commits before this one nobody knows the outcome.
        partitions.iter().for_each(|partition| partition.offer_anew());
        committable(partitions)
    }

    fn revoke(&self, consumer: &BaseConsumer<GroupContext>, list: &TopicPartitionList) {
        let begun = Instant::now();
        let lost = consumer.assignment_lost();
        let revoked: Vec<_> = {
            let mut assigned = self.assigned.lock();
            list.elements()
                .iter()
                .filter_map(|element| assigned.remove(&(element.topic().into(), element.partition())))
                .collect()
        };
        let offsets = self.drain(&revoked, || self.beat());
        if lost {
            warn!(partitions = revoked.len(), "partitions lost: nothing is committed for them");
        } else if offsets.count() > 0 {
            if let Err(error) = consumer.commit(&offsets, CommitMode::Sync) {
                metrics::commit("failed");
                warn!(%error, "the commit before a revocation failed; the records come again and meet their claims");
            } else {
                metrics::commit("ok");
            }
        }
        metrics::rebalance(if lost { "lost" } else { "revoked" }, revoked.len(), begun.elapsed());
        info!(
            partitions = revoked.len(),
            lost,
            pause_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            "partitions revoked"
        );
    }
}

/// What may be committed of these partitions.
pub(super) fn committable(partitions: &[Arc<Partition>]) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        if let Some(offset) = partition.take_committable() {
            // The only error is an offset that is not one; ours are positions.
            let _ = list.add_partition_offset(&partition.topic, partition.partition, Offset::Offset(offset));
        }
    }
    list
}

/// Callbacks of librdkafka; they run on the poll thread, inside `poll`.
pub(super) struct GroupContext {
    pub(super) shared: Arc<Shared>,
    pub(super) quiet: QuietContext,
}

impl ClientContext for GroupContext {
    fn stats(&self, statistics: Statistics) {
        let broker_up = statistics.brokers.values().any(|broker| broker.state == "UP");
        let steady = statistics.cgrp.is_some_and(|group| group.join_state == "steady");
        self.shared.joined.store(broker_up && steady, Ordering::Relaxed);
        if !broker_up {
            metrics::unavailable("kafka");
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.quiet.error(error, reason);
    }

    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        self.quiet.log(level, facility, text);
    }
}

impl ConsumerContext for GroupContext {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Revoke(list) => self.shared.revoke(consumer, list),
            Rebalance::Assign(list) => self.shared.assign(list),
            Rebalance::Error(error) => warn!(%error, "rebalance failed"),
        }
    }

    fn post_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Assign(list) = rebalance {
            metrics::rebalance("assigned", list.count(), Duration::ZERO);
            // A partition may still carry the pause of an earlier assignment.
            if let Err(error) = consumer.resume(list) {
                warn!(%error, "a newly assigned partition could not be resumed");
            }
        }
    }
}

/// How a consumer of ours joins its group.
pub(super) fn group_config(options: &Options) -> rdkafka::ClientConfig {
    let processor = &options.processor;
    let mut client = kafka_client_config(&options.kafka);
    client
        .set("group.id", &options.group)
        // Redpanda has no KIP-848 yet; and revocations stay incremental.
        .set("group.protocol", "classic")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", processor.session_timeout_ms.to_string())
        .set("heartbeat.interval.ms", processor.heartbeat_interval_ms.to_string())
        .set("max.poll.interval.ms", processor.max_poll_interval_ms.to_string())
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("enable.partition.eof", "false")
        .set("auto.offset.reset", "earliest")
        .set("allow.auto.create.topics", "false")
        .set("isolation.level", "read_committed")
        .set("queued.max.messages.kbytes", "16384")
        // The default back-off of 1 s leaves a consumer idle with its queue empty.
        .set("fetch.queue.backoff.ms", "5")
        .set("statistics.interval.ms", "5000")
        // A topic that is made later is found soon.
        .set("topic.metadata.refresh.interval.ms", "30000");
    client
}

//! The poll thread: one OS thread owns the Kafka consumer and does everything
//! with it: poll, pause, resume, commit, rebalance, leave.
//!
//! Records go to bounded queues ([`Partition`]); claim loops take them through
//! the [`Intake`]. A revocation is handled inside the rebalance callback, on the
//! same thread: stop the intake, wait for what was begun, commit, forget.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use rdkafka::statistics::Statistics;
use rdkafka::{Offset, TopicPartitionList};
use tracing::{error, info, warn};

use super::client::kafka_client_config;
use super::intake::Intake;
use super::partition::{Arrival, Bounds, Partition};
use crate::config;
use crate::metrics;

/// Headers of one record that are kept, at most.
const HEADERS_MAX: usize = 32;
/// Records that are taken from librdkafka between two rounds of housekeeping.
const POLL_BURST: usize = 1000;
/// Longest wait for a record, and so the granularity of pause and resume.
const POLL_WAIT: Duration = Duration::from_millis(20);
/// A poll loop that has not turned for this long, beyond a drain, is stuck.
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(30);

/// What can go wrong with the consumer as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    /// librdkafka refuses the configuration.
    #[error("the Kafka consumer cannot be made (check the [kafka] section): {0}")]
    Configuration(#[source] KafkaError),
    /// The thread could not be started.
    #[error("the poll thread cannot be started: {0}")]
    Thread(#[source] std::io::Error),
    /// Fatal to librdkafka: fenced, unsupported, authorisation.
    #[error("the Kafka consumer gave up: {0}; restart it after mending the cause")]
    Fatal(String),
    /// Leaving the group took too long.
    #[error(
        "the Kafka consumer did not close within {close_timeout_ms} ms after its drain; leaving without it"
    )]
    CloseStuck {
        /// `processor.close_timeout_ms`.
        close_timeout_ms: u64,
    },
}

/// What to consume, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Full name of the group.
    pub group: String,
    /// Full names of the topics.
    pub topics: Vec<String>,
    /// `[kafka]`.
    pub kafka: config::Kafka,
    /// `[processor]`.
    pub processor: config::Processor,
}

type Assigned = HashMap<(Arc<str>, i32), Arc<Partition>>;

/// State that the poll thread, its callbacks and the handle share.
#[derive(Debug)]
struct Shared {
    options: Options,
    intake: Arc<Intake>,
    assigned: Mutex<Assigned>,
    epoch: AtomicU64,
    completed: Arc<AtomicU64>,
    stopping: AtomicBool,
    /// In the group, and a broker answers.
    joined: AtomicBool,
    started: Instant,
    heartbeat_ms: AtomicU64,
    fatal: Mutex<Option<String>>,
}

impl Shared {
    fn beat(&self) {
        let elapsed = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heartbeat_ms.store(elapsed, Ordering::Relaxed);
    }

    fn partitions(&self) -> Vec<Arc<Partition>> {
        self.assigned.lock().values().cloned().collect()
    }

    fn assign(&self, list: &TopicPartitionList) {
        let bounds = Bounds {
            queue_max_records: self.options.processor.queue_max_records,
            queue_max_bytes: self.options.processor.queue_max_bytes,
            window_max_records: self.options.processor.window_max_records,
        };
        let mut assigned = self.assigned.lock();
        for element in list.elements() {
            let topic: Arc<str> = element.topic().into();
            let epoch = self.epoch.fetch_add(1, Ordering::Relaxed) + 1;
            let partition = Partition::new(
                Arc::clone(&topic),
                element.partition(),
                epoch,
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
    fn drain(&self, partitions: &[Arc<Partition>], on_wait: impl Fn()) -> TopicPartitionList {
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

fn committable(partitions: &[Arc<Partition>]) -> TopicPartitionList {
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
struct GroupContext {
    shared: Arc<Shared>,
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
        warn!(%error, reason, "Kafka client");
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

    fn commit_callback(&self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        match result {
            Ok(()) => metrics::commit("ok"),
            Err(KafkaError::ConsumerCommit(RDKafkaErrorCode::NoOffset)) => {}
            Err(error) => {
                metrics::commit("failed");
                warn!(%error, "a commit failed; it is tried again at the next interval");
                let assigned = self.shared.assigned.lock();
                for element in offsets.elements() {
                    if let Some(partition) = assigned.get(&(element.topic().into(), element.partition())) {
                        partition.commit_failed();
                    }
                }
            }
        }
    }
}

/// A running consumer.
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    ended: tokio::sync::watch::Receiver<bool>,
}

impl Consumer {
    /// Joins the group on a thread of its own. The broker may be away: the
    /// thread keeps trying.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration, or the thread cannot start.
    pub fn start(options: Options) -> Result<Self, ConsumerError> {
        let shared = Arc::new(Shared {
            intake: Arc::new(Intake::new(options.processor.claim_shards)),
            assigned: Mutex::default(),
            epoch: AtomicU64::new(0),
            completed: Arc::default(),
            stopping: AtomicBool::new(false),
            joined: AtomicBool::new(false),
            started: Instant::now(),
            heartbeat_ms: AtomicU64::new(0),
            fatal: Mutex::default(),
            options,
        });
        let context = GroupContext { shared: Arc::clone(&shared) };
        let consumer: BaseConsumer<GroupContext> = group_config(&shared.options)
            .create_with_context(context)
            .map_err(ConsumerError::Configuration)?;
        let topics: Vec<&str> = shared.options.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(ConsumerError::Configuration)?;

        let (ended_sender, ended) = tokio::sync::watch::channel(false);
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("kafka-poll".to_owned())
            .spawn(move || {
                poll_loop(&of_thread, consumer);
                ended_sender.send_replace(true);
            })
            .map_err(ConsumerError::Thread)?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)), ended })
    }

    /// Where claim loops take their records.
    #[must_use]
    pub fn intake(&self) -> Arc<Intake> {
        Arc::clone(&self.shared.intake)
    }

    /// Partitions that are assigned now.
    #[must_use]
    pub fn partitions(&self) -> Vec<Arc<Partition>> {
        self.shared.partitions()
    }

    /// True while it is a member of the group and a broker answers.
    #[must_use]
    pub fn is_joined(&self) -> bool {
        self.shared.joined.load(Ordering::Relaxed)
    }

    /// Fails when the poll loop has not turned for longer than a drain may take.
    ///
    /// # Errors
    /// A sentence for the liveness probe.
    pub fn check_heartbeat(&self) -> Result<(), String> {
        let now_ms = u64::try_from(self.shared.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let silent_ms = now_ms.saturating_sub(self.shared.heartbeat_ms.load(Ordering::Relaxed));
        let limit_ms = u64::try_from(HEARTBEAT_LIMIT.as_millis()).unwrap_or(u64::MAX)
            + self.shared.options.processor.drain_timeout_ms;
        if silent_ms > limit_ms {
            return Err(format!("the Kafka poll loop has not turned for {silent_ms} ms"));
        }
        Ok(())
    }

    /// Asks the poll thread to drain, commit and leave.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
    }

    /// Waits until the poll thread has left, or must be given up.
    ///
    /// # Errors
    /// [`ConsumerError::CloseStuck`] when leaving took too long after
    /// [`Consumer::stop`]; [`ConsumerError::Fatal`] when librdkafka gave up.
    pub async fn ended(&self) -> Result<(), ConsumerError> {
        let mut ended = self.ended.clone();
        let stopped = async {
            while !self.shared.stopping.load(Ordering::Acquire) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let processor = &self.shared.options.processor;
            let limit_ms = processor.drain_timeout_ms + processor.close_timeout_ms;
            tokio::time::sleep(Duration::from_millis(limit_ms)).await;
        };
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => {}
            () = stopped => {
                let close_timeout_ms = self.shared.options.processor.close_timeout_ms;
                return Err(ConsumerError::CloseStuck { close_timeout_ms });
            }
        }
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            return Err(ConsumerError::Fatal("the poll thread panicked".to_owned()));
        }
        match self.shared.fatal.lock().take() {
            Some(reason) => Err(ConsumerError::Fatal(reason)),
            None => Ok(()),
        }
    }
}

fn group_config(options: &Options) -> rdkafka::ClientConfig {
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

fn poll_loop(shared: &Arc<Shared>, consumer: BaseConsumer<GroupContext>) {
    let mut last_commit = Instant::now();
    let mut last_error: Option<(RDKafkaErrorCode, Instant)> = None;
    let mut topics: Vec<Arc<str>> = Vec::new();
    while !shared.stopping.load(Ordering::Acquire) {
        shared.beat();
        let mut wait = POLL_WAIT;
        for _ in 0..POLL_BURST {
            match consumer.poll(wait) {
                None => break,
                Some(Ok(message)) => deliver(shared, &consumer, &message, &mut topics),
                Some(Err(KafkaError::MessageConsumptionFatal(code))) => {
                    error!(%code, "the Kafka consumer gave up");
                    *shared.fatal.lock() = Some(code.to_string());
                    shared.stopping.store(true, Ordering::Release);
                    break;
                }
                Some(Err(error)) => {
                    report(&error, &mut last_error);
                    break;
                }
            }
            wait = Duration::ZERO;
        }
        resume_with_room(shared, &consumer);
        let interval = Duration::from_millis(shared.options.processor.commit_interval_ms);
        if last_commit.elapsed() >= interval
            || shared.completed.load(Ordering::Relaxed) >= shared.options.processor.commit_every_records
        {
            commit_async(shared, &consumer);
            last_commit = Instant::now();
        }
    }
    leave(shared, consumer);
}

/// Says the same trouble once in ten seconds, not at every turn of the loop.
fn report(error: &KafkaError, last: &mut Option<(RDKafkaErrorCode, Instant)>) {
    let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Unknown);
    if last.is_none_or(|(same, at)| same != code || at.elapsed() > Duration::from_secs(10)) {
        warn!(%error, "reading from Kafka");
        *last = Some((code, Instant::now()));
    }
}

fn deliver(
    shared: &Shared,
    consumer: &BaseConsumer<GroupContext>,
    message: &BorrowedMessage<'_>,
    topics: &mut Vec<Arc<str>>,
) {
    let topic = match topics.iter().find(|topic| &***topic == message.topic()) {
        Some(topic) => Arc::clone(topic),
        None => {
            let topic: Arc<str> = message.topic().into();
            topics.push(Arc::clone(&topic));
            topic
        }
    };
    let Some(partition) = shared.assigned.lock().get(&(topic, message.partition())).cloned() else {
        return; // Revoked while it lay in librdkafka's queue.
    };
    let arrival = Arrival {
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(0),
        key: message.key().map(<[u8]>::to_vec),
        payload: message.payload().map(<[u8]>::to_vec),
        headers: message.headers().map_or_else(Vec::new, |headers| {
            headers
                .iter()
                .take(HEADERS_MAX)
                .map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec)))
                .collect()
        }),
    };
    let has_room = partition.push(arrival);
    shared.intake.notify(&partition);
    if !has_room && !partition.is_paused() {
        pause_or_resume(consumer, &[partition], true);
    }
}

fn resume_with_room(shared: &Shared, consumer: &BaseConsumer<GroupContext>) {
    let partitions = shared.partitions();
    let ready: Vec<_> = partitions
        .iter()
        .filter(|partition| partition.is_paused() && partition.has_room())
        .cloned()
        .collect();
    if !ready.is_empty() {
        pause_or_resume(consumer, &ready, false);
    }
    let paused = partitions.iter().filter(|partition| partition.is_paused()).count();
    metrics::partitions(partitions.len() as u64, paused as u64);
    let (records, bytes) = partitions
        .iter()
        .map(|partition| partition.queued())
        .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    metrics::queue(records as u64, bytes as u64);
    let oldest = partitions.iter().filter_map(|partition| partition.oldest_age()).max();
    let oldest_ms = oldest.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    metrics::oldest_in_hand_age_ms(oldest_ms);
}

fn pause_or_resume(consumer: &BaseConsumer<GroupContext>, partitions: &[Arc<Partition>], pause: bool) {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition(&partition.topic, partition.partition);
    }
    let result = if pause { consumer.pause(&list) } else { consumer.resume(&list) };
    match result {
        Ok(()) => partitions.iter().for_each(|partition| partition.set_paused(pause)),
        // The queue keeps its bound by count until the next turn tries again.
        Err(error) => warn!(%error, pause, "a partition could not be paused or resumed"),
    }
}

fn commit_async(shared: &Shared, consumer: &BaseConsumer<GroupContext>) {
    shared.completed.store(0, Ordering::Relaxed);
    let partitions = shared.partitions();
    let offsets = committable(&partitions);
    if offsets.count() == 0 {
        return;
    }
    if let Err(error) = consumer.commit(&offsets, CommitMode::Async) {
        metrics::commit("failed");
        warn!(%error, "a commit could not be sent; it is tried again at the next interval");
        partitions.iter().for_each(|partition| partition.commit_failed());
    }
}

/// Drain, commit, leave the group, close: all on this thread.
fn leave(shared: &Arc<Shared>, consumer: BaseConsumer<GroupContext>) {
    let partitions = shared.partitions();
    let offsets = shared.drain(&partitions, || {
        shared.beat();
        // Keeps the membership alive; the partitions are paused.
        drop(consumer.poll(Duration::ZERO));
    });
    if offsets.count() > 0 {
        match consumer.commit(&offsets, CommitMode::Sync) {
            Ok(()) => metrics::commit("ok"),
            Err(error) => {
                metrics::commit("failed");
                warn!(%error, "the last commit failed; the records come again and meet their claims");
            }
        }
    }
    shared.assigned.lock().clear();
    shared.joined.store(false, Ordering::Relaxed);
    // Dropping a consumer closes it: it leaves the group and blocks until done.
    drop(consumer);
    info!("left the consumer group");
}

//! The poll loop: records in, pauses and resumes, commits, and the end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message as _};
use tracing::{error, info, warn};

use super::busy::Busy;
use super::group::{GroupContext, Shared, committable};
use super::partition::{Arrival, Partition};
use super::yielding::Yielding;
use crate::metrics;

/// Headers of one record that are kept, at most.
const HEADERS_MAX: usize = 256;
/// Records that are taken from librdkafka between two rounds of housekeeping.
const POLL_BURST: usize = 1000;
/// Longest wait for a record, and so the granularity of pause and resume.
const POLL_WAIT: Duration = Duration::from_millis(20);
/// What a pause may still take inside librdkafka.
const PAUSE_SETTLES: Duration = Duration::from_millis(100);
/// Positions are committed anew this often. Nobody tells what became of a commit
/// that was not waited for: librdkafka tells it to a callback that the `rdkafka`
/// crate does not set, and a position that was refused (a rebalance came in
/// between) would stay uncommitted until the next record.
const COMMIT_ANEW: Duration = Duration::from_secs(10);

/// Turns until it is told to stop, then drains and leaves.
pub(super) fn poll_loop(shared: &Arc<Shared>, consumer: BaseConsumer<GroupContext>) {
    let (mut last_commit, mut last_anew) = (Instant::now(), Instant::now());
    let mut last_error: Option<(RDKafkaErrorCode, Instant)> = None;
    let mut topics: Vec<Arc<str>> = Vec::new();
    let mut yielding = Yielding::default();
    let mut busy = Busy::new(Instant::now());
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
        pause_and_resume(shared, &consumer, &mut yielding);
        observe(shared, &mut busy);
        let interval = Duration::from_millis(shared.options.processor.commit_interval_ms);
        if last_commit.elapsed() >= interval
            || shared.completed.since_commit() >= shared.options.processor.commit_every_records
        {
            if last_anew.elapsed() >= COMMIT_ANEW {
                shared.partitions().iter().for_each(|partition| partition.offer_anew());
                last_anew = Instant::now();
            }
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
    partition.push(arrival);
    shared.intake.notify(&partition);
    if partition.is_full() && !partition.is_paused() {
        metrics::partition_paused("full");
        pause_or_resume(shared, consumer, &[partition], true);
    }
}

/// A partition is paused while its queue is full, one of a bulk topic also while
/// bulk rests for urgent work; it goes on when neither is so.
fn pause_and_resume(shared: &Shared, consumer: &BaseConsumer<GroupContext>, yielding: &mut Yielding) {
    let rests = yielding.observe(shared.intake.is_pressed(), Instant::now());
    let (mut pause, mut resume, mut resting) = (Vec::new(), Vec::new(), 0);
    for partition in shared.partitions() {
        let yields = rests && partition.bulk;
        resting += u64::from(yields);
        let wanted = yields || partition.is_full();
        match (partition.is_paused(), wanted) {
            (false, true) => {
                metrics::partition_paused(if yields { "urgent_work" } else { "full" });
                pause.push(partition);
            }
            (true, false) => resume.push(partition),
            (true, true) | (false, false) => {}
        }
    }
    if !pause.is_empty() {
        pause_or_resume(shared, consumer, &pause, true);
    }
    if !resume.is_empty() {
        pause_or_resume(shared, consumer, &resume, false);
    }
    metrics::bulk_resting(resting);
}

/// What the partitions hold, as metrics.
fn observe(shared: &Shared, busy: &mut Busy) {
    let partitions = shared.partitions();
    let paused = partitions.iter().filter(|partition| partition.is_paused()).count();
    metrics::partitions(partitions.len() as u64, paused as u64);
    let (records, bytes) = partitions
        .iter()
        .map(|partition| partition.queued())
        .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    metrics::queue(records as u64, bytes as u64);
    if let Some(load) = busy.observe(records > 0, shared.completed.ever(), Instant::now()) {
        metrics::busy(load.ratio, load.true_rate);
    }
    let oldest = partitions.iter().filter_map(|partition| partition.oldest_age()).max();
    let oldest_ms = oldest.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX));
    metrics::oldest_in_hand_age_ms(oldest_ms);
}

fn pause_or_resume(
    shared: &Shared,
    consumer: &BaseConsumer<GroupContext>,
    partitions: &[Arc<Partition>],
    pause: bool,
) {
    if shared.stopping.load(Ordering::Acquire) {
        // A pause right before the close makes librdkafka's destroy wait for ever.
        return;
    }
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
    shared.completed.commit();
    let partitions = shared.partitions();
    let offsets = committable(&partitions);
    if offsets.count() == 0 {
        return;
    }
    match consumer.commit(&offsets, CommitMode::Async) {
        Ok(()) => metrics::commit("asked"),
        Err(error) => {
            metrics::commit("failed");
            warn!(%error, "a commit could not be sent; it is tried again at the next interval");
            partitions.iter().for_each(|partition| partition.offer_anew());
        }
    }
}

/// Drain, commit, leave the group, close: all on this thread.
fn leave(shared: &Arc<Shared>, consumer: BaseConsumer<GroupContext>) {
    let partitions = shared.partitions();
    if partitions.iter().any(|partition| partition.is_paused()) {
        // A pause that librdkafka has not finished would keep the close waiting for ever.
        let settled = Instant::now() + PAUSE_SETTLES;
        while Instant::now() < settled {
            drop(consumer.poll(POLL_WAIT));
        }
    }
    let offsets = shared.drain(&partitions, || {
        shared.beat();
        // Keeps the membership alive. What it still gives is dropped: it was not begun,
        // so it is not committed, and the next owner reads it.
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

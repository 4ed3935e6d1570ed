//! One assigned partition: its bounded queue, its ledger, and the tickets of
//! the records that were taken from the queue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::ledger::{Begin, Ledger};
use crate::domain::Redacted;

/// A record as it came from the broker, with the ticket that its processing owes.
#[derive(Debug)]
pub struct Record {
    /// What must be completed before the offset may be committed.
    pub ticket: Ticket,
    /// The broker's or the producer's time stamp, in ms since 1970; 0 when there is none.
    pub timestamp_ms: i64,
    /// Raw key.
    pub key: Option<Redacted<Vec<u8>>>,
    /// Raw value, in the registry's wire format.
    pub payload: Option<Redacted<Vec<u8>>>,
    /// Headers: name and raw value, if it has one.
    pub headers: Redacted<Headers>,
}

/// Headers of a record: name and raw value, if it has one.
pub type Headers = Vec<(String, Option<Vec<u8>>)>;

impl Record {
    fn bytes(&self) -> usize {
        self.payload.as_ref().map_or(0, |payload| payload.expose().len())
            + self.key.as_ref().map_or(0, |key| key.expose().len())
            + self.headers.expose().iter().map(header_bytes).sum::<usize>()
    }
}

fn header_bytes((name, value): &(String, Option<Vec<u8>>)) -> usize {
    name.len() + value.as_ref().map_or(0, Vec::len)
}

/// The raw parts of a record, before it has a ticket.
pub struct Arrival {
    /// Position in the partition.
    pub offset: i64,
    /// As in [`Record`].
    pub timestamp_ms: i64,
    /// As in [`Record`].
    pub key: Option<Vec<u8>>,
    /// As in [`Record`].
    pub payload: Option<Vec<u8>>,
    /// As in [`Record`].
    pub headers: Headers,
}

/// Bounds of a partition's queue.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Records that may wait.
    pub queue_max_records: usize,
    /// Bytes that may wait.
    pub queue_max_bytes: usize,
    /// Records between the committed offset and the newest in hand.
    pub window_max_records: usize,
}

#[derive(Debug, Default)]
struct Inner {
    queue: VecDeque<Record>,
    queue_bytes: usize,
    ledger: Ledger,
    /// Tickets that were handed out and are not settled.
    outstanding: usize,
}

/// An assigned partition in one epoch. After its revocation it is detached: late
/// completions change nothing that could be committed.
#[derive(Debug)]
pub struct Partition {
    /// Full topic name.
    pub topic: Arc<str>,
    /// Number within the topic.
    pub partition: i32,
    /// Grows with every assignment in this process.
    pub epoch: u64,
    bounds: Bounds,
    inner: Mutex<Inner>,
    idle: Condvar,
    closing: AtomicBool,
    leaked: AtomicBool,
    paused: AtomicBool,
    /// Completions of all partitions since the last commit, shared with the poll thread.
    completed: Arc<AtomicU64>,
}

impl Partition {
    /// A freshly assigned partition.
    #[must_use]
    pub fn new(
        topic: Arc<str>,
        partition: i32,
        epoch: u64,
        bounds: Bounds,
        completed: Arc<AtomicU64>,
    ) -> Arc<Self> {
        Arc::new(Self {
            topic,
            partition,
            epoch,
            bounds,
            inner: Mutex::default(),
            idle: Condvar::new(),
            closing: AtomicBool::new(false),
            leaked: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            completed,
        })
    }

    /// Queues a record. False when the partition should be paused now. A
    /// redelivery of an offset in hand is dropped here.
    pub fn push(self: &Arc<Self>, arrival: Arrival) -> bool {
        let mut inner = self.inner.lock();
        if self.is_closing() || inner.ledger.begin(arrival.offset, Instant::now()) == Begin::Known {
            return true;
        }
        let record = Record {
            ticket: Ticket {
                partition: Arc::clone(self),
                offset: arrival.offset,
                taken: false,
                settled: false,
            },
            timestamp_ms: arrival.timestamp_ms,
            key: arrival.key.map(Redacted::new),
            payload: arrival.payload.map(Redacted::new),
            headers: Redacted::new(arrival.headers),
        };
        inner.queue_bytes += record.bytes();
        inner.queue.push_back(record);
        !(inner.queue.len() >= self.bounds.queue_max_records
            || inner.queue_bytes >= self.bounds.queue_max_bytes
            || inner.ledger.window() >= self.bounds.window_max_records)
    }

    /// Takes up to `max` records, in order.
    pub fn take(&self, max: usize, into: &mut Vec<Record>) -> usize {
        let mut inner = self.inner.lock();
        if self.is_closing() {
            return 0;
        }
        let count = inner.queue.len().min(max);
        for _ in 0..count {
            let Some(mut record) = inner.queue.pop_front() else { break };
            inner.queue_bytes -= record.bytes();
            inner.outstanding += 1;
            record.ticket.taken = true;
            into.push(record);
        }
        count
    }

    /// True when a paused partition has room again: at half of every bound.
    #[must_use]
    pub fn has_room(&self) -> bool {
        let inner = self.inner.lock();
        inner.queue.len() <= self.bounds.queue_max_records / 2
            && inner.queue_bytes <= self.bounds.queue_max_bytes / 2
            && inner.ledger.window() <= self.bounds.window_max_records / 2
    }

    /// Records and bytes that wait in the queue.
    #[must_use]
    pub fn queued(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        (inner.queue.len(), inner.queue_bytes)
    }

    /// Remembers whether the poll thread has paused it.
    pub fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// Whether the poll thread has paused it.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// True once it is being revoked or the process stops: nothing new may begin.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Stops the intake: what waits in the queue is forgotten (the next owner
    /// reads it again), what was taken is awaited by [`Partition::wait_idle`].
    pub fn close_intake(&self) {
        let dropped = {
            let mut inner = self.inner.lock();
            self.closing.store(true, Ordering::Release);
            inner.queue_bytes = 0;
            std::mem::take(&mut inner.queue)
        };
        drop(dropped);
    }

    /// Waits until every ticket that was handed out is settled. False when the
    /// time runs out first.
    #[must_use]
    pub fn wait_idle(&self, deadline: Instant) -> bool {
        let mut inner = self.inner.lock();
        while inner.outstanding > 0 {
            if self.idle.wait_until(&mut inner, deadline).timed_out() {
                return inner.outstanding == 0;
            }
        }
        true
    }

    /// Tickets that are out.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.inner.lock().outstanding
    }

    /// The offset to commit, if it moved.
    #[must_use]
    pub fn take_committable(&self) -> Option<i64> {
        self.inner.lock().ledger.take_committable()
    }

    /// The last commit failed, or may have: offer the position again.
    pub fn offer_anew(&self) {
        self.inner.lock().ledger.offer_anew();
    }

    /// How long the record that holds the commit back has been in hand.
    #[must_use]
    pub fn oldest_age(&self) -> Option<Duration> {
        self.inner.lock().ledger.oldest_since().map(|since| since.elapsed())
    }

    /// True when a ticket was dropped without being settled while the partition
    /// was ours: a bug, because the commit could never move again.
    #[must_use]
    pub fn has_leaked(&self) -> bool {
        self.leaked.load(Ordering::Relaxed)
    }
}

/// The debt of one record: settled by [`Ticket::complete`] when its outcome is
/// durable, or by [`Ticket::release`] when it was interrupted.
#[derive(Debug)]
pub struct Ticket {
    partition: Arc<Partition>,
    offset: i64,
    taken: bool,
    settled: bool,
}

impl Ticket {
    /// The partition that it belongs to.
    #[must_use]
    pub const fn partition(&self) -> &Arc<Partition> {
        &self.partition
    }

    /// Its offset.
    #[must_use]
    pub const fn offset(&self) -> i64 {
        self.offset
    }

    /// The outcome is durable: the offset may move.
    pub fn complete(mut self) {
        self.settled = true;
        let mut inner = self.partition.inner.lock();
        inner.ledger.complete(self.offset);
        self.partition.completed.fetch_add(1, Ordering::Relaxed);
        self.leave(&mut inner);
    }

    /// Interrupted: the offset stays, the next owner reads the record again.
    pub fn release(mut self) {
        self.settled = true;
        let mut inner = self.partition.inner.lock();
        self.leave(&mut inner);
    }

    fn leave(&self, inner: &mut Inner) {
        inner.outstanding -= 1;
        if inner.outstanding == 0 {
            self.partition.idle.notify_all();
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.settled || !self.taken {
            return;
        }
        let mut inner = self.partition.inner.lock();
        if !self.partition.is_closing() {
            self.partition.leaked.store(true, Ordering::Relaxed);
        }
        self.leave(&mut inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partition(bounds: Bounds) -> Arc<Partition> {
        Partition::new("t".into(), 0, 1, bounds, Arc::default())
    }

    fn small() -> Bounds {
        Bounds { queue_max_records: 4, queue_max_bytes: 100, window_max_records: 6 }
    }

    fn arrival(offset: i64, bytes: usize) -> Arrival {
        Arrival { offset, timestamp_ms: 0, key: None, payload: Some(vec![0; bytes]), headers: vec![] }
    }

    #[test]
    fn a_full_queue_asks_for_a_pause_by_count_and_by_bytes() {
        let by_count = partition(small());
        assert!((0..3).all(|offset| by_count.push(arrival(offset, 1))));
        assert!(!by_count.push(arrival(3, 1)));
        let by_bytes = partition(small());
        assert!(by_bytes.push(arrival(0, 50)));
        assert!(!by_bytes.push(arrival(1, 50)));
        assert!(!by_bytes.has_room());
        let mut taken = vec![];
        by_bytes.take(1, &mut taken);
        assert!(by_bytes.has_room());
        taken.into_iter().for_each(|record| record.ticket.release());
    }

    #[test]
    fn a_wide_window_asks_for_a_pause_though_the_queue_is_empty() {
        let partition = partition(small());
        let mut taken = vec![];
        for offset in 0..5 {
            assert!(partition.push(arrival(offset, 1)));
            partition.take(9, &mut taken);
        }
        assert!(!partition.push(arrival(5, 1)));
        assert!(!partition.has_room());
        taken.into_iter().for_each(|record| record.ticket.complete());
        assert!(partition.has_room());
        assert_eq!(partition.take_committable(), Some(5));
    }

    #[test]
    fn closing_forgets_the_queue_and_waits_for_what_was_taken() {
        let partition = partition(small());
        partition.push(arrival(0, 1));
        partition.push(arrival(1, 1));
        let mut taken = vec![];
        partition.take(1, &mut taken);
        partition.close_intake();
        assert!(!partition.wait_idle(Instant::now()));
        assert_eq!(partition.take(9, &mut Vec::new()), 0);
        taken.pop().unwrap().ticket.complete();
        assert!(partition.wait_idle(Instant::now()));
        assert_eq!(partition.take_committable(), Some(1));
        assert!(!partition.has_leaked());
    }

    #[test]
    fn a_released_ticket_holds_the_commit_back() {
        let partition = partition(small());
        partition.push(arrival(0, 1));
        partition.push(arrival(1, 1));
        let mut taken = vec![];
        partition.take(2, &mut taken);
        taken.pop().unwrap().ticket.complete();
        taken.pop().unwrap().ticket.release();
        assert_eq!(partition.take_committable(), None);
    }

    #[test]
    fn a_dropped_ticket_is_noticed() {
        let partition = partition(small());
        partition.push(arrival(0, 1));
        let mut taken = vec![];
        partition.take(1, &mut taken);
        drop(taken);
        assert!(partition.has_leaked());
    }
}

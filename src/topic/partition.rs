//! One assigned partition: its bounded queue, its ledger, and the tickets of
//! the records that were taken from the queue.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::OwnedSemaphorePermit;

use super::busy::Completed;
use super::ledger::{Begin, Held, Ledger};
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
    /// The value of the first header with this name, if it has one.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.expose().iter().find(|(header, _)| header == name)?.1.as_deref()
    }

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
    /// Of a topic that is read with what urgent work leaves.
    pub bulk: bool,
    bounds: Bounds,
    inner: Mutex<Inner>,
    idle: Condvar,
    closing: AtomicBool,
    leaked: AtomicBool,
    /// It met a bound of its queue and has not come down to half of it yet.
    full: AtomicBool,
    /// What librdkafka was told last, for whatever reason.
    paused: AtomicBool,
    /// Completions of all partitions, shared with the poll thread.
    completed: Arc<Completed>,
}

impl Partition {
    /// A freshly assigned partition.
    #[must_use]
    pub fn new(
        topic: Arc<str>,
        partition: i32,
        epoch: u64,
        bulk: bool,
        bounds: Bounds,
        completed: Arc<Completed>,
    ) -> Arc<Self> {
        Arc::new(Self {
            topic,
            partition,
            epoch,
            bulk,
            bounds,
            inner: Mutex::default(),
            idle: Condvar::new(),
            closing: AtomicBool::new(false),
            leaked: AtomicBool::new(false),
            full: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            completed,
        })
    }

    /// Queues a record; it may make the partition full ([`Partition::is_full`]).
    /// A redelivery of an offset in hand is dropped here.
    pub fn push(self: &Arc<Self>, arrival: Arrival) {
        let mut inner = self.inner.lock();
        if self.is_closing()
            || inner.ledger.begin(arrival.offset, arrival.timestamp_ms, Instant::now()) == Begin::Known
        {
            return;
        }
        let record = Record {
            ticket: Ticket {
                partition: Arc::clone(self),
                offset: arrival.offset,
                taken: false,
                settled: false,
                place: None,
            },
            timestamp_ms: arrival.timestamp_ms,
            key: arrival.key.map(Redacted::new),
            payload: arrival.payload.map(Redacted::new),
            headers: Redacted::new(arrival.headers),
        };
        inner.queue_bytes += record.bytes();
        inner.queue.push_back(record);
        if inner.queue.len() >= self.bounds.queue_max_records
            || inner.queue_bytes >= self.bounds.queue_max_bytes
            || inner.ledger.window() >= self.bounds.window_max_records
        {
            self.full.store(true, Ordering::Relaxed);
        }
    }

    /// Takes up to `max` records, in order.
    pub fn take(&self, max: usize, into: &mut Vec<Record>) -> usize {
        let mut inner = self.inner.lock();
        if self.is_closing() {
            return 0;
        }
        let count = inner.queue.len().min(max);
        let now = Instant::now();
        for _ in 0..count {
            let Some(mut record) = inner.queue.pop_front() else { break };
            inner.queue_bytes -= record.bytes();
            inner.outstanding += 1;
            inner.ledger.take(record.ticket.offset, now);
            record.ticket.taken = true;
            into.push(record);
        }
        count
    }

    /// True from a bound of its queue until it has room again: at half of every
    /// bound. While it is, it should be paused.
    #[must_use]
    pub fn is_full(&self) -> bool {
        if !self.full.load(Ordering::Relaxed) {
            return false;
        }
        let inner = self.inner.lock();
        let has_room = inner.queue.len() <= self.bounds.queue_max_records / 2
            && inner.queue_bytes <= self.bounds.queue_max_bytes / 2
            && inner.ledger.window() <= self.bounds.window_max_records / 2;
        if has_room {
            self.full.store(false, Ordering::Relaxed);
        }
        !has_room
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

    /// What is done of it and what is not.
    #[must_use]
    pub fn held(&self) -> Held {
        self.inner.lock().ledger.held()
    }

    /// How long the record that holds the commit back has been in hand.
    #[must_use]
    pub fn oldest_age(&self) -> Option<Duration> {
        self.inner.lock().ledger.oldest_since().map(|since| since.elapsed())
    }

    /// How long that record has been worked on; `None` while it waits in the queue,
    /// which may take long and is no fault.
    #[must_use]
    pub fn oldest_taken_age(&self) -> Option<Duration> {
        self.inner.lock().ledger.oldest_taken_since().map(|since| since.elapsed())
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
    /// A bulk record's place beside the common budget, given back with the ticket.
    place: Option<OwnedSemaphorePermit>,
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

    /// Keeps a place of a budget until it is settled.
    pub(super) fn hold(&mut self, place: Option<OwnedSemaphorePermit>) {
        self.place = place;
    }

    /// The outcome is durable: the offset may move.
    pub fn complete(mut self) {
        self.settled = true;
        let mut inner = self.partition.inner.lock();
        inner.ledger.complete(self.offset);
        self.partition.completed.one();
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
mod tests;

//! Where the poll thread and the claim loops meet: each claim loop (shard) owns
//! a fixed share of the assigned partitions, so that the records of one
//! partition, and with them those of one key, pass through one loop in order.
//!
//! Partitions of bulk topics come last: their records are taken only while no
//! urgent record waits in any shard, and hold a place of a smaller budget beside
//! the common one, so that urgent records find places whatever bulk is doing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};

use super::partition::{Partition, Record};

/// Partitions that are served in turn.
#[derive(Debug, Default)]
struct Row {
    partitions: Mutex<Vec<Arc<Partition>>>,
    next: AtomicUsize,
}

impl Row {
    fn any_waits(&self) -> bool {
        self.partitions.lock().iter().any(|partition| partition.queued().0 > 0)
    }

    /// Takes up to `max` records, a fair share of each partition, beginning with
    /// another one every time.
    fn take(&self, max: usize, into: &mut Vec<Record>) -> usize {
        let partitions = self.partitions.lock().clone();
        if partitions.is_empty() || max == 0 {
            return 0;
        }
        let first = self.next.fetch_add(1, Ordering::Relaxed) % partitions.len();
        let mut left = max;
        let mut share = (max / partitions.len()).max(1);
        // The first round gives each its share; the second gives what is left
        // to whoever has more.
        for _ in 0..2 {
            for at in 0..partitions.len() {
                if left == 0 {
                    return max;
                }
                if let Some(partition) = partitions.get((first + at) % partitions.len()) {
                    left -= partition.take(share.min(left), into);
                }
            }
            share = left;
        }
        max - left
    }
}

#[derive(Debug, Default)]
struct Shard {
    urgent: Row,
    bulk: Row,
    arrived: Notify,
}

impl Shard {
    const fn row(&self, partition: &Partition) -> &Row {
        if partition.bulk { &self.bulk } else { &self.urgent }
    }
}

/// The queues of all assigned partitions, divided over shards.
#[derive(Debug)]
pub struct Intake {
    shards: Vec<Shard>,
    in_flight: Arc<Semaphore>,
    bulk_in_flight: Arc<Semaphore>,
    /// The last urgent record that waited was taken since somebody looked.
    caught_up: AtomicBool,
}

impl Intake {
    /// An intake for `shards` claim loops (at least one). `in_flight_max` records
    /// may be in flight, `bulk_in_flight_max` of them from bulk topics.
    #[must_use]
    pub fn new(shards: usize, in_flight_max: usize, bulk_in_flight_max: usize) -> Self {
        Self {
            shards: (0..shards.max(1)).map(|_| Shard::default()).collect(),
            in_flight: Arc::new(Semaphore::new(in_flight_max)),
            bulk_in_flight: Arc::new(Semaphore::new(bulk_in_flight_max)),
            caught_up: AtomicBool::new(false),
        }
    }

    /// How many claim loops it serves.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Places in the in-flight budget. A claim loop has one for each record that
    /// it takes, until the record is settled.
    #[must_use]
    pub const fn in_flight(&self) -> &Arc<Semaphore> {
        &self.in_flight
    }

    fn shard_of(&self, partition: &Partition) -> Option<&Shard> {
        let number = usize::try_from(partition.partition).unwrap_or(0);
        self.shards.get(number % self.shards.len())
    }

    /// Opens a newly assigned partition.
    pub fn add(&self, partition: &Arc<Partition>) {
        if let Some(shard) = self.shard_of(partition) {
            shard.row(partition).partitions.lock().push(Arc::clone(partition));
        }
    }

    /// Forgets a revoked partition.
    pub fn remove(&self, partition: &Arc<Partition>) {
        if let Some(shard) = self.shard_of(partition) {
            shard.row(partition).partitions.lock().retain(|other| !Arc::ptr_eq(other, partition));
        }
    }

    /// Wakes the loop that owns the partition.
    pub fn notify(&self, partition: &Partition) {
        if let Some(shard) = self.shard_of(partition) {
            shard.arrived.notify_one();
        }
    }

    /// Wakes every loop.
    pub fn notify_all(&self) {
        self.shards.iter().for_each(|shard| shard.arrived.notify_one());
    }

    /// Waits until something may have arrived for this shard.
    pub async fn arrived(&self, shard: usize) {
        if let Some(shard) = self.shards.get(shard) {
            shard.arrived.notified().await;
        }
    }

    /// Waits until [`Intake::take`] may give something to this shard: a record
    /// arrived, the last urgent one of another shard was taken, or a bulk record
    /// that waits finds a place.
    pub async fn ready(&self, shard: usize) {
        tokio::select! {
            () = self.arrived(shard) => {}
            () = self.bulk_place(shard) => {}
        }
    }

    async fn bulk_place(&self, shard: usize) {
        let waits = self.shards.get(shard).is_some_and(|shard| shard.bulk.any_waits());
        if !waits || self.urgent_waits() {
            // What changes this wakes the loop.
            return std::future::pending().await;
        }
        // Given back at once: `take` draws its own, if no urgent record came first.
        drop(self.bulk_in_flight.acquire().await);
    }

    /// True while a record of a topic that is not bulk waits in any shard.
    #[must_use]
    pub fn urgent_waits(&self) -> bool {
        self.shards.iter().any(|shard| shard.urgent.any_waits())
    }

    /// True when urgent records have waited without a gap since the last look, or
    /// nothing more can be in flight: bulk topics should then not be read. Bulk
    /// alone cannot bring this about. For one observer.
    #[must_use]
    pub fn is_pressed(&self) -> bool {
        let caught_up = self.caught_up.swap(false, Ordering::Relaxed);
        self.in_flight.available_permits() == 0 || (self.urgent_waits() && !caught_up)
    }

    fn has_bulk(&self) -> bool {
        self.shards.iter().any(|shard| !shard.bulk.partitions.lock().is_empty())
    }

    /// Takes up to `max` records of this shard's partitions, a fair share of
    /// each, beginning with another partition every time. Bulk records follow when
    /// no urgent one is left in any shard, as many as bulk has places for; each
    /// has its place until its ticket is settled.
    pub fn take(&self, shard: usize, max: usize, into: &mut Vec<Record>) -> usize {
        let Some(shard) = self.shards.get(shard) else { return 0 };
        let taken = shard.urgent.take(max, into);
        if !self.has_bulk() || self.urgent_waits() {
            return taken;
        }
        if taken > 0 {
            self.caught_up.store(true, Ordering::Relaxed);
            // Other loops may have waited for just these.
            self.notify_all();
        }
        taken + self.take_bulk(&shard.bulk, max - taken, into)
    }

    fn take_bulk(&self, bulk: &Row, max: usize, into: &mut Vec<Record>) -> usize {
        let free = self.bulk_in_flight.available_permits().min(max);
        let count = u32::try_from(free).unwrap_or(u32::MAX);
        // Another loop may have been faster; then this one waits for a place.
        let Ok(mut places) = Arc::clone(&self.bulk_in_flight).try_acquire_many_owned(count) else {
            return 0;
        };
        let before = into.len();
        let taken = bulk.take(free, into);
        into.iter_mut().skip(before).for_each(|record| record.ticket.hold(places.split(1)));
        taken
    }
}

#[cfg(test)]
mod tests;

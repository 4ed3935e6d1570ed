//! Where the poll thread and the claim loops meet: each claim loop (shard) owns
//! a fixed share of the assigned partitions, so that the records of one
//! partition, and with them those of one key, pass through one loop in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::partition::{Partition, Record};

#[derive(Debug, Default)]
struct Shard {
    partitions: Mutex<Vec<Arc<Partition>>>,
    next: AtomicUsize,
    arrived: Notify,
}

/// The queues of all assigned partitions, divided over shards.
#[derive(Debug)]
pub struct Intake {
    shards: Vec<Shard>,
}

impl Intake {
    /// An intake for `shards` claim loops (at least one).
    #[must_use]
    pub fn new(shards: usize) -> Self {
        Self { shards: (0..shards.max(1)).map(|_| Shard::default()).collect() }
    }

    /// How many claim loops it serves.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    fn shard_of(&self, partition: &Partition) -> Option<&Shard> {
        let number = usize::try_from(partition.partition).unwrap_or(0);
        self.shards.get(number % self.shards.len())
    }

    /// Opens a newly assigned partition.
    pub fn add(&self, partition: &Arc<Partition>) {
        if let Some(shard) = self.shard_of(partition) {
            shard.partitions.lock().push(Arc::clone(partition));
        }
    }

    /// Forgets a revoked partition.
    pub fn remove(&self, partition: &Arc<Partition>) {
        if let Some(shard) = self.shard_of(partition) {
            shard.partitions.lock().retain(|other| !Arc::ptr_eq(other, partition));
        }
    }

    /// Wakes the loop that owns the partition.
    pub fn notify(&self, partition: &Partition) {
        if let Some(shard) = self.shard_of(partition) {
            shard.arrived.notify_one();
        }
    }

    /// Wakes every loop, for the end.
    pub fn notify_all(&self) {
        self.shards.iter().for_each(|shard| shard.arrived.notify_one());
    }

    /// Waits until something may have arrived for this shard.
    pub async fn arrived(&self, shard: usize) {
        if let Some(shard) = self.shards.get(shard) {
            shard.arrived.notified().await;
        }
    }

    /// Takes up to `max` records of this shard's partitions, a fair share of
    /// each, beginning with another partition every time.
    pub fn take(&self, shard: usize, max: usize, into: &mut Vec<Record>) -> usize {
        let Some(shard) = self.shards.get(shard) else { return 0 };
        let partitions = shard.partitions.lock().clone();
        if partitions.is_empty() || max == 0 {
            return 0;
        }
        let first = shard.next.fetch_add(1, Ordering::Relaxed) % partitions.len();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::partition::{Arrival, Bounds};

    fn filled(number: i32, records: i64) -> Arc<Partition> {
        let bounds = Bounds { queue_max_records: 1000, queue_max_bytes: 1 << 20, window_max_records: 1000 };
        let partition = Partition::new("t".into(), number, 1, bounds, Arc::default());
        for offset in 0..records {
            partition.push(Arrival { offset, timestamp_ms: 0, key: None, payload: None, headers: vec![] });
        }
        partition
    }

    #[test]
    fn a_full_partition_does_not_starve_the_others() {
        let intake = Intake::new(1);
        let (big, small) = (filled(0, 500), filled(1, 5));
        intake.add(&big);
        intake.add(&small);
        let mut taken = vec![];
        assert_eq!(intake.take(0, 100, &mut taken), 100);
        let of_small = taken.iter().filter(|r| r.ticket.partition().partition == 1).count();
        assert_eq!(of_small, 5, "the small one has all of its records in the first batch");
        taken.into_iter().for_each(|record| record.ticket.complete());
    }

    #[test]
    fn a_partition_belongs_to_one_shard() {
        let intake = Intake::new(2);
        let partitions: Vec<_> = (0..4).map(|number| filled(number, 3)).collect();
        partitions.iter().for_each(|partition| intake.add(partition));
        let mut taken = vec![];
        intake.take(0, 100, &mut taken);
        assert!(taken.iter().all(|record| record.ticket.partition().partition % 2 == 0));
        assert_eq!(taken.len(), 6);
        intake.remove(partitions.get(2).unwrap());
        assert_eq!(intake.take(0, 100, &mut taken), 0);
        taken.into_iter().for_each(|record| record.ticket.complete());
    }
}

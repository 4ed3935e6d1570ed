//! Order by key: one queue a key, of which the head runs. Bulk work of a key waits
//! until the rest of it is done. Keys that rest take no memory.

use std::collections::HashMap;
use std::collections::VecDeque;

use parking_lot::Mutex;
use uuid::Uuid;

/// What waits behind the head of one key.
#[derive(Debug)]
struct Waiting<W> {
    urgent: VecDeque<W>,
    bulk: VecDeque<W>,
}

/// Queues by key. What is in them is bounded by whoever submits.
#[derive(Debug)]
pub struct Lanes<W> {
    running: Mutex<HashMap<Uuid, Waiting<W>>>,
}

impl<W> Default for Lanes<W> {
    fn default() -> Self {
        Self { running: Mutex::default() }
    }
}

impl<W> Lanes<W> {
    /// Enters work. It is given back when its lane rests: the caller runs it, and
    /// after it whatever [`Lanes::next`] gives. Otherwise it waits for its turn, and
    /// bulk for its turn after all that is not.
    pub fn enter(&self, key: Uuid, bulk: bool, work: W) -> Option<W> {
        let mut running = self.running.lock();
        if let Some(waiting) = running.get_mut(&key) {
            if bulk { &mut waiting.bulk } else { &mut waiting.urgent }.push_back(work);
            return None;
        }
        running.insert(key, Waiting { urgent: VecDeque::new(), bulk: VecDeque::new() });
        Some(work)
    }

    /// The next work of a lane whose head is done; `None` puts the lane to rest.
    pub fn next(&self, key: Uuid) -> Option<W> {
        let mut running = self.running.lock();
        let next = running
            .get_mut(&key)
            .and_then(|waiting| waiting.urgent.pop_front().or_else(|| waiting.bulk.pop_front()));
        if next.is_none() {
            running.remove(&key);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_key_runs_in_order_and_another_beside_it() {
        let lanes = Lanes::default();
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(lanes.enter(a, false, 1), Some(1));
        assert_eq!(lanes.enter(a, false, 2), None);
        assert_eq!(lanes.enter(a, false, 3), None);
        assert_eq!(lanes.enter(b, false, 9), Some(9), "another key does not wait");
        assert_eq!(lanes.next(a), Some(2));
        assert_eq!(lanes.next(a), Some(3));
        assert_eq!(lanes.next(a), None);
        assert_eq!(lanes.enter(a, false, 4), Some(4), "a lane at rest begins again");
    }

    #[test]
    fn bulk_waits_for_the_rest_of_its_key_and_both_keep_their_order() {
        let lanes = Lanes::default();
        let key = Uuid::from_u128(1);
        assert_eq!(lanes.enter(key, true, 1), Some(1), "what runs already is not interrupted");
        for (bulk, work) in [(true, 2), (false, 3), (true, 4), (false, 5)] {
            assert_eq!(lanes.enter(key, bulk, work), None);
        }
        let order: Vec<_> = std::iter::from_fn(|| lanes.next(key)).collect();
        assert_eq!(order, [3, 5, 2, 4]);
        assert_eq!(lanes.enter(key, true, 6), Some(6), "a lane at rest begins again");
    }
}

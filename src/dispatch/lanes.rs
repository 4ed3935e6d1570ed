//! Order by key: one queue a key, of which the head runs. Keys that rest take no
//! memory.

use std::collections::HashMap;
use std::collections::VecDeque;

use parking_lot::Mutex;
use uuid::Uuid;

/// Queues by key. What is in them is bounded by whoever submits.
#[derive(Debug)]
pub struct Lanes<W> {
    running: Mutex<HashMap<Uuid, VecDeque<W>>>,
}

impl<W> Default for Lanes<W> {
    fn default() -> Self {
        Self { running: Mutex::default() }
    }
}

impl<W> Lanes<W> {
    /// Enters work. It is given back when its lane rests: the caller runs it, and
    /// after it whatever [`Lanes::next`] gives. Otherwise it waits for its turn.
    pub fn enter(&self, key: Uuid, work: W) -> Option<W> {
        let mut running = self.running.lock();
        if let Some(waiting) = running.get_mut(&key) {
            waiting.push_back(work);
            return None;
        }
        running.insert(key, VecDeque::new());
        Some(work)
    }

    /// The next work of a lane whose head is done; `None` puts the lane to rest.
    pub fn next(&self, key: Uuid) -> Option<W> {
        let mut running = self.running.lock();
        let next = running.get_mut(&key).and_then(VecDeque::pop_front);
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
        assert_eq!(lanes.enter(a, 1), Some(1));
        assert_eq!(lanes.enter(a, 2), None);
        assert_eq!(lanes.enter(a, 3), None);
        assert_eq!(lanes.enter(b, 9), Some(9), "another key does not wait");
        assert_eq!(lanes.next(a), Some(2));
        assert_eq!(lanes.next(a), Some(3));
        assert_eq!(lanes.next(a), None);
        assert_eq!(lanes.enter(a, 4), Some(4), "a lane at rest begins again");
    }
}

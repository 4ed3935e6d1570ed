//! Which offsets of one partition are done: the contiguous prefix may be
//! committed, nothing past a gap.
//!
//! Pure: no clock of its own, no I/O. One ledger belongs to one assignment
//! (epoch) of a partition; a new assignment starts a new one.

use std::collections::VecDeque;
use std::time::Instant;

/// What [`Ledger::begin`] says of an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// New: it is in hand now and has to be completed.
    InHand,
    /// In hand already, or done: a redelivery, to be ignored.
    Known,
}

/// What an owner knows of its partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Offset after the last one of the contiguous prefix that is done; `None` before the
    /// first.
    pub next: Option<i64>,
    /// The oldest offset in hand that is not done, and its record's own time in ms since 1970
    /// (0: it has none); `None`: nothing is in hand.
    pub head: Option<(i64, i64)>,
}

/// One offset in hand.
#[derive(Debug, Clone, Copy)]
struct Slot {
    offset: i64,
    /// The record's own time, in ms since 1970; 0 when it has none.
    timestamp_ms: i64,
    since: Instant,
    /// When work on it began; `None`: it waits.
    taken: Option<Instant>,
    done: bool,
}

/// The ledger of one partition in one epoch.
///
/// Offsets may have holes (compaction, transaction markers) but arrive in
/// ascending order; completion may come in any order.
#[derive(Debug, Default)]
pub struct Ledger {
    slots: VecDeque<Slot>,
    /// Offset after the last one that left the head; `None` before the first.
    position: Option<i64>,
    /// What was last handed out for a commit.
    committed: Option<i64>,
    /// Highest offset ever begun.
    newest: Option<i64>,
}

impl Ledger {
    /// Takes an offset in hand. `timestamp_ms` is the record's own time, in ms since 1970; 0
    /// when it has none.
    pub fn begin(&mut self, offset: i64, timestamp_ms: i64, now: Instant) -> Begin {
        if self.newest.is_some_and(|newest| offset <= newest) {
            return Begin::Known;
        }
        self.newest = Some(offset);
        self.slots.push_back(Slot { offset, timestamp_ms, since: now, taken: None, done: false });
        Begin::InHand
    }

    /// Notes that work on an offset begins.
    pub fn take(&mut self, offset: i64, now: Instant) {
        if let Ok(at) = self.slots.binary_search_by_key(&offset, |slot| slot.offset)
            && let Some(slot) = self.slots.get_mut(at)
        {
            slot.taken = Some(now);
        }
    }

    /// Marks an offset as done. False when it is not in hand (done before, or
    /// never begun in this epoch): the caller has a bug or is a late echo.
    pub fn complete(&mut self, offset: i64) -> bool {
        let Ok(at) = self.slots.binary_search_by_key(&offset, |slot| slot.offset) else {
            return false;
        };
        let Some(slot) = self.slots.get_mut(at) else { return false };
        if slot.done {
            return false;
        }
        slot.done = true;
        while let Some(head) = self.slots.front().filter(|slot| slot.done) {
            self.position = Some(head.offset + 1);
            self.slots.pop_front();
        }
        true
    }

    /// The offset to commit (next to be read), if it moved since it was last
    /// asked for.
    pub fn take_committable(&mut self) -> Option<i64> {
        if self.position == self.committed {
            return None;
        }
        self.committed = self.position;
        self.position
    }

    /// After a failed commit: the next [`Ledger::take_committable`] gives the
    /// position again.
    pub const fn offer_anew(&mut self) {
        self.committed = None;
    }

    /// Offsets between the head and the newest, done or not: the window.
    #[must_use]
    pub fn window(&self) -> usize {
        self.slots.len()
    }

    /// Offsets that are in hand and not done, for the model in the tests.
    #[cfg(test)]
    fn unfinished(&self) -> usize {
        self.slots.iter().filter(|slot| !slot.done).count()
    }

    /// What is done and what is not, for who measures the lag.
    #[must_use]
    pub fn held(&self) -> Held {
        Held { next: self.position, head: self.slots.front().map(|slot| (slot.offset, slot.timestamp_ms)) }
    }

    /// Since when the head, which holds the commit back, is in hand.
    #[must_use]
    pub fn oldest_since(&self) -> Option<Instant> {
        self.slots.front().map(|slot| slot.since)
    }

    /// Since when the head is worked on; `None` while it only waits.
    #[must_use]
    pub fn oldest_taken_since(&self) -> Option<Instant> {
        self.slots.front().and_then(|slot| slot.taken)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn begun(offsets: &[i64]) -> Ledger {
        let mut ledger = Ledger::default();
        for &offset in offsets {
            assert_eq!(ledger.begin(offset, 0, Instant::now()), Begin::InHand);
        }
        ledger
    }

    #[test]
    fn nothing_is_committable_before_the_head_is_done() {
        let mut ledger = begun(&[5, 6, 7]);
        assert!(ledger.complete(6) && ledger.complete(7));
        assert_eq!(ledger.take_committable(), None);
        assert!(ledger.complete(5));
        assert_eq!(ledger.take_committable(), Some(8));
        assert_eq!(ledger.take_committable(), None);
    }

    #[test]
    fn holes_in_the_offsets_do_not_hold_the_commit_back() {
        let mut ledger = begun(&[1, 4, 9]);
        assert!(ledger.complete(1) && ledger.complete(4));
        assert_eq!(ledger.take_committable(), Some(5));
    }

    #[test]
    fn an_offset_completes_once() {
        let mut ledger = begun(&[1]);
        assert!(ledger.complete(1));
        assert!(!ledger.complete(1));
        assert!(!ledger.complete(2));
    }

    #[test]
    fn a_failed_commit_is_offered_again() {
        let mut ledger = begun(&[1]);
        ledger.complete(1);
        assert_eq!(ledger.take_committable(), Some(2));
        ledger.offer_anew();
        assert_eq!(ledger.take_committable(), Some(2));
    }

    /// What may happen to a partition, in any order.
    #[derive(Debug, Clone)]
    enum Step {
        /// The broker delivers the next record, after a hole of this size.
        Deliver(u8),
        /// The broker delivers a record again, this many back.
        Redeliver(u8),
        /// One of the records in hand is done: which one.
        Complete(prop::sample::Index),
        /// The commit timer fires.
        Commit,
        /// A commit fails.
        CommitFails,
        /// Revoked: in-hand work may echo later; a new epoch starts at the commit.
        Revoke,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            5 => (0_u8..3).prop_map(Step::Deliver),
            1 => (0_u8..5).prop_map(Step::Redeliver),
            5 => any::<prop::sample::Index>().prop_map(Step::Complete),
            2 => Just(Step::Commit),
            1 => Just(Step::CommitFails),
            1 => Just(Step::Revoke),
        ]
    }

    proptest! {
        /// Whatever the order: no commit passes a record that is not done, no
        /// record is in hand twice, and once all is done all is committable.
        #[test]
        fn never_past_a_gap(steps in prop::collection::vec(step(), 1..400)) {
            let now = Instant::now();
            let mut ledger = Ledger::default();
            let mut log: Vec<i64> = Vec::new(); // every offset that exists on the partition
            let mut read = 0; // how many of them were read
            let mut first_read = 0; // where this epoch began to read
            let mut in_hand: BTreeSet<i64> = BTreeSet::new();
            let mut done: BTreeSet<i64> = BTreeSet::new();
            let mut committed = 0_i64;

            for step in steps {
                match step {
                    Step::Deliver(hole) => {
                        if read == log.len() {
                            let next = log.last().map_or(0, |last| last + 1) + i64::from(hole);
                            log.push(next);
                        }
                        let offset = log[read];
                        read += 1;
                        prop_assert_eq!(ledger.begin(offset, 0, now), Begin::InHand);
                        in_hand.insert(offset);
                    }
                    Step::Redeliver(back) => {
                        let at = read.checked_sub(1 + usize::from(back));
                        if let Some(at) = at.filter(|&at| at >= first_read) {
                            prop_assert_eq!(ledger.begin(log[at], 0, now), Begin::Known);
                        }
                    }
                    Step::Complete(which) => {
                        if !in_hand.is_empty() {
                            let offset = *which.get(&in_hand.iter().copied().collect::<Vec<_>>());
                            in_hand.remove(&offset);
                            done.insert(offset);
                            prop_assert!(ledger.complete(offset));
                            prop_assert!(!ledger.complete(offset));
                        }
                    }
                    Step::Commit => {
                        if let Some(position) = ledger.take_committable() {
                            prop_assert!(position >= committed, "a commit went backwards");
                            committed = position;
                        }
                    }
                    Step::CommitFails => ledger.offer_anew(),
                    Step::Revoke => {
                        if let Some(position) = ledger.take_committable() {
                            committed = position;
                        }
                        ledger = Ledger::default();
                        in_hand.clear();
                        read = log.partition_point(|&offset| offset < committed);
                        first_read = read;
                    }
                }
                for &offset in log.iter().take_while(|&&offset| offset < committed) {
                    prop_assert!(done.contains(&offset), "offset {} was committed and is not done", offset);
                }
                prop_assert_eq!(ledger.unfinished(), in_hand.len());
            }

            for offset in std::mem::take(&mut in_hand) {
                ledger.complete(offset);
            }
            if let Some(position) = ledger.take_committable() {
                committed = position;
            }
            let all_read = read.checked_sub(1).map_or(0, |last| log[last] + 1);
            prop_assert!(committed >= all_read, "finished work is not committable");
            prop_assert_eq!(ledger.window(), 0);
        }
    }
}

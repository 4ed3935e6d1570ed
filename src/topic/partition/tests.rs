//! Bounds, tickets, and what closing does.

use super::*;

fn partition(bounds: Bounds) -> Arc<Partition> {
    Partition::new("t".into(), 0, 1, false, bounds, Arc::default())
}

fn small() -> Bounds {
    Bounds { queue_max_records: 4, queue_max_bytes: 100, window_max_records: 6 }
}

fn arrival(offset: i64, bytes: usize) -> Arrival {
    Arrival { offset, timestamp_ms: 0, key: None, payload: Some(vec![0; bytes]), headers: vec![] }
}

#[test]
fn a_full_partition_has_room_again_at_half_of_its_bound_and_not_before() {
    let partition = partition(small());
    (0..4).for_each(|offset| partition.push(arrival(offset, 1)));
    let mut taken = vec![];
    partition.take(1, &mut taken);
    assert!(partition.is_full(), "three of four are still waiting");
    partition.take(1, &mut taken);
    taken.into_iter().for_each(|record| record.ticket.complete());
    assert!(!partition.is_full());
}

#[test]
fn a_full_queue_asks_for_a_pause_by_count_and_by_bytes() {
    let by_count = partition(small());
    (0..3).for_each(|offset| by_count.push(arrival(offset, 1)));
    assert!(!by_count.is_full());
    by_count.push(arrival(3, 1));
    assert!(by_count.is_full());
    let by_bytes = partition(small());
    by_bytes.push(arrival(0, 50));
    assert!(!by_bytes.is_full());
    by_bytes.push(arrival(1, 50));
    assert!(by_bytes.is_full());
    let mut taken = vec![];
    by_bytes.take(1, &mut taken);
    assert!(!by_bytes.is_full());
    taken.into_iter().for_each(|record| record.ticket.release());
}

#[test]
fn a_wide_window_asks_for_a_pause_though_the_queue_is_empty() {
    let partition = partition(small());
    let mut taken = vec![];
    for offset in 0..5 {
        partition.push(arrival(offset, 1));
        partition.take(9, &mut taken);
    }
    assert!(!partition.is_full());
    partition.push(arrival(5, 1));
    assert!(partition.is_full());
    taken.into_iter().for_each(|record| record.ticket.complete());
    assert!(!partition.is_full());
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

#[test]
fn a_record_that_waits_is_in_hand_and_not_yet_worked_on() {
    let partition = partition(small());
    partition.push(arrival(0, 1));
    partition.push(arrival(1, 1));
    assert!(partition.oldest_age().is_some());
    assert!(partition.oldest_taken_age().is_none(), "bulk may wait for as long as urgent work does");
    let mut taken = vec![];
    partition.take(1, &mut taken);
    assert!(partition.oldest_taken_age().is_some());
    taken.pop().unwrap().ticket.complete();
    assert!(partition.oldest_taken_age().is_none());
}

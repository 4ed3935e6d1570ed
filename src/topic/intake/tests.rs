//! Who is taken, in which order, and what waits.

use super::*;
use crate::topic::partition::{Arrival, Bounds};

fn filled(number: i32, records: i64) -> Arc<Partition> {
    with(number, records, false)
}

fn filled_bulk(number: i32, records: i64) -> Arc<Partition> {
    with(number, records, true)
}

fn with(number: i32, records: i64, bulk: bool) -> Arc<Partition> {
    let bounds = Bounds { queue_max_records: 1000, queue_max_bytes: 1 << 20, window_max_records: 1000 };
    let partition = Partition::new("t".into(), number, 1, bulk, bounds, Arc::default());
    for offset in 0..records {
        partition.push(Arrival { offset, timestamp_ms: 0, key: None, payload: None, headers: vec![] });
    }
    partition
}

#[test]
fn a_full_partition_does_not_starve_the_others() {
    let intake = Intake::new(1, 1000, 100);
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
    let intake = Intake::new(2, 1000, 100);
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

fn settle(records: Vec<Record>) {
    records.into_iter().for_each(|record| record.ticket.complete());
}

fn bulk_of(records: &[Record]) -> usize {
    records.iter().filter(|record| record.ticket.partition().bulk).count()
}

/// Is the future done when it is looked at for the first time?
fn at_once(future: impl Future<Output = ()>) -> bool {
    use futures::FutureExt as _;
    future.now_or_never().is_some()
}

#[test]
fn urgent_records_of_a_shard_come_before_its_bulk_records() {
    let intake = Intake::new(1, 1000, 100);
    intake.add(&filled_bulk(0, 50));
    intake.add(&filled(1, 20));
    let mut taken = vec![];
    assert_eq!(intake.take(0, 15, &mut taken), 15);
    assert_eq!(bulk_of(&taken), 0);
    assert_eq!(intake.take(0, 15, &mut taken), 15);
    assert_eq!(bulk_of(&taken), 10, "what is left of a batch after the last urgent record");
    settle(taken);
}

#[test]
fn an_urgent_record_of_another_shard_holds_bulk_back_until_it_is_taken() {
    let intake = Intake::new(2, 1000, 100);
    intake.add(&filled_bulk(0, 5));
    intake.add(&filled(1, 1));
    let mut taken = vec![];
    assert_eq!(intake.take(0, 10, &mut taken), 0);
    assert!(intake.is_pressed());
    assert!(!at_once(intake.ready(0)), "nothing to be had: the loop must not spin");
    assert_eq!(intake.take(1, 1, &mut taken), 1);
    assert!(!intake.is_pressed());
    assert!(at_once(intake.arrived(0)), "who took the last urgent record wakes the others");
    assert_eq!(intake.take(0, 10, &mut taken), 5);
    settle(taken);
}

#[test]
fn bulk_has_so_many_places_and_urgent_records_do_not_need_them() {
    let intake = Intake::new(1, 1000, 3);
    let bulk = filled_bulk(0, 10);
    intake.add(&bulk);
    let mut taken = vec![];
    assert_eq!(intake.take(0, 100, &mut taken), 3);
    assert_eq!(intake.take(0, 100, &mut taken), 0);
    assert!(!intake.is_pressed(), "bulk does not press itself");
    assert!(!at_once(intake.ready(0)), "no place: the loop must not spin");
    intake.add(&filled(1, 4));
    assert_eq!(intake.take(0, 100, &mut taken), 4);
    taken.remove(0).ticket.complete();
    assert!(at_once(intake.ready(0)), "a bulk record that is settled makes room for the next");
    assert_eq!(intake.take(0, 100, &mut taken), 1);
    // Interrupted or done, a place comes back.
    taken.remove(0).ticket.release();
    assert_eq!(intake.take(0, 100, &mut taken), 1);
    bulk.close_intake();
    drop(taken.split_off(0));
    assert_eq!(intake.bulk_in_flight.available_permits(), 3);
}

#[test]
fn who_keeps_up_with_urgent_records_is_not_pressed_by_them() {
    let intake = Intake::new(1, 1000, 100);
    let urgent = filled(0, 1);
    intake.add(&filled_bulk(0, 1));
    intake.add(&urgent);
    let mut taken = vec![];
    for offset in 1..5 {
        // At every look one waits, but never the same one.
        intake.take(0, 1, &mut taken);
        urgent.push(Arrival { offset, timestamp_ms: 0, key: None, payload: None, headers: vec![] });
        assert!(!intake.is_pressed());
    }
    assert!(intake.is_pressed());
    settle(taken);
}

#[test]
fn no_place_in_flight_is_pressure() {
    let intake = Intake::new(1, 2, 1);
    assert!(!intake.is_pressed());
    let places = Arc::clone(intake.in_flight()).try_acquire_many_owned(2).unwrap();
    assert!(intake.is_pressed());
    drop(places);
    assert!(!intake.is_pressed());
}

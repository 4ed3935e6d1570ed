//! How partitions are judged, by readings made up.

use std::time::Duration;

use super::evaluate::drain_seconds;
use super::*;

const SPAN: Duration = Duration::from_secs(30);

/// A partition in which everything from the commit on can be read; the oldest record of the
/// lag is so many seconds old.
fn partition(committed: i64, high: i64, age_seconds: u64) -> PartitionReading {
    let lag_messages = (high - committed).max(0);
    PartitionReading {
        topic: "t".to_owned(),
        partition: 0,
        committed: Some(committed),
        low: 0,
        high,
        oldest_offset: (lag_messages > 0).then_some(committed),
        oldest_timestamp_ms: (lag_messages > 0).then_some(0),
        oldest_age_ms: (lag_messages > 0).then_some(age_seconds * 1000),
        lag_messages,
        owner: Ownership::Owned("a".to_owned()),
        retention: Retention::Ms(100_000),
    }
}

fn reading(second: u64, partitions: Vec<PartitionReading>) -> GroupReading {
    GroupReading {
        group: "g".to_owned(),
        group_state: Some("Stable".to_owned()),
        members: 1,
        taken: Duration::from_secs(second),
        at_ms: 0,
        partitions,
        missing_topics: Vec::new(),
    }
}

/// How one partition stands after a reading a second.
fn after(readings: impl IntoIterator<Item = PartitionReading>) -> PartitionStanding {
    let mut window = Window::new(SPAN);
    for (second, one) in (0..).zip(readings) {
        window.push(reading(second, vec![one]));
    }
    window.standing().unwrap().partitions.remove(0)
}

#[test]
fn an_idle_partition_is_ok_and_reads_zero() {
    let idle = after((0..5).map(|_| partition(7, 7, 0)));
    assert_eq!((idle.state, idle.reading.lag_messages), (State::Ok, 0));
    assert_eq!(
        (idle.arrival_rate, idle.processing_rate, idle.drain_seconds),
        (Some(0.0), Some(0.0), Some(0.0))
    );
    assert_eq!(idle.reading.retention_headroom_ms(), Some(100_000.0));
    // A partition without a single record is no other.
    assert_eq!(after([partition(0, 0, 0)]).state, State::Ok);
}

#[test]
fn rates_and_drain_follow_from_the_first_and_the_last_reading() {
    // 100 come in, 150 are done a second; 1000 wait at first.
    let catching_up = after((0..5).map(|second| partition(150 * second, 1000 + 100 * second, 20)));
    assert_eq!((catching_up.arrival_rate, catching_up.processing_rate), (Some(100.0), Some(150.0)));
    assert_eq!((catching_up.state, catching_up.drain_seconds), (State::Lagging, Some(800.0 / 50.0)));
    assert_eq!(catching_up.reading.retention_headroom_ms(), Some(80_000.0));

    let falling_behind = after((0..5).map(|second| partition(50 * second, 1000 + 100 * second, 20)));
    assert_eq!((falling_behind.state, falling_behind.drain_seconds), (State::Lagging, Some(f64::INFINITY)));
    assert_eq!(after([partition(0, 9, 5)]).drain_seconds, None, "one reading makes no rate");
}

#[test]
fn what_is_on_its_way_is_no_lag() {
    // 100 a second come and go; a second's work at most is in hand.
    let steady = after((0..5).map(|second| partition(100 * second, 80 + 100 * second, 1)));
    assert_eq!((steady.state, steady.drain_seconds), (State::Ok, Some(0.8)));
    // However many wait: they are fresh.
    assert_eq!(after([partition(0, 5000, 0)]).state, State::Ok);
    assert_eq!(drain_seconds(0, 5.0, 0.0).to_bits(), 0.0_f64.to_bits());
    assert!(drain_seconds(1, 0.0, 0.0).is_infinite());
}

#[test]
fn a_commit_that_does_not_move_is_stalled_and_without_a_reader_stopped() {
    let held = |owner: Ownership| {
        after((0..5).map(|second| PartitionReading {
            owner: owner.clone(),
            ..partition(10, 20 + second, second_of(second))
        }))
    };
    assert_eq!(held(Ownership::Owned("a".to_owned())).state, State::Stalled);
    assert_eq!(held(Ownership::Unknown).state, State::Stalled);
    let stopped = held(Ownership::Nobody);
    assert_eq!((stopped.state, stopped.drain_seconds), (State::Stopped, Some(f64::INFINITY)));
    // Two seconds are not long enough, and neither is a lag that was not there before.
    assert_eq!(after((0..3).map(|second| partition(10, 20, second_of(second)))).state, State::Lagging);
    let after_idle = [partition(10, 10, 0), partition(10, 10, 0), partition(10, 10, 0), partition(10, 10, 0)];
    assert_eq!(after(after_idle.into_iter().chain([partition(10, 12, 5)])).state, State::Lagging);
    // One record that was done in between is a move.
    let moved = (0..5).map(|second| partition(if second < 4 { 10 } else { 11 }, 20, 9));
    assert_eq!(after(moved).state, State::Lagging);
}

fn second_of(second: i64) -> u64 {
    u64::try_from(second).unwrap()
}

#[test]
fn a_stalled_partition_makes_its_topic_infinite_while_its_sibling_moves() {
    let mut window = Window::new(SPAN);
    for second in 0..5_u64 {
        let done = i64::try_from(second).unwrap() * 100;
        let moving = PartitionReading { partition: 1, ..partition(done, done + 20, 0) };
        window.push(reading(second, vec![partition(10, 20, second), moving]));
    }
    let standing = window.standing().unwrap();
    assert_eq!(
        standing.partitions.iter().map(|one| one.state).collect::<Vec<_>>(),
        [State::Stalled, State::Ok]
    );
    assert_eq!((standing.state, standing.topics[0].state), (State::Stalled, State::Stalled));
    assert_eq!(standing.topics[0].drain_seconds, Some(f64::INFINITY));
    assert_eq!(standing.topics[0].oldest_age_ms, Some(4_000));
    assert!(serde_json::to_string(&standing).unwrap().contains(r#""drain_seconds":"+Inf""#));
}

#[test]
fn a_commit_that_went_back_is_rewound_until_it_is_back() {
    let back = [partition(100, 100, 0), partition(40, 100, 50), partition(60, 100, 50)];
    let rewound = after(back.clone());
    assert_eq!((rewound.state, rewound.processing_rate), (State::Rewound, Some(10.0)));
    assert_eq!(after(back.into_iter().chain([partition(100, 100, 0)])).state, State::Ok);
}

#[test]
fn a_partition_that_was_made_anew_is_no_rewind() {
    let anew = after([partition(100, 100, 0), partition(0, 5, 0), partition(5, 5, 0)]);
    assert_eq!((anew.state, anew.arrival_rate), (State::Ok, Some(0.0)));
    // Its commits of before are still there.
    let stale = PartitionReading { lag_messages: 0, oldest_offset: None, ..partition(100, 5, 0) };
    assert_eq!(after([stale]).findings, [Finding::BeyondEnd(95)]);
}

#[test]
fn what_is_unusual_is_told_apart() {
    let none = PartitionReading { committed: None, owner: Ownership::Nobody, ..partition(0, 5, 9) };
    let told = after([none]);
    assert_eq!((told.findings, told.state), (vec![Finding::NoCommits], State::Stopped));

    let lost =
        PartitionReading { low: 30, oldest_offset: Some(30), lag_messages: 10, ..partition(10, 40, 9) };
    assert_eq!(lost.lost_records(), 20);
    assert_eq!(after([lost]).findings, [Finding::RetentionLoss(20)]);

    let compacted = PartitionReading { oldest_offset: Some(35), lag_messages: 5, ..partition(10, 40, 9) };
    assert_eq!(after([compacted]).findings, [Finding::Gap(25)]);
    let nothing_left = PartitionReading { oldest_offset: None, lag_messages: 0, ..partition(10, 40, 9) };
    let told = after([nothing_left]);
    assert_eq!((told.findings, told.state), (vec![Finding::Gap(30)], State::Ok));

    let mut window = Window::new(SPAN);
    let gone = GroupReading { missing_topics: vec!["gone".to_owned()], ..reading(0, Vec::new()) };
    window.push(gone);
    let standing = window.standing().unwrap();
    assert_eq!(standing.topics[0].findings, [Finding::TopicMissing]);
    assert_eq!((standing.topics[0].topic.as_str(), standing.state), ("gone", State::Stopped));
}

#[test]
fn a_window_forgets_what_is_older_than_its_span_but_for_one_reading() {
    let mut window = Window::new(Duration::from_secs(10));
    // 1000 a second at first, then 10 a second.
    let mut high = 0;
    for second in 0..60_u64 {
        high += if second < 40 { 1000 } else { 10 };
        window.push(reading(second, vec![partition(high, high, 0)]));
    }
    let standing = window.standing().unwrap();
    assert_eq!(standing.partitions[0].arrival_rate, Some(10.0));
    for _ in 0..10_000 {
        window.push(reading(60, vec![partition(high, high, 0)]));
    }
    assert!(window.standing().is_some());
}

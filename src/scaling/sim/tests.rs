//! The simulated world keeps to its own rules.

use super::group::Group;
use super::run::{Policy, run};
use super::score::Score;
use super::trace::Trace;
use super::{page, plot};

#[test]
fn the_same_seed_gives_the_same_hour() {
    let once = || run(Trace::Step, Policy::Scaler, 3, false).0;
    let (one, other) = (once(), once());
    assert_eq!(
        (one.records(), one.replica_s, one.rebalances, one.moved, one.age_s(99)),
        (other.records(), other.replica_s, other.rebalances, other.moved, other.age_s(99))
    );
}

#[test]
fn no_record_is_lost_or_doubled_and_the_load_is_the_same_for_all() {
    let records = |policy| run(Trace::Burst, policy, 1, false).0.records();
    let of_load: f64 = (0..Trace::Burst.seconds()).map(|at| Trace::Burst.arrival_per_s(at)).sum();
    let seen = records(Policy::Scaler);
    assert_eq!(seen, records(Policy::Kafka(2_000)));
    assert_eq!(seen, records(Policy::Kafka(600)));
    #[expect(clippy::cast_precision_loss, reason = "a few million")]
    let seen = seen as f64;
    assert!((seen / of_load - 1.0).abs() < 0.1, "{seen} of {of_load}");
}

#[test]
fn partitions_are_even_and_only_as_many_move_as_must() {
    let mut group = Group::new(Trace::SlowProvider, 1, 6);
    group.scale(0, 15);
    for at in 0..60 {
        group.tick(at);
    }
    for pod in 0..15 {
        assert_eq!(group.lanes.iter().filter(|lane| lane.owner == Some(pod)).count(), 4, "pod {pod}");
    }
    // 60 partitions from 6 pods to 15: 36 change their owner when nine come at once; each new
    // pod may take them from another that has just come.
    assert!((36..=60).contains(&group.score.moved), "{} moved", group.score.moved);
    let moved = group.score.moved;
    group.scale(60, 6);
    for at in 60..80 {
        group.tick(at);
    }
    assert_eq!(group.score.moved - moved, 36);
    assert!(group.lanes.iter().all(|lane| lane.owner.is_some_and(|owner| owner < 6)));
}

#[test]
fn too_few_pods_get_more_under_either() {
    for policy in [Policy::Kafka(2_000), Policy::Scaler] {
        let (_, points) = run(Trace::Step, policy, 0, true);
        let most = |from, to| points.iter().filter(|p| (from..to).contains(&p.at)).map(|p| p.pods).max();
        assert_eq!(most(0, 600), Some(6), "{policy:?}");
        assert!(most(600, 900) >= Some(13), "{policy:?}");
        assert_eq!(points.last().map(|point| point.pods), Some(6), "{policy:?}: back at the least");
    }
}

#[test]
fn a_poisoned_partition_asks_the_kafka_trigger_for_pods_and_not_the_scaler() {
    let hours = |policy| run(Trace::Poison, policy, 2, false).0.replica_hours();
    assert!(hours(Policy::Kafka(2_000)) > hours(Policy::Scaler) * 1.2);
}

#[test]
fn percentiles_are_those_of_the_records() {
    let mut score = Score::default();
    score.handled(2, 98);
    score.handled(11, 1);
    score.handled(9_999, 1);
    assert_eq!((score.age_s(50), score.age_s(99), score.age_s(100)), (2, 11, 4_000));
    assert!((score.within() - 0.98).abs() < 1e-9);
}

#[test]
fn a_page_gets_its_new_part_and_keeps_the_rest() {
    let page =
        "a\n<!-- simulate: begin; `make simulate` writes what follows -->\nold\n<!-- simulate: end -->\nb\n";
    let new = page::put_into(page, "new\n").unwrap();
    assert!(new.starts_with("a\n") && new.ends_with("\nb\n") && new.contains("new") && !new.contains("old"));
    assert_eq!(page::put_into(&new, "new\n").unwrap(), new);
    assert!(page::put_into("nothing", "new").is_err());
}

#[test]
fn a_picture_has_three_lines_a_panel() {
    let drawn: Vec<_> = vec![run(Trace::Burst, Policy::Scaler, 0, true).1; 3];
    let text = plot::svg(Trace::Burst, &["a", "b", "c"], &drawn);
    assert_eq!(text.matches("<polyline").count(), 9);
    assert!(!text.contains("NaN") && !text.contains("inf"));
}

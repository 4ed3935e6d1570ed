//! The decision, by example and by property.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// 60 partitions that share arrival and lag evenly.
fn reading(at_s: u64, arrival_per_s: f64, lag: u64, replicas: u32) -> Reading {
    let partitions = (0..60)
        .map(|number| Partition {
            topic: "t".to_owned(),
            number,
            lag: lag / 60,
            arrival_per_s: Some(arrival_per_s / 60.0),
            oldest_age_s: Some(1.0),
            stalled: false,
        })
        .collect();
    Reading {
        at: Duration::from_secs(at_s),
        arrival_now_per_s: None,
        partitions,
        replicas,
        true_rate_per_s: Some(500.0),
        circuit_open: false,
    }
}

fn once(reading: &Reading) -> Decision {
    Decider::new(Settings::results()).decide(reading)
}

#[test]
fn what_comes_in_decides_without_a_backlog() {
    // 3,400/s are 8.5 pods at 80 %; nine have seven partitions at most, which are 8.57 ninths.
    let decision = once(&reading(0, 3400.0, 6800, 6));
    assert_eq!((decision.replicas, decision.reason), (10, Reason::Arrival));
    assert!((decision.explanation.wanted_by_arrival - 8.5).abs() < 1e-9);
    assert!(decision.explanation.wanted_by_backlog < 1e-9);
    assert_eq!(decision.explanation.largest_share, 6);
}

#[test]
fn a_backlog_adds_pods() {
    let decision = once(&reading(0, 2000.0, 4000 + 40_000, 6));
    assert!((decision.explanation.wanted_by_backlog - 4.0).abs() < 0.01);
    assert_eq!((decision.replicas, decision.reason), (10, Reason::Backlog));
    assert_eq!(once(&reading(0, 3200.0, 6400, 6)).reason, Reason::Arrival, "nothing waits");
}

#[test]
fn a_jump_counts_before_the_mean_has_it() {
    // 1,200/s for long, and 6,000/s for the last four of 30 seconds.
    let mut jump = reading(0, 1840.0, 12_000, 6);
    assert_eq!(once(&jump).replicas, 6, "by the mean alone");
    jump.arrival_now_per_s = Some(6000.0);
    let decision = once(&jump);
    assert_eq!(decision.replicas, 15);
    assert!((decision.explanation.surge - 6000.0 / 1840.0).abs() < 1e-9);
    assert!(decision.explanation.to_string().starts_with(
        "15 replicas for consumer-test-result-notification, 6 before, 6 in the group. 6000 records/s come in \
         (3.3 times the mean of late) and a busy pod handles 500/s"
    ));
}

#[test]
fn a_lull_does_not_count_before_the_mean_has_it() {
    let mut lull = reading(0, 3400.0, 6800, 10);
    lull.arrival_now_per_s = Some(100.0);
    let decision = once(&lull);
    assert_eq!((decision.replicas, decision.reason), (10, Reason::Arrival));
    assert!((decision.explanation.surge - 1.0).abs() < 1e-9);
}

#[test]
fn counts_that_help_nobody_are_skipped() {
    // 11 pods have six partitions at most, as 10; 13 and 14 have five, as 12.
    for arrival in (2400..6000).step_by(50) {
        let replicas = once(&reading(0, f64::from(arrival), 0, 6)).replicas;
        assert!([6, 7, 8, 9, 10, 12, 15].contains(&replicas), "{replicas} at {arrival}/s");
    }
}

#[test]
fn the_least_and_the_most_hold() {
    let idle = once(&reading(0, 0.0, 0, 2));
    assert_eq!((idle.replicas, idle.reason), (6, Reason::Minimum));
    let flood = once(&reading(0, 90_000.0, 9_000_000, 6));
    assert_eq!((flood.replicas, flood.reason), (15, Reason::Maximum));
}

#[test]
fn more_pods_than_the_providers_feed_are_not_asked_for() {
    let settings = Settings { provider_budget_per_s: Some(3800.0), ..Settings::results() };
    let mut slow = reading(0, 3500.0, 200_000, 6);
    slow.true_rate_per_s = Some(100.0);
    let decision = Decider::new(settings).decide(&slow);
    assert_eq!((decision.replicas, decision.reason), (8, Reason::ProviderBudget));
}

#[test]
fn an_open_circuit_keeps_what_there_is() {
    let mut decider = Decider::new(Settings::results());
    assert_eq!(decider.decide(&reading(0, 3400.0, 6800, 6)).replicas, 10);
    for at in 1..100 {
        let mut open = reading(at * 15, 100.0, 900_000, 10);
        open.circuit_open = true;
        let decision = decider.decide(&open);
        assert_eq!((decision.replicas, decision.reason), (10, Reason::CircuitOpen));
    }
    // The time with an open circuit does not count as one in which fewer were enough.
    assert_eq!(decider.decide(&reading(1500, 100.0, 0, 10)).replicas, 10);
}

#[test]
fn stalled_partitions_do_not_count_and_are_told() {
    let mut one = reading(0, 1000.0, 2000, 6);
    one.partitions[17].lag = 50_000_000;
    one.partitions[17].stalled = true;
    let decision = once(&one);
    assert_eq!(decision.replicas, 6);
    assert_eq!((decision.explanation.partitions, decision.explanation.stalled_partitions), (59, 1));
    assert_eq!(decision.explanation.stalled, ["t/17"]);
    let text = decision.explanation.to_string();
    assert!(text.contains("1 stalled partitions are left out (t/17)"), "{text}");
}

#[test]
fn one_partition_has_one_pod() {
    let mut one = reading(0, 1200.0, 2400, 6);
    one.partitions[0].lag = 900_000;
    let decision = once(&one);
    // 60 pods' worth of work lie in one partition: it counts for one.
    assert_eq!(decision.replicas, 6);
    assert!(decision.explanation.beyond_one_pod > 50.0);
}

#[test]
fn the_pod_with_the_hottest_partition_is_to_keep_up() {
    // 240/s in one partition and 38/s in each other: nine others with it are 582/s.
    let mut one = reading(0, 59.0 * 38.0, 4500, 6);
    one.partitions[0].arrival_per_s = Some(240.0);
    let decision = once(&one);
    assert!(decision.explanation.raw < 7.0);
    assert!(decision.replicas >= 9, "{}", decision.replicas);
    // One that no pod can keep up with moves nothing.
    one.partitions[0].arrival_per_s = Some(900.0);
    assert!(once(&one).replicas <= 9);
}

#[test]
fn fewer_only_after_they_were_enough_for_long() {
    let mut decider = Decider::new(Settings::results());
    assert_eq!(decider.decide(&reading(0, 5000.0, 10_000, 6)).replicas, 15);
    let mut went_down_at = None;
    for at in (5..600).step_by(5) {
        let decision = decider.decide(&reading(at, 2000.0, 4000, 15));
        if decision.replicas < 15 {
            went_down_at = Some(at);
            break;
        }
        assert_eq!(decision.reason, Reason::KeptForNow);
    }
    assert_eq!(went_down_at, Some(125), "120 s after the first reading that wanted fewer");
}

#[test]
fn none_is_taken_away_while_records_wait() {
    let mut decider = Decider::new(Settings::results());
    decider.decide(&reading(0, 5000.0, 10_000, 15));
    for at in (5..1000).step_by(5) {
        let mut late = reading(at, 1000.0, 2000, 15);
        late.partitions[3].oldest_age_s = Some(6.0);
        let decision = decider.decide(&late);
        assert_eq!((decision.replicas, decision.reason), (15, Reason::KeptInBacklog));
    }
}

#[test]
fn small_changes_change_nothing() {
    let mut decider = Decider::new(Settings::results());
    let first = decider.decide(&reading(0, 3000.0, 6000, 6)).replicas;
    for at in 1..500 {
        let wave = if at % 2 == 0 { 3000.0 } else { 3200.0 };
        assert_eq!(decider.decide(&reading(at * 5, wave, 6000, first)).replicas, first);
    }
}

#[test]
fn unknown_arrival_keeps_what_there_is_or_adds() {
    let unknown = |lag: u64| {
        let mut one = reading(0, 0.0, lag, 9);
        one.partitions.iter_mut().for_each(|one| one.arrival_per_s = None);
        one
    };
    let kept = once(&unknown(0));
    assert_eq!((kept.replicas, kept.reason), (9, Reason::ArrivalUnknown));
    assert_eq!(once(&unknown(600_000)).replicas, 15);
    let none = Reading { partitions: Vec::new(), ..reading(0, 0.0, 0, 7) };
    assert_eq!(once(&none).replicas, 7);
}

#[test]
fn without_the_pods_word_the_last_rate_counts_and_then_the_planned() {
    let mut decider = Decider::new(Settings::results());
    let mut at = |at_s: u64, told: Option<f64>| {
        let decision =
            decider.decide(&Reading { true_rate_per_s: told, replicas: 6, ..reading(at_s, 1000.0, 2000, 6) });
        (decision.explanation.rate_source, decision.explanation.rate_per_s.round())
    };
    assert_eq!(at(0, Some(400.0)), (RateSource::Told, 400.0));
    assert_eq!(at(600, None), (RateSource::Last, 400.0));
    assert_eq!(at(5000, None), (RateSource::Planned, 500.0));
    assert_eq!(at(5005, Some(f64::NAN)).0, RateSource::Planned);
    assert_eq!(at(5010, Some(0.0)).0, RateSource::Planned);
}

#[test]
fn a_rate_that_the_brokers_contradict_does_not_count() {
    // Told 1,000/s, done 500/s: 6 pods with 4,000/s coming in fall behind by 1,000/s.
    let mut decider = Decider::new(Settings::results());
    let mut last = None;
    for at in 0..13 {
        let mut one = reading(at * 5, 4000.0, 10_000 + at * 5 * 1000, 6);
        one.true_rate_per_s = Some(1000.0);
        one.partitions.iter_mut().for_each(|one| one.oldest_age_s = Some(8.0));
        last = Some(decider.decide(&one).explanation);
    }
    let last = last.unwrap();
    assert_eq!(last.rate_source, RateSource::SeenLess);
    assert!((500.0..700.0).contains(&last.rate_per_s), "{}", last.rate_per_s);
    // Told 200/s, done 400/s.
    let mut decider = Decider::new(Settings::results());
    for at in 0..40 {
        let mut one = reading(at * 5, 2400.0, 4800, 6);
        one.true_rate_per_s = Some(200.0);
        let explanation = decider.decide(&one).explanation;
        if at == 39 {
            assert_eq!(explanation.rate_source, RateSource::SeenMore);
            assert!(explanation.rate_per_s > 350.0, "{}", explanation.rate_per_s);
        }
    }
}

#[test]
fn the_explanation_reads_as_a_text() {
    let mut late = reading(0, 3000.0, 46_020, 6);
    late.partitions[0].oldest_age_s = Some(9.0);
    insta::assert_snapshot!(once(&late).explanation, @"15 replicas for consumer-test-result-notification, 6 before, 6 in the group. 3000 records/s come in and a busy pod handles 500/s (told by the pods): 7.5 pods at 80 % busy. 46020 records are not committed, the oldest for 9.0 s; 40020 of them wait, to be gone in 20 s: 4.0 pods. The rebalance: 0.8. Together 12.3; 15 carry it, and with 15 the fullest pod has 4 of 60 partitions. That is for what waits besides what comes in.");
    let json = serde_json::to_value(once(&late).explanation).unwrap();
    assert_eq!(json["reason"], "backlog");
}

#[test]
fn every_reason_has_a_label_of_its_own() {
    let labels: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.as_str()).collect();
    assert_eq!(labels.len(), Reason::ALL.len());
}

prop_compose! {
    fn any_reading()(
        partitions in prop::collection::vec(
            (any::<u64>(), prop::option::of(prop::num::f64::ANY), prop::option::of(prop::num::f64::ANY),
             any::<bool>()), 0..80),
        seconds in 0_u64..1_000_000, replicas in any::<u32>(),
        true_rate_per_s in prop::option::of(prop::num::f64::ANY), circuit_open in any::<bool>(),
        arrival_now_per_s in prop::option::of(prop::num::f64::ANY),
    ) -> Reading {
        let partitions = partitions.into_iter().zip(0..).map(|((lag, arrival_per_s, oldest_age_s, stalled), number)|
            Partition { topic: "t".to_owned(), number, lag, arrival_per_s, oldest_age_s, stalled }).collect();
        let at = Duration::from_secs(seconds);
        Reading { at, arrival_now_per_s, partitions, replicas, true_rate_per_s, circuit_open }
    }
}

proptest! {
    #[test]
    fn whatever_is_read_the_count_is_within_bounds(
        readings in prop::collection::vec(any_reading(), 1..20),
        budget in prop::option::of(0.0_f64..1e6),
    ) {
        let settings = Settings { provider_budget_per_s: budget, ..Settings::results() };
        let mut decider = Decider::new(settings);
        for reading in &readings {
            let decision = decider.decide(reading);
            prop_assert!((6..=15).contains(&decision.replicas));
            prop_assert!(decision.explanation.rate_per_s.is_finite());
            prop_assert!(!decision.explanation.to_string().contains("NaN"));
        }
    }

    #[test]
    fn more_work_never_wants_fewer(
        arrival in 0.0_f64..9000.0, more in 0.0_f64..5000.0, lag in 0_u64..500_000, lag_more in 0_u64..500_000,
    ) {
        let less = once(&reading(0, arrival, lag, 6)).replicas;
        // What comes in is under way too: lag grows with it, or the backlog would shrink.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
        let under_way = (more * 2.0) as u64 + 60;
        prop_assert!(once(&reading(0, arrival + more, lag + lag_more + under_way, 6)).replicas >= less);
    }

    #[test]
    fn a_faster_pod_never_wants_more(
        arrival in 0.0_f64..9000.0, lag in 0_u64..500_000, rate in 50.0_f64..1000.0, faster in 0.0_f64..1000.0,
    ) {
        let at = |rate| once(&Reading { true_rate_per_s: Some(rate), ..reading(0, arrival, lag, 6) }).replicas;
        prop_assert!(at(rate + faster) <= at(rate));
    }

    #[test]
    fn what_was_decided_carries_what_comes_in(arrival in 0.0_f64..5600.0) {
        let replicas = once(&reading(0, arrival, 0, 6)).replicas;
        let fullest = f64::from(60_u32.div_ceil(replicas)) / 60.0 * arrival;
        prop_assert!(fullest <= 500.0 * 0.8 * 1.1 + 1e-6, "{} busy with {}", fullest, replicas);
    }

    #[test]
    fn the_same_reading_again_changes_nothing(arrival in 0.0_f64..9000.0, lag in 0_u64..50_000) {
        let mut decider = Decider::new(Settings::results());
        let first = decider.decide(&reading(0, arrival, lag, 6)).replicas;
        for at in 1..60 {
            let again = decider.decide(&reading(at * 15, arrival, lag, first)).replicas;
            prop_assert!(again <= first, "{} after {}", again, first);
        }
    }
}

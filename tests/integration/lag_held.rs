//! Lag in time against the truth: what a processor tells of a partition that is held, of its
//! siblings, and of partitions that it no longer owns.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use patient_notify::domain::Channel;
use patient_notify::lag::{Reader, State, Window};
use patient_notify::sandbox::ChannelFaults;
use patient_notify::topic::names::TEST_RESULTS;

use crate::harness::{Process, World, eventually, only, result};

const CONSUMER: &str = "consumer-test-result-notification";
const SOON: Duration = Duration::from_secs(60);
/// How long the partition is held, and how exact its age has to be.
const HELD: Duration = Duration::from_secs(30);
const EXACT_S: f64 = 1.0;
/// The one whose provider is slow; the others have another one.
const SLOW: u64 = 1;
const OTHERS: std::ops::RangeInclusive<u64> = 2..=13;

/// What `/metrics` says of each partition, by its number.
async fn told(process: &mut Process, measure: &str) -> BTreeMap<i32, f64> {
    let text = metrics(process).await;
    assert!(!text.contains("NaN"), "{text}");
    let start = format!("patient_notify_{measure}{{");
    let lines = text.lines().filter(|line| line.starts_with(&start));
    lines
        .map(|line| {
            let (labels, value) = line.rsplit_once(' ').unwrap();
            let (_, rest) = labels.split_once("partition=\"").unwrap();
            (rest.split('"').next().unwrap().parse().unwrap(), value.parse().unwrap())
        })
        .collect()
}

async fn metrics(process: &mut Process) -> String {
    let address = process.metrics_address().await;
    let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
    http.get(format!("http://{address}/metrics")).send().await.unwrap().text().await.unwrap()
}

/// Publishes one result to each of the others; some of them share the held partition.
async fn publish_to_others(world: &World, round: u64) {
    let results: Vec<_> = OTHERS.map(|number| result(number, &format!("res-{number}-{round}"))).collect();
    world.publish(&results).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partition_held_for_30_s_reads_30_s_while_its_siblings_stay_under_one() {
    let world = World::new().await;
    let mut people = vec![only(Channel::Sms, SLOW)];
    people.extend(OTHERS.map(|number| only(Channel::Email, number)));
    world.load(&people).await;
    // The provider answers when all is seen, and not before.
    let faults = ChannelFaults { latency_ms: 60_000, ..Default::default() };
    world.sandbox.faults.set(Channel::Sms, faults);
    let patient = [
        ("PATIENT_NOTIFY_SMS__TIMEOUT_MS", "90000"),
        ("PATIENT_NOTIFY_PROCESSOR__LEASE_MS", "300000"),
        ("PATIENT_NOTIFY_PROCESSOR__SLOT_DEADLINE_MS", "600000"),
        ("PATIENT_NOTIFY_METRICS__LAG_INTERVAL_MS", "500"),
    ];
    let mut process = world.process(CONSUMER, &patient);
    process.wait_for_log("partitions assigned", SOON).await;
    let partitions = eventually("idle partitions read 0", SOON, async || {
        let ages = told(&mut process, "consumer_lag_seconds").await;
        (ages.len() == 12 && ages.values().all(|age| *age == 0.0)).then_some(ages.len())
    })
    .await;
    assert_eq!(told(&mut process, "consumer_lag_messages").await.len(), partitions);

    let asked = Instant::now();
    let (held, _) = world.publish(&[result(SLOW, "res-held")]).await[0];
    let taken = Instant::now();
    let outside =
        Reader::new(&world.config.kafka, &TEST_RESULTS.full_group(&world.config.kafka.topic_prefix).unwrap())
            .unwrap();
    let mut window = Window::new(HELD);
    let mut round = 0;
    // Its siblings move all the while.
    while taken.elapsed() < HELD {
        round += 1;
        publish_to_others(&world, round).await;
        eventually("the held one alone is old", SOON, async || {
            let begun = Instant::now();
            let ages = told(&mut process, "consumer_lag_seconds").await;
            assert_age(ages[&held], begun - taken, asked.elapsed());
            ages.iter().all(|(partition, age)| *partition == held || *age < EXACT_S)
        })
        .await;
        let begun = Instant::now();
        let reading = outside.read().await.unwrap();
        let one = reading.partitions.iter().find(|one| one.partition == held).unwrap();
        #[expect(clippy::cast_precision_loss, reason = "a time")]
        assert_age(one.oldest_age_ms.unwrap() as f64 / 1000.0, begun - taken, asked.elapsed());
        window.push(reading);
    }
    let window = tokio::sync::Mutex::new(window);
    eventually("the held one alone is stalled, seen from outside", SOON, async || {
        let mut window = window.lock().await;
        window.push(outside.read().await.unwrap());
        let standing = window.standing().unwrap();
        let of = |state| standing.partitions.iter().filter(move |one| one.state == state);
        let stalled: Vec<i32> = of(State::Stalled).map(|one| one.reading.partition).collect();
        stalled == [held]
    })
    .await;
    assert_eq!(told(&mut process, "consumer_partition_stalled").await[&held], 1.0);
    let text = metrics(&mut process).await;
    let drain = text.lines().find(|line| line.starts_with("patient_notify_consumer_drain_seconds")).unwrap();
    assert!(drain.ends_with(" +Inf"), "{drain}");
    println!("held for {:?}: {} rounds, as exact as {EXACT_S} s", taken.elapsed(), round);
}

/// The age lies between what had passed before it was read and after, to a second.
#[track_caller]
fn assert_age(age: f64, at_least: Duration, at_most: Duration) {
    let range = at_least.as_secs_f64() - EXACT_S..=at_most.as_secs_f64() + EXACT_S;
    assert!(range.contains(&age), "{age} s is not within {range:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_are_given_up_are_told_no_more() {
    let world = World::new().await;
    let often = [("PATIENT_NOTIFY_METRICS__LAG_INTERVAL_MS", "500")];
    let mut old = world.process(CONSUMER, &often);
    eventually("it tells all that it owns", SOON, async || {
        told(&mut old, "consumer_lag_seconds").await.len() == 12
    })
    .await;
    let mut new = world.process(CONSUMER, &often);
    let (kept, given) = eventually("each tells its own", SOON, async || {
        let (left, right) = (old.assigned(), new.assigned());
        let kept = told(&mut old, "consumer_lag_seconds").await;
        let given = told(&mut new, "consumer_lag_seconds").await;
        let shared = left + right == 12 && left.min(right) > 0;
        (shared && kept.len() + given.len() == 12).then_some((kept, given))
    })
    .await;
    assert!(kept.keys().all(|partition| !given.contains_key(partition)), "{kept:?} {given:?}");
    new.terminate();
    new.wait().await;
    eventually("it tells all again", SOON, async || {
        told(&mut old, "consumer_lag_messages").await.len() == 12
    })
    .await;
}

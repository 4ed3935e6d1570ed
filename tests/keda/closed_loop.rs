//! Pods that work: lag falls because they came, and across all that scaling nothing is lost and
//! nothing is doubled.

use std::cell::Cell;
use std::collections::HashSet;
use std::time::{Duration, Instant};

use patient_notify::domain::{Channel, NotificationRequested, Purpose, ReceiptStatus, State};
use patient_notify::record::recipients::RecipientUpsert;
use patient_notify::sandbox::ChannelFaults;
use patient_notify::topic::names::{NOTIFICATIONS, TEST_RESULTS};

use crate::Stage;
use crate::harness::{Process, eventually, receipt, request, results as sample_results, sms_only};
use crate::node::Node;
use crate::open_loop::{DOWN, UP};
use crate::timeline::Timeline;
use crate::workload::{REQUESTS, RESULTS, UPDATES, Workload};

const PATIENTS: u64 = 4_000;
const RESULTS_COUNT: u64 = 36_000;
const REQUESTS_COUNT: u64 = 24_000;
/// How long a provider takes for a call. With it and the bound on calls at once, a pod does what
/// this machine can do fifteen times at once.
const CALL_MS: u64 = 1_000;
const SENDERS: [(&str, &str); 7] = [
    ("PATIENT_NOTIFY_SMS__CONCURRENCY", "40"),
    ("PATIENT_NOTIFY_PROCESSOR__IN_FLIGHT_MAX", "80"),
    ("PATIENT_NOTIFY_PROCESSOR__BULK_IN_FLIGHT_MAX", "8"),
    ("PATIENT_NOTIFY_PROCESSOR__CLAIM_SHARDS", "1"),
    ("PATIENT_NOTIFY_PROCESSOR__RECORD_LANES", "1"),
    ("PATIENT_NOTIFY_POSTGRES__POOL_SIZE", "3"),
    // As deployed: on a machine with 2 cores a process may not get its turn for seconds.
    ("PATIENT_NOTIFY_PROCESSOR__SESSION_TIMEOUT_MS", "30000"),
];
/// A transaction a record: this machine's database would otherwise be done with a backlog before
/// the HPA has looked.
const WRITERS: [(&str, &str); 5] = [
    ("PATIENT_NOTIFY_PROCESSOR__BATCH_MAX_RECORDS", "1"),
    ("PATIENT_NOTIFY_PROCESSOR__CLAIM_SHARDS", "1"),
    ("PATIENT_NOTIFY_PROCESSOR__RECORD_LANES", "1"),
    ("PATIENT_NOTIFY_POSTGRES__POOL_SIZE", "3"),
    ("PATIENT_NOTIFY_PROCESSOR__SESSION_TIMEOUT_MS", "30000"),
];
/// From the most replicas to no lag.
const DRAIN: Duration = Duration::from_secs(600);
/// Until what was released has been sent by the worker: a lease, and some.
const RELEASED: Duration = Duration::from_secs(150);

/// Runs a backlog through a workload's pods, from least to most and back.
async fn through(
    stage: &Stage,
    workload: Workload,
    variables: &[(&'static str, &'static str)],
    publish: impl AsyncFnOnce(),
) {
    let on = (&stage.bed, &stage.world);
    let mut node = Node::new(workload, variables.to_vec());
    let (min, max) = (workload.min, workload.max);
    let story = async {
        let mut timeline = Timeline::new(workload);
        timeline
            .until("all pods are ready", DOWN, on, |now, lag| {
                lag == 0 && now.asked == min && now.ready == min && now.wanted == Some(min)
            })
            .await;
        let begun = Instant::now();
        let mut timeline = Timeline::new(workload);
        timeline.until("a look", UP, on, |_, _| true).await;
        let (_, ()) = tokio::join!(publish(), async {
            timeline.until("the most replicas", DRAIN, on, |now, _| now.asked == max).await;
        });
        let first = timeline.first_new_replica().unwrap();
        timeline.until("all are ready", DRAIN, on, |now, _| now.ready == max).await;
        let all_ready = begun.elapsed();
        timeline.until("no lag", DRAIN, on, |_, lag| lag == 0).await;
        let drained = begun.elapsed();
        timeline.until("the least replicas", DOWN, on, |now, _| now.asked == min && now.ready == min).await;
        println!(
            "  {}: {min} → {max} → {min}; first new replica after {first:.0?}, all ready after {all_ready:.0?}, \
             drained after {drained:.0?}, back after {:.0?}",
            workload.name,
            begun.elapsed()
        );
    };
    let done = Cell::new(false);
    let pods = async {
        while !done.get() {
            node.turn(&stage.bed, &stage.world).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    };
    tokio::join!(pods, async {
        story.await;
        done.set(true);
    });
    println!("  {}: {} processes were pods", workload.name, node.started);
    node.stop().await;
}

/// Patients, a provider that takes its time, and the worker that sends what consumers released
/// when their partitions went.
async fn people(stage: &Stage) -> Process {
    let people: Vec<RecipientUpsert> = (1..=PATIENTS).map(sms_only).collect();
    stage.world.load(&people).await;
    stage.world.sandbox.faults.set(Channel::Sms, ChannelFaults { latency_ms: CALL_MS, ..Default::default() });
    stage.world.process("wrk-notifications", &[])
}

pub async fn results(stage: &Stage) {
    let worker = people(stage).await;
    let results = sample_results(1, RESULTS_COUNT, PATIENTS);
    let before = stage.world.sent().await;
    through(stage, RESULTS, &SENDERS, async || {
        stage.world.publish(&results).await;
    })
    .await;
    assert_all_once(stage, before + i64::try_from(RESULTS_COUNT).unwrap(), worker).await;
    let noted: HashSet<_> = stage.world.noted_of(&TEST_RESULTS).await;
    assert_eq!(noted.len() as u64, RESULTS_COUNT, "each result became one notification");
}

pub async fn requests(stage: &Stage) {
    let worker = people(stage).await;
    let requests: Vec<NotificationRequested> = (0..REQUESTS_COUNT)
        .map(|number| {
            let mut one = request(number % PATIENTS + 1, &format!("closed-{number}"));
            one.purpose = Purpose::AppointmentConfirmation;
            one
        })
        .collect();
    let before = stage.world.sent().await;
    through(stage, REQUESTS, &SENDERS, async || {
        stage.world.publish_requests(&requests, &NOTIFICATIONS).await;
    })
    .await;
    assert_all_once(stage, before + i64::try_from(REQUESTS_COUNT).unwrap(), worker).await;
}

/// Every notification was sent, and no provider was given one twice.
async fn assert_all_once(stage: &Stage, sent: i64, mut worker: Process) {
    eventually("every notification is sent", RELEASED, async || stage.world.sent().await == sent).await;
    worker.terminate();
    assert!(worker.wait().await.success(), "the worker did not end cleanly");
    let (states, seen) = (stage.world.states().await, stage.world.seen().await);
    println!("  states {states:?}; at the provider {}, twice {}", seen.delivered, seen.doubled);
    assert_eq!(states.get(&State::Sent).copied().unwrap_or(0), sent, "neither lost nor more: {states:?}");
    stage.world.assert_each_once().await;
}

/// A receipt for each delivery that the other two have made.
pub async fn updates(stage: &Stage) {
    let deliveries = stage.world.store.all_deliveries().await.unwrap();
    assert!(deliveries.len() > 45_000, "the scenarios before this one make what it tells of: run them, too");
    let updates: Vec<_> =
        deliveries.iter().map(|one| receipt(one.delivery_id, ReceiptStatus::Delivered)).collect();
    through(stage, UPDATES, &WRITERS, async || stage.world.publish_updates(&updates).await).await;
    let states = stage.world.states().await;
    let delivered = states.get(&State::Delivered).copied().unwrap_or(0);
    assert_eq!(delivered, i64::try_from(deliveries.len()).unwrap(), "each receipt told once: {states:?}");
    assert_eq!(stage.world.count("unmatched_update").await, 0);
}

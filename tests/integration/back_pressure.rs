//! Queues are small and the provider is slow: partitions are paused and resumed,
//! and a stop in the middle of it is as clean as any other.

use std::time::Duration;

use patient_notify::domain::Channel;
use patient_notify::sandbox::ChannelFaults;

use crate::harness::{World, eventually, recipient, results};

const CONSUMER: &str = "consumer-test-result-notification";
const RESULTS: i64 = 3_000;
const TINY: [(&str, &str); 5] = [
    ("PATIENT_NOTIFY_PROCESSOR__QUEUE_MAX_RECORDS", "10"),
    ("PATIENT_NOTIFY_PROCESSOR__WINDOW_MAX_RECORDS", "20"),
    ("PATIENT_NOTIFY_PROCESSOR__IN_FLIGHT_MAX", "16"),
    ("PATIENT_NOTIFY_PROCESSOR__BULK_IN_FLIGHT_MAX", "4"),
    ("PATIENT_NOTIFY_PROCESSOR__BATCH_MAX_RECORDS", "8"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_queues_pause_partitions_and_a_stop_while_paused_is_clean() {
    let world = World::new().await;
    world.load(&(1..=300).map(recipient).collect::<Vec<_>>()).await;
    let slow = ChannelFaults { latency_ms: 200, ..Default::default() };
    world.sandbox.faults.set(Channel::Sms, slow);
    world.publish(&results(3, RESULTS.unsigned_abs(), 300)).await;
    let worker = world.process("wrk-notifications", &[]);

    let mut first = world.process(CONSUMER, &TINY);
    eventually("all partitions are paused", Duration::from_secs(30), async || {
        first.metric("patient_notify_partitions{state=\"paused\"}").await >= 12.0
    })
    .await;
    let queued = first.metric("patient_notify_queue_records").await;
    // Beyond its bound a partition may hold what one poll brought along.
    assert!(queued > 0.0 && queued <= 12.0 * 20.0, "{queued} records in the queues");
    first.terminate();
    assert_eq!(first.wait().await.code(), Some(0), "{}", first.log());
    assert_eq!(first.logged("left the consumer group"), 1);

    world.sandbox.faults.clear();
    let mut second = world.process(CONSUMER, &TINY);
    second.wait_for_log("partitions assigned", Duration::from_secs(30)).await;
    world.until_sent(RESULTS, Duration::from_secs(60)).await;
    world.assert_each_once().await;
    assert_eq!(world.count("why WHERE state = 'outcome_unknown'").await, 0);
    assert_eq!(worker.logged("its owner died"), 0);
    eventually("none is paused", Duration::from_secs(10), async || {
        second.metric("patient_notify_partitions{state=\"paused\"}").await < 0.5
    })
    .await;
}

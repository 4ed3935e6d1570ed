//! Two processes of one deployment share the partitions, and hand them over
//! without a doubt about any message.

use std::time::Duration;

use patient_notify::domain::Channel;
use patient_notify::sandbox::ChannelFaults;

use crate::harness::{World, eventually, recipient, results};

const CONSUMER: &str = "consumer-test-result-notification";
const RESULTS: i64 = 3_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_stops_hands_over_without_a_doubt() {
    let world = World::full_size().await;
    world.load(&(1..=500).map(recipient).collect::<Vec<_>>()).await;
    world.sandbox.faults.set(Channel::Sms, ChannelFaults { latency_ms: 100, ..Default::default() });
    let few = [
        ("PATIENT_NOTIFY_PROCESSOR__IN_FLIGHT_MAX", "64"),
        ("PATIENT_NOTIFY_PROCESSOR__BULK_IN_FLIGHT_MAX", "16"),
    ];
    let mut leaver = world.process(CONSUMER, &few);
    let mut stayer = world.process(CONSUMER, &few);
    let worker = world.process("wrk-notifications", &[]);
    eventually("each has a share", Duration::from_secs(30), async || {
        assert!(leaver.is_running() && stayer.is_running());
        let (left, right) = (leaver.assigned(), stayer.assigned());
        left + right == 60 && left.min(right) >= 20
    })
    .await;

    let results = results(2, RESULTS.unsigned_abs(), 500);
    let leave = async {
        eventually("the work is under way", Duration::from_secs(30), async || world.sent().await >= 300)
            .await;
        leaver.terminate();
        leaver.wait().await
    };
    let (_, status) = tokio::join!(world.publish(&results), leave);
    assert_eq!(status.code(), Some(0), "{}", leaver.log());
    assert_eq!(leaver.logged("left the consumer group"), 1);
    eventually("the other has all", Duration::from_secs(20), async || stayer.assigned() == 60).await;
    world.until_sent(RESULTS, Duration::from_secs(60)).await;

    world.assert_each_once().await;
    assert_eq!(world.count("why WHERE state = 'outcome_unknown'").await, 0, "the drain leaves no doubt");
    assert_eq!(worker.logged("its owner died"), 0);
    assert_eq!(leaver.logged("the drain ran out of time"), 0);
    let released = world.count("why WHERE reason = 'released'").await;
    println!("shares partitions: {RESULTS} sent once, {released} of them released by the one that left");
}

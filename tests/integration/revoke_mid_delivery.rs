//! Partitions are taken away while messages are being delivered: what has begun is
//! finished by who began it, what has not is sent once by somebody else.

use std::time::Duration;

use patient_notify::domain::Channel;
use patient_notify::sandbox::ChannelFaults;

use crate::harness::{World, eventually, result, sms_only};

const CONSUMER: &str = "consumer-test-result-notification";
const PATIENTS: u64 = 40;
const RESULTS_OF_EACH: u64 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_begun_is_finished_and_the_rest_is_sent_once_by_another() {
    let world = World::new().await;
    world.load(&(1..=PATIENTS).map(sms_only).collect::<Vec<_>>()).await;
    world.sandbox.faults.set(Channel::Sms, ChannelFaults { latency_ms: 1_000, ..Default::default() });
    let mut old = world.process(CONSUMER, &[]);
    let worker = world.process("wrk-notifications", &[]);
    old.wait_for_log("partitions assigned", Duration::from_secs(30)).await;
    let results: Vec<_> = (0..RESULTS_OF_EACH)
        .flat_map(|nth| (1..=PATIENTS).map(move |number| result(number, &format!("res-{number}-{nth}"))))
        .collect();
    world.publish(&results).await;
    // One second a message and one message at a time for each patient: a patient's
    // first is on its way now, and the others wait behind it.
    eventually("sends have begun", Duration::from_secs(20), async || !world.sandbox.log.is_empty()).await;
    let mut new = world.process(CONSUMER, &[]);
    new.wait_for_log("partitions assigned", Duration::from_secs(30)).await;
    world.until_sent(i64::try_from(results.len()).unwrap(), Duration::from_secs(60)).await;

    world.assert_each_once().await;
    assert!(world.count("why WHERE reason = 'released'").await > 0, "something had not begun");
    assert_eq!(world.count("why WHERE state = 'outcome_unknown'").await, 0, "what had begun was awaited");
    for process in [&old, &new, &worker] {
        assert_eq!(process.logged("the drain ran out of time"), 0);
        assert_eq!(process.logged("the claim was no longer ours"), 0);
        assert_eq!(process.logged("its owner died"), 0);
    }
    let pauses: Vec<i64> = old
        .events()
        .iter()
        .filter(|event| event["message"] == "partitions revoked")
        .filter_map(|event| event["pause_ms"].as_i64())
        .collect();
    assert!(pauses.iter().all(|&pause_ms| pause_ms < 5_000), "{pauses:?}");
    println!("revoked mid-delivery: pauses of {pauses:?} ms");
}

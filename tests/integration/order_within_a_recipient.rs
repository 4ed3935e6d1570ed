//! A patient's messages come in the order in which their results were published.

use std::collections::HashMap;
use std::time::Duration;

use patient_notify::domain::{Channel, DeliveryId};
use patient_notify::sandbox::ChannelFaults;

use crate::harness::{World, result, sms_only};

const PATIENTS: u64 = 8;
const RESULTS_OF_EACH: u64 = 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_one_recipient_keep_the_order_of_their_results() {
    let world = World::new().await;
    world.load(&(1..=PATIENTS).map(sms_only).collect::<Vec<_>>()).await;
    let consumer = world.role("consumer-test-result-notification", |_| {});
    consumer.ready().await;
    let results: Vec<_> = (0..RESULTS_OF_EACH)
        .flat_map(|nth| (1..=PATIENTS).map(move |number| result(number, &format!("res-{number}-{nth}"))))
        .collect();
    world.publish(&results).await;
    let sent = i64::try_from(results.len()).unwrap();
    let faults = std::sync::Arc::clone(&world.sandbox.faults);
    let restless = tokio::spawn(async move {
        let mut tick = tokio::time::interval(Duration::from_millis(7));
        loop {
            tick.tick().await;
            let latency_ms = rand::random_range(0..60);
            faults.set(Channel::Sms, ChannelFaults { latency_ms, ..Default::default() });
        }
    });
    world.until_sent(sent, Duration::from_secs(60)).await;
    restless.abort();

    let client = world.pool.get().await.unwrap();
    let rows = client
        .query(
            "SELECT delivery_id, source_partition, source_offset FROM delivery JOIN notification USING (notification_id)",
            &[],
        )
        .await
        .unwrap();
    let sources: HashMap<String, (i32, i64)> =
        rows.iter().map(|row| (DeliveryId(row.get(0)).short_code(), (row.get(1), row.get(2)))).collect();
    let mut last: HashMap<String, (i32, i64)> = HashMap::new();
    for message in world.sandbox.log.all() {
        let source = sources[message.short_code.as_ref().unwrap()];
        if let Some(before) = last.insert(message.to.expose().clone(), source) {
            assert_eq!(before.0, source.0, "one patient's results are in one partition");
            assert!(before.1 < source.1, "offset {} was sent after {}", source.1, before.1);
        }
    }
    assert_eq!(last.len(), usize::try_from(PATIENTS).unwrap());
    world.assert_each_once().await;
    consumer.stop().await.unwrap();
}

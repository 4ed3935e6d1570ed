//! One result reaches its patient.

use std::time::Duration;

use crate::harness::{World, recipient, result};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_result_reaches_its_patient() {
    let begun = std::time::Instant::now();
    let world = World::new().await;
    println!("world {:?}", begun.elapsed());
    world.load(&[recipient(1)]).await;
    let consumer = world.role("consumer-test-result-notification", |_| {});
    consumer.ready().await;
    println!("ready {:?}", begun.elapsed());
    world.publish(&[result(1, "res-1")]).await;
    world.until_sent(1, Duration::from_secs(30)).await;
    println!("sent {:?}", begun.elapsed());
    consumer.stop().await.unwrap();
    println!("stopped {:?}", begun.elapsed());
    let mut process = world.process("consumer-test-result-notification", &[]);
    process.wait_for_log("partitions assigned", Duration::from_secs(30)).await;
    world.publish(&[result(1, "res-2")]).await;
    world.until_sent(2, Duration::from_secs(30)).await;
    println!("process sent {:?}", begun.elapsed());
    process.terminate();
    assert!(process.wait().await.success(), "{}", process.log());
    println!("terminated {:?}", begun.elapsed());
    println!("{}", process.log());
    assert_eq!(world.seen().await.doubled, 0);
    assert!(world.dead_letters().await.is_empty());
    drop(world);
    println!("end {:?}", begun.elapsed());
}

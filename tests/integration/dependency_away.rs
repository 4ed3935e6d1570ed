//! Database, registry or broker away, at the start and in the middle: the work
//! waits, nothing is given up, and all of it is done once when it is back, without
//! a restart.

use std::time::Duration;

use patient_notify::config::Config;
use patient_notify::topic::names::TEST_RESULTS;

use crate::harness::{BrokerProxy, Proxy, World, eventually, result, results, sms_only, stays};

const CONSUMER: &str = "consumer-test-result-notification";
const SOON: Duration = Duration::from_secs(40);
/// Longer than the longest pause between two tries.
const A_WHILE: Duration = Duration::from_secs(2);
const PATIENTS: u64 = 200;

async fn world_with_patients() -> World {
    let world = World::new().await;
    world.load(&(1..=PATIENTS).map(sms_only).collect::<Vec<_>>()).await;
    world
}

fn through(config: &mut Config, database: &Proxy) {
    let url = config.postgres.url.expose().clone();
    let (_, path) = url.rsplit_once('/').unwrap();
    config.postgres.url = format!("postgres://patient_notify@{}/{path}", database.address).into();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_may_be_away_at_the_start_and_in_the_middle() {
    let world = world_with_patients().await;
    let database = Proxy::start(world.addresses.postgres_address()).await;
    database.cut().await;
    let consumer = world.role(CONSUMER, |config| through(config, &database));
    let worker = world.role("wrk-notifications", |config| through(config, &database));
    world.publish(&results(4, 500, PATIENTS)).await;
    stays("alive, and nothing is sent", A_WHILE, async || {
        consumer.is_running()
            && worker.is_running()
            && consumer.health.live().is_ok()
            && world.sandbox.log.is_empty()
    })
    .await;
    assert!(consumer.health.ready().is_err(), "it says that it cannot work");
    database.restore().await;
    world.until_sent(500, SOON).await;

    let more = results(5, 3_000, PATIENTS);
    let cut = async {
        eventually("the work is under way", SOON, async || world.sent().await > 600).await;
        database.cut().await;
        stays("alive", A_WHILE, async || consumer.health.live().is_ok() && consumer.is_running()).await;
        let sent = world.sent().await;
        assert!(sent < 3_500, "it was cut in the middle");
        database.restore().await;
        sent
    };
    let (_, sent_when_cut) = tokio::join!(world.publish(&more), cut);
    world.until_sent(3_500, SOON).await;
    world.assert_each_once().await;
    println!("database away with {sent_when_cut} of 3500 sent");
    consumer.stop().await.unwrap();
    worker.stop().await.unwrap();
}

/// Registers our schema once more, with another text in its documentation, and
/// gives its id: one that no consumer has met.
async fn another_schema_id(world: &World, doc: &str) -> u32 {
    let text = include_str!("../../avro/pat.test-results.v1.avsc");
    let mut schema: serde_json::Value = serde_json::from_str(text).unwrap();
    schema["doc"] = doc.into();
    let subject = TEST_RESULTS.subject(&world.config.kafka.topic_prefix);
    let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
    let answer = http
        .post(format!("{}/subjects/{subject}/versions", world.addresses.registry_url))
        .json(&serde_json::json!({ "schema": schema.to_string() }))
        .send()
        .await
        .unwrap();
    let answer: serde_json::Value = answer.error_for_status().unwrap().json().await.unwrap();
    answer["id"].as_u64().unwrap().try_into().unwrap()
}

/// Publishes a result whose value says that another schema wrote it.
async fn publish_as(world: &World, schema_id: u32, number: u64, result_id: &str) {
    let mut value = world.encode(&result(number, result_id)).await;
    value[1..5].copy_from_slice(&schema_id.to_be_bytes());
    let key = result(number, result_id).patient_id;
    world.publish_raw(&world.topic(&TEST_RESULTS), Some(key.as_str().as_bytes()), Some(&value), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_registry_may_be_away_at_the_start_and_in_the_middle() {
    let world = world_with_patients().await;
    let registry = Proxy::start(world.addresses.registry_address()).await;
    registry.cut().await;
    let away = |config: &mut Config| {
        let direct = world.addresses.registry_address();
        config.registry.url = world.addresses.registry_url.replace(direct, &registry.address);
    };
    let consumer = world.role(CONSUMER, away);
    let worker = world.role("wrk-notifications", |_| {});
    let ours = world.encode(&result(1, "res-0")).await;
    world.publish(&results(6, 300, PATIENTS)).await;
    stays("alive, and nothing is sent", A_WHILE, async || {
        consumer.health.live().is_ok() && consumer.is_running() && world.sandbox.log.is_empty()
    })
    .await;
    registry.restore().await;
    world.until_sent(300, SOON).await;

    let new_id = another_schema_id(&world, "the same, said in other words").await;
    assert_ne!(new_id.to_be_bytes(), ours[1..5], "another schema");
    registry.cut().await;
    // What is known does not need the registry.
    world.publish(&results(7, 300, PATIENTS)).await;
    world.until_sent(600, SOON).await;
    for number in 1..=20 {
        publish_as(&world, new_id, number, &format!("res-new-{number}")).await;
    }
    stays("alive, and what cannot be read waits", A_WHILE, async || {
        consumer.health.live().is_ok() && consumer.is_running() && world.sandbox.log.stats().total == 600
    })
    .await;
    registry.restore().await;
    world.until_sent(620, SOON).await;
    world.assert_each_once().await;
    consumer.stop().await.unwrap();
    worker.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_broker_may_be_away_at_the_start_and_in_the_middle() {
    let world = world_with_patients().await;
    let broker = BrokerProxy::start().await;
    broker.proxy.cut().await;
    let consumer = world.role(CONSUMER, |config| {
        config.kafka.bootstrap_servers.clone_from(&world.addresses.proxied_brokers);
    });
    let worker = world.role("wrk-notifications", |_| {});
    world.publish(&results(8, 500, PATIENTS)).await;
    stays("alive, and nothing is sent", A_WHILE, async || {
        consumer.health.live().is_ok() && consumer.is_running() && world.sandbox.log.is_empty()
    })
    .await;
    assert!(consumer.health.ready().is_err(), "it says that it cannot work");
    broker.proxy.restore().await;
    world.until_sent(500, SOON).await;

    let more = results(9, 3_000, PATIENTS);
    let cut = async {
        eventually("the work is under way", SOON, async || world.sent().await > 600).await;
        broker.proxy.cut().await;
        stays("alive", A_WHILE, async || consumer.health.live().is_ok() && consumer.is_running()).await;
        broker.proxy.restore().await;
    };
    tokio::join!(world.publish(&more), cut);
    world.until_sent(3_500, SOON).await;
    world.assert_each_once().await;
    consumer.stop().await.unwrap();
    worker.stop().await.unwrap();
    broker.stop().await;
}

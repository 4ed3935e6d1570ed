//! Producers with an older or a newer schema are understood, and a change that
//! would break readers is refused before anything is registered.

use std::time::Duration;

use apache_avro::types::Value;
use jiff::Timestamp;
use patient_notify::config::Config;
use patient_notify::domain::contract;
use patient_notify::topic::names::{self, Topic};
use patient_notify::topic::schemas;
use serde_json::json;

use crate::harness::{World, patient, recipient};
use crate::tools::{printed, register, registry, tool, wire};

const DEADLINE: Duration = Duration::from_secs(60);

/// A schema of ours with other fields.
fn changed(schema: &str, change: impl FnOnce(&mut Vec<serde_json::Value>)) -> String {
    let mut schema: serde_json::Value = serde_json::from_str(schema).unwrap();
    change(schema["fields"].as_array_mut().unwrap());
    schema.to_string()
}

/// As a laboratory's older release wrote it: without the third flag, and with a
/// field that has gone since.
fn older_results() -> String {
    changed(contract::TEST_RESULTS, |fields| {
        fields[5]["type"]["symbols"] = json!(["normal", "abnormal"]);
        fields.push(json!({"name": "device", "type": "string"}));
    })
}

/// As a newer release will: one more optional field.
fn newer_results() -> String {
    changed(contract::TEST_RESULTS, |fields| {
        fields.insert(0, json!({"name": "ward", "type": ["null", "string"], "default": null}));
    })
}

/// As a caller writes that knows nothing of variables and schedules.
fn older_requests() -> String {
    changed(contract::NOTIFICATIONS, |fields| {
        fields.retain(|field| {
            !["recipient", "channels", "strategy", "send_at", "expires_at", "variables"]
                .contains(&field["name"].as_str().unwrap())
        });
    })
}

/// The fields of a result, for whatever schema stands around them.
fn result_fields(number: u64, result_id: &str) -> Vec<(&'static str, Value)> {
    let text = |text: &str| Value::String(text.to_owned());
    let now = Value::TimestampMillis(Timestamp::now().as_millisecond());
    vec![
        ("result_id", text(result_id)),
        ("version", Value::Int(1)),
        ("patient_id", text(patient(number).as_str())),
        ("facility_id", text("fac-01")),
        ("category", text("laboratory")),
        ("urgency", Value::Enum(1, "abnormal".to_owned())),
        ("released_at", now.clone()),
        ("available_at", now),
    ]
}

fn request_fields(number: u64) -> Vec<(&'static str, Value)> {
    let text = |text: &str| Value::String(text.to_owned());
    vec![
        ("caller", text("older-backend")),
        ("idempotency_key", text("key-1")),
        ("patient_id", text(patient(number).as_str())),
        ("purpose", Value::Enum(4, "general".to_owned())),
        ("urgency", Value::Enum(1, "normal".to_owned())),
        ("requested_at", Value::TimestampMillis(Timestamp::now().as_millisecond())),
    ]
}

/// The same registry with subjects that nobody has yet.
fn without_subjects(world: &World, name: &str) -> Config {
    let mut config = world.config.clone();
    config.kafka.topic_prefix.push_str(name);
    config
}

async fn publish(world: &World, topic: &Topic, number: u64, value: &[u8]) {
    let key = patient(number);
    world.publish_raw(&world.topic(topic), Some(key.as_str().as_bytes()), Some(value), &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_and_newer_producers_are_understood() {
    let world = World::new().await;
    world.load(&[recipient(1), recipient(2), recipient(3)]).await;
    // The history that a registry would have: theirs, ours, the next one.
    let history = without_subjects(&world, "history.");
    let older = register(&history, &names::TEST_RESULTS, &older_results()).await;
    let older_request = register(&history, &names::NOTIFICATIONS, &older_requests()).await;
    let before = schemas::apply(&history).await.unwrap();
    assert!(before.to_string().contains("ours can follow version 1"), "{before}");
    let newer = register(&history, &names::TEST_RESULTS, &newer_results()).await;
    let after = schemas::check(&history).await.unwrap();
    assert!(after.is_clean(), "a newer release was here, and ours stays registered: {after}");

    let mut fields = result_fields(1, "older");
    fields.push(("device", Value::String("analyser".to_owned())));
    publish(&world, &names::TEST_RESULTS, 1, &wire(older, &older_results(), fields)).await;
    let mut fields = result_fields(2, "newer");
    fields.insert(0, ("ward", Value::Union(1, Box::new(Value::String("w-7".to_owned())))));
    publish(&world, &names::TEST_RESULTS, 2, &wire(newer, &newer_results(), fields)).await;
    let request = wire(older_request, &older_requests(), request_fields(3));
    publish(&world, &names::NOTIFICATIONS, 3, &request).await;

    let results = world.role("consumer-test-result-notification", |_| {});
    let requests = world.role("consumer-notification", |_| {});
    world.until_sent(3, DEADLINE).await;
    results.stop().await.unwrap();
    requests.stop().await.unwrap();
    assert!(world.dead_letters().await.is_empty());
    let mut numbers: Vec<String> =
        world.sandbox.log.all().iter().map(|message| message.to.expose().clone()).collect();
    numbers.sort();
    assert_eq!(numbers, ["+15550000001", "+15550000002", "+15550000003"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_incompatible_change_is_refused_before_anything_is_registered() {
    let world = World::new().await;
    let config = without_subjects(&world, "broken.");
    let theirs = changed(contract::NOTIFICATION_UPDATES, |fields| {
        // What we read as a time they write as a text.
        fields.iter_mut().find(|field| field["name"] == "occurred_at").unwrap()["type"] = json!("string");
    });
    register(&config, &names::NOTIFICATION_UPDATES, &theirs).await;
    let subject = names::NOTIFICATION_UPDATES.subject(&config.kafka.topic_prefix);

    let check = tool(&config, &["schemas", "check"]).await;
    assert_eq!(check.status.code(), Some(1), "{}", printed(&check));
    assert!(
        printed(&check).contains(&subject) && printed(&check).contains("occurred_at"),
        "{}",
        printed(&check)
    );
    let apply = tool(&config, &["schemas", "apply"]).await;
    assert_eq!(apply.status.code(), Some(1), "{}", printed(&apply));
    assert!(printed(&apply).contains("nothing was registered"), "{}", printed(&apply));

    let versions = format!("subjects/{subject}/versions");
    let versions = registry(&config, reqwest::Method::GET, &versions, "").await;
    assert_eq!(versions, json!([1]), "their version stands alone");
    for topic in names::ALL.iter().filter(|topic| topic.name != names::NOTIFICATION_UPDATES.name) {
        let subject = topic.subject(&config.kafka.topic_prefix);
        let found =
            registry(&config, reqwest::Method::GET, &format!("subjects/{subject}/versions"), "").await;
        assert_eq!(found["error_code"], 40401, "{subject} must not be there: {found}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_says_what_differs_and_apply_mends_it() {
    let world = World::new().await;
    let clean = tool(&world.config, &["schemas", "check"]).await;
    assert!(clean.status.success(), "{}", printed(&clean));
    let subject = names::TEST_RESULTS.subject(&world.config.kafka.topic_prefix);
    let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build().unwrap();
    let level = format!("{}/config/{subject}", world.config.registry.url);
    let answer = client.put(level).json(&json!({"compatibility": "NONE"})).send().await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");

    let check = tool(&world.config, &["schemas", "check"]).await;
    assert_eq!(check.status.code(), Some(1), "{}", printed(&check));
    let line = printed(&check).lines().find(|line| line.starts_with(&subject)).unwrap().to_owned();
    assert!(line.contains("NONE") && printed(&check).contains("schemas apply"), "{}", printed(&check));
    let apply = tool(&world.config, &["schemas", "apply"]).await;
    assert!(apply.status.success(), "{}", printed(&apply));
    let check = tool(&world.config, &["schemas", "check"]).await;
    assert!(check.status.success(), "{}", printed(&check));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_folders_are_compared_without_a_registry() {
    let config = Config::from_defaults();
    let folder = tempfile::tempdir().unwrap();
    let against = folder.path().to_str().unwrap();
    let same = tool(&config, &["schemas", "compatible", "--against", "avro"]).await;
    assert!(same.status.success(), "{}", printed(&same));
    let empty = tool(&config, &["schemas", "compatible", "--against", against]).await;
    assert!(empty.status.success(), "new files break nobody: {}", printed(&empty));

    let theirs = changed(contract::TEST_RESULTS, |fields| fields[1]["type"] = json!("string"));
    std::fs::write(folder.path().join("pat.test-results.v1.avsc"), theirs).unwrap();
    let broken = tool(&config, &["schemas", "compatible", "--against", against]).await;
    assert_eq!(broken.status.code(), Some(1), "{}", printed(&broken));
    let text = printed(&broken);
    assert!(text.contains("pat.test-results.v1.avsc: INCOMPATIBLE") && text.contains("version"), "{text}");
    let nowhere = tool(&config, &["schemas", "compatible", "--against", "/no/such/folder"]).await;
    assert_eq!(nowhere.status.code(), Some(1), "{}", printed(&nowhere));
}

//! `patient-notify doctor` against real servers: nothing to mend where nothing is
//! broken, and each fault under its own name with what mends it.

use std::collections::BTreeMap;
use std::process::Output;

use patient_notify::config::Config;
use serde_json::Value;

use crate::harness::{World, free_address};
use crate::jobs::execute;
use crate::tools::tool_with;

const CANARY: &str = "canary-doctor-password";

/// With the configuration whole, the providers' sections too.
async fn doctor(world: &World, config: &Config, arguments: &[&str]) -> Output {
    let file = world.file_of(config);
    let arguments = [&["doctor", "--config", file.to_str().unwrap()], arguments].concat();
    tool_with(config, &arguments, &[]).await
}

/// Grade and text of each check.
fn findings(output: &Output) -> BTreeMap<String, (String, String)> {
    let text = String::from_utf8_lossy(&output.stdout);
    let all: Vec<Value> = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let word = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
    let row = |finding: &Value| {
        let text = format!("{} {}", word(finding, "what"), word(finding, "mend"));
        (word(finding, "check"), (word(finding, "grade"), text))
    };
    all.iter().map(row).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doctor_finds_nothing_where_nothing_is_broken() {
    let world = World::full_size().await;
    let output = doctor(&world, &world.config, &["--json"]).await;
    let found = findings(&output);
    assert!(output.status.success(), "{found:?}");
    assert!(found.values().all(|(grade, _)| grade == "ok"), "{found:?}");
    let checks = [
        "brokers",
        "clock",
        "database",
        "database rights",
        "fcm",
        "migrations",
        "reading",
        "schemas",
        "smtp",
        "topics",
        "twilio",
    ];
    assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), checks);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_has_its_name_and_what_mends_it() {
    let world = World::new().await;
    let user = format!("{}_reader", world.config.kafka.topic_prefix.trim_end_matches('.'));
    execute(&world, &format!("CREATE ROLE {user} LOGIN PASSWORD '{CANARY}'")).await;
    execute(&world, &format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {user}")).await;
    execute(&world, "DELETE FROM refinery_schema_history WHERE version = 3").await;
    let mut config = world.config.clone();
    let (head, host) = config.postgres.url.expose().rsplit_once('@').unwrap();
    let scheme = head.split_once("://").unwrap().0;
    config.postgres.url = format!("{scheme}://{user}:{CANARY}@{host}").into();
    config.kafka.topic_prefix = "nobody-made-these.".to_owned();
    config.sms.auth_token = CANARY.to_owned().into();
    config.email.smtp_port = free_address().rsplit_once(':').unwrap().1.parse().unwrap();
    config.push.enabled = false;

    let output = doctor(&world, &config, &["--json"]).await;
    assert_eq!(output.status.code(), Some(1));
    let found = findings(&output);
    let expected = [
        ("brokers", "ok", ""),
        ("topics", "fault", "topics apply"),
        ("reading", "fault", "READ on it"),
        ("schemas", "fault", "schemas apply"),
        ("database", "ok", ""),
        ("migrations", "fault", "patient-notify migrate"),
        ("database rights", "fault", "audit"),
        ("clock", "ok", ""),
        ("twilio", "fault", "credentials in section [sms]"),
        ("smtp", "fault", "section [email]"),
        ("fcm", "warning", "push.enabled"),
    ];
    for (check, grade, text) in expected {
        let (has, said) = &found[check];
        assert!(has == grade && said.contains(text), "{check}: {has} {said}");
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("7 faults"), "{stderr}");

    config.kafka.bootstrap_servers = free_address();
    config.registry.url = format!("http://{}", free_address());
    config.postgres.url = format!("postgres://{user}:{CANARY}@{}/nothing", free_address()).into();
    let output = doctor(&world, &config, &[]).await;
    assert_eq!(output.status.code(), Some(1));
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for line in [
        "FAULT    brokers",
        "skipped  topics",
        "FAULT    schemas",
        "FAULT    database ",
        "skipped  migrations",
        "-> start them, or correct kafka.bootstrap_servers",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains(CANARY), "{said}");
    execute(&world, &format!("DROP OWNED BY {user}")).await;
    execute(&world, &format!("DROP ROLE {user}")).await;
}

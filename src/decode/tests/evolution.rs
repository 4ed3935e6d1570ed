//! Older and newer writers.

use crate::domain::{Channel, ResultUrgency};

use super::*;

/// Our schema as an older or newer release had it.
fn other_release(schema: &str, change: impl FnOnce(&mut serde_json::Value)) -> String {
    let mut schema: serde_json::Value = serde_json::from_str(schema).unwrap();
    change(&mut schema["fields"]);
    schema.to_string()
}

#[tokio::test]
async fn an_older_writer_without_optional_fields_is_read() {
    let registry = registry().await;
    let optional = ["recipient", "urgency", "channels", "send_at", "expires_at", "variables"];
    let is_old = |field: &serde_json::Value| !optional.contains(&field["name"].as_str().unwrap());
    let old = other_release(contract::NOTIFICATIONS, |fields| {
        fields.as_array_mut().unwrap().retain(is_old);
    });
    registry.answer(20, Answer::Schema(old.clone()));
    let bytes = wire(20, &old, &example("pat.notifications.v1", "minimal"));
    let whole = wire(NOTIFICATIONS_ID, contract::NOTIFICATIONS, &example("pat.notifications.v1", "minimal"));
    let decoded = decode(&registry, RecordKind::Notification, &bytes).await.unwrap();
    assert_eq!(decode(&registry, RecordKind::Notification, &whole).await, Ok(decoded));
}

#[tokio::test]
async fn a_newer_writer_with_more_fields_and_symbols_is_read() {
    let registry = registry().await;
    let new = other_release(contract::TEST_RESULTS, |fields| {
        let ward = serde_json::json!({"name": "ward", "type": "string"});
        fields.as_array_mut().unwrap().insert(2, ward);
        fields[6]["type"]["symbols"].as_array_mut().unwrap().push("panic".into());
    });
    registry.answer(21, Answer::Schema(new.clone()));
    let mut json = example("pat.test-results.v1", "normal");
    json["ward"] = "3B".into();
    json["urgency"] = "panic".into();
    let decoded = decode(&registry, RecordKind::TestResult, &wire(21, &new, &json)).await.unwrap();
    let Event::TestResult(result) = decoded else { panic!("not a test result") };
    assert_eq!(result.urgency, ResultUrgency::Abnormal);
    assert_eq!(result.facility_id, "fac-07");
}

#[tokio::test]
async fn what_a_newer_caller_wants_and_we_do_not_know_is_not_guessed() {
    let registry = registry().await;
    let new = other_release(contract::NOTIFICATIONS, |fields| {
        fields[4]["type"]["symbols"].as_array_mut().unwrap().push("survey".into());
        fields[6]["type"]["items"]["symbols"].as_array_mut().unwrap().push("letter".into());
    });
    registry.answer(22, Answer::Schema(new.clone()));
    let with = |purpose: &str, channels: &[&str]| {
        let mut json = example("pat.notifications.v1", "minimal");
        json["purpose"] = purpose.into();
        json["channels"] = channels.into();
        wire(22, &new, &json)
    };
    let decoded = decode(&registry, RecordKind::Notification, &with("survey", &[])).await;
    let (reason, detail) = reason_of(decoded);
    assert!(reason == Reason::UnusableField && detail.starts_with("purpose"), "{detail}");
    let decoded = decode(&registry, RecordKind::Notification, &with("general", &["letter"])).await;
    let (reason, detail) = reason_of(decoded);
    assert!(reason == Reason::UnusableField && detail.starts_with("channels"), "{detail}");
    let decoded = decode(&registry, RecordKind::Notification, &with("general", &["letter", "sms"])).await;
    let Ok(Event::Notification(request)) = decoded else { panic!("{decoded:?}") };
    assert_eq!(request.channels, [Channel::Sms]);
}

#[tokio::test]
async fn a_schema_that_cannot_be_read_as_ours_rejects_its_records() {
    let registry = registry().await;
    let other = r#"{"type": "record", "name": "Other", "fields": [{"name": "a", "type": "long"}]}"#;
    let endless = r#"{"type": "record", "name": "TestResultPublished", "fields": [
        {"name": "next", "type": ["null", "TestResultPublished"]}]}"#;
    registry.answer(30, Answer::Schema(other.to_owned()));
    registry.answer(31, Answer::Schema(endless.to_owned()));
    registry.answer(32, Answer::Typed("PROTOBUF", "syntax = \"proto3\";".to_owned()));
    registry.answer(33, Answer::Schema("{".to_owned()));
    registry.answer(34, Answer::Schema(contract::NOTIFICATIONS.to_owned()));
    for id in 30..=34 {
        // Bytes that would nest 60,000 deep where the schema lets them.
        let payload = [head(id), vec![2; 60_000]].concat();
        let (reason, detail) = reason_of(decode(&registry, RecordKind::TestResult, &payload).await);
        assert_eq!(reason, Reason::IncompatibleSchema, "{id}: {detail}");
    }
}

#[tokio::test]
async fn a_lost_end_is_not_taken_for_a_null() {
    let registry = registry().await;
    // A writer whose record ends with the optional recipient: without it, the
    // message would go to somebody else.
    let reordered = other_release(contract::NOTIFICATIONS, |fields| {
        let fields = fields.as_array_mut().unwrap();
        let recipient = fields.remove(3);
        fields.push(recipient);
    });
    registry.answer(23, Answer::Schema(reordered.clone()));
    let whole = wire(23, &reordered, &example("pat.notifications.v1", "to_proxy"));
    assert!(decode(&registry, RecordKind::Notification, &whole).await.is_ok());
    for length in 5..whole.len() {
        let (reason, _) = reason_of(decode(&registry, RecordKind::Notification, &whole[..length]).await);
        assert_eq!(reason, Reason::Undecodable, "cut to {length} bytes");
    }
}

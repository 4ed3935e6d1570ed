//! The contract itself: examples, documentation, words.

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;

use crate::domain::{Channel, Engagement, Purpose, ReceiptStatus, State, Urgency};

use super::*;

#[tokio::test]
async fn every_example_decodes_and_encodes_back() {
    let registry = registry().await;
    let topics = [
        ("pat.test-results.v1", RESULTS_ID, contract::TEST_RESULTS, RecordKind::TestResult),
        ("pat.notifications.v1", NOTIFICATIONS_ID, contract::NOTIFICATIONS, RecordKind::Notification),
    ];
    for (topic, id, schema, kind) in topics {
        for (name, json) in examples(topic) {
            let event = decode(&registry, kind, &wire(id, schema, &json)).await.unwrap();
            insta::assert_debug_snapshot!(format!("{topic}.{name}"), event);
            let again = encoded_again(&registry, &event).await;
            assert_eq!(decode(&registry, kind, &again).await.as_ref(), Ok(&event), "{topic} {name}");
        }
    }
}

#[test]
fn every_example_of_an_update_decodes() {
    for (name, json) in examples("pat.notification-updates.v1") {
        let bytes = wire(UPDATES_ID, contract::NOTIFICATION_UPDATES, &json);
        let update = PREPARED.decode_update(Some(&bytes)).unwrap();
        insta::assert_debug_snapshot!(format!("pat.notification-updates.v1.{name}"), update);
    }
}

#[test]
fn examples_of_what_we_only_write_fit_their_schema() {
    let topic = "pat.notification-status.v1";
    let parsed = Schema::parse_str(contract::NOTIFICATION_STATUS).unwrap();
    let reader = GenericDatumReader::builder(&parsed).build().unwrap();
    for (name, json) in examples(topic) {
        let bytes = wire(99, contract::NOTIFICATION_STATUS, &json);
        let value = reader.read_value(&mut &bytes[5..]).unwrap();
        insta::assert_debug_snapshot!(format!("{topic}.{name}"), value);
    }
}

#[test]
fn redacted_fields_arrive_whole() {
    let Ok(Event::TestResult(result)) =
        PREPARED.decode(RecordKind::TestResult, Some(&result_bytes("bounds")))
    else {
        panic!("not a test result")
    };
    assert_eq!(result.category.expose(), "Bildgebung – Röntgen, zwei Ebenen");
    let json = example("pat.notifications.v1", "scheduled_reminder");
    let bytes = wire(NOTIFICATIONS_ID, contract::NOTIFICATIONS, &json);
    let Ok(Event::Notification(request)) = PREPARED.decode(RecordKind::Notification, Some(&bytes)) else {
        panic!("not a notification")
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        *request.variables.expose(),
        [pair("appointment_time", "2026-11-25T09:30"), pair("place", "Haus B, Zimmer 12")]
    );
}

#[test]
fn every_field_is_documented_optional_ones_have_defaults_and_enums_can_grow() {
    fn check(file: &str, node: &serde_json::Value) {
        match node {
            serde_json::Value::Array(items) => items.iter().for_each(|item| check(file, item)),
            serde_json::Value::Object(object) => {
                let is = |kind: &str| object.get("type").is_some_and(|found| found == kind);
                let name = object.get("name");
                if name.is_some() {
                    let doc = object.get("doc").and_then(serde_json::Value::as_str);
                    assert!(doc.is_some_and(|doc| doc.len() > 20), "{file}: {name:?} has no doc");
                    assert!(
                        object.get("aliases").is_none(),
                        "{file}: {name:?} has aliases, which readers ignore"
                    );
                }
                if is("enum") {
                    assert!(object.contains_key("default"), "{file}: {name:?} has no default symbol");
                }
                if object.get("type").and_then(|kind| kind.get(0)).is_some_and(|first| first == "null") {
                    assert_eq!(object.get("default"), Some(&serde_json::Value::Null), "{file}: {name:?}");
                }
                object.values().for_each(|value| check(file, value));
            }
            _ => {}
        }
    }
    for (file, text) in contract::ALL {
        Schema::parse_str(text).unwrap();
        check(file, &serde_json::from_str(text).unwrap());
    }
}

/// Words of the domain that stand as symbols in a schema.
fn symbols(schema: &str, name: &str) -> Vec<String> {
    fn find<'a>(node: &'a serde_json::Value, name: &str) -> Option<&'a serde_json::Value> {
        match node {
            serde_json::Value::Array(items) => items.iter().find_map(|item| find(item, name)),
            serde_json::Value::Object(object) => {
                let is_it =
                    object.get("name").is_some_and(|found| found == name) && object.contains_key("symbols");
                if is_it {
                    Some(&node["symbols"])
                } else {
                    object.values().find_map(|value| find(value, name))
                }
            }
            _ => None,
        }
    }
    let schema: serde_json::Value = serde_json::from_str(schema).unwrap();
    serde_json::from_value(find(&schema, name).unwrap().clone()).unwrap()
}

#[test]
fn the_domains_words_and_the_schemas_symbols_are_the_same() {
    let with_unknown = |words: &[&'static str]| [&["unknown"][..], words].concat();
    let purposes: Vec<_> = Purpose::ALL.iter().map(|word| word.as_str()).collect();
    let channels: Vec<_> = Channel::ALL.iter().map(|word| word.as_str()).collect();
    let states: Vec<_> = State::ALL.iter().map(|word| word.as_str()).collect();
    let urgencies: Vec<_> = Urgency::ALL.iter().map(|word| word.as_str()).collect();
    for schema in [contract::NOTIFICATIONS, contract::NOTIFICATION_UPDATES, contract::NOTIFICATION_STATUS] {
        assert_eq!(symbols(schema, "Purpose"), with_unknown(&purposes));
        assert_eq!(symbols(schema, "Channel"), with_unknown(&channels));
    }
    assert_eq!(symbols(contract::NOTIFICATION_STATUS, "State"), with_unknown(&states));
    assert_eq!(symbols(contract::NOTIFICATIONS, "Urgency"), urgencies);
    // A token that is not valid any more is a kind of its own on the wire.
    let mut receipts: Vec<_> = ReceiptStatus::ALL.iter().map(|word| word.as_str()).collect();
    receipts.retain(|word| *word != ReceiptStatus::TokenInvalid.as_str());
    let mut on_the_wire = symbols(contract::NOTIFICATION_UPDATES, "ReceiptStatus");
    on_the_wire.sort_unstable();
    let mut receipts = with_unknown(&receipts);
    receipts.sort_unstable();
    assert_eq!(on_the_wire, receipts);
    let engagements: Vec<_> = Engagement::ALL.iter().map(|word| word.as_str()).collect();
    assert_eq!(symbols(contract::NOTIFICATION_UPDATES, "EngagementKind"), with_unknown(&engagements));
}

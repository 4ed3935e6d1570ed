//! What decoding promises: the contract's examples, older and newer writers,
//! damaged bytes, and a registry that is not always there.

use std::path::Path;
use std::sync::LazyLock;
use std::time::Duration;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use jiff::Timestamp;
use proptest::prelude::*;

use crate::domain::{
    Channel, NotificationRequested, PatientId, Purpose, Redacted, ResultUrgency, TestResultPublished,
    Urgency, contract,
};
use crate::topic::encoder::Encoder;
use crate::topic::names;

use super::stub_registry::{Answer, StubRegistry, TIMEOUT_MS};
use super::*;

const PAYLOAD_MAX_BYTES: usize = 65_536;
const RESULTS_ID: u32 = 7;
const NOTIFICATIONS_ID: u32 = 8;

async fn registry() -> StubRegistry {
    StubRegistry::start(&[(RESULTS_ID, contract::TEST_RESULTS), (NOTIFICATIONS_ID, contract::NOTIFICATIONS)]).await
}

fn decoder(registry: &StubRegistry) -> Decoder {
    Decoder::new(&registry.settings(), PAYLOAD_MAX_BYTES).unwrap()
}

async fn decode(registry: &StubRegistry, kind: RecordKind, payload: &[u8]) -> Result<Event, Rejected> {
    let decoder = decoder(registry);
    decoder.prepare([payload].into_iter()).await.unwrap();
    decoder.decode(kind, Some(payload))
}

/// A decoder that has both of our schemas, for tests that need no registry.
static PREPARED: LazyLock<Decoder> = LazyLock::new(|| {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let decoder = decoder(&registry().await);
        let heads = [head(RESULTS_ID), head(NOTIFICATIONS_ID)];
        decoder.prepare(heads.iter().map(|head| &head[..])).await.unwrap();
        decoder
    })
});

fn head(id: u32) -> Vec<u8> {
    [&[0][..], &id.to_be_bytes()].concat()
}

/// A record in the wire format, from the JSON form in which examples are written.
fn wire(id: u32, schema: &str, json: &serde_json::Value) -> Vec<u8> {
    let schema = Schema::parse_str(schema).unwrap();
    let value = Value::try_from(json.clone()).unwrap().resolve(&schema).unwrap();
    let datum = GenericDatumWriter::builder(&schema).build().unwrap().write_value_to_vec(value).unwrap();
    [head(id), datum].concat()
}

/// The examples of a topic: name and JSON, sorted by name.
fn examples(topic: &str) -> Vec<(String, serde_json::Value)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("avro/examples").join(topic);
    let mut examples: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|file| {
            let path = file.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap())
        })
        .collect();
    examples.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(examples.len() > 1);
    examples
}

fn example(topic: &str, name: &str) -> serde_json::Value {
    examples(topic).into_iter().find(|(found, _)| found == name).unwrap().1
}

fn result_bytes(name: &str) -> Vec<u8> {
    wire(RESULTS_ID, contract::TEST_RESULTS, &example("pat.test-results.v1", name))
}

fn reason_of(decoded: Result<Event, Rejected>) -> (Reason, String) {
    let rejected = decoded.unwrap_err();
    (rejected.reason, rejected.detail)
}

async fn encoded_again(registry: &StubRegistry, event: &Event) -> Vec<u8> {
    let encoder = Encoder::new(&registry.settings(), "").unwrap();
    match event {
        Event::TestResult(event) => encoder.test_result(event).await.unwrap(),
        Event::Notification(event) => encoder.notification(&names::NOTIFICATIONS, event).await.unwrap(),
    }
}

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
fn examples_of_what_we_only_write_fit_their_schemas() {
    for (topic, schema) in [
        ("pat.notification-updates.v1", contract::NOTIFICATION_UPDATES),
        ("pat.notification-status.v1", contract::NOTIFICATION_STATUS),
    ] {
        let parsed = Schema::parse_str(schema).unwrap();
        let reader = GenericDatumReader::builder(&parsed).build().unwrap();
        for (name, json) in examples(topic) {
            let bytes = wire(9, schema, &json);
            let value = reader.read_value(&mut &bytes[5..]).unwrap();
            insta::assert_debug_snapshot!(format!("{topic}.{name}"), value);
        }
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

#[test]
fn a_truncated_record_is_rejected_wherever_it_ends() {
    let notification = example("pat.notifications.v1", "to_proxy");
    let notification = wire(NOTIFICATIONS_ID, contract::NOTIFICATIONS, &notification);
    for (kind, whole) in
        [(RecordKind::TestResult, result_bytes("normal")), (RecordKind::Notification, notification)]
    {
        assert!(PREPARED.decode(kind, Some(&whole)).is_ok());
        for length in 0..whole.len() {
            let decoded = PREPARED.decode(kind, Some(&whole[..length]));
            assert!(decoded.is_err(), "{kind:?} cut to {length} bytes: {decoded:?}");
        }
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

#[test]
fn each_kind_of_bad_value_has_its_reason() {
    let decode = |payload: Option<&[u8]>| reason_of(PREPARED.decode(RecordKind::TestResult, payload)).0;
    let whole = result_bytes("normal");
    assert_eq!(decode(None), Reason::EmptyPayload);
    assert_eq!(decode(Some(b"")), Reason::EmptyPayload);
    assert_eq!(decode(Some(&vec![0; PAYLOAD_MAX_BYTES + 1])), Reason::PayloadTooLarge);
    assert_eq!(decode(Some(b"\0\0\0")), Reason::NotWireFormat);
    assert_eq!(decode(Some(br#"{"result_id": "1"}"#)), Reason::NotWireFormat);
    assert_eq!(decode(Some(&[&whole[..], b"\0"].concat())), Reason::Undecodable);
    assert_eq!(decode(Some(&[head(RESULTS_ID), vec![0xff; 40]].concat())), Reason::Undecodable);
}

#[test]
fn an_unusable_field_is_named_and_its_value_is_not() {
    let results: [(&str, serde_json::Value); 9] = [
        ("result_id", "".into()),
        ("result_id", "CANARY with blanks".into()),
        ("version", 0.into()),
        ("patient_id", "CANARY Jane Doe".into()),
        ("facility_id", "CANARY".repeat(20).into()),
        ("category", "CANARY\u{7}".into()),
        ("released_at", 1_795_600_000.into()),
        ("available_at", 1_795_600_000_000_000_i64.into()),
        ("available_at", (-1).into()),
    ];
    let requests: [(&str, serde_json::Value); 8] = [
        ("caller", "CANARY!".into()),
        ("recipient", "CANARY Jane".into()),
        ("purpose", "unknown".into()),
        ("channels", vec!["sms", "sms"].into()),
        ("channels", vec!["sms"; 9].into()),
        ("expires_at", 1_795_600_000_000_i64.into()),
        ("variables", serde_json::json!({ "CANARY": "x" })),
        ("variables", serde_json::json!({ "note": "CANARY".repeat(100) })),
    ];
    let results = results.map(|case| (RecordKind::TestResult, case));
    let requests = requests.map(|case| (RecordKind::Notification, case));
    for (kind, (field, value)) in results.into_iter().chain(requests) {
        let (id, schema, mut json) = match kind {
            RecordKind::TestResult => {
                (RESULTS_ID, contract::TEST_RESULTS, example("pat.test-results.v1", "normal"))
            }
            RecordKind::Notification => {
                (NOTIFICATIONS_ID, contract::NOTIFICATIONS, example("pat.notifications.v1", "minimal"))
            }
        };
        json[field] = value;
        let (reason, detail) = reason_of(PREPARED.decode(kind, Some(&wire(id, schema, &json))));
        assert_eq!(reason, Reason::UnusableField, "{detail}");
        assert!(detail.starts_with(field), "{field}: {detail}");
        assert!(!detail.contains("CANARY"), "{detail}");
    }
}

#[tokio::test]
async fn a_batch_fetches_each_schema_once() {
    let registry = registry().await;
    let decoder = decoder(&registry);
    let (results, notifications) = (head(RESULTS_ID), head(NOTIFICATIONS_ID));
    let batch = [&results[..], &notifications, &results, b"junk", b"", &results];
    assert!(!decoder.cached(RESULTS_ID));
    let (one, other) = tokio::join!(decoder.prepare(batch.into_iter()), decoder.prepare(batch.into_iter()));
    assert_eq!((one, other), (Ok(()), Ok(())));
    assert!(decoder.cached(RESULTS_ID) && decoder.cached(NOTIFICATIONS_ID));
    let mut asked = registry.asked();
    asked.sort_unstable();
    assert_eq!(asked, [RESULTS_ID, NOTIFICATIONS_ID]);
}

#[tokio::test]
async fn an_unknown_schema_is_rejected_and_not_asked_for_again_at_once() {
    let registry = registry().await;
    let decoder = decoder(&registry);
    let payload = [head(404), vec![0]].concat();
    for _ in 0..3 {
        decoder.prepare([&payload[..]].into_iter()).await.unwrap();
        let (reason, _) = reason_of(decoder.decode(RecordKind::TestResult, Some(&payload)));
        assert_eq!(reason, Reason::UnknownSchema);
    }
    assert_eq!(registry.asked(), [404]);
}

#[tokio::test]
async fn an_outage_is_neither_a_rejection_nor_remembered() {
    let registry = registry().await;
    let decoder = decoder(&registry);
    let payload = [head(50), result_bytes("normal")[5..].to_vec()].concat();
    let outages = [
        Answer::Fault(500, 50_001),
        Answer::Fault(503, 50_003),
        Answer::Fault(401, 40_101),
        // A proxy without a registry behind it, or a wrong path.
        Answer::Bare(404),
        Answer::Late(Duration::from_millis(3 * TIMEOUT_MS)),
    ];
    for outage in outages {
        registry.answer(50, outage.clone());
        let unavailable = decoder.prepare([&payload[..]].into_iter()).await.unwrap_err();
        assert_eq!(unavailable.schema_id, 50, "{outage:?}");
        assert!(!decoder.cached(50), "{outage:?}");
    }
    registry.answer(50, Answer::Schema(contract::TEST_RESULTS.to_owned()));
    decoder.prepare([&payload[..]].into_iter()).await.unwrap();
    assert!(decoder.decode(RecordKind::TestResult, Some(&payload)).is_ok());
}

#[tokio::test]
async fn nobody_listens_at_the_registrys_address() {
    let mut settings = registry().await.settings();
    settings.url = "http://127.0.0.1:1".to_owned();
    let decoder = Decoder::new(&settings, PAYLOAD_MAX_BYTES).unwrap();
    let unavailable = decoder.prepare([&head(RESULTS_ID)[..]].into_iter()).await.unwrap_err();
    assert!(unavailable.to_string().contains("schema registry"), "{unavailable}");
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
                    assert!(object.get("aliases").is_none(), "{file}: {name:?} has aliases, which readers ignore");
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
                let is_it = object.get("name").is_some_and(|found| found == name) && object.contains_key("symbols");
                if is_it { Some(&node["symbols"]) } else { object.values().find_map(|value| find(value, name)) }
            }
            _ => None,
        }
    }
    let schema: serde_json::Value = serde_json::from_str(schema).unwrap();
    serde_json::from_value(find(&schema, name).unwrap().clone()).unwrap()
}

#[test]
fn the_domains_words_and_the_schemas_symbols_are_the_same() {
    use crate::domain::State;
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
}

fn opaque() -> impl Strategy<Value = String> {
    "[A-Za-z0-9._:-]{1,64}"
}

fn time() -> impl Strategy<Value = Timestamp> {
    (946_684_800_000_i64..4_133_980_800_000).prop_map(|ms| Timestamp::from_millisecond(ms).unwrap())
}

prop_compose! {
    fn a_result()(
        (result_id, facility_id, patient) in (opaque(), opaque(), opaque()),
        version in 1..=i32::MAX,
        category in "[^\\p{C}]{1,64}",
        urgency in prop::sample::select(vec![ResultUrgency::Normal, ResultUrgency::Abnormal, ResultUrgency::Critical]),
        (released_at, available_at) in (time(), time()),
    ) -> TestResultPublished {
        let patient_id = PatientId::parse(&patient).unwrap();
        let category = Redacted::new(category);
        TestResultPublished { result_id, version, patient_id, facility_id, category, urgency, released_at, available_at }
    }
}

prop_compose! {
    fn a_request()(
        (caller, idempotency_key, patient) in (opaque(), opaque(), opaque()),
        recipient in prop::option::of(opaque()),
        purpose in prop::sample::select(Purpose::ALL),
        urgency in prop::sample::select(Urgency::ALL),
        channels in prop::sample::subsequence(Channel::ALL.to_vec(), 0..=3).prop_shuffle(),
        requested_at in time(),
        send_at in prop::option::of(time()),
        lifetime_ms in prop::option::of(1_i64..1_000_000),
        variables in prop::collection::btree_map("[a-z0-9_]{1,64}", ".{0,500}", 0..=20),
    ) -> NotificationRequested {
        let latest = send_at.map_or(requested_at, |at: Timestamp| at.max(requested_at)).as_millisecond();
        let expires_at = lifetime_ms
            .map(|lifetime| latest + lifetime)
            .filter(|ms| *ms < 4_133_980_800_000)
            .map(|ms| Timestamp::from_millisecond(ms).unwrap());
        NotificationRequested {
            caller, idempotency_key, patient_id: PatientId::parse(&patient).unwrap(), recipient, purpose, urgency,
            channels, send_at, expires_at, variables: Redacted::new(variables.into_iter().collect()), requested_at,
        }
    }
}

/// An encoder whose registry gives the ids that [`PREPARED`] knows.
static ENCODE: LazyLock<(tokio::runtime::Runtime, Encoder)> = LazyLock::new(|| {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let settings = runtime.block_on(registry()).settings();
    (runtime, Encoder::new(&settings, "").unwrap())
});

proptest! {
    #[test]
    fn a_result_survives_the_wire(event in a_result()) {
        let bytes = ENCODE.0.block_on(ENCODE.1.test_result(&event)).unwrap();
        prop_assert_eq!(PREPARED.decode(RecordKind::TestResult, Some(&bytes)), Ok(Event::TestResult(event)));
    }

    #[test]
    fn a_request_survives_the_wire(event in a_request()) {
        let bytes = ENCODE.0.block_on(ENCODE.1.notification(&names::NOTIFICATIONS, &event)).unwrap();
        prop_assert_eq!(PREPARED.decode(RecordKind::Notification, Some(&bytes)), Ok(Event::Notification(event)));
    }

    #[test]
    fn any_bytes_are_decoded_or_rejected(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        id in prop::sample::select(vec![RESULTS_ID, NOTIFICATIONS_ID]),
        has_head in any::<bool>(),
    ) {
        let payload = if has_head { [head(id), bytes].concat() } else { bytes };
        for kind in RecordKind::ALL {
            let _ = PREPARED.decode(kind, Some(&payload));
        }
    }

    #[test]
    fn a_damaged_record_is_decoded_or_rejected(at in 5_usize..60, with in any::<u8>(), cut in 0_usize..20) {
        let mut bytes = result_bytes("normal");
        let at = at.min(bytes.len() - 1);
        bytes[at] = with;
        bytes.truncate(bytes.len() - cut.min(bytes.len()));
        let _ = PREPARED.decode(RecordKind::TestResult, Some(&bytes));
    }
}

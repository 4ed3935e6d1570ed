//! A record that can never be processed becomes one dead letter, its bytes
//! unchanged, and stops nobody; a topic full of them stops the processor.

use std::time::Duration;

use apache_avro::types::Value;
use jiff::Timestamp;
use patient_notify::domain::{
    Channel, NotificationId, PatientId, Purpose, Reason, RecipientId, Redacted, ResultUrgency, State,
    StatusChanged, TestResultPublished, contract,
};
use patient_notify::topic::encoder::Encoder;
use patient_notify::topic::names;
use patient_notify::topic::sample::sample_patient;
use uuid::Uuid;

use crate::harness::{World, eventually, recipient};
use crate::tools::{Lying, read_topic, wire};

const ROLE: &str = "consumer-test-result-notification";
const DEADLINE: Duration = Duration::from_secs(60);
/// Stands in every bad record that can hold it, and must stand in no header.
const CANARY: &str = "CANARY-7f3a";

fn result(number: u32, version: i32) -> TestResultPublished {
    let now = Timestamp::now();
    TestResultPublished {
        result_id: format!("bad-records-{number}"),
        version,
        patient_id: sample_patient(1),
        facility_id: "fac-1".to_owned(),
        category: Redacted::new(CANARY.to_owned()),
        urgency: ResultUrgency::Normal,
        released_at: now,
        available_at: now,
    }
}

fn status() -> StatusChanged {
    StatusChanged {
        notification_id: NotificationId(Uuid::from_u128(1)),
        patient_id: sample_patient(1),
        recipient_id: RecipientId::from_external("rcp-1"),
        purpose: Purpose::TestResult,
        sequence: 1,
        state: State::Sent,
        reason: Reason::ProviderAccepted,
        channel: Some(Channel::Sms),
        caller: None,
        changed_at: Timestamp::now(),
    }
}

/// A result with one field's value exchanged for one that no type of ours can hold.
fn result_with(schema_id: u32, field: &str, value: Value) -> Vec<u8> {
    let now = Value::TimestampMillis(Timestamp::now().as_millisecond());
    let text = |text: &str| Value::String(text.to_owned());
    let mut fields = vec![
        ("result_id", text("bad-field")),
        ("version", Value::Int(1)),
        ("patient_id", text("pat-000001")),
        ("facility_id", text("fac-1")),
        ("category", text(CANARY)),
        ("urgency", Value::Enum(0, "normal".to_owned())),
        ("released_at", now.clone()),
        ("available_at", now),
    ];
    fields.iter_mut().find(|(name, _)| *name == field).unwrap().1 = value;
    wire(schema_id, contract::TEST_RESULTS, fields)
}

/// One of each kind: what it is, the reason that is expected, its value.
async fn one_of_each(world: &World) -> Vec<(&'static str, Reason, Option<Vec<u8>>)> {
    let encoder = Encoder::new(&world.config.registry, &world.config.kafka.topic_prefix).unwrap();
    let id = encoder.schema_id(&names::TEST_RESULTS).await.unwrap();
    let good = encoder.test_result(&result(0, 1)).await.unwrap();
    let with_id = |id: u32| [&[0][..], &id.to_be_bytes(), &good[5..]].concat();
    let too_large = [&good[..], &vec![b'x'; world.config.processor.payload_max_bytes]].concat();
    let text = |text: &str| Value::String(text.to_owned());
    let field = |name: &str, value| Some(result_with(id, name, value));
    vec![
        ("null", Reason::EmptyPayload, None),
        ("empty", Reason::EmptyPayload, Some(Vec::new())),
        ("short", Reason::NotWireFormat, Some(vec![0, 0, 0])),
        ("text", Reason::NotWireFormat, Some(format!("{{\"name\":\"{CANARY}\"}}").into_bytes())),
        ("unknown schema", Reason::UnknownSchema, Some(with_id(2_000_000_000))),
        ("another record", Reason::IncompatibleSchema, Some(encoder.status(&status()).await.unwrap())),
        ("truncated", Reason::Undecodable, Some(good[..good.len() - 3].to_vec())),
        ("trailing bytes", Reason::Undecodable, Some([&good[..], CANARY.as_bytes()].concat())),
        ("too large", Reason::PayloadTooLarge, Some(too_large)),
        ("patient with a blank", Reason::UnusableField, field("patient_id", text(&format!("Jane {CANARY}")))),
        ("empty result id", Reason::UnusableField, field("result_id", text(""))),
        ("version 0", Reason::UnusableField, Some(encoder.test_result(&result(0, 0)).await.unwrap())),
        (
            "seconds for milliseconds",
            Reason::UnusableField,
            field("released_at", Value::TimestampMillis(1_790_000_000)),
        ),
    ]
}

pub(crate) fn dead_letter_of(letters: &[Lying], place: (i32, i64)) -> &Lying {
    let (partition, offset) = (place.0.to_string(), place.1.to_string());
    let mut found = letters.iter().filter(|letter| {
        letter.header("dlq.partition") == partition && letter.header("dlq.offset") == offset
    });
    let first = found.next().unwrap_or_else(|| panic!("no dead letter of {place:?}"));
    assert!(found.next().is_none(), "two dead letters of {place:?}");
    first
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_becomes_one_dead_letter_and_its_neighbours_are_delivered() {
    let world = World::new().await;
    world.load(&[recipient(1)]).await;
    let topic = names::TEST_RESULTS.full_name(&world.config.kafka.topic_prefix);
    let key = sample_patient(1).as_str().as_bytes().to_vec();
    let mut bad = Vec::new();
    for (number, (what, reason, payload)) in (1..).zip(one_of_each(&world).await) {
        world.publish(&[result(number, 1)]).await;
        let headers: [(&str, &[u8]); 1] = [("traceparent", b"00-1-2-01")];
        let place = world.publish_raw(&topic, Some(&key), payload.as_deref(), &headers).await;
        bad.push((what, reason, payload, place));
    }
    let kinds = bad.len();

    let role = world.role(ROLE, |_| {});
    eventually("every good record is delivered and no lag is left", DEADLINE, async || {
        world.sandbox.log.len() == kinds && world.lag().await == 0
    })
    .await;
    role.stop().await.unwrap();

    let published = read_topic(&world.config.kafka, &topic).await;
    let letters = read_topic(&world.config.kafka, &names::dlq_of(&topic)).await;
    assert_eq!(letters.len(), kinds, "one dead letter a bad record");
    for (what, reason, payload, place) in bad {
        let letter = dead_letter_of(&letters, place);
        assert_eq!(letter.payload, payload, "{what}: the bytes are unchanged, and a null stays one");
        assert_eq!(letter.key.as_deref(), Some(&key[..]), "{what}");
        assert_eq!(letter.header("dlq.reason"), reason.as_str(), "{what}: {}", letter.header("dlq.detail"));
        assert_eq!(letter.header("dlq.topic"), topic, "{what}");
        assert_eq!(letter.header("dlq.consumer"), format!("{}{ROLE}", world.config.kafka.topic_prefix));
        assert_eq!(letter.header("traceparent"), "00-1-2-01", "{what}: the record's own headers stay");
        let origin = published.iter().find(|one| (one.partition, one.offset) == place).unwrap();
        assert_eq!(letter.header("dlq.timestamp_ms"), origin.timestamp_ms.to_string(), "{what}");
        assert!(!letter.header("dlq.detail").is_empty(), "{what}: people are told why");
        for (name, value) in &letter.headers {
            let value = String::from_utf8_lossy(value);
            assert!(!value.contains(CANARY) && !value.contains("Jane"), "{what}: {name} holds the payload");
        }
    }
    assert_eq!(world.sandbox.log.stats().duplicates, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_full_of_bad_records_stops_the_processor_and_not_the_topic() {
    const LIMIT: i64 = 20;
    const BAD: i64 = 100;
    let world = World::new().await;
    world.load(&[recipient(1)]).await;
    let topic = names::TEST_RESULTS.full_name(&world.config.kafka.topic_prefix);
    let patient = PatientId::parse("pat-000001").unwrap();
    let key = patient.as_str().as_bytes();
    for _ in 0..BAD {
        world.publish_raw(&topic, Some(key), Some(b"not Avro at all"), &[]).await;
    }
    world.publish(&[result(1, 1)]).await;

    let role = world.role(ROLE, |config| config.processor.breaker_consecutive_rejects = 20);
    // The record that opens the breaker is not written any more: one less than the limit.
    let left = BAD + 1 - (LIMIT - 1);
    eventually("the breaker is open and what went before it is committed", DEADLINE, async || {
        let open = role.health.ready().is_err_and(|why| why.iter().any(|one| one.contains("breaker")));
        open && world.lag().await == left
    })
    .await;
    assert_eq!(role.health.live(), Ok(()), "a restart would not help");
    role.stop().await.unwrap();

    let letters = read_topic(&world.config.kafka, &names::dlq_of(&topic)).await;
    assert_eq!(i64::try_from(letters.len()).unwrap(), LIMIT - 1, "no dead letter beyond the limit");
    assert_eq!(world.lag().await, left, "what was held stays where it was");
    assert!(world.sandbox.log.is_empty(), "nothing behind the bad records went out");
}

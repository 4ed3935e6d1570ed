//! What decoding promises: the contract's examples, older and newer writers,
//! damaged bytes, and a registry that is not always there.

use std::path::Path;
use std::sync::LazyLock;

use apache_avro::Schema;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;

use crate::domain::contract;
use crate::topic::encoder::Encoder;
use crate::topic::names;

use super::stub_registry::{Answer, StubRegistry, TIMEOUT_MS};
use super::*;

mod contract_texts;
mod damage;
mod evolution;
mod outage;
mod round_trip;
mod updates;

const PAYLOAD_MAX_BYTES: usize = 65_536;
const RESULTS_ID: u32 = 7;
const NOTIFICATIONS_ID: u32 = 8;
const UPDATES_ID: u32 = 9;
const STATUS_ID: u32 = 10;

async fn registry() -> StubRegistry {
    StubRegistry::start(&[
        (RESULTS_ID, contract::TEST_RESULTS),
        (NOTIFICATIONS_ID, contract::NOTIFICATIONS),
        (UPDATES_ID, contract::NOTIFICATION_UPDATES),
        (STATUS_ID, contract::NOTIFICATION_STATUS),
    ])
    .await
}

fn decoder(registry: &StubRegistry) -> Decoder {
    Decoder::new(&registry.settings(), PAYLOAD_MAX_BYTES).unwrap()
}

async fn decode(registry: &StubRegistry, kind: RecordKind, payload: &[u8]) -> Result<Event, Rejected> {
    let decoder = decoder(registry);
    decoder.prepare([payload].into_iter()).await.unwrap();
    decoder.decode(kind, Some(payload))
}

/// A decoder that has all of our schemas, for tests that need no registry.
static PREPARED: LazyLock<Decoder> = LazyLock::new(|| {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let decoder = decoder(&registry().await);
        let heads = [RESULTS_ID, NOTIFICATIONS_ID, UPDATES_ID, STATUS_ID].map(head);
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

fn reason_of<T: std::fmt::Debug>(decoded: Result<T, Rejected>) -> (Reason, String) {
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

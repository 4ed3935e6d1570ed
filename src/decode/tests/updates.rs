//! What becomes known later: what each kind needs, newer writers, damage.

use crate::domain::{Channel, Fact, Purpose};

use super::*;

const TOPIC: &str = "pat.notification-updates.v1";

fn bytes(json: &serde_json::Value) -> Vec<u8> {
    wire(UPDATES_ID, contract::NOTIFICATION_UPDATES, json)
}

#[test]
fn what_a_kind_needs_and_does_not_have_is_named() {
    for (name, without, named) in [
        ("receipt_by_provider_id", "receipt", "receipt"),
        ("receipt_by_provider_id", "provider_message_id", "delivery_id"),
        ("token_invalid", "delivery_id", "delivery_id"),
        ("engagement_read", "notification_id", "notification_id"),
        ("engagement_read", "engagement", "engagement"),
        ("opt_out_of_sms", "recipient", "recipient"),
        ("opt_in_to_campaigns", "recipient", "recipient"),
        ("cancel", "notification_id", "notification_id"),
    ] {
        let mut json = example(TOPIC, name);
        json[without] = serde_json::Value::Null;
        let (reason, detail) = reason_of(PREPARED.decode_update(Some(&bytes(&json))));
        assert_eq!(reason, Reason::UnusableField, "{name} without {without}: {detail}");
        assert!(detail.starts_with(&format!("{named}: null")), "{name} without {without}: {detail}");
    }
}

#[test]
fn an_unusable_field_is_named_and_its_value_is_not() {
    let cases: [(&str, &str, serde_json::Value); 12] = [
        ("receipt_delivered", "update_id", "CANARY with blanks".into()),
        ("receipt_delivered", "occurred_at", 1_795_600_000.into()),
        ("receipt_delivered", "source", "".into()),
        ("receipt_delivered", "patient_id", "CANARY Jane Doe".into()),
        ("receipt_delivered", "delivery_id", "CANARY".into()),
        // Forms of a UUID that other systems write.
        ("receipt_delivered", "delivery_id", "8d0c4a525a0e5d0b9b1e3f617d52c0aa".into()),
        ("cancel", "notification_id", "{8d0c4a52-5a0e-5d0b-9b1e-3f617d52c0aa}".into()),
        ("receipt_by_provider_id", "provider_message_id", "CANARY".repeat(50).into()),
        // PostgreSQL takes no NUL: it would fail with all that is written beside it.
        ("receipt_by_provider_id", "provider_message_id", "CANARY\0".into()),
        ("receipt_by_provider_id", "provider_code", "CANARY\0".into()),
        ("receipt_by_provider_id", "provider_code", "CANARY".repeat(11).into()),
        ("opt_out_of_sms", "recipient", "+1 555 CANARY".into()),
    ];
    for (name, field, value) in cases {
        let mut json = example(TOPIC, name);
        json[field] = value;
        let (reason, detail) = reason_of(PREPARED.decode_update(Some(&bytes(&json))));
        assert_eq!(reason, Reason::UnusableField, "{detail}");
        assert!(detail.starts_with(field) && !detail.contains("CANARY"), "{field}: {detail}");
    }
}

/// Our schema as a newer release has it: each enum knows one more symbol.
fn newer_release() -> String {
    fn grow(node: &mut serde_json::Value) {
        match node {
            serde_json::Value::Array(items) => items.iter_mut().for_each(grow),
            serde_json::Value::Object(object) => {
                if let Some(symbols) = object.get_mut("symbols").and_then(|found| found.as_array_mut()) {
                    symbols.push("newer".into());
                }
                object.values_mut().for_each(grow);
            }
            _ => {}
        }
    }
    let mut schema = serde_json::from_str(contract::NOTIFICATION_UPDATES).unwrap();
    grow(&mut schema);
    schema.to_string()
}

#[tokio::test]
async fn what_a_newer_writer_says_never_grants_more_than_it_meant() {
    let registry = registry().await;
    let newer = newer_release();
    registry.answer(40, Answer::Schema(newer.clone()));
    let decoder = decoder(&registry);
    let head = head(40);
    decoder.prepare([&head[..]].into_iter()).await.unwrap();
    let fact = |name: &str, field: &str| {
        let mut json = example(TOPIC, name);
        json[field] = "newer".into();
        decoder.decode_update(Some(&wire(40, &newer, &json))).unwrap().fact
    };
    for (name, field) in [
        ("receipt_delivered", "kind"),
        ("receipt_delivered", "receipt"),
        ("engagement_read", "engagement"),
        ("opt_in_to_campaigns", "channel"),
        ("opt_in_to_campaigns", "purpose"),
    ] {
        assert_eq!(fact(name, field), Fact::Unknown, "{name} with a newer {field}");
    }
    // What is not said of a delivery is of no weight.
    assert!(matches!(fact("receipt_delivered", "channel"), Fact::Receipt { .. }));
    let everything = |channel, purpose| Fact::Consent {
        recipient: "rcp-000042".to_owned(),
        channel,
        purpose,
        granted: false,
    };
    assert_eq!(fact("opt_out_of_sms", "channel"), everything(None, None));
    assert_eq!(fact("opt_out_of_sms", "purpose"), everything(Some(Channel::Sms), None));
    assert_ne!(fact("opt_out_of_sms", "purpose"), everything(Some(Channel::Sms), Some(Purpose::Campaign)));
}

#[test]
fn a_truncated_update_is_rejected_wherever_it_ends() {
    for (name, json) in examples(TOPIC) {
        let whole = bytes(&json);
        assert!(PREPARED.decode_update(Some(&whole)).is_ok());
        for length in 0..whole.len() {
            let decoded = PREPARED.decode_update(Some(&whole[..length]));
            assert!(decoded.is_err(), "{name} cut to {length} bytes: {decoded:?}");
        }
    }
}

#[test]
fn each_kind_of_bad_value_has_its_reason() {
    let decode = |payload: Option<&[u8]>| reason_of(PREPARED.decode_update(payload)).0;
    let whole = bytes(&example(TOPIC, "receipt_delivered"));
    assert_eq!(decode(None), Reason::EmptyPayload);
    assert_eq!(decode(Some(&vec![0; PAYLOAD_MAX_BYTES + 1])), Reason::PayloadTooLarge);
    assert_eq!(decode(Some(br#"{"update_id": "1"}"#)), Reason::NotWireFormat);
    assert_eq!(decode(Some(&[&whole[..], b"\0"].concat())), Reason::Undecodable);
    // The subject's schema of another record.
    assert_eq!(decode(Some(&result_bytes("normal"))), Reason::IncompatibleSchema);
    assert_eq!(decode(Some(&[head(404), vec![0]].concat())), Reason::UnknownSchema);
}

#[tokio::test]
async fn what_is_only_read_is_not_written() {
    let encoder = Encoder::new(&registry().await.settings(), "").unwrap();
    let json = example(TOPIC, "cancel");
    let mut update = PREPARED.decode_update(Some(&bytes(&json))).unwrap();
    assert!(encoder.update(&update).await.is_ok());
    update.fact = Fact::Unknown;
    assert!(encoder.update(&update).await.is_err());
}

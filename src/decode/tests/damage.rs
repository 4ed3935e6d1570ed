//! Damaged records and values that cannot be used.

use super::*;

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
    let requests: [(&str, serde_json::Value); 9] = [
        ("caller", "CANARY!".into()),
        ("recipient", "CANARY Jane".into()),
        ("purpose", "unknown".into()),
        ("channels", vec!["sms", "sms"].into()),
        ("channels", vec!["sms"; 9].into()),
        ("expires_at", 1_795_600_000_000_i64.into()),
        ("variables", serde_json::json!({ "CANARY": "x" })),
        ("variables", serde_json::json!({ "note": "CANARY".repeat(100) })),
        // PostgreSQL takes no NUL: it would fail with all that is written beside it.
        ("variables", serde_json::json!({ "note": "CANARY\0" })),
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

//! A registry that is not always there.

use std::time::Duration;

use super::*;

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

//! What `/metrics` shows.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::lag::{GroupReading, GroupStanding, Ownership, PartitionReading, Retention, Window};

const CHILD: &str = "PATIENT_NOTIFY_TEST_METRICS";

fn call_all() {
    let span = Duration::from_millis(30);
    records("pat.test-results.v1", "done", 3);
    ignored("pat.test-results.v1", Reason::ConflictingDuplicate, 1);
    deliveries(Channel::Sms, "sent", 2);
    delivery_end(Channel::Email, "bounced");
    circuit(Channel::Sms, Some(span));
    provider_call(Channel::Sms, "sent", span);
    accept_to_provider(Purpose::TestResult, Urgency::Critical, span);
    statement("claim", 500, span);
    commit("ok");
    rebalance("assigned", 4, span);
    dead_letter("pat.test-results.v1", Reason::NotWireFormat);
    breaker_open(true);
    lease_lost(1);
    outcome_unknown(Channel::Push, 1);
    in_flight(5);
    in_flight(-2);
    partitions(60, 2);
    unavailable("postgres");
    outbox_published(7);
    batch_published(3);
    reminder("fired");
    due_claimed(8);
    grpc_request("NotificationService/Send", "OK", span);
    grpc_streams("NotificationService/Watch", 1);
    grpc_stream_ended("NotificationService/Watch", "UNAVAILABLE");
    webhook("twilio", "published");
    oldest_in_hand_age_ms(1500);
    queue(10, 4096);
    busy(0.25, Some(400.0));
}

/// A group of which partition 3 stands and partition 4 moves, after 10 s.
fn standing() -> GroupStanding {
    let partition = |partition, committed, high: i64| PartitionReading {
        topic: "pat.test-results.v1".to_owned(),
        partition,
        committed: Some(committed),
        low: 0,
        high,
        oldest_offset: (committed < high).then_some(committed),
        oldest_timestamp_ms: None,
        oldest_age_ms: (committed < high).then_some(10_000),
        lag_messages: high - committed,
        owner: Ownership::Owned(String::new()),
        retention: Retention::Endless,
    };
    let mut window = Window::new(Duration::from_secs(30));
    for second in [0, 10] {
        window.push(GroupReading {
            group: "g".to_owned(),
            group_state: None,
            members: 1,
            taken: Duration::from_secs(second),
            at_ms: 0,
            partitions: vec![partition(3, 5, 8), partition(4, second.cast_signed(), second.cast_signed())],
            missing_topics: Vec::new(),
        });
    }
    window.standing().unwrap()
}

/// Lag of owned partitions is shown as long as they are owned, and as long as somebody tells.
fn lag_comes_and_goes() {
    let owned = Arc::new(AtomicBool::new(true));
    let owns = Arc::clone(&owned);
    let teller = LagTeller::of_owned(move |_, partition| partition == 4 || owns.load(Ordering::Relaxed));
    teller.tell(standing());
    let text = render();
    let of = |partition| format!(r#"{{group="g",partition="{partition}",topic="pat.test-results.v1"}}"#);
    let topic = r#"{group="g",topic="pat.test-results.v1"}"#;
    for line in [
        format!("patient_notify_consumer_lag_messages{} 3", of(3)),
        format!("patient_notify_consumer_lag_seconds{} 0", of(4)),
        format!("patient_notify_consumer_partition_stalled{} 1", of(3)),
        format!("patient_notify_consumer_partition_stalled{} 0", of(4)),
        format!("patient_notify_consumer_partition_lost_records{} 0", of(4)),
        format!("patient_notify_consumer_retention_headroom_seconds{} +Inf", of(4)),
        format!("patient_notify_consumer_arrival_rate{topic} 1"),
        format!("patient_notify_consumer_processing_rate{topic} 1"),
        format!("patient_notify_consumer_drain_seconds{topic} +Inf"),
    ] {
        assert!(text.lines().any(|l| l == line), "missing: {line}\n{text}");
    }
    let age = format!("patient_notify_consumer_lag_seconds{} 10", of(3));
    assert!(text.contains(&age) && text.contains("patient_notify_consumer_reading_age_seconds"), "{text}");

    owned.store(false, Ordering::Relaxed);
    let text = render();
    assert!(!text.contains(r#"partition="3""#) && text.contains(r#"partition="4""#), "{text}");
    drop(teller);
    assert!(!render().contains("consumer_lag"), "nobody tells");
}

/// The instruments are one a process, and other tests of this binary count too:
/// the test proper runs in a process of its own.
#[test]
fn every_instrument_has_its_name_unit_and_labels() {
    let ended = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "metrics::tests::child", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && output.contains("1 passed"), "{output}");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the environment says whether it is the child")]
fn child() {
    if std::env::var(CHILD).is_err() {
        return;
    }
    call_all();
    let metrics = config::Config::from_defaults().metrics;
    init("test", &metrics).unwrap();
    init("test", &metrics).unwrap();
    call_all();
    let text = render();
    for line in [
        r#"patient_notify_records_total{outcome="done",topic="pat.test-results.v1"} 3"#,
        r#"patient_notify_ignored_total{reason="conflicting_duplicate",topic="pat.test-results.v1"} 1"#,
        r#"patient_notify_deliveries_total{channel="sms",outcome="sent"} 2"#,
        r#"patient_notify_provider_call_duration_seconds_count{channel="sms",outcome="sent"} 1"#,
        r#"patient_notify_accept_to_provider_duration_seconds_bucket{purpose="test_result",urgency="critical",le="10"} 1"#,
        r#"patient_notify_statement_duration_seconds_count{statement="claim"} 1"#,
        r#"patient_notify_statement_rows_sum{statement="claim"} 500"#,
        r#"patient_notify_commits_total{result="ok"} 1"#,
        r#"patient_notify_rebalances_total{kind="assigned"} 1"#,
        r#"patient_notify_rebalance_pause_duration_seconds_count{kind="assigned"} 1"#,
        r#"patient_notify_dead_letters_total{reason="not_wire_format",topic="pat.test-results.v1"} 1"#,
        "patient_notify_breaker_open 1",
        "patient_notify_leases_lost_total 1",
        r#"patient_notify_delivery_ends_total{channel="email",end="bounced"} 1"#,
        r#"patient_notify_circuit_open{channel="sms"} 1"#,
        r#"patient_notify_outcomes_unknown_total{channel="push"} 1"#,
        "patient_notify_in_flight 3",
        r#"patient_notify_partitions{state="assigned"} 60"#,
        r#"patient_notify_partitions{state="paused"} 2"#,
        r#"patient_notify_unavailable_total{dependency="postgres"} 1"#,
        "patient_notify_outbox_published_total 7",
        "patient_notify_batch_published_total 3",
        r#"patient_notify_reminders_total{result="fired"} 1"#,
        "patient_notify_due_claimed_total 8",
        r#"patient_notify_grpc_request_duration_seconds_count{code="OK",method="NotificationService/Send"} 1"#,
        r#"patient_notify_grpc_streams{method="NotificationService/Watch"} 1"#,
        r#"patient_notify_grpc_streams_ended_total{code="UNAVAILABLE",method="NotificationService/Watch"} 1"#,
        r#"patient_notify_webhook_requests_total{provider="twilio",result="published"} 1"#,
        "patient_notify_oldest_in_hand_age_seconds 1.5",
        "patient_notify_queue_records 10",
        "patient_notify_queue_bytes 4096",
        "patient_notify_processor_busy_ratio 0.25",
        "patient_notify_processor_true_rate 400",
        concat!("patient_notify_build_info{role=\"test\",version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(text.lines().any(|l| l == line), "missing: {line}\n{text}");
    }

    lag_comes_and_goes();
    for number in 0..2 * TOPICS_MAX {
        records(&format!("t-{number}"), "done", 1);
    }
    assert!(render().contains(r#"{outcome="done",topic="other"}"#));
    assert_eq!(render().matches("patient_notify_records_total{").count(), TOPICS_MAX + 1);
}

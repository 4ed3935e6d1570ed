//! What `/metrics` shows.

use super::*;

const CHILD: &str = "PATIENT_NOTIFY_TEST_METRICS";

fn call_all() {
    let span = Duration::from_millis(30);
    records("pat.test-results.v1", "done", 3);
    ignored("pat.test-results.v1", Reason::ConflictingDuplicate, 1);
    deliveries(Channel::Sms, "sent", 2);
    delivery_end(Channel::Email, "bounced");
    circuit_open(Channel::Sms, true);
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
        concat!("patient_notify_build_info{role=\"test\",version=\"", env!("CARGO_PKG_VERSION"), "\"} 1"),
    ] {
        assert!(text.lines().any(|l| l == line), "missing: {line}\n{text}");
    }

    for number in 0..2 * TOPICS_MAX {
        records(&format!("t-{number}"), "done", 1);
    }
    assert!(render().contains(r#"{outcome="done",topic="other"}"#));
    assert_eq!(render().matches("patient_notify_records_total{").count(), TOPICS_MAX + 1);
}

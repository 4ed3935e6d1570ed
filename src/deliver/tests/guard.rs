//! Bounds, breaker, configuration faults, and what is never printed.

use std::time::Instant;

use super::*;

#[tokio::test]
async fn an_outage_opens_the_breaker_and_answers_come_at_once() {
    let bench = bench().await;
    bench.fault(Channel::Sms, failing(500));
    for _ in 0..10 {
        assert_eq!(bench.send(&sms("+15550100001")).await, transient(Reason::ProviderError));
    }
    assert!(bench.providers.breaker_open(Channel::Sms));
    let refused = bench.send(&sms("+15550100001")).await;
    let SendOutcome::Transient { reason: Reason::ProviderUnreachable, after: Some(pause) } = refused else {
        panic!("not refused: {refused:?}")
    };
    assert!(pause <= Duration::from_secs(1));
    // The other channels go on.
    assert!(matches!(bench.send(&push("device-1")).await, SendOutcome::Sent { .. }));
    bench.sandbox.faults.clear();
    until("the breaker closes", async || {
        matches!(bench.send(&sms("+15550100001")).await, SendOutcome::Sent { .. })
    })
    .await;
    assert!(!bench.providers.breaker_open(Channel::Sms));
}

#[tokio::test]
async fn refusals_of_addresses_do_not_open_the_breaker() {
    let bench = bench().await;
    for _ in 0..30 {
        bench.send(&sms("+15005550001")).await;
    }
    assert!(!bench.providers.breaker_open(Channel::Sms));
}

#[tokio::test]
async fn calls_side_by_side_are_bounded_and_a_wait_has_an_end() {
    let bench = bench_with(|sections| {
        sections.sms.concurrency = 1;
        sections.sms.timeout_ms = 1500;
    })
    .await;
    bench.fault(Channel::Sms, ChannelFaults { latency_ms: 1000, ..ChannelFaults::default() });
    let messages: Vec<Message> = (0..4).map(|_| sms("+15550100001")).collect();
    let outcomes = futures::future::join_all(messages.iter().map(|message| bench.send(message))).await;
    let sent = outcomes.iter().filter(|outcome| matches!(outcome, SendOutcome::Sent { .. })).count();
    let waited = outcomes.iter().filter(|outcome| matches!(outcome, SendOutcome::Throttled { .. })).count();
    assert_eq!((sent, waited), (2, 2), "{outcomes:?}");
    // Throttled says: certainly not sent.
    assert_eq!(bench.sandbox.log.len(), 2);
}

#[tokio::test]
async fn an_urgent_message_does_not_wait_behind_bulk_that_came_first() {
    let bench = bench_with(|sections| sections.sms.concurrency = 2).await;
    bench.fault(Channel::Sms, ChannelFaults { latency_ms: 500, ..ChannelFaults::default() });
    let mut messages: Vec<Message> = (0..4).map(|_| bulk(sms("+15550100001"))).collect();
    messages.push(sms("+15550100002"));
    let outcomes = futures::future::join_all(messages.iter().map(|message| bench.send(message))).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, SendOutcome::Sent { .. })), "{outcomes:?}");
    let order: Vec<_> = bench.sandbox.log.all().iter().map(|one| one.to.expose().clone()).collect();
    let urgent = order.iter().position(|to| to == "+15550100002").unwrap();
    assert!(urgent < 2, "it came as number {urgent}, though one of two calls is free of bulk");
}

#[tokio::test]
async fn a_bulk_message_waits_for_a_call_no_longer_than_any_other() {
    let bench = bench_with(|sections| {
        sections.sms.concurrency = 2;
        sections.sms.timeout_ms = 1000;
    })
    .await;
    bench.fault(Channel::Sms, ChannelFaults { latency_ms: 700, ..ChannelFaults::default() });
    let messages: Vec<Message> = (0..5).map(|_| bulk(sms("+15550100001"))).collect();
    let begun = Instant::now();
    let outcomes = futures::future::join_all(messages.iter().map(|message| bench.send(message))).await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}: twice the time-out", begun.elapsed());
    let sent = outcomes.iter().filter(|outcome| matches!(outcome, SendOutcome::Sent { .. })).count();
    let waited = outcomes.iter().filter(|outcome| matches!(outcome, SendOutcome::Throttled { .. })).count();
    assert_eq!((sent, waited), (2, 3), "{outcomes:?}");
}

#[tokio::test]
async fn a_channel_that_is_off_says_so() {
    let bench = bench_with(|sections| {
        sections.push.enabled = false;
        sections.push.service_account_file = "nowhere".to_owned();
    })
    .await;
    assert!(!bench.providers.enabled(Channel::Push));
    assert_eq!(bench.send(&push("x")).await, SendOutcome::Permanent(Reason::ChannelDisabled));
}

#[tokio::test]
async fn instant_providers_answer_without_io() {
    let providers = Providers::instant();
    for message in [sms("x"), email("x", ""), push("x")] {
        assert!(providers.enabled(message.content.channel()));
        assert!(matches!(providers.send(&message).await, SendOutcome::Sent { .. }));
    }
}

#[test]
fn every_fault_of_the_configuration_is_named_at_once() {
    let mut sections = sections();
    sections.sms.base_url = "twilio.com".to_owned();
    sections.sms.account_sid = String::new();
    sections.sms.auth_token = Redacted::new(String::new());
    sections.sms.timeout_ms = 0;
    sections.email.smtp_tls = "ssl".to_owned();
    sections.email.from_address = "nobody".to_owned();
    sections.push.service_account_file = "/nowhere/account.json".to_owned();
    sections.push.concurrency = 0;
    let error = sections.providers().unwrap_err();
    let keys: Vec<&str> = error.faults.iter().map(|fault| fault.key).collect();
    for key in [
        "sms.base_url",
        "sms.account_sid",
        "sms.auth_token",
        "sms.timeout_ms",
        "email.smtp_tls",
        "email.from_address",
        "push.service_account_file",
        "push.concurrency",
    ] {
        assert!(keys.contains(&key), "{key} is missing in {error}");
    }
    assert!(error.to_string().contains("/nowhere/account.json cannot be read"));
}

#[tokio::test]
async fn nothing_that_is_printed_shows_a_patient_or_a_secret() {
    let bench = bench_with(|sections| sections.email.password = Redacted::new("CANARY".to_owned())).await;
    let content = Content::Email {
        subject: "CANARY".to_owned().into(),
        text: "CANARY".to_owned().into(),
        html: "CANARY".to_owned().into(),
    };
    let mail = message("CANARY@example.org", content);
    let text = message("+CANARY", Content::Sms { body: "CANARY".to_owned().into() });
    let mut printed = format!("{mail:?} {text:?} {:?} {:?}", bench.providers, bench.sandbox);
    for message in [&mail, &text, &email("bounce@CANARY", "CANARY"), &push("gone-CANARY")] {
        printed.push_str(&format!("{:?}", bench.send(message).await));
    }
    printed.push_str(&format!("{:?} {:?}", bench.sandbox.log, bench.sandbox.log.all()));
    assert_eq!(bench.sandbox.log.len(), 1);
    assert!(!printed.contains("CANARY"), "{printed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_is_a_clear_error_and_stopping_frees_it() {
    let dir = TempDir::new().unwrap();
    let first = Sandbox::start(SandboxOptions::in_dir(dir.path())).await.unwrap();
    let port = first.sms_address().port();
    let options = SandboxOptions { sms_port: port, ..SandboxOptions::in_dir(dir.path()) };
    let error = Sandbox::start(options.clone()).await.unwrap_err();
    assert!(error.to_string().contains(&format!("SMS port {port}")), "{error}");
    first.stop().await;
    Sandbox::start(options).await.unwrap().stop().await;
}

//! SMTP: every outcome, by the stage at which it came, and what travels.

use super::*;

const MAILBOX: &str = "pat@example.org";

#[tokio::test]
async fn a_message_arrives_as_it_was_written() {
    let bench = bench().await;
    // Dots at the heads of lines, a lone dot, accents, and a line that is too long for SMTP.
    let text = format!(".hidden\n.\n..two\nInicie sesión:\n{}\nend.", "long ".repeat(300).trim());
    let message = email(MAILBOX, &text);
    let SendOutcome::Sent { provider_message_id } = bench.send(&message).await else { panic!("not sent") };
    assert_eq!(provider_message_id, format!("{}.1@portal.example.org", message.delivery_id));
    let received = &bench.sandbox.log.all()[0];
    assert_eq!(received.provider_message_id, provider_message_id);
    assert_eq!(received.delivery_id, Some(message.delivery_id.0));
    assert_eq!(received.to.expose(), MAILBOX);
    assert_eq!(received.subject.expose(), "Tiene una cita el mié 2 dic");
    assert_eq!(received.body.expose().replace("\r\n", "\n").trim_end(), text);
}

#[tokio::test]
async fn one_session_carries_many_messages() {
    let bench = bench().await;
    for _ in 0..20 {
        assert!(matches!(bench.send(&email(MAILBOX, "hello")).await, SendOutcome::Sent { .. }));
        let bounced = bench.send(&email("bounce@example.org", "hello")).await;
        assert_eq!(bounced, SendOutcome::Permanent(Reason::InvalidAddress));
    }
    assert_eq!(bench.sandbox.log.count(Channel::Email), 20);
}

#[tokio::test]
async fn replies_have_their_classes() {
    let bench = bench().await;
    let cases = [
        ("bounce@example.org", SendOutcome::Permanent(Reason::InvalidAddress)),
        ("no mailbox", SendOutcome::Permanent(Reason::InvalidAddress)),
        ("a@b\r\nBcc: c@d.org", SendOutcome::Permanent(Reason::InvalidAddress)),
        ("blocked@example.org", SendOutcome::Permanent(Reason::ProviderRefused)),
        ("spam@example.org", SendOutcome::Permanent(Reason::ProviderRefused)),
        ("full@example.org", transient(Reason::ProviderError)),
        ("greylisted@example.org", SendOutcome::Throttled { after: Duration::from_secs(30) }),
    ];
    for (address, outcome) in cases {
        assert_eq!(bench.send(&email(address, "hello")).await, outcome, "{address}");
    }
    bench.fault(Channel::Email, failing(451));
    assert_eq!(bench.send(&email(MAILBOX, "hello")).await, transient(Reason::ProviderError));
    bench.fault(Channel::Email, failing(421));
    assert!(matches!(bench.send(&email(MAILBOX, "hello")).await, SendOutcome::Throttled { .. }));
    assert!(bench.sandbox.log.is_empty());
}

#[tokio::test]
async fn logging_in_works_and_a_refusal_is_ours_to_mend() {
    let good = bench_with(|sections| sections.email.username = "portal".to_owned()).await;
    assert!(matches!(good.send(&email(MAILBOX, "hello")).await, SendOutcome::Sent { .. }));
    let refused = bench_with(|sections| sections.email.username = "refused".to_owned()).await;
    assert_eq!(refused.send(&email(MAILBOX, "hello")).await, transient(Reason::ProviderCredentials));
}

#[tokio::test]
async fn without_starttls_on_offer_nothing_is_sent_in_the_clear() {
    let bench = bench_with(|sections| {
        sections.email.smtp_host = "localhost".to_owned();
        sections.email.smtp_tls = "starttls".to_owned();
    })
    .await;
    assert_eq!(bench.send(&email(MAILBOX, "hello")).await, transient(Reason::ProviderError));
    assert!(bench.sandbox.log.is_empty());
}

#[tokio::test]
async fn a_connection_lost_after_the_message_is_ambiguous() {
    let bench = bench().await;
    bench.fault(Channel::Email, dropping());
    let message = email(MAILBOX, "hello");
    assert_eq!(bench.send(&message).await, AMBIGUOUS);
    assert_eq!(bench.received(&message), 1);
}

#[tokio::test]
async fn no_answer_to_the_message_in_time_is_ambiguous() {
    let bench = bench_with(|sections| sections.email.timeout_ms = 300).await;
    bench.fault(Channel::Email, hanging());
    assert_eq!(bench.send(&email(MAILBOX, "hello")).await, AMBIGUOUS);
}

#[tokio::test]
async fn a_server_that_greets_nobody_was_not_reached() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let bench = bench_with(|sections| {
        sections.email.smtp_port = port;
        sections.email.timeout_ms = 300;
    })
    .await;
    assert_eq!(bench.send(&email(MAILBOX, "hello")).await, UNREACHABLE);
}

#[tokio::test]
async fn idle_sessions_that_the_server_closed_do_no_harm() {
    let bench = bench().await;
    assert!(matches!(bench.send(&email(MAILBOX, "hello")).await, SendOutcome::Sent { .. }));
    bench.fault(Channel::Email, refusing());
    until("the port is closed", async || bench.send(&email(MAILBOX, "x")).await == UNREACHABLE).await;
    bench.sandbox.faults.clear();
    until("it serves again", async || {
        matches!(bench.send(&email(MAILBOX, "hello")).await, SendOutcome::Sent { .. })
    })
    .await;
}

const LINKS: &str = "https://notify.example.org";

/// As [`bench`], with what links and events need.
async fn reporting_bench() -> Bench {
    bench_with(|sections| {
        sections.email.unsubscribe_base_url = LINKS.to_owned();
        sections.email.unsubscribe_key = Redacted::new("a key of at least thirty-two characters".to_owned());
        sections.email.event_webhook_public_key = "set".to_owned();
    })
    .await
}

#[tokio::test]
async fn one_click_ends_what_a_click_may_end_and_nothing_else() {
    let bench = reporting_bench().await;
    for purpose in Purpose::ALL.iter().copied() {
        let message = Message { purpose, ..email(MAILBOX, "hello") };
        assert!(matches!(bench.send(&message).await, SendOutcome::Sent { .. }));
        let received = bench.sandbox.log.all().pop().unwrap();
        let ends = matches!(purpose, Purpose::Campaign | Purpose::General | Purpose::AppointmentReminder);
        assert_eq!(received.unsubscribe.is_some(), ends, "{purpose}");
        let link = received.unsubscribe.as_ref().map(|link| link.expose().clone()).unwrap_or_default();
        assert!(!ends || link.starts_with(&format!("{LINKS}/webhooks/unsubscribe/")), "{link}");
        assert_eq!(received.delivery_id, Some(message.delivery_id.0), "its other headers are whole");
    }
    let plain = self::bench().await;
    assert!(matches!(plain.send(&email(MAILBOX, "hello")).await, SendOutcome::Sent { .. }));
    assert!(plain.sandbox.log.all()[0].unsubscribe.is_none(), "no key, no link");
}

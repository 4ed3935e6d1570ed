//! Twilio: every outcome, and the look-up that settles the unknown ones.

use jiff::Timestamp;

use super::*;
use crate::deliver::LookUp;

const NUMBER: &str = "+15550100042";

#[tokio::test]
async fn a_message_arrives_with_its_marks() {
    let bench = bench().await;
    let message = sms(NUMBER);
    let SendOutcome::Sent { provider_message_id } = bench.send(&message).await else { panic!("not sent") };
    assert!(provider_message_id.starts_with("SM"));
    let received = &bench.sandbox.log.all()[0];
    assert_eq!(received.provider_message_id, provider_message_id);
    assert_eq!(received.to.expose(), NUMBER);
    // From the address of the callback.
    assert_eq!(received.delivery_id, Some(message.delivery_id.0));
    assert_eq!(received.short_code, Some(message.delivery_id.short_code()));
}

#[tokio::test]
async fn without_a_callback_the_code_in_the_link_marks_it() {
    let bench = bench_with(|sections| sections.sms.status_callback_base_url.clear()).await;
    let message = sms(NUMBER);
    bench.send(&message).await;
    assert_eq!(bench.sandbox.log.all()[0].delivery_id, None);
    assert_eq!(bench.received(&message), 1);
}

#[tokio::test]
async fn addresses_are_refused_for_good() {
    let bench = bench().await;
    let cases = [
        ("+15005550001", Reason::InvalidAddress),
        ("not a number", Reason::InvalidAddress),
        ("+15005550009", Reason::InvalidAddress),
        ("+15005550004", Reason::OptedOut),
        ("+15005550003", Reason::ProviderRefused),
    ];
    for (number, reason) in cases {
        assert_eq!(bench.send(&sms(number)).await, SendOutcome::Permanent(reason), "{number}");
    }
    assert!(bench.sandbox.log.is_empty());
}

#[tokio::test]
async fn refused_credentials_are_ours_to_mend() {
    let bench = bench_with(|sections| sections.sms.auth_token = Redacted::new("wrong".to_owned())).await;
    assert_eq!(bench.send(&sms(NUMBER)).await, transient(Reason::ProviderCredentials));
}

#[tokio::test]
async fn statuses_have_their_classes() {
    let bench = bench().await;
    for status in [500, 502, 503] {
        bench.fault(Channel::Sms, failing(status));
        assert_eq!(bench.send(&sms(NUMBER)).await, transient(Reason::ProviderError), "{status}");
    }
    bench.fault(Channel::Sms, ChannelFaults { retry_after_s: 7, ..failing(503) });
    let after = Some(Duration::from_secs(7));
    assert_eq!(
        bench.send(&sms(NUMBER)).await,
        SendOutcome::Transient { reason: Reason::ProviderError, after }
    );
    bench.fault(Channel::Sms, ChannelFaults { retry_after_s: 9, ..failing(429) });
    assert_eq!(bench.send(&sms(NUMBER)).await, SendOutcome::Throttled { after: Duration::from_secs(9) });
    bench.fault(Channel::Sms, failing(429));
    assert_eq!(bench.send(&sms(NUMBER)).await, SendOutcome::Throttled { after: Duration::from_secs(1) });
    bench.fault(Channel::Sms, failing(404));
    assert_eq!(bench.send(&sms(NUMBER)).await, SendOutcome::Permanent(Reason::ProviderRefused));
    bench.fault(Channel::Sms, failing(504));
    assert_eq!(bench.send(&sms(NUMBER)).await, AMBIGUOUS);
}

#[tokio::test]
async fn no_answer_in_time_is_ambiguous() {
    let bench = bench_with(|sections| sections.sms.timeout_ms = 300).await;
    bench.fault(Channel::Sms, hanging());
    assert_eq!(bench.send(&sms(NUMBER)).await, AMBIGUOUS);
    // Kept by the provider, answered too late: the case that must not be sent again.
    bench.fault(Channel::Sms, ChannelFaults { latency_ms: 2000, ..ChannelFaults::default() });
    let late = sms(NUMBER);
    assert_eq!(bench.send(&late).await, AMBIGUOUS);
    assert_eq!(bench.received(&late), 1);
}

#[tokio::test]
async fn a_lost_answer_is_ambiguous_and_the_look_up_settles_it() {
    let bench = bench().await;
    let since = Timestamp::now();
    bench.fault(Channel::Sms, dropping());
    let taken = sms(NUMBER);
    assert_eq!(bench.send(&taken).await, AMBIGUOUS);
    let never_sent = sms(NUMBER);
    bench.sandbox.faults.clear();
    let id = bench.sandbox.log.all()[0].provider_message_id.clone();
    let found = LookUp::Found { provider_message_id: id };
    assert_eq!(bench.look_up(&taken, since).await, found);
    assert_eq!(bench.look_up(&never_sent, since).await, LookUp::NotFound);
}

#[tokio::test]
async fn the_look_up_reads_page_after_page_up_to_its_bound() {
    let bench = bench().await;
    let since = Timestamp::now();
    let first = sms(NUMBER);
    bench.send(&first).await;
    let log = &bench.sandbox.log;
    let other = |n: u32| {
        crate::sandbox::Received::new(Channel::Sms, format!("SM{n}"), NUMBER.to_owned(), String::new(), "x")
    };
    (0..600).for_each(|n| log.push(other(n)));
    assert!(matches!(bench.look_up(&first, since).await, LookUp::Found { .. }));
    (0..600).for_each(|n| log.push(other(n)));
    let unknown = bench.look_up(&first, since).await;
    assert_eq!(unknown, LookUp::Unavailable(Reason::ProviderError));
}

#[tokio::test]
async fn a_look_up_that_cannot_be_made_says_so() {
    let bench = bench().await;
    bench.fault(Channel::Sms, refusing());
    let message = sms(NUMBER);
    until("the port is closed", async || {
        bench.look_up(&message, Timestamp::now()).await == LookUp::Unavailable(Reason::ProviderUnreachable)
    })
    .await;
    assert_eq!(bench.look_up(&push("t"), Timestamp::now()).await, LookUp::Unsupported);
    assert_eq!(bench.look_up(&email("a@b.org", ""), Timestamp::now()).await, LookUp::Unsupported);
}

#[tokio::test]
async fn nobody_there_is_transient_and_it_comes_back() {
    let bench = bench().await;
    bench.fault(Channel::Sms, refusing());
    until("the port is closed", async || bench.send(&sms(NUMBER)).await == UNREACHABLE).await;
    bench.sandbox.faults.clear();
    until("it serves again", async || matches!(bench.send(&sms(NUMBER)).await, SendOutcome::Sent { .. }))
        .await;
}

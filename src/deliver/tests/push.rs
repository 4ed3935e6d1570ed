//! FCM: every outcome, and the life of an access token.

use std::path::PathBuf;

use super::*;

const DEVICE: &str = "device-42";

#[tokio::test]
async fn a_message_arrives_with_its_marks() {
    let bench = bench().await;
    let message = push(DEVICE);
    let SendOutcome::Sent { provider_message_id } = bench.send(&message).await else { panic!("not sent") };
    assert!(provider_message_id.starts_with("projects/sandbox/messages/"));
    let received = &bench.sandbox.log.all()[0];
    assert_eq!(received.delivery_id, Some(message.delivery_id.0));
    assert_eq!(received.to.expose(), DEVICE);
    assert_eq!(received.subject.expose(), "Example Health");
}

#[tokio::test]
async fn devices_are_refused_for_good() {
    let bench = bench().await;
    let cases = [
        ("gone-1", Reason::TokenInvalid),
        ("mismatch-1", Reason::TokenInvalid),
        ("bad-1", Reason::ProviderRefused),
    ];
    for (device, reason) in cases {
        assert_eq!(bench.send(&push(device)).await, SendOutcome::Permanent(reason), "{device}");
    }
}

#[tokio::test]
async fn statuses_have_their_classes() {
    let bench = bench().await;
    for status in [500, 503] {
        bench.fault(Channel::Push, failing(status));
        assert_eq!(bench.send(&push(DEVICE)).await, transient(Reason::ProviderError), "{status}");
    }
    bench.fault(Channel::Push, failing(429));
    assert_eq!(bench.send(&push(DEVICE)).await, SendOutcome::Throttled { after: Duration::from_secs(60) });
    bench.fault(Channel::Push, ChannelFaults { retry_after_s: 5, ..failing(429) });
    assert_eq!(bench.send(&push(DEVICE)).await, SendOutcome::Throttled { after: Duration::from_secs(5) });
    bench.fault(Channel::Push, failing(504));
    assert_eq!(bench.send(&push(DEVICE)).await, AMBIGUOUS);
}

#[tokio::test]
async fn a_lost_answer_and_no_answer_are_ambiguous() {
    let bench = bench_with(|sections| sections.push.timeout_ms = 500).await;
    bench.fault(Channel::Push, dropping());
    let message = push(DEVICE);
    assert_eq!(bench.send(&message).await, AMBIGUOUS);
    assert_eq!(bench.received(&message), 1);
    bench.fault(Channel::Push, hanging());
    assert_eq!(bench.send(&push(DEVICE)).await, AMBIGUOUS);
}

#[tokio::test]
async fn a_token_that_ended_is_renewed_after_one_refusal() {
    let bench = bench().await;
    assert!(matches!(bench.send(&push(DEVICE)).await, SendOutcome::Sent { .. }));
    bench.sandbox.revoke_tokens();
    assert_eq!(bench.send(&push(DEVICE)).await, transient(Reason::ProviderCredentials));
    assert!(matches!(bench.send(&push(DEVICE)).await, SendOutcome::Sent { .. }));
}

#[tokio::test]
async fn a_key_that_the_server_does_not_know_is_ours_to_mend() {
    let other = TempDir::new().unwrap();
    let stranger = Sandbox::start(SandboxOptions::in_dir(other.path())).await.unwrap();
    let mut account: serde_json::Value =
        serde_json::from_slice(&std::fs::read(stranger.service_account_file()).unwrap()).unwrap();
    let file = other.path().join("stranger.json");
    let bench = bench_with(|sections| {
        account["token_uri"] = format!("{}/token", sections.push.base_url).into();
        std::fs::write(&file, account.to_string()).unwrap();
        sections.push.service_account_file = file.to_string_lossy().into_owned();
    })
    .await;
    assert_eq!(bench.send(&push(DEVICE)).await, transient(Reason::ProviderCredentials));
}

#[tokio::test]
async fn nobody_there_is_transient() {
    let bench = bench().await;
    bench.fault(Channel::Push, refusing());
    until("the port is closed", async || bench.send(&push(DEVICE)).await == UNREACHABLE).await;
}

#[tokio::test]
async fn a_hundred_at_once_fetch_one_token() {
    let bench = bench().await;
    let messages: Vec<Message> = (0..100).map(|n| push(&format!("device-{n}"))).collect();
    let outcomes = futures::future::join_all(messages.iter().map(|message| bench.send(message))).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, SendOutcome::Sent { .. })));
    assert_eq!(bench.sandbox.tokens_issued(), 1);
}

#[tokio::test]
async fn the_key_survives_a_restart_and_only_its_owner_may_read_it() {
    use std::os::unix::fs::PermissionsExt as _;

    let dir = TempDir::new().unwrap();
    let key = async || {
        let sandbox = Sandbox::start(SandboxOptions::in_dir(dir.path())).await.unwrap();
        let file: PathBuf = sandbox.service_account_file().to_owned();
        sandbox.stop().await;
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let account: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        account["private_key"].as_str().unwrap().to_owned()
    };
    assert_eq!(key().await, key().await);
}

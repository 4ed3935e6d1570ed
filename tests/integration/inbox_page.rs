//! The page with the patients' messages, in a real browser.

use std::sync::Arc;
use std::time::Duration;

use patient_notify::sandbox::inbox_router;
use tokio::net::TcpListener;
use tokio::process::Command;

use crate::harness::{World, recipient, results};

/// Longest life of one browser.
const BROWSER_TIMEOUT: Duration = Duration::from_secs(60);

/// The page as it stands after its scripts have run.
pub(crate) async fn rendered(url: &str) -> String {
    let profile = tempfile::tempdir().unwrap();
    let browser = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--virtual-time-budget=4000", "--dump-dom", url])
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(BROWSER_TIMEOUT, browser).await.expect("the browser hangs");
    let output = output.expect("chromium is not there: `make test` installs it");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_shows_what_each_patient_got_and_finds_one_of_them() {
    let world = World::new().await;
    world.load(&(1..=3).map(recipient).collect::<Vec<_>>()).await;
    let consumer = world.role("consumer-test-result-notification", |_| {});
    consumer.ready().await;
    world.publish(&results(1, 12, 3)).await;
    world.until_sent(12, Duration::from_secs(30)).await;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = inbox_router(Arc::clone(&world.sandbox.log));
    let server = tokio::spawn(async move { axum::serve(listener, router).await });

    let page = rendered(&format!("http://{address}/inbox")).await;
    assert!(page.contains("12 messages"), "{page}");
    assert!(page.contains("0 doubled"), "{page}");
    let to = world.sandbox.log.latest(1, "").first().unwrap().to.expose().clone();
    assert!(page.contains(&to), "the newest message's address is not on the page");
    assert!(page.contains("/n/"), "no message has its link: {page}");
    for word in ["laboratory", "imaging", "pathology", "critical", "abnormal"] {
        assert!(!page.to_lowercase().contains(word), "the page says `{word}`, so a message does");
    }
    server.abort();
    consumer.stop().await.unwrap();
}

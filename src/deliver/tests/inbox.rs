//! The sandbox's pages: what a developer sees, and how faults are set.

use reqwest::Client;
use serde_json::Value;

use super::*;

async fn json(url: &str) -> Value {
    let response = Client::builder().no_proxy().build().unwrap().get(url).send().await.unwrap();
    serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
}

#[tokio::test]
async fn messages_are_shown_newest_first_and_can_be_searched() {
    let bench = bench().await;
    bench.send(&sms("+15550100001")).await;
    bench.send(&email("pat@example.org", "Hello")).await;
    bench.send(&push("device-7")).await;
    let base = format!("http://{}/inbox", bench.sandbox.sms_address());
    let all = json(&format!("{base}/messages?limit=2")).await;
    let channels: Vec<&str> =
        all.as_array().unwrap().iter().map(|m| m["channel"].as_str().unwrap()).collect();
    assert_eq!(channels, ["push", "email"]);
    let found = json(&format!("{base}/messages?address=0100001")).await;
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!(found[0]["to"], "+15550100001");
    let stats = json(&format!("{base}/stats")).await;
    assert_eq!(
        (&stats["total"], &stats["deliveries"], &stats["duplicates"]),
        (&3.into(), &3.into(), &0.into())
    );
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let bench = bench().await;
    let url = format!("http://{}/inbox", bench.sandbox.sms_address());
    let page = Client::builder().no_proxy().build().unwrap().get(url).send().await.unwrap();
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
    let text = page.text().await.unwrap();
    assert!(!text.contains("http://") && !text.contains("https://"));
}

#[tokio::test]
async fn faults_are_set_over_http() {
    let bench = bench().await;
    let url = format!("http://{}/sandbox/faults/push", bench.sandbox.sms_address());
    let client = Client::builder().no_proxy().build().unwrap();
    let wanted = serde_json::json!({ "fail_percent": 100, "fail_status": 503 });
    let set = client.put(&url).json(&wanted).send().await.unwrap();
    assert!(set.status().is_success());
    assert_eq!(json(&url).await["fail_status"], 503);
    assert_eq!(bench.send(&push("device-1")).await, transient(Reason::ProviderError));
}

//! The API server, as much of it as is looked at again and again.

use std::time::Duration;

use reqwest::{Certificate, Client, Identity};
use serde_json::Value;

use super::certs::Certs;

/// The deployments' namespace.
pub const NAMESPACE: &str = "pat--notification--be";
/// Longest wait for an answer, on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Asks with every right.
#[derive(Clone)]
pub struct Api {
    client: Client,
    base: String,
}

impl Api {
    pub(super) fn new(port: u16, certs: &Certs) -> Self {
        let (cert, key) = &certs.admin;
        let identity = Identity::from_pem(format!("{key}{cert}").as_bytes()).unwrap();
        let ca = Certificate::from_pem(certs.ca.as_bytes()).unwrap();
        let client =
            Client::builder().tls_certs_only([ca]).identity(identity).timeout(TIMEOUT).build().unwrap();
        Self { client, base: format!("https://127.0.0.1:{port}") }
    }

    pub(super) async fn is_ready(&self) -> bool {
        let answer = self.client.get(format!("{}/readyz", self.base)).send().await;
        answer.is_ok_and(|answer| answer.status().is_success())
    }

    /// An object or a list of the namespace: `group` as `apis/apps/v1`, `path` as
    /// `deployments/NAME`.
    pub async fn get(&self, group: &str, path: &str) -> Value {
        let url = format!("{}/{group}/namespaces/{NAMESPACE}/{path}", self.base);
        let answer = self.client.get(url).send().await.expect("the API server");
        answer.json().await.expect("JSON")
    }

    /// Says that a pod is there and ready, as its node would.
    pub async fn set_ready(&self, pod: &str) {
        let url = format!("{}/api/v1/namespaces/{NAMESPACE}/pods/{pod}/status", self.base);
        let ready = serde_json::json!({ "status": { "phase": "Running", "conditions": [
            { "type": "Ready", "status": "True" }, { "type": "ContainersReady", "status": "True" },
        ]}});
        let body = serde_json::to_vec(&ready).unwrap();
        let patch = self.client.patch(url).header("content-type", "application/merge-patch+json").body(body);
        // A pod that has just gone needs it no more.
        let _ = patch.send().await;
    }
}

//! What the manifests say of the deployments that are scaled, and how they stand.

use serde_json::Value;

use crate::bed::Api;

/// A deployment that something scales.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    /// Name of its ScaledObject and of its HPA; the role's name for consumers.
    pub name: &'static str,
    /// Its Deployment.
    pub deployment: &'static str,
    /// Replicas at least.
    pub min: i64,
    /// Replicas at most.
    pub max: i64,
}

/// Test results to patients.
pub const RESULTS: Workload = Workload {
    name: "consumer-test-result-notification",
    deployment: "pat--notification--be--consumer-test-result-notification--prod",
    min: 6,
    max: 15,
};
/// Requested notifications to patients.
pub const REQUESTS: Workload = Workload {
    name: "consumer-notification",
    deployment: "pat--notification--be--consumer-notification--prod",
    min: 3,
    max: 10,
};
/// Receipts, readings, opt-outs.
pub const UPDATES: Workload = Workload {
    name: "consumer-notification-update",
    deployment: "pat--notification--be--consumer-notification-update--prod",
    min: 3,
    max: 8,
};
/// Deferred deliveries.
pub const DUE: Workload = Workload {
    name: "wrk--notifications",
    deployment: "pat--notification--be--wrk--notifications--prod",
    min: 2,
    max: 6,
};
/// All of them.
pub const ALL: [Workload; 4] = [RESULTS, REQUESTS, UPDATES, DUE];

/// How a workload stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Replicas that the HPA wants; `None`: there is no HPA yet.
    pub wanted: Option<i64>,
    /// Replicas that the Deployment asks for.
    pub asked: i64,
    /// Pods that are ready.
    pub ready: i64,
}

impl Workload {
    /// Looks.
    pub async fn standing(&self, api: &Api) -> Standing {
        let hpa = format!("horizontalpodautoscalers/{}", self.name);
        let deployment = format!("deployments/{}", self.deployment);
        let (hpa, deployment) =
            tokio::join!(api.get("apis/autoscaling/v2", &hpa), api.get("apis/apps/v1", &deployment));
        Standing {
            wanted: hpa["status"]["desiredReplicas"].as_i64(),
            asked: deployment["spec"]["replicas"].as_i64().unwrap_or(0),
            ready: deployment["status"]["readyReplicas"].as_i64().unwrap_or(0),
        }
    }

    /// Names of its pods that are to be there.
    pub async fn pods(&self, api: &Api) -> Vec<String> {
        let of_name = format!("pods?labelSelector=app.kubernetes.io/name%3D{}", self.name);
        let pods = api.get("api/v1", &of_name).await;
        let items = pods["items"].as_array().map_or(&[][..], Vec::as_slice);
        let stays = |pod: &&Value| pod["metadata"]["deletionTimestamp"].is_null();
        let name = |pod: &Value| pod["metadata"]["name"].as_str().map(str::to_owned);
        items.iter().filter(stays).filter_map(name).collect()
    }
}

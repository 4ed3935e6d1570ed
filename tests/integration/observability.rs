//! Debian's own Prometheus scrapes running roles: every recording and alert rule of
//! `deploy/observability` can be evaluated, and an outage is seen by the rule that is about it.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use patient_notify::dev::{Tools, default_tools_dir};
use patient_notify::domain::Channel;
use patient_notify::sandbox::ChannelFaults;
use serde_json::{Value, json};

use crate::harness::{Process, World, eventually, free_address, results, sms_only};

const DEADLINE: Duration = Duration::from_secs(60);

/// A Prometheus that reads our rules, each a second; killed when it is dropped.
struct Prometheus {
    child: Child,
    address: String,
    http: reqwest::Client,
    _dir: tempfile::TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It holds nothing that is worth an orderly end.
        let _ = self.child.kill().and_then(|()| self.child.wait().map(drop));
    }
}

impl Prometheus {
    /// `targets`: the workload and address of each process.
    fn start(targets: &[(&str, String)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        copy_rules(dir.path());
        let scraped: Vec<Value> = targets
            .iter()
            .map(|(workload, address)| {
                let labels = json!({
                    "workload": workload, "pod": format!("{workload}-0"), "namespace": "pat--notification--be",
                });
                json!({"targets": [address], "labels": labels})
            })
            .collect();
        // JSON is YAML, too.
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [dir.path().join("*.yaml")],
            "scrape_configs": [{"job_name": "patient-notify", "static_configs": scraped}],
        });
        let file = dir.path().join("prometheus.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let address = free_address();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program())
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("prometheus is not there: `make test` installs it");
        let http = reqwest::Client::builder().timeout(Duration::from_secs(5)).build().unwrap();
        Self { child, address, http, _dir: dir }
    }

    /// What its API says; `None`: nothing yet.
    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let asked = self.http.get(format!("http://{}/api/v1/{path}", self.address)).query(query);
        let said: Value = asked.send().await.ok()?.json().await.ok()?;
        assert_eq!(said["status"], "success", "{path} {query:?}: {said}");
        Some(said["data"].clone())
    }

    /// The greatest value that an expression has now; `None`: it has none.
    async fn value(&self, expression: &str) -> Option<f64> {
        let found = self.get("query", &[("query", expression)]).await?;
        let values = found["result"].as_array()?.iter();
        values.filter_map(|one| one["value"][1].as_str()?.parse::<f64>().ok()).reduce(f64::max)
    }

    /// Every rule, by what it is called and how its last evaluation went.
    async fn rules(&self) -> Option<Vec<(String, String)>> {
        let groups = self.get("rules", &[]).await?;
        let rules =
            groups["groups"].as_array()?.iter().filter_map(|group| group["rules"].as_array()).flatten();
        let word = |rule: &Value, key: &str| rule[key].as_str().unwrap_or_default().to_owned();
        Some(
            rules
                .map(|rule| {
                    let name = word(rule, "name");
                    (name, format!("{} {}", word(rule, "health"), word(rule, "lastError")).trim().to_owned())
                })
                .collect(),
        )
    }
}

fn program() -> PathBuf {
    Tools::open(default_tools_dir()).expect("the servers run from there").prometheus()
}

/// Our rules, evaluated each second rather than as often as an operator needs them.
fn copy_rules(to: &Path) {
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/observability/rules");
    for file in std::fs::read_dir(rules).unwrap() {
        let file = file.unwrap();
        let text = std::fs::read_to_string(file.path()).unwrap();
        let often: String = text
            .lines()
            .map(|line| match line.split_once("interval: ") {
                Some((before, _)) if before.trim().is_empty() => format!("{before}interval: 1s\n"),
                _ => format!("{line}\n"),
            })
            .collect();
        std::fs::write(to.join(file.file_name()), often).unwrap();
    }
}

const ROLES: [(&str, &str); 4] = [
    ("consumer-test-result-notification", "consumer-test-result-notification"),
    ("wrk-notifications", "wrk--notifications"),
    ("wrk-default", "wrk--default"),
    ("cron", "cron"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rule_is_evaluated_on_what_running_roles_tell() {
    let world = World::new().await;
    world.load(&(1..=4).map(sms_only).collect::<Vec<_>>()).await;
    let mut processes: Vec<Process> = ROLES.iter().map(|(role, _)| world.process(role, &[])).collect();
    let mut targets = Vec::new();
    for (process, (_, workload)) in processes.iter_mut().zip(ROLES) {
        targets.push((workload, process.metrics_address().await));
    }
    let prometheus = Prometheus::start(&targets);

    let rules = eventually("every rule has been evaluated", DEADLINE, async || {
        prometheus.rules().await.filter(|rules| {
            !rules.is_empty() && rules.iter().all(|(_, health)| !health.starts_with("unknown"))
        })
    })
    .await;
    let broken: Vec<_> = rules.iter().filter(|(_, health)| health != "ok").collect();
    assert!(broken.is_empty(), "{broken:?}");
    assert!(rules.len() > 50, "only {} rules", rules.len());
    eventually("all roles are scraped", DEADLINE, async || {
        prometheus.value("count(up == 1)").await == Some(ROLES.len() as f64)
    })
    .await;

    // The provider is away: its circuit opens, and the alert waits only for its two minutes.
    world.sandbox.faults.set(Channel::Sms, ChannelFaults { fail_percent: 100, ..ChannelFaults::default() });
    world.publish(&results(1, 40, 4)).await;
    let pending = r#"ALERTS{alertname="PatientNotifyCircuitOpen", channel="sms", alertstate="pending"}"#;
    eventually("the open circuit is seen", DEADLINE, async || prometheus.value(pending).await).await;
    for series in [
        r#"patient_notify_build_info{workload="cron"}"#,
        "topic:patient_notify_consumer_lag_messages:sum",
        "topic:patient_notify_consumer_lag_seconds:max",
        "workload:patient_notify_processor_busy_ratio:avg",
        r#"patient_notify_due_depth{queue="deliveries"}"#,
    ] {
        eventually(series, DEADLINE, async || prometheus.value(series).await).await;
    }

    // It is back: what was held goes out, and nobody is told.
    world.sandbox.faults.clear();
    world.until_sent(40, DEADLINE).await;
    world.publish(&results(2, 8, 4)).await;
    eventually("the closed circuit is seen", DEADLINE, async || prometheus.value(pending).await.is_none())
        .await;
}

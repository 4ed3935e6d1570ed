//! A real control plane on loopback: etcd, kube-apiserver, kube-controller-manager with the
//! HPA, and KEDA's operator, metrics adapter and webhooks. There is no kubelet: pods are
//! admitted and stay pending, which the HPA does not mind for a metric per pod.

mod api;
mod certs;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

pub use api::{Api, NAMESPACE};
use certs::Certs;
use patient_notify::dev::{Tools, default_tools_dir};

use crate::harness::{eventually, free_port, spawn, tied};

/// How long one program may take to come up, on a busy machine.
const UP_TIMEOUT: Duration = Duration::from_secs(180);
/// How often the HPA looks; Kubernetes' default.
const HPA_SYNC: &str = "15s";
const CONTROLLERS: &str = "deployment-controller,replicaset-controller,horizontal-pod-autoscaler-controller,\
    namespace-controller,serviceaccount-controller,garbage-collector-controller,pod-garbage-collector-controller,\
    root-ca-certificate-publisher-controller,clusterrole-aggregation-controller";
/// KEDA's own roles, of its source's `config`.
const KEDA_ROLES: [&str; 5] = [
    "service_account/service_account",
    "rbac/role",
    "rbac/role_binding",
    "metrics-server/role",
    "metrics-server/role_binding",
];

/// The running control plane; it ends when it is dropped.
pub struct Bed {
    /// Its API.
    pub api: Api,
    dir: PathBuf,
    bed: PathBuf,
    kubectl: PathBuf,
    certs: Certs,
    ports: Ports,
    // Those that were started last end first.
    daemons: Mutex<Vec<Daemon>>,
}

struct Daemon {
    name: &'static str,
    log: PathBuf,
    child: Child,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Ports {
    etcd: u16,
    etcd_peers: u16,
    api: u16,
    controllers: u16,
    operator_metrics: u16,
    operator_health: u16,
    /// KEDA's adapter asks its operator here.
    metrics_service: u16,
    adapter: u16,
    adapter_metrics: u16,
    webhooks: u16,
    webhooks_metrics: u16,
    webhooks_health: u16,
}

impl Ports {
    fn free() -> Self {
        Self {
            etcd: free_port(),
            etcd_peers: free_port(),
            api: free_port(),
            controllers: free_port(),
            operator_metrics: free_port(),
            operator_health: free_port(),
            metrics_service: free_port(),
            adapter: free_port(),
            adapter_metrics: free_port(),
            webhooks: free_port(),
            webhooks_metrics: free_port(),
            webhooks_health: free_port(),
        }
    }
}

impl Bed {
    /// Starts everything, with its state and logs in a folder.
    pub async fn start(dir: &Path) -> Self {
        let tools = Tools::open(default_tools_dir()).expect("the servers run from there");
        let bed = tools.keda_bed();
        assert!(
            bed.join(".installed").exists(),
            "no control plane in {}: run `make test-keda`",
            bed.display()
        );
        let certs = Certs::make(&dir.join("pki"));
        let ports = Ports::free();
        let api = Api::new(ports.api, &certs);
        let (dir, kubectl) = (dir.to_owned(), tools.kubectl());
        let it = Self { api, dir, bed, kubectl, certs, ports, daemons: Mutex::default() };
        it.start_control_plane().await;
        it.start_keda().await;
        it
    }

    async fn start_control_plane(&self) {
        let ports = &self.ports;
        let (etcd, peers) =
            (format!("http://127.0.0.1:{}", ports.etcd), format!("http://127.0.0.1:{}", ports.etcd_peers));
        let data = self.dir.join("etcd");
        self.spawn("etcd", |command| {
            command.args(["--unsafe-no-fsync", "--logger=zap", "--log-level=error"]);
            command.arg("--data-dir").arg(data);
            command.args(["--listen-client-urls", &etcd, "--advertise-client-urls", &etcd]);
            command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
            command.args(["--initial-cluster", &format!("default={peers}")]);
        });
        let flags = self.api_flags(&etcd);
        self.spawn("kube-apiserver", |command| {
            command.args(flags);
        });
        self.await_up("kube-apiserver", async |bed| bed.api.is_ready().await).await;
        for (user, pair) in [("admin", "admin"), ("kcm", "kcm")] {
            let (cert, key) =
                (self.certs.path(&format!("{pair}.crt")), self.certs.path(&format!("{pair}.key")));
            self.write_kubeconfig(user, &format!("client-certificate: {cert}, client-key: {key}"));
        }
        let flags = vec![
            format!("--kubeconfig={}", self.kubeconfig("kcm")),
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.ports.controllers),
            "--leader-elect=false".to_owned(),
            "--use-service-account-credentials=true".to_owned(),
            format!("--service-account-private-key-file={}", self.certs.path("sa.key")),
            format!("--root-ca-file={}", self.certs.path("ca.crt")),
            format!("--horizontal-pod-autoscaler-sync-period={HPA_SYNC}"),
            format!("--controllers={CONTROLLERS}"),
        ];
        self.spawn("kube-controller-manager", |command| {
            command.args(flags);
        });
    }

    fn api_flags(&self, etcd: &str) -> Vec<String> {
        let path = |name: &str| self.certs.path(name);
        vec![
            format!("--etcd-servers={etcd}"),
            "--bind-address=127.0.0.1".to_owned(),
            "--advertise-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.ports.api),
            "--endpoint-reconciler-type=none".to_owned(),
            format!("--tls-cert-file={}", path("server.crt")),
            format!("--tls-private-key-file={}", path("server.key")),
            format!("--client-ca-file={}", path("ca.crt")),
            "--authorization-mode=RBAC".to_owned(),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={}", path("sa.pub")),
            format!("--service-account-signing-key-file={}", path("sa.key")),
            "--service-cluster-ip-range=10.96.0.0/16".to_owned(),
            format!("--requestheader-client-ca-file={}", path("ca.crt")),
            "--requestheader-allowed-names=front-proxy-client".to_owned(),
            "--requestheader-extra-headers-prefix=X-Remote-Extra-".to_owned(),
            "--requestheader-group-headers=X-Remote-Group".to_owned(),
            "--requestheader-username-headers=X-Remote-User".to_owned(),
            format!("--proxy-client-cert-file={}", path("front-proxy.crt")),
            format!("--proxy-client-key-file={}", path("front-proxy.key")),
            "--enable-aggregator-routing=false".to_owned(),
            "--profiling=false".to_owned(),
            "--disable-admission-plugins=TaintNodesByCondition".to_owned(),
        ]
    }

    async fn start_keda(&self) {
        self.apply_objects("apiVersion: v1\nkind: Namespace\nmetadata: {name: keda}\n");
        let config = self.bed.join("config");
        self.kubectl(&["apply", "--server-side", "-f", config.join("crd/bases").to_str().unwrap()]);
        for role in KEDA_ROLES {
            self.kubectl(&["apply", "-f", config.join(format!("{role}.yaml")).to_str().unwrap()]);
        }
        self.apply_objects(&self.metrics_api());
        self.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=120s"]);
        let token = self.kubectl(&["-n", "keda", "create", "token", "keda-operator", "--duration=24h"]);
        self.write_kubeconfig("keda", &format!("token: {}", token.trim()));

        let (health, ports) = (self.ports.operator_health, &self.ports);
        let operator = vec![
            "--zap-encoder=console".to_owned(),
            format!("--metrics-bind-address=127.0.0.1:{}", ports.operator_metrics),
            format!("--health-probe-bind-address=127.0.0.1:{health}"),
            format!("--metrics-service-bind-address=127.0.0.1:{}", ports.metrics_service),
            format!("--cert-dir={}", self.certs.path("keda")),
        ];
        self.spawn_keda("keda-operator", operator);
        let service = self.ports.metrics_service;
        self.await_up("keda-operator", async |_| answers(health).await && listens(service).await).await;
        let adapter = self.adapter_flags();
        self.spawn_keda("keda-adapter", adapter);
        let (health, ports) = (self.ports.webhooks_health, &self.ports);
        let webhooks = vec![
            format!("--cert-dir={}", self.certs.path("keda")),
            format!("--port={}", ports.webhooks),
            format!("--metrics-bind-address=127.0.0.1:{}", ports.webhooks_metrics),
            format!("--health-probe-bind-address=127.0.0.1:{health}"),
            "--zap-encoder=console".to_owned(),
        ];
        self.spawn_keda("keda-webhooks", webhooks);
        self.await_up("keda-webhooks", async |_| answers(health).await).await;
        self.apply_objects(&self.webhooks());
        let wait = ["wait", "--for=condition=Available", "--timeout=180s"];
        self.kubectl(&[&wait[..], &["apiservice/v1beta1.external.metrics.k8s.io"]].concat());
    }

    fn adapter_flags(&self) -> Vec<String> {
        let keda = self.kubeconfig("keda");
        vec![
            "--bind-address=127.0.0.1".to_owned(),
            format!("--secure-port={}", self.ports.adapter),
            format!("--port={}", self.ports.adapter_metrics),
            "--zap-log-level=error".to_owned(),
            format!("--client-ca-file={}", self.certs.path("ca.crt")),
            format!("--tls-cert-file={}", self.certs.path("keda/tls.crt")),
            format!("--tls-private-key-file={}", self.certs.path("keda/tls.key")),
            format!("--cert-dir={}", self.certs.path("keda")),
            format!("--metrics-service-address=127.0.0.1:{}", self.ports.metrics_service),
            format!("--lister-kubeconfig={keda}"),
            format!("--authentication-kubeconfig={keda}"),
            format!("--authorization-kubeconfig={keda}"),
        ]
    }

    /// KEDA's adapter as the server of external metrics.
    fn metrics_api(&self) -> String {
        let ca = in_base64(&self.certs.ca);
        let port = self.ports.adapter;
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: keda-metrics-apiserver, namespace: keda}}\n\
             spec: {{type: ExternalName, externalName: localhost, ports: [{{name: https, port: {port}}}]}}\n\
             ---\napiVersion: apiregistration.k8s.io/v1\nkind: APIService\n\
             metadata: {{name: v1beta1.external.metrics.k8s.io}}\n\
             spec:\n  service: {{name: keda-metrics-apiserver, namespace: keda, port: {port}}}\n  \
             group: external.metrics.k8s.io\n  version: v1beta1\n  groupPriorityMinimum: 100\n  \
             versionPriority: 100\n  caBundle: {ca}\n"
        )
    }

    /// KEDA's own configuration of its webhooks, called on loopback. What they cannot check is
    /// refused.
    fn webhooks(&self) -> String {
        let file = self.bed.join("config/webhooks/validation_webhooks.yaml");
        let text = std::fs::read_to_string(file).unwrap();
        let mut out = String::new();
        for line in text.replace("failurePolicy: Ignore", "failurePolicy: Fail").lines() {
            match line.trim().split_once(": ") {
                None if line.trim() == "service:" => {}
                Some(("name", "keda-admission-webhooks") | ("namespace", "keda")) => {}
                Some(("path", path)) => {
                    let (port, ca) = (self.ports.webhooks, in_base64(&self.certs.ca));
                    out += &format!("    url: https://127.0.0.1:{port}{path}\n    caBundle: {ca}\n");
                }
                _ => out += &format!("{line}\n"),
            }
        }
        out
    }

    fn spawn_keda(&self, name: &'static str, flags: Vec<String>) {
        let kubeconfig = self.kubeconfig("keda");
        self.spawn(name, |command| {
            command.args(flags).env("KUBECONFIG", kubeconfig).env("WATCH_NAMESPACE", "");
            command.env("POD_NAMESPACE", "keda").env("KEDA_CLUSTER_OBJECT_NAMESPACE", "keda");
        });
    }

    fn spawn(&self, name: &'static str, flags: impl FnOnce(&mut Command)) {
        let log = self.dir.join(format!("{name}.log"));
        let output = File::create(&log).unwrap();
        let mut command = tied(self.bed.join("bin").join(name));
        flags(&mut command);
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output);
        let child = spawn(command);
        self.daemons.lock().unwrap().insert(0, Daemon { name, log, child });
    }

    /// Waits until a program is up; it must not end before that.
    async fn await_up(&self, name: &'static str, is_up: impl AsyncFn(&Self) -> bool) {
        eventually(&format!("{name} is up"), UP_TIMEOUT, async || {
            self.assert_running();
            is_up(self).await
        })
        .await;
    }

    /// Panics with the end of its log when a program has ended.
    pub fn assert_running(&self) {
        for daemon in self.daemons.lock().unwrap().iter_mut() {
            if let Some(status) = daemon.child.try_wait().unwrap() {
                let log = std::fs::read_to_string(&daemon.log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let end = lines[lines.len().saturating_sub(15)..].join("\n");
                panic!("{} ended ({status}):\n{end}", daemon.name);
            }
        }
    }

    /// Runs kubectl with every right; it must succeed.
    pub fn kubectl(&self, args: &[&str]) -> String {
        let told = self.try_kubectl(args, "");
        told.unwrap_or_else(|error| panic!("kubectl {}: {error}", args.join(" ")))
    }

    /// Runs kubectl with this on its input, and gives what it printed, or its errors.
    pub fn try_kubectl(&self, args: &[&str], input: &str) -> Result<String, String> {
        let mut command = Command::new(&self.kubectl);
        command
            .args(args)
            .env("KUBECONFIG", self.kubeconfig("admin"))
            .env("KUBECACHEDIR", self.dir.join("cache"));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl");
        // kubectl reads all of it before it says anything.
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let told = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if told.status.success() { Ok(text(told.stdout)) } else { Err(text(told.stderr)) }
    }

    /// What kubectl makes of a kustomization.
    pub fn render(&self, folder: &Path) -> String {
        self.kubectl(&["kustomize", folder.to_str().unwrap()])
    }

    /// Applies objects as `deploy/apply.sh` does.
    pub fn apply_objects(&self, objects: &str) -> String {
        self.try_apply(objects).unwrap_or_else(|error| panic!("the cluster refuses: {error}"))
    }

    /// The same; `Err`: what the API server or a webhook said.
    pub fn try_apply(&self, objects: &str) -> Result<String, String> {
        let apply = [
            "apply",
            "--server-side",
            "--field-manager",
            "patient-notify",
            "--validate=strict",
            "--filename",
            "-",
        ];
        self.try_kubectl(&apply, objects)
    }

    fn kubeconfig(&self, user: &str) -> String {
        self.dir.join(format!("{user}.kubeconfig")).to_str().unwrap().to_owned()
    }

    fn write_kubeconfig(&self, user: &str, credentials: &str) {
        let (port, ca) = (self.ports.api, self.certs.path("ca.crt"));
        let text = format!(
            "apiVersion: v1\nkind: Config\n\
             clusters: [{{name: bed, cluster: {{server: 'https://127.0.0.1:{port}', certificate-authority: {ca}}}}}]\n\
             contexts: [{{name: bed, context: {{cluster: bed, user: u}}}}]\ncurrent-context: bed\n\
             users: [{{name: u, user: {{{credentials}}}}}]\n"
        );
        std::fs::write(self.kubeconfig(user), text).unwrap();
    }
}

fn in_base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

async fn answers(port: u16) -> bool {
    let answer = reqwest::get(format!("http://127.0.0.1:{port}/readyz")).await;
    answer.is_ok_and(|answer| answer.status().is_success())
}

async fn listens(port: u16) -> bool {
    tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
}

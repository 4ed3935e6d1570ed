//! Each deployment starts alone, says how it is, stops when it is told to; and a
//! faulty configuration is told whole before anything starts.

use std::time::Duration;

use patient_notify::config::Config;

use crate::harness::{BrokerProxy, Process, Proxy, World, eventually, recipient, result};
use crate::tools::{get, printed, tool_with};

const DEADLINE: Duration = Duration::from_secs(60);
const EXIT_USAGE: i32 = 64;
const EXIT_UNAVAILABLE: i32 = 69;
const ROLES: [&str; 8] = [
    "app",
    "consumer-test-result-notification",
    "consumer-notification",
    "consumer-notification-update",
    "wrk-notifications",
    "wrk-default",
    "wrk-batch-publisher",
    "cron",
];

/// Waits until the process says that it is ready; gives the base of its probes.
async fn ready(process: &mut Process) -> String {
    let base = format!("http://{}", process.metrics_address().await);
    eventually("it is ready", DEADLINE, async || {
        assert!(process.is_running(), "it ended");
        get(&format!("{base}/health/ready")).await.0 == 200
    })
    .await;
    base
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_fault_is_told_at_once_and_nothing_starts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("prod.toml");
    let text = "[kafka]\nreplication_factor = 0\nbootstrap_server = 'a:1'\n[sms]\ntimeout_ms = 90000\n";
    std::fs::write(&file, text).unwrap();
    let faulty = [
        ("PATIENT_NOTIFY_CONFIG", file.to_str().unwrap()),
        ("PATIENT_NOTIFY_EMAIL__SMTP_TLS", "perhaps"),
        ("PATIENT_NOTIFY_PLAN__PORTL_URL", "https://portal.example.org"),
        ("PATIENT_NOTIFY_APP__LISTEN", "everywhere"),
    ];
    let config = Config::from_defaults();
    for command in [&["config", "check"][..], &["app"], &["consumer-notification"], &["topics", "apply"]] {
        let ended = tool_with(&config, command, &faulty).await;
        assert_eq!(ended.status.code(), Some(EXIT_USAGE), "{command:?}: {}", printed(&ended));
        assert!(ended.stdout.is_empty(), "{command:?}: faults go to stderr");
        for named in [
            "kafka.replication_factor",
            "did you mean kafka.bootstrap_servers?",
            "processor.lease_ms with sms.timeout_ms",
            "email.smtp_tls",
            "did you mean PATIENT_NOTIFY_PLAN__PORTAL_URL?",
            "app.listen",
        ] {
            assert!(
                printed(&ended).contains(named),
                "{command:?} does not name {named}: {}",
                printed(&ended)
            );
        }
        assert!(printed(&ended).contains("prod.toml:2"), "{}", printed(&ended));
    }
    let unknown = tool_with(&config, &["consumer-of-everything"], &[]).await;
    assert_eq!(unknown.status.code(), Some(EXIT_USAGE));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("token");
    std::fs::write(&secret, "CANARY-from-a-file\n").unwrap();
    let mut config = Config::from_defaults();
    config.postgres.url = "postgres://user:CANARY-of-postgres@127.0.0.1:5432/patients".to_owned().into();
    let more = [
        ("PATIENT_NOTIFY_SMS__AUTH_TOKEN_FILE", secret.to_str().unwrap()),
        ("PATIENT_NOTIFY_EMAIL__PASSWORD", "CANARY-of-smtp"),
        ("PATIENT_NOTIFY_EMAIL__USERNAME", "mailer"),
        ("PATIENT_NOTIFY_REGISTRY__PASSWORD", "CANARY-of-registry"),
        ("PATIENT_NOTIFY_REGISTRY__USERNAME", "reader"),
        ("PATIENT_NOTIFY_EMAIL__SMTP_TLS", "starttls"),
    ];
    let shown = tool_with(&config, &["config", "show"], &more).await;
    assert!(shown.status.success(), "{}", printed(&shown));
    let text = printed(&shown);
    assert!(!text.contains("CANARY"), "{text}");
    for line in [
        "url = \"[redacted]\" # PATIENT_NOTIFY_POSTGRES__URL",
        "auth_token = \"[redacted]\" # PATIENT_NOTIFY_SMS__AUTH_TOKEN_FILE",
        "username = \"mailer\" # PATIENT_NOTIFY_EMAIL__USERNAME",
        "smtp_tls = \"starttls\"",
    ] {
        assert!(text.contains(line), "{line} is missing: {text}");
    }
    // A secret that cannot be used is named and not quoted either.
    let bad = [("PATIENT_NOTIFY_POSTGRES__URL", "mysql://CANARY@127.0.0.1/x")];
    let refused = tool_with(&config, &["config", "check"], &bad).await;
    assert_eq!(refused.status.code(), Some(EXIT_USAGE));
    assert!(
        printed(&refused).contains("postgres.url") && !printed(&refused).contains("CANARY"),
        "{}",
        printed(&refused)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_starts_alone_and_stops_when_it_is_told_to() {
    let world = World::new().await;
    let mut processes: Vec<Process> = ROLES.iter().map(|role| world.process(role, &[])).collect();
    for (role, process) in ROLES.iter().zip(&mut processes) {
        let base = ready(process).await;
        assert_eq!(get(&format!("{base}/health/live")).await.0, 200, "{role}");
        let (status, metrics) = get(&format!("{base}/metrics")).await;
        assert_eq!(status, 200, "{role}");
        let has_our_own = metrics.lines().any(|line| line.starts_with("patient_notify_"));
        assert!(has_our_own && metrics.contains(role), "{role}: {metrics}");
        assert_eq!(get(&format!("{base}/nothing")).await.0, 404, "{role}");
    }
    for process in &processes {
        process.terminate();
    }
    for (role, process) in ROLES.iter().zip(&mut processes) {
        let status = process.wait().await;
        assert_eq!(status.code(), Some(0), "{role}: {}", process.log());
        let unreadable = process
            .log()
            .lines()
            .find(|line| serde_json::from_str::<serde_json::Value>(line).is_err())
            .map(str::to_owned);
        assert_eq!(unreadable, None, "{role} logs JSON, a line each");
        assert!(!process.log().contains("\"ERROR\""), "{role}: {}", process.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_waits_for_what_is_away_at_its_start() {
    let world = World::new().await;
    world.load(&[recipient(1)]).await;
    let database = Proxy::start(world.addresses.postgres_address()).await;
    let broker = BrokerProxy::start().await;
    database.cut().await;
    broker.proxy.cut().await;
    let url =
        world.config.postgres.url.expose().replace(world.addresses.postgres_address(), &database.address);
    let behind_proxies = [
        ("PATIENT_NOTIFY_POSTGRES__URL", url.as_str()),
        ("PATIENT_NOTIFY_KAFKA__BOOTSTRAP_SERVERS", world.addresses.proxied_brokers.as_str()),
    ];
    let mut waiting: Vec<Process> =
        ROLES[1..].iter().map(|role| world.process(role, &behind_proxies)).collect();
    for (role, process) in ROLES[1..].iter().zip(&mut waiting) {
        let base = format!("http://{}", process.metrics_address().await);
        let (status, why) = get(&format!("{base}/health/ready")).await;
        assert_eq!(status, 503, "{role}: {why}");
        assert_eq!(get(&format!("{base}/health/live")).await.0, 200, "{role}: a restart would not help");
    }
    // It has looked and not found, so that waiting is more than a slow start.
    for (role, process) in ROLES[1..].iter().zip(&mut waiting) {
        let base = format!("http://{}", process.metrics_address().await);
        eventually("readiness names the database", DEADLINE, async || {
            get(&format!("{base}/health/ready")).await.1.contains("postgres")
        })
        .await;
        assert!(process.is_running(), "{role} gave up");
    }

    database.restore().await;
    broker.proxy.restore().await;
    for process in &mut waiting {
        ready(process).await;
    }
    world.publish(&[result(1, "after-the-outage")]).await;
    world.until_sent(1, DEADLINE).await;
    for process in &mut waiting {
        process.terminate();
    }
    for (role, process) in ROLES[1..].iter().zip(&mut waiting) {
        assert_eq!(process.wait().await.code(), Some(0), "{role}: {}", process.log());
    }
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_taken_port_ends_a_role_with_a_clear_error() {
    let world = World::new().await;
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (role, variable) in
        [("wrk-default", "PATIENT_NOTIFY_METRICS__LISTEN"), ("app", "PATIENT_NOTIFY_APP__LISTEN")]
    {
        let mut process = world.process(role, &[(variable, &address)]);
        let status = process.wait().await;
        assert_eq!(status.code(), Some(EXIT_UNAVAILABLE), "{role}: {}", process.log());
        assert!(process.log().contains(&address), "{role}: {}", process.log());
    }
}

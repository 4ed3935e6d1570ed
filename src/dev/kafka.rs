//! Apache Kafka in KRaft mode: one node that is broker and controller.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::net::TcpStream;

use super::data_dir::{DataDir, copy_tree, write};
use super::error::StackError;
use super::ports::Ports;
use super::process::{Launch, Process, Server};
use super::tools::Tools;

const READY_TIMEOUT: Duration = Duration::from_secs(90);
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(15);

const LOGGING: &str = "\
status = warn
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %m (%c)%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
";

/// Writes the configuration and an empty log folder.
pub(super) fn prepare(tools: &Tools, data: &DataDir, ports: &Ports) -> Result<(), StackError> {
    let dir = data.create("kafka")?;
    let logs = dir.join("logs");
    write(&dir.join("log4j2.properties"), LOGGING)?;
    write(&properties_file(data), &properties(&logs, ports))?;
    // Formatted once, by `make deps`: Kafka's own tool takes as long as a start.
    copy_tree(&tools.kafka().join("formatted"), &logs)
}

/// Starts the broker on what is in its folder, and waits until it serves.
pub(super) async fn start(tools: &Tools, data: &DataDir, ports: &Ports) -> Result<Process, StackError> {
    let dir = data.path().join("kafka");
    let mut args = jvm_args(&dir, &tools.kafka(), 512);
    args.extend([
        format!("-Dlog4j2.configurationFile={}", dir.join("log4j2.properties").display()),
        "-cp".to_owned(),
        tools.kafka().join("libs/*").display().to_string(),
        "kafka.Kafka".to_owned(),
        properties_file(data).display().to_string(),
    ]);
    let mut process = Process::start(Launch {
        server: Server::Kafka,
        program: tools.java(),
        args,
        data_dir: data.path().to_owned(),
        death_signal: Signal::SIGKILL,
        user: None,
    })?;
    let client = SocketAddr::from((Ipv4Addr::LOCALHOST, ports.kafka));
    process
        .wait_ready(READY_TIMEOUT, async |process| {
            process.log_says("Kafka Server started") && TcpStream::connect(client).await.is_ok()
        })
        .await?;
    Ok(process)
}

fn properties_file(data: &DataDir) -> PathBuf {
    data.path().join("kafka/server.properties")
}

/// Flags of every JVM of the stack: small, and nothing written outside the data folder.
pub(super) fn jvm_args(temp_dir: &Path, program: &Path, heap_max_mb: u32) -> Vec<String> {
    vec![
        "-Xms64m".to_owned(),
        format!("-Xmx{heap_max_mb}m"),
        "-XX:+UseSerialGC".to_owned(),
        "-XX:-UsePerfData".to_owned(),
        // Parsed classes, made by `make deps`: half the time to start. Ignored when
        // it is not there or is another Java's.
        format!("-XX:SharedArchiveFile={}", program.join("classes.jsa").display()),
        "-Xlog:cds=off,cds+dynamic=off".to_owned(),
        "-XX:+ExitOnOutOfMemoryError".to_owned(),
        "-Djava.net.preferIPv4Stack=true".to_owned(),
        "-Djava.awt.headless=true".to_owned(),
        format!("-Djava.io.tmpdir={}", temp_dir.display()),
    ]
}

fn properties(logs: &Path, ports: &Ports) -> String {
    let Ports { kafka, kafka_controller, kafka_proxied, kafka_proxy, .. } = ports;
    format!(
        "\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{kafka_controller}
controller.listener.names=CONTROLLER
listeners=CLIENT://127.0.0.1:{kafka},PROXIED://127.0.0.1:{kafka_proxied},CONTROLLER://127.0.0.1:{kafka_controller}
advertised.listeners=CLIENT://127.0.0.1:{kafka},PROXIED://127.0.0.1:{kafka_proxy}
inter.broker.listener.name=CLIENT
listener.security.protocol.map=CLIENT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={logs}
# A topic that nobody applied is a mistake, as in production.
auto.create.topics.enable=false
# One node can hold one copy.
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# Small and quick to start.
offsets.topic.num.partitions=8
transaction.state.log.num.partitions=4
log.index.size.max.bytes=1048576
group.initial.rebalance.delay.ms=0
# Tests of killed consumers may ask for short sessions.
group.min.session.timeout.ms=1000
",
        logs = logs.display(),
    )
}

//! Apicurio Registry, which speaks the API of Confluent's schema registry.

use std::time::Duration;

use super::data_dir::DataDir;
use super::error::StackError;
use super::kafka::jvm_args;
use super::ports::Ports;
use super::process::{Launch, Process, Server};
use super::tools::Tools;
use nix::sys::signal::Signal;

const READY_TIMEOUT: Duration = Duration::from_secs(90);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Base URL of the Confluent-compatible API.
pub(super) fn url(ports: &Ports) -> String {
    format!("http://127.0.0.1:{}/apis/ccompat/v7", ports.registry)
}

/// Starts it on what is in its folder, and waits until it answers.
pub(super) async fn start(tools: &Tools, data: &DataDir, ports: &Ports) -> Result<Process, StackError> {
    let dir = data.create("registry")?;
    let mut args = jvm_args(&dir, &tools.apicurio(), 384);
    // Its whole life is a start and a few calls: optimising costs more than it brings.
    args.push("-XX:TieredStopAtLevel=1".to_owned());
    args.extend([
        "-Dquarkus.http.host=127.0.0.1".to_owned(),
        format!("-Dquarkus.http.port={}", ports.registry),
        // On disk, each write at once: ids and subjects outlive a kill, as the
        // broker's records do. (The default is memory.)
        format!("-Dquarkus.datasource.jdbc.url=jdbc:h2:file:{}/registry;WRITE_DELAY=0", dir.display()),
        "-Dquarkus.datasource.jdbc.initial-size=2".to_owned(),
        "-Dquarkus.datasource.jdbc.min-size=2".to_owned(),
        "-Dquarkus.datasource.jdbc.max-size=20".to_owned(),
        "-jar".to_owned(),
        tools.apicurio_jar().display().to_string(),
    ]);
    let mut process = Process::start(Launch {
        server: Server::Registry,
        program: tools.java(),
        args,
        data_dir: data.path().to_owned(),
        death_signal: Signal::SIGKILL,
        user: None,
    })?;
    let client = reqwest::Client::builder().no_proxy().timeout(REQUEST_TIMEOUT).build()?;
    let subjects = format!("{}/subjects", url(ports));
    process
        .wait_ready(READY_TIMEOUT, async |_| {
            client.get(&subjects).send().await.is_ok_and(|answer| answer.status().is_success())
        })
        .await?;
    set_default_compatibility(&client, ports).await?;
    Ok(process)
}

/// Apicurio's default is NONE; Confluent's and Redpanda's is BACKWARD.
async fn set_default_compatibility(client: &reqwest::Client, ports: &Ports) -> Result<(), StackError> {
    client
        .put(format!("{}/config", url(ports)))
        .json(&serde_json::json!({ "compatibility": "BACKWARD" }))
        .send()
        .await?
        .error_for_status()?;
    Ok(())
}

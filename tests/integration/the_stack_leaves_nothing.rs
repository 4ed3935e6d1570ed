//! The servers of development and tests end with their parent, however it ends.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::harness::eventually;

const START_DEADLINE: Duration = Duration::from_secs(90);
const END_DEADLINE: Duration = Duration::from_secs(20);

/// Processes below this one, by /proc; those that wait for their parent's notice
/// have ended.
fn descendants(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", found[next])).into_iter().flatten().flatten();
        for task in tasks {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
        next += 1;
    }
    found.split_off(1)
}

fn is_alive(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The state stands behind the name, which is in brackets and may hold anything.
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

fn variables(file: &Path) -> Option<BTreeMap<String, String>> {
    let text = std::fs::read_to_string(file).ok()?;
    Some(
        text.lines()
            .filter_map(|line| line.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect(),
    )
}

/// `127.0.0.1:port` within an address or URL.
fn host_and_port(address: &str) -> String {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap();
    authority.rsplit('@').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_stack_leaves_no_process_and_no_port() {
    let folder = tempfile::tempdir().unwrap();
    let (ready, said) = (folder.path().join("ready"), folder.path().join("environment"));
    let script = format!(
        "env > {0}.part && mv {0}.part {0} && touch {1} && exec sleep 60",
        said.display(),
        ready.display()
    );
    let mut stack = tokio::process::Command::new(env!("CARGO_BIN_EXE_patient-notify"))
        .args(["stack", "run", "--free-ports", "--data-dir"])
        .arg(folder.path().join("data"))
        .args(["--", "sh", "-c", &script])
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let id = stack.id().unwrap();
    eventually("the servers are up", START_DEADLINE, async || {
        assert!(stack.try_wait().unwrap().is_none(), "the stack did not start");
        ready.exists()
    })
    .await;
    let variables = variables(&said).unwrap();
    let ports: Vec<String> = ["BROKERS", "REGISTRY_URL", "POSTGRES_URL"]
        .iter()
        .map(|name| host_and_port(&variables[&format!("PATIENT_NOTIFY_TEST_{name}")]))
        .collect();
    for port in &ports {
        assert!(TcpStream::connect(port).is_ok(), "{port} should answer while the stack is up");
    }
    let servers = descendants(id);
    assert!(servers.len() >= 4, "two Java processes, PostgreSQL and the command: {servers:?}");

    kill(Pid::from_raw(i32::try_from(id).unwrap()), Signal::SIGKILL).unwrap();
    stack.wait().await.unwrap();
    eventually("every process is gone", END_DEADLINE, async || !servers.iter().any(|&id| is_alive(id))).await;
    eventually("every port is free", END_DEADLINE, async || {
        ports.iter().all(|port| TcpStream::connect(port).is_err())
    })
    .await;
}

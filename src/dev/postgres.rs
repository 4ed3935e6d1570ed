//! PostgreSQL, made new by initdb.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{Uid, User};
use tokio_postgres::NoTls;

use super::data_dir::DataDir;
use super::error::StackError;
use super::ports::Ports;
use super::process::{Launch, Process, Server};
use super::tools::Tools;

const INITDB_TIMEOUT: Duration = Duration::from_secs(60);
const READY_TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Owner of everything, and the name of the database.
const NAME: &str = "patient_notify";
/// Who it runs as when we are root, which it refuses to be.
const USER: &str = "nobody";
const GROUP: &str = "nogroup";

/// Connection URL of a database.
pub(super) fn url(ports: &Ports, database: &str) -> String {
    format!("postgres://{NAME}@127.0.0.1:{}/{database}", ports.postgres)
}

/// Makes an empty cluster.
pub(super) async fn prepare(tools: &Tools, data: &DataDir) -> Result<(), StackError> {
    let dir = data.create("postgres")?;
    if Uid::effective().is_root() {
        for folder in [data.path(), &tools.postgres_bin()] {
            check_reachable(folder)?;
        }
        give_away(&dir)?;
    }
    let args = [
        "--pgdata",
        &dir.display().to_string(),
        "--username",
        NAME,
        // Of this machine's loopback only; see listen_addresses.
        "--auth",
        "trust",
        "--encoding",
        "UTF8",
        "--locale",
        "C",
        "--no-instructions",
        // What is lost by a power cut is made anew at the next start.
        "--no-sync",
    ];
    let args = args.map(str::to_owned).to_vec();
    let initdb = Launch { death_signal: Signal::SIGKILL, ..launch(tools, data, "initdb", args) };
    Process::start(initdb)?.wait_success(INITDB_TIMEOUT).await
}

/// Starts the server on what is in its folder, and waits until it answers a query.
pub(super) async fn start(tools: &Tools, data: &DataDir, ports: &Ports) -> Result<Process, StackError> {
    let dir = data.path().join("postgres");
    let mut args = vec!["-D".to_owned(), dir.display().to_string()];
    let settings = [
        "listen_addresses=127.0.0.1",
        &format!("port={}", ports.postgres),
        "unix_socket_directories=",
        "fsync=on",
        "max_connections=200",
        "shared_buffers=256MB",
        // Files in its own folder rather than in the machine's shared memory: a kill
        // leaves none behind.
        "dynamic_shared_memory_type=mmap",
        "timezone=UTC",
        "log_timezone=UTC",
        // Statements may carry what a patient must not find in a log.
        "log_min_error_statement=panic",
        "log_parameter_max_length_on_error=0",
    ];
    args.extend(settings.iter().flat_map(|setting| ["-c".to_owned(), (*setting).to_owned()]));
    let mut process = Process::start(launch(tools, data, "postgres", args))?;
    process.wait_ready(READY_TIMEOUT, async |_| ask(ports, "SELECT 1").await.is_ok()).await?;
    Ok(process)
}

/// Makes the database; once per cluster.
pub(super) async fn create_database(ports: &Ports) -> Result<(), StackError> {
    Ok(ask(ports, &format!("CREATE DATABASE {NAME}")).await?)
}

async fn ask(ports: &Ports, statement: &str) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(&url(ports, "postgres"), NoTls).await?;
    let connection = tokio::spawn(connection);
    let answer = client.batch_execute(statement).await;
    drop(client);
    // The connection ends with its client; how it ended does not change the answer.
    let _ = connection.await;
    answer
}

fn launch(tools: &Tools, data: &DataDir, program: &str, args: Vec<String>) -> Launch {
    Launch {
        server: Server::Postgres,
        program: tools.postgres_bin().join(program),
        args,
        data_dir: data.path().to_owned(),
        // "Immediate": it ends its workers and frees its shared memory, which a SIGKILL
        // would leave.
        death_signal: Signal::SIGQUIT,
        user: Uid::effective().is_root().then_some((USER, GROUP)),
    }
}

/// Every folder above must let others pass.
fn check_reachable(folder: &Path) -> Result<(), StackError> {
    let folder: PathBuf = folder.canonicalize().map_err(StackError::io("find", folder))?;
    for ancestor in folder.ancestors() {
        let metadata = ancestor.metadata().map_err(StackError::io("look at", ancestor))?;
        if metadata.permissions().mode() & 0o001 == 0 {
            return Err(StackError::Unreachable { folder: ancestor.to_owned(), user: USER });
        }
    }
    Ok(())
}

fn give_away(dir: &Path) -> Result<(), StackError> {
    let user = User::from_name(USER)
        .map_err(|errno| StackError::io("find the user for", dir)(errno.into()))?
        .ok_or_else(|| {
            StackError::io("find the user 'nobody' for", dir)(std::io::ErrorKind::NotFound.into())
        })?;
    chown(dir, Some(user.uid.as_raw()), Some(user.gid.as_raw())).map_err(StackError::io("give away", dir))
}

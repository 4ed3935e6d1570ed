//! The real servers that development and tests run on.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::sync::Mutex;

use super::data_dir::DataDir;
use super::error::StackError;
use super::ports::Ports;
use super::process::{Process, Server};
use super::tools::{Tools, default_data_dir, default_tools_dir};
use super::{kafka, postgres, registry};

/// Where a stack lives.
#[derive(Debug, Clone)]
pub struct StackOptions {
    /// What `make deps` filled; see [`default_tools_dir`].
    pub tools_dir: PathBuf,
    /// Emptied at the start; must be empty, ours, or not there.
    pub data_dir: PathBuf,
    /// Where the servers listen.
    pub ports: Ports,
    /// Whether data and logs stay when the stack stops.
    pub keep_data: bool,
}

impl StackOptions {
    /// For people: known ports, and data and logs that can be looked at afterwards.
    pub fn from_base(base: u16) -> Result<Self, StackError> {
        let tools_dir = default_tools_dir();
        let data_dir = default_data_dir(&tools_dir, &base.to_string());
        Ok(Self { tools_dir, data_dir, ports: Ports::from_base(base)?, keep_data: true })
    }

    /// For tests: ports and a folder of its own, so that several run side by side.
    pub fn on_free_ports() -> Result<Self, StackError> {
        let tools_dir = default_tools_dir();
        let ports = Ports::free()?;
        let data_dir = default_data_dir(&tools_dir, &format!("test-{}", ports.kafka));
        Ok(Self { tools_dir, data_dir, ports, keep_data: false })
    }
}

/// Kafka, a schema registry and PostgreSQL as child processes.
///
/// They end with this process, even by `kill -9`. [`Stack::stop`] is the orderly
/// way; a drop kills.
#[derive(Debug)]
pub struct Stack {
    /// Bootstrap servers.
    pub brokers: String,
    /// The same broker, but it tells its clients that it is behind a proxy on
    /// [`Ports::kafka_proxy`], which whoever uses this has to run.
    pub proxied_brokers: String,
    /// Where a proxy forwards to: the listener behind [`Stack::proxied_brokers`].
    pub proxy_target: String,
    /// Base URL of the registry's Confluent-compatible API.
    pub registry_url: String,
    /// The owner's connection to the database `patient_notify`.
    pub postgres_url: String,
    /// Where the servers listen.
    pub ports: Ports,
    tools: Tools,
    kafka: Mutex<Option<Process>>,
    registry: Mutex<Option<Process>>,
    postgres: Mutex<Option<Process>>,
    keep_data: bool,
    /// Last: the folder is unlocked when the servers have ended.
    data: DataDir,
}

impl Stack {
    /// Starts the three servers side by side on fresh data and waits until each
    /// answers. Fails at once when a port is taken or a server ends.
    pub async fn start(options: StackOptions, on_progress: impl Fn(&str)) -> Result<Self, StackError> {
        let StackOptions { tools_dir, data_dir, ports, keep_data } = options;
        let tools =
            Tools::open(std::path::absolute(&tools_dir).map_err(StackError::io("find", &tools_dir))?)?;
        ports.check_free()?;
        let data = DataDir::claim(&data_dir)?;
        on_progress("starting Kafka, the schema registry and PostgreSQL");
        let kafka = async {
            kafka::prepare(&tools, &data, &ports)?;
            let process = kafka::start(&tools, &data, &ports).await?;
            on_progress("Kafka is ready");
            Ok::<_, StackError>(process)
        };
        let registry = async {
            let process = registry::start(&tools, &data, &ports).await?;
            on_progress("the schema registry is ready");
            Ok(process)
        };
        let postgres = async {
            postgres::prepare(&tools, &data).await?;
            let process = postgres::start(&tools, &data, &ports).await?;
            postgres::create_database(&ports).await?;
            on_progress("PostgreSQL is ready");
            Ok(process)
        };
        let (kafka, registry, postgres) = tokio::try_join!(kafka, registry, postgres)?;
        Ok(Self {
            brokers: format!("127.0.0.1:{}", ports.kafka),
            proxied_brokers: format!("127.0.0.1:{}", ports.kafka_proxy),
            proxy_target: format!("127.0.0.1:{}", ports.kafka_proxied),
            registry_url: registry::url(&ports),
            postgres_url: postgres::url(&ports, "patient_notify"),
            ports,
            tools,
            kafka: Mutex::new(Some(kafka)),
            registry: Mutex::new(Some(registry)),
            postgres: Mutex::new(Some(postgres)),
            keep_data,
            data,
        })
    }

    /// The owner's connection to another database, which need not exist yet.
    pub fn admin_postgres_url(&self, database: &str) -> String {
        postgres::url(&self.ports, database)
    }

    /// Where data and logs are.
    pub fn data_dir(&self) -> &std::path::Path {
        self.data.path()
    }

    /// Decides anew whether data and logs stay; for a run that ended badly.
    pub fn keep_data(&mut self, keep: bool) {
        self.keep_data = keep;
    }

    /// Process id of a server, for messages and for tests that kill it.
    pub async fn pid(&self, server: Server) -> Option<u32> {
        self.slot(server).lock().await.as_ref().map(Process::id)
    }

    /// An error, with the end of its log, if a server has ended by itself.
    pub async fn check(&self) -> Result<(), StackError> {
        for server in Server::ALL {
            if let Some(process) = self.slot(server).lock().await.as_mut() {
                process.check_running()?;
            }
        }
        Ok(())
    }

    /// Ends one server in an orderly way; its data stay.
    pub async fn stop_server(&self, server: Server) {
        if let Some(process) = self.slot(server).lock().await.take() {
            process.stop(stop_timeout(server)).await;
        }
    }

    /// Starts one server that was stopped, on its old data and port.
    pub async fn start_server(&self, server: Server) -> Result<(), StackError> {
        let mut slot = self.slot(server).lock().await;
        if slot.is_some() {
            return Ok(());
        }
        *slot = Some(match server {
            Server::Kafka => kafka::start(&self.tools, &self.data, &self.ports).await?,
            Server::Registry => registry::start(&self.tools, &self.data, &self.ports).await?,
            Server::Postgres => postgres::start(&self.tools, &self.data, &self.ports).await?,
        });
        Ok(())
    }

    /// Freezes a server: its connections stay open and nothing answers. Kafka and the
    /// registry only.
    pub async fn suspend(&self, server: Server) -> Result<(), StackError> {
        if server == Server::Postgres {
            return Err(StackError::NotSuspendable(server));
        }
        self.signal(server, Signal::SIGSTOP).await
    }

    /// Lets a frozen server go on.
    pub async fn resume(&self, server: Server) -> Result<(), StackError> {
        self.signal(server, Signal::SIGCONT).await
    }

    /// Ends everything: the registry, PostgreSQL, then Kafka. Whatever does not end
    /// in time is killed.
    pub async fn stop(self) -> Result<(), StackError> {
        for server in Server::ALL {
            self.stop_server(server).await;
        }
        if self.keep_data { Ok(()) } else { self.data.remove() }
    }

    async fn signal(&self, server: Server, signal: Signal) -> Result<(), StackError> {
        match self.slot(server).lock().await.as_ref() {
            Some(process) => {
                process.signal(signal);
                Ok(())
            }
            None => Err(StackError::NotRunning(server)),
        }
    }

    fn slot(&self, server: Server) -> &Mutex<Option<Process>> {
        match server {
            Server::Kafka => &self.kafka,
            Server::Registry => &self.registry,
            Server::Postgres => &self.postgres,
        }
    }
}

fn stop_timeout(server: Server) -> Duration {
    match server {
        Server::Kafka => kafka::STOP_TIMEOUT,
        Server::Registry => registry::STOP_TIMEOUT,
        Server::Postgres => postgres::STOP_TIMEOUT,
    }
}

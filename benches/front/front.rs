//! The front as the role runs it, with authentication, limits, validation and metrics.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use patient_notify::config::Config;
use patient_notify::health::Health;
use patient_notify::metrics;
use patient_notify::roles::{self, Context};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::token;

const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A front that listens.
pub struct Front {
    pub address: SocketAddr,
    /// What callers carry.
    pub token: String,
    /// Its keys.
    _folder: TempDir,
    role: JoinHandle<anyhow::Result<()>>,
    shutdown: CancellationToken,
}

impl Front {
    pub async fn start(mut config: Config) -> anyhow::Result<Self> {
        metrics::init("app", &config.metrics)?;
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        config.app.listen = address.to_string();
        let folder = tempfile::tempdir()?;
        let token = token::require(&mut config, folder.path())?;
        let shutdown = CancellationToken::new();
        let context = Context { config: Arc::new(config), health: Health::new(), shutdown: shutdown.clone() };
        let role = tokio::spawn(roles::app::run(context));
        let begun = Instant::now();
        while TcpStream::connect(address).await.is_err() {
            anyhow::ensure!(!role.is_finished(), "the front ended by itself");
            anyhow::ensure!(begun.elapsed() < START_TIMEOUT, "the front does not listen");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(Self { address, token, _folder: folder, role, shutdown })
    }

    pub async fn stop(self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        self.role.await?.context("front")
    }
}

//! Providers to try things on: servers on loopback that speak Twilio's REST
//! protocol, SMTP and FCM HTTP v1 over real sockets, keep what they receive, and
//! can be told to fail in the ways that real ones do.

mod account;
mod faults;
mod fcm;
mod inbox;
mod listen;
mod log;
mod receipts;
mod smtp;
mod twilio;

pub use faults::{ChannelFaults, Faults};
pub use inbox::{faults_router, inbox_router};
pub use log::{DEFAULT_CAPACITY, MessageLog, Received, Stats};
pub use receipts::{ReceiptPlan, Receipts, Report, Word};
pub use twilio::{ACCOUNT_SID, AUTH_TOKEN};

use std::future::IntoFuture as _;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::account::Account;
use self::listen::{Cut, Gate};
use crate::config::{Config, Email, Push, Sms};
use crate::domain::{Channel, Redacted};

/// Where the sandbox listens (127.0.0.1 only; port 0: a free one) and what it keeps.
#[derive(Debug, Clone)]
pub struct SandboxOptions {
    /// Twilio's protocol; the inbox and `/sandbox/faults` too.
    pub sms_port: u16,
    /// SMTP.
    pub smtp_port: u16,
    /// FCM's protocol and the token endpoint.
    pub fcm_port: u16,
    /// Folder of `service-account.json`; made if it is not there.
    pub dir: PathBuf,
    /// Messages that the log keeps.
    pub log_capacity: usize,
}

impl SandboxOptions {
    /// Free ports, the default log.
    #[must_use]
    pub fn in_dir(dir: &Path) -> Self {
        Self { sms_port: 0, smtp_port: 0, fcm_port: 0, dir: dir.to_owned(), log_capacity: DEFAULT_CAPACITY }
    }
}

/// The sandbox did not start.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// A port is taken, or may not be used.
    #[error("the sandbox's {what} port {port} on 127.0.0.1 cannot be used; choose another one")]
    Port {
        /// `SMS`, `SMTP` or `FCM`.
        what: &'static str,
        /// As it was asked for.
        port: u16,
        /// The system's word.
        #[source]
        source: io::Error,
    },
    /// The service account file cannot be written.
    #[error("the sandbox cannot write its service account file into {}", dir.display())]
    Account {
        /// Where to.
        dir: PathBuf,
        /// The system's word.
        #[source]
        source: io::Error,
    },
}

/// Running sandbox servers. Dropping it stops them; [`Sandbox::stop`] also waits
/// until their ports are free.
pub struct Sandbox {
    /// What was received.
    pub log: Arc<MessageLog>,
    /// What goes wrong.
    pub faults: Arc<Faults>,
    sms_address: SocketAddr,
    smtp_address: SocketAddr,
    fcm_address: SocketAddr,
    service_account_file: PathBuf,
    tokens: Arc<fcm::Tokens>,
    stop: CancellationToken,
    servers: JoinSet<()>,
}

impl std::fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandbox")
            .field("sms", &self.sms_address)
            .field("smtp", &self.smtp_address)
            .field("fcm", &self.fcm_address)
            .finish_non_exhaustive()
    }
}

impl Sandbox {
    /// Binds the ports, makes the service account, serves.
    ///
    /// # Errors
    /// [`SandboxError`] when a port is taken or the folder cannot be written.
    pub async fn start(options: SandboxOptions) -> Result<Self, SandboxError> {
        let log = Arc::new(MessageLog::new(options.log_capacity));
        let faults = Arc::new(Faults::default());
        let stop = CancellationToken::new();
        let gate = async |what, port, channel| {
            let bound = Gate::bind(port, faults.watch(channel), stop.child_token()).await;
            bound.map_err(|source| SandboxError::Port { what, port, source })
        };
        let sms_gate = gate("SMS", options.sms_port, Channel::Sms).await?;
        let smtp_gate = gate("SMTP", options.smtp_port, Channel::Email).await?;
        let fcm_gate = gate("FCM", options.fcm_port, Channel::Push).await?;
        let (sms_address, smtp_address, fcm_address) =
            (sms_gate.address(), smtp_gate.address(), fcm_gate.address());

        let token_uri = format!("http://{fcm_address}/token");
        let account = Account::prepare(&options.dir, &token_uri)
            .map_err(|source| SandboxError::Account { dir: options.dir.clone(), source })?;
        let tokens = Arc::new(fcm::Tokens::default());
        let shared = || (Arc::clone(&log), Arc::clone(&faults));
        let ((sms_log, sms_faults), (fcm_log, fcm_faults), (smtp_log, smtp_faults)) =
            (shared(), shared(), shared());
        let sms_router = twilio::router(sms_log, sms_faults)
            .merge(inbox_router(Arc::clone(&log)))
            .merge(faults_router(Arc::clone(&faults)));
        let fcm_router =
            fcm::router(fcm_log, fcm_faults, Arc::clone(&tokens), account.public_key, &token_uri);

        let mut servers = JoinSet::new();
        servers.spawn(serve(sms_gate, sms_router, stop.clone()));
        servers.spawn(serve(fcm_gate, fcm_router, stop.clone()));
        servers.spawn(smtp::serve(smtp_gate, smtp_log, smtp_faults, stop.clone()));
        Ok(Self {
            log,
            faults,
            sms_address,
            smtp_address,
            fcm_address,
            service_account_file: account.file,
            tokens,
            stop,
            servers,
        })
    }

    /// Where Twilio's protocol, the inbox and the faults are served.
    #[must_use]
    pub const fn sms_address(&self) -> SocketAddr {
        self.sms_address
    }

    /// Where SMTP is served.
    #[must_use]
    pub const fn smtp_address(&self) -> SocketAddr {
        self.smtp_address
    }

    /// Where FCM's protocol is served.
    #[must_use]
    pub const fn fcm_address(&self) -> SocketAddr {
        self.fcm_address
    }

    /// The file that `push.service_account_file` has to name.
    #[must_use]
    pub fn service_account_file(&self) -> &Path {
        &self.service_account_file
    }

    /// Makes every access token that FCM clients hold worthless.
    pub fn revoke_tokens(&self) {
        self.tokens.revoke_all();
    }

    /// Access tokens that were given out since the start.
    #[must_use]
    pub fn tokens_issued(&self) -> u64 {
        self.tokens.issued()
    }

    /// Points the sections `sms`, `email` and `push` at the sandbox.
    pub fn apply_to(&self, config: &mut Config) {
        self.apply_to_sections(&mut config.sms, &mut config.email, &mut config.push);
    }

    pub(crate) fn apply_to_sections(&self, sms: &mut Sms, email: &mut Email, push: &mut Push) {
        sms.enabled = true;
        sms.base_url = format!("http://{}", self.sms_address);
        sms.account_sid = ACCOUNT_SID.to_owned();
        sms.auth_token = Redacted::new(AUTH_TOKEN.to_owned());
        email.enabled = true;
        email.smtp_host = self.smtp_address.ip().to_string();
        email.smtp_port = self.smtp_address.port();
        email.smtp_tls = "none".to_owned();
        email.username = String::new();
        push.enabled = true;
        push.base_url = format!("http://{}", self.fcm_address);
        push.project_id = account::PROJECT_ID.to_owned();
        push.service_account_file = self.service_account_file.to_string_lossy().into_owned();
    }

    /// Closes every connection and waits until the servers are gone.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.servers.join_next().await.is_some() {}
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Serves until `stop`; open connections are cut then, with their requests.
async fn serve(gate: Gate, router: Router, stop: CancellationToken) {
    let service = router.into_make_service_with_connect_info::<Cut>();
    let served = axum::serve(gate, service).with_graceful_shutdown(stop.cancelled_owned());
    // It ends only by `stop`, and then without an error.
    let _ = served.into_future().await;
}

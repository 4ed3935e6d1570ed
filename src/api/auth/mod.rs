//! Who calls, and what they may do.
//!
//! [`methods`] has every method of the contract with the scope that it asks for;
//! `check` is the middleware in front of all of them. Who calls is proved by a bearer
//! token (`token`, checked with `keys`) or by a client certificate (`tls`,
//! `certificate`, and the table in `callers`); `limits` and `quota` bound how much one
//! caller gets.

mod callers;
mod certificate;
mod check;
mod files;
mod keys;
mod limits;
pub mod methods;
mod quota;
mod recent;
mod refusals;
mod tls;
mod token;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use parking_lot::RwLock;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::Request;

use super::error::ApiError;
use super::rates::Rates;
use crate::config;
use crate::deliver::callback::Endpoint;
use callers::Callers;
use keys::Keys;
use quota::Quotas;
use refusals::Refusals;
use token::Tokens;

pub(super) use check::{check, peer_address};
pub use quota::{Allowance, Taken};
pub(super) use tls::{Peer, Tls};

/// What a caller may be allowed to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Ask for notifications, take back one's own.
    NotificationsSend,
    /// Say what recipients did with notifications.
    NotificationsEngage,
    /// Look at one's own notifications.
    NotificationsRead,
    /// Look at everybody's notifications, and take them back.
    NotificationsAll,
    /// Look at recipients; addresses are masked.
    RecipientsRead,
    /// Change recipients.
    RecipientsWrite,
    /// Have everything that is kept of a patient, addresses included.
    RecipientsExport,
    /// Look at appointments.
    AppointmentsRead,
    /// Change appointments.
    AppointmentsWrite,
    /// Look at batches.
    BatchesRead,
    /// Make and steer batches.
    BatchesWrite,
    /// Look at templates.
    TemplatesRead,
    /// Look at lag, providers, processors and dead letters.
    OperationsRead,
    /// Replay dead letters, pause channels.
    OperationsAdmin,
}

impl Scope {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::NotificationsSend,
        Self::NotificationsEngage,
        Self::NotificationsRead,
        Self::NotificationsAll,
        Self::RecipientsRead,
        Self::RecipientsWrite,
        Self::RecipientsExport,
        Self::AppointmentsRead,
        Self::AppointmentsWrite,
        Self::BatchesRead,
        Self::BatchesWrite,
        Self::TemplatesRead,
        Self::OperationsRead,
        Self::OperationsAdmin,
    ];

    const fn bit(self) -> u32 {
        1 << self as u32
    }

    /// The word that tokens carry.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotificationsSend => "notifications:send",
            Self::NotificationsEngage => "notifications:engage",
            Self::NotificationsRead => "notifications:read",
            Self::NotificationsAll => "notifications:all",
            Self::RecipientsRead => "recipients:read",
            Self::RecipientsWrite => "recipients:write",
            Self::RecipientsExport => "recipients:export",
            Self::AppointmentsRead => "appointments:read",
            Self::AppointmentsWrite => "appointments:write",
            Self::BatchesRead => "batches:read",
            Self::BatchesWrite => "batches:write",
            Self::TemplatesRead => "templates:read",
            Self::OperationsRead => "operations:read",
            Self::OperationsAdmin => "operations:admin",
        }
    }

    /// The scope of a word; `None` when there is none.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|scope| scope.as_str() == word)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Opaque name of a backend; part of the meaning of its idempotency keys.
    pub name: String,
    /// One bit a scope, so that a call copies no list.
    scopes: u32,
}

impl Caller {
    /// A caller who may do this.
    #[must_use]
    pub fn new(name: String, scopes: Vec<Scope>) -> Self {
        Self { name, scopes: scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()) }
    }

    /// Who makes this call, as the middleware in front of the services has found.
    ///
    /// # Errors
    /// [`ApiError::Unauthenticated`] for a call that did not come through it.
    pub fn of<T>(request: &Request<T>) -> Result<Self, ApiError> {
        let found = request.extensions().get::<Self>().cloned();
        found.ok_or_else(|| ApiError::Unauthenticated("nobody has looked who calls".to_owned()))
    }

    /// May it do this?
    #[must_use]
    pub const fn may(&self, scope: Scope) -> bool {
        self.scopes & scope.bit() != 0
    }
}

/// Where callers are called back, as the table of callers has it.
///
/// # Errors
/// Everything that is wrong with the table and with the secrets.
pub fn callbacks(config: &config::Auth) -> Result<Vec<Endpoint>, AuthFaults> {
    let callers = Callers::read(config).map_err(AuthFaults)?;
    let fault = |wrong: String| format!("auth.callers_file {}: {wrong}", config.callers_file);
    callers.endpoints().map_err(|faults| AuthFaults(faults.into_iter().map(fault).collect()))
}

/// What is wrong with what callers are to be authenticated by; one line a fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("callers cannot be authenticated:\n  - {}", .0.join("\n  - "))]
pub struct AuthFaults(Vec<String>);

/// Knows who calls, and counts how often.
pub(super) struct Auth {
    tokens: Option<Tokens>,
    keys: Option<Arc<Keys>>,
    takes_certificates: bool,
    tls: Option<Arc<Tls>>,
    callers: RwLock<Arc<Callers>>,
    rates: Rates,
    quotas: Arc<Quotas>,
    refusals: Refusals,
    config: config::Auth,
}

/// Pause between tries to read keys for the first time.
const FIRST_KEYS_PAUSE: Duration = Duration::from_secs(1);

impl Auth {
    /// Reads everything that the configuration names. Keys at an address may be away:
    /// calls are then told so, until they come.
    pub(super) async fn read(config: &config::Auth) -> Result<Arc<Self>, AuthFaults> {
        let mut faults = Vec::new();
        let tls = Tls::read(config).unwrap_or_else(|wrong| {
            faults.extend(wrong);
            None
        });
        let callers = Callers::read(config).unwrap_or_else(|wrong| {
            faults.extend(wrong);
            Callers::default()
        });
        let keys = Keys::new(config).unwrap_or_else(|wrong| {
            faults.push(wrong);
            None
        });
        if let Some(keys) = &keys
            && let Err(error) = keys.reread().await
        {
            if keys.is_file() {
                faults.push(error);
            } else {
                tracing::warn!(error, "token keys cannot be read; calls with tokens must wait for them");
            }
        }
        if !faults.is_empty() {
            return Err(AuthFaults(faults));
        }
        Ok(Arc::new(Self {
            tokens: keys.as_ref().map(|keys| Tokens::new(config, Arc::clone(keys))),
            keys,
            takes_certificates: config.takes_certificates(),
            tls: tls.map(Arc::new),
            callers: RwLock::new(Arc::new(callers)),
            rates: Rates::default(),
            quotas: Arc::default(),
            refusals: Refusals::default(),
            config: config.clone(),
        }))
    }

    /// Must callers prove who they are?
    pub(super) const fn authenticates(&self) -> bool {
        self.tokens.is_some() || self.takes_certificates
    }

    /// What the port speaks TLS with; `None`: it does not.
    pub(super) fn tls(&self) -> Option<Arc<Tls>> {
        self.tls.clone()
    }

    fn callers(&self) -> Arc<Callers> {
        Arc::clone(&self.callers.read())
    }

    /// Reads files and keys again and again, and keeps the quotas in step with the
    /// other replicas, until `shutdown`.
    pub(super) fn start(self: &Arc<Self>, pool: Pool, shutdown: CancellationToken) {
        tokio::spawn(Arc::clone(&self.quotas).run(pool, shutdown.clone()));
        let auth = Arc::clone(self);
        tokio::spawn(async move {
            shutdown.run_until_cancelled(auth.reread()).await;
        });
    }

    /// Tells the database what was counted last; when all calls have ended.
    pub(super) async fn finish(&self, pool: &Pool) {
        self.quotas.write(pool).await;
    }

    async fn reread(&self) {
        let interval = Duration::from_millis(self.config.reread_interval_ms);
        loop {
            let never = self.keys.as_ref().is_some_and(|keys| keys.current().is_none());
            sleep(if never { interval.min(FIRST_KEYS_PAUSE) } else { interval }).await;
            if let Some(keys) = &self.keys {
                match keys.reread().await {
                    Ok(true) => tracing::info!("token keys have changed"),
                    Ok(false) => {}
                    Err(error) => tracing::warn!(error, "token keys cannot be read; the last ones stay"),
                }
            }
            match Callers::read(&self.config) {
                Ok(callers) => *self.callers.write() = Arc::new(callers),
                Err(faults) => {
                    tracing::warn!(faults = faults.join("; "), "callers cannot be read; the last ones stay")
                }
            }
            if let Some(tls) = &self.tls
                && let Err(faults) = tls.reread()
            {
                tracing::warn!(
                    faults = faults.join("; "),
                    "TLS files cannot be read; what was read last stays"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scope_has_a_word_of_its_own() {
        for &scope in Scope::ALL {
            assert_eq!(Scope::parse(scope.as_str()), Some(scope));
        }
        assert_eq!(Scope::parse("notifications"), None);
    }
}

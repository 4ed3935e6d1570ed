//! The way from a call to the broker.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::time::{Instant, timeout_at};

use super::guard::Deadline;
use super::token::Position;
use crate::domain::{NotificationRequested, NotificationUpdate};

/// Why a record was not taken over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No acknowledgement from the broker.
    #[error("broker is unavailable: {0}")]
    Broker(String),
    /// The schema registry did not answer.
    #[error("schema registry is unavailable: {0}")]
    Registry(String),
    /// Broker or schema refuse this record for good: a fault of ours or of the set-up.
    #[error("record was refused: {0}")]
    Refused(String),
}

impl PublishError {
    /// Nothing came within the time that there was.
    pub(super) fn late() -> Self {
        Self::Broker("no acknowledgement before the deadline".to_owned())
    }
}

/// Until when an acknowledgement is waited for.
#[derive(Debug)]
pub enum Until<'a> {
    /// Until then.
    Instant(Instant),
    /// Until its call is ended, by whoever bounds it: a timer less for each call.
    Call(&'a Deadline),
}

impl From<Instant> for Until<'_> {
    fn from(instant: Instant) -> Self {
        Self::Instant(instant)
    }
}

impl<'a> From<&'a Deadline> for Until<'a> {
    fn from(deadline: &'a Deadline) -> Self {
        Self::Call(deadline)
    }
}

/// What a call asks to be published.
#[derive(Debug, Clone, PartialEq)]
pub enum Outgoing {
    /// A request for a notification, under the patient's key.
    Request(NotificationRequested),
    /// What became known of one, under [`NotificationUpdate::key`].
    Update(NotificationUpdate),
}

impl From<NotificationRequested> for Outgoing {
    fn from(request: NotificationRequested) -> Self {
        Self::Request(request)
    }
}

impl From<NotificationUpdate> for Outgoing {
    fn from(update: NotificationUpdate) -> Self {
        Self::Update(update)
    }
}

type Publish = dyn Fn(Outgoing) -> BoxFuture<'static, Result<Position, PublishError>> + Send + Sync;

/// Publishes what calls ask for; the role decides how. Clones share one way.
#[derive(Clone)]
pub struct Publisher(Arc<Publish>);

impl Publisher {
    /// `publish` encodes what it is given, hands it to the broker under its key, and ends
    /// with the broker's acknowledgement (all in-sync replicas) or an error.
    pub fn new<F>(publish: impl Fn(Outgoing) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Position, PublishError>> + Send + 'static,
    {
        Self(Arc::new(move |what| Box::pin(publish(what))))
    }

    /// Publishes one record; `Ok` only after the acknowledgement, and a broker that has
    /// not given it by `until` is taken for away.
    ///
    /// # Errors
    /// What the way to the broker says; after any error but `Refused` the record may
    /// still arrive, which is harmless because its id follows from the call.
    pub async fn publish(
        &self,
        what: impl Into<Outgoing>,
        until: impl Into<Until<'_>>,
    ) -> Result<Position, PublishError> {
        let publishing = (self.0)(what.into());
        match until.into() {
            Until::Instant(until) => {
                timeout_at(until, publishing).await.unwrap_or_else(|_| Err(PublishError::late()))
            }
            Until::Call(deadline) => deadline.at_broker(publishing).await,
        }
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Publisher")
    }
}

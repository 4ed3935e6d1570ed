//! The way from a call to the broker.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::token::Position;
use crate::domain::NotificationRequested;

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

type Publish<T> = dyn Fn(T) -> BoxFuture<'static, Result<Position, PublishError>> + Send + Sync;

/// Publishes requests, or whatever else `T` is; the role decides how. Clones share
/// one way.
pub struct Publisher<T = NotificationRequested>(Arc<Publish<T>>);

impl<T> Publisher<T> {
    /// `publish` encodes a record, hands it to the broker under its key, and ends
    /// with the broker's acknowledgement (all in-sync replicas) or an error.
    pub fn new<F>(publish: impl Fn(T) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Position, PublishError>> + Send + 'static,
    {
        Self(Arc::new(move |record| Box::pin(publish(record))))
    }

    /// Publishes one record; `Ok` only after the acknowledgement.
    ///
    /// # Errors
    /// What the way to the broker says; after any error but `Refused` the record may
    /// still arrive, which is harmless because its id follows from what it says.
    pub async fn publish(&self, record: T) -> Result<Position, PublishError> {
        (self.0)(record).await
    }
}

impl<T> Clone for Publisher<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Publisher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Publisher")
    }
}

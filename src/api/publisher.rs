//! The way from a call to the broker.

use std::fmt;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::token::Position;
use crate::domain::NotificationRequested;

/// Why a request was not taken over.
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

type Publish =
    dyn Fn(NotificationRequested) -> BoxFuture<'static, Result<Position, PublishError>> + Send + Sync;

/// Publishes requests; the role decides how. Clones share one way.
#[derive(Clone)]
pub struct Publisher(Arc<Publish>);

impl Publisher {
    /// `publish` encodes a request, hands it to the broker under the patient's key,
    /// and ends with the broker's acknowledgement (all in-sync replicas) or an error.
    pub fn new<F>(publish: impl Fn(NotificationRequested) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Position, PublishError>> + Send + 'static,
    {
        Self(Arc::new(move |request| Box::pin(publish(request))))
    }

    /// Publishes one request; `Ok` only after the acknowledgement.
    ///
    /// # Errors
    /// What the way to the broker says; after any error but `Refused` the record may
    /// still arrive, which is harmless because its id follows from the request.
    pub async fn publish(&self, request: NotificationRequested) -> Result<Position, PublishError> {
        (self.0)(request).await
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Publisher")
    }
}

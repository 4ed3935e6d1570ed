//! The handle that the other rooms hold: a pool, and one method a statement.

use deadpool_postgres::{Client, Pool};
use uuid::Uuid;

use super::error::RecordError;

/// Who writes: one process from its start to its end. Claims carry it, so that
/// the rows of a process that died can be told from those of a living one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner(pub Uuid);

impl Owner {
    /// A new owner, for a process that starts.
    #[must_use]
    pub fn new() -> Self {
        Self(Uuid::now_v7())
    }
}

impl Default for Owner {
    fn default() -> Self {
        Self::new()
    }
}

/// The database, as the rest of the system sees it.
#[derive(Debug, Clone)]
pub struct Store {
    pub(super) pool: Pool,
    pub(super) owner: Owner,
}

impl Store {
    /// A store that writes as `owner`.
    #[must_use]
    pub const fn new(pool: Pool, owner: Owner) -> Self {
        Self { pool, owner }
    }

    /// Who writes.
    #[must_use]
    pub const fn owner(&self) -> Owner {
        self.owner
    }

    pub(super) async fn client(&self) -> Result<Client, RecordError> {
        Ok(self.pool.get().await?)
    }

    /// One round trip, for readiness.
    ///
    /// # Errors
    /// [`RecordError::Unavailable`] when the database does not answer.
    pub async fn ping(&self) -> Result<(), RecordError> {
        let client = self.client().await?;
        client.simple_query("SELECT 1").await.map_err(RecordError::at("ping"))?;
        Ok(())
    }
}

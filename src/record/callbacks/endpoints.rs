//! The ends that are configured, as the database knows them.

use crate::record::{RecordError, Store};

/// An end that the configuration names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownEndpoint {
    /// Whose it is.
    pub caller: String,
    /// Digest of its address: the address itself may have a secret in its path.
    pub url_digest: Vec<u8>,
}

/// One with another address than before, and one that was removed meanwhile, has all its
/// chances.
const KEEP: &str = "
INSERT INTO callback_endpoint AS e (caller, url_digest)
SELECT * FROM unnest($1::text[], $2::bytea[]) AS i (caller, url_digest) ORDER BY caller
ON CONFLICT (caller) DO UPDATE
   SET url_digest = excluded.url_digest, failures = 0, failing_since = NULL, last_failure = NULL,
       probe_at = now(), disabled_at = NULL, removed_at = NULL
 WHERE e.url_digest <> excluded.url_digest OR e.removed_at IS NOT NULL";

const REMOVE: &str = "
UPDATE callback_endpoint SET removed_at = now() WHERE caller <> ALL($1) AND removed_at IS NULL";

impl Store {
    /// Writes down which ends there are. Once is enough for as long as they stay the same.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn keep_callback_endpoints(&self, endpoints: &[KnownEndpoint]) -> Result<(), RecordError> {
        let at = RecordError::at("callback_endpoints");
        let mut client = self.client().await?;
        let tx = client.transaction().await.map_err(&at)?;
        let callers: Vec<&str> = endpoints.iter().map(|one| one.caller.as_str()).collect();
        let digests: Vec<&[u8]> = endpoints.iter().map(|one| one.url_digest.as_slice()).collect();
        tx.execute(KEEP, &[&callers, &digests]).await.map_err(&at)?;
        tx.execute(REMOVE, &[&callers]).await.map_err(&at)?;
        tx.commit().await.map_err(&at)
    }
}

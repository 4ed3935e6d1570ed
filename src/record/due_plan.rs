//! How the database would look for due deliveries: for operators, benches and tests.

use std::time::Duration;

use super::due::{CLAIM_DUE, Shares};
use super::error::RecordError;
use super::store::Store;
use crate::domain::{Channel, Urgency};

impl Store {
    /// The plan of [`Store::claim_due`] with these arguments, a line each, with the time and
    /// the pages that it took. The claim is made for that, and taken back: no row changes,
    /// but rows that it would have claimed are locked meanwhile.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn explain_claim_due(
        &self,
        urgency: Urgency,
        shares: &[(Channel, usize)],
        lease: Duration,
    ) -> Result<Vec<String>, RecordError> {
        let at = RecordError::at("explain_claim_due");
        let mut client = self.client().await?;
        let explain = async {
            let transaction = client.transaction().await?;
            let shares = Shares::new(shares, lease);
            let rows = transaction
                .query(
                    &format!("EXPLAIN (ANALYZE, BUFFERS) {CLAIM_DUE}"),
                    &[&shares.channels, &self.owner.0, &shares.lease_ms, &shares.places, &urgency.as_str()],
                )
                .await?;
            transaction.rollback().await?;
            rows.iter().map(|row| row.try_get(0)).collect::<Result<_, tokio_postgres::Error>>()
        };
        explain.await.map_err(at)
    }
}

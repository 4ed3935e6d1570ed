//! Claims of a notification that exists already, made for another content.

use std::collections::HashSet;
use std::time::Instant;

use super::claim::Source;
use super::error::RecordError;
use super::store::Store;
use crate::domain::NotificationId;
use crate::metrics;

/// Lines of the why-log about conflicts that one notification gets, at most: a
/// caller that never stops must not fill it.
const NOTED_MAX: i64 = 20;

/// A claim that was not the first of its notification.
#[derive(Debug, Clone)]
pub struct Repeated {
    /// Which notification.
    pub notification_id: NotificationId,
    /// SHA-256 of what was asked this time.
    pub fingerprint: [u8; 32],
    /// The record that it came from.
    pub source: Source,
}

/// A record is noted once, however often it is read again: its place is in `detail`.
const NOTE_CONFLICTS: &str = "
WITH input AS (
    SELECT * FROM unnest($1::uuid[], $2::bytea[], $3::text[])
           WITH ORDINALITY AS t (notification_id, fingerprint, detail, place)
), conflict AS (
    SELECT i.place, i.notification_id, i.detail, n.state,
           row_number() OVER (PARTITION BY i.notification_id ORDER BY i.place) AS nth
      FROM input i JOIN notification n USING (notification_id)
     WHERE n.fingerprint <> i.fingerprint
), noted AS (
    INSERT INTO why (notification_id, step, state, reason, detail)
    SELECT c.notification_id, 'claim', c.state, 'conflicting_duplicate', c.detail
      FROM conflict c
     WHERE NOT EXISTS (SELECT FROM why w
                        WHERE w.notification_id = c.notification_id
                          AND w.reason = 'conflicting_duplicate' AND w.detail = c.detail)
       AND c.nth + (SELECT count(*) FROM why w
                     WHERE w.notification_id = c.notification_id
                       AND w.reason = 'conflicting_duplicate') <= $4
     ORDER BY c.place
)
SELECT place FROM conflict";

impl Store {
    /// Compares repeated claims with what stands, and writes down those that were
    /// made for another content. The places (in `repeated`) of these come back.
    ///
    /// A record's conflict is noted once, and at most 20 of one notification.
    ///
    /// # Errors
    /// As [`RecordError`] tells; it may be repeated.
    pub async fn note_conflicts(&self, repeated: &[Repeated]) -> Result<HashSet<usize>, RecordError> {
        let begun = Instant::now();
        let client = self.client().await?;
        let at = RecordError::at("note_conflicts");
        let statement = client.prepare_cached(NOTE_CONFLICTS).await.map_err(&at)?;
        let ids: Vec<_> = repeated.iter().map(|one| one.notification_id.0).collect();
        let fingerprints: Vec<&[u8]> = repeated.iter().map(|one| one.fingerprint.as_slice()).collect();
        let details: Vec<String> = repeated
            .iter()
            .map(|Repeated { source, .. }| {
                format!("record {}/{}/{}", source.topic, source.partition, source.offset)
            })
            .collect();
        let rows =
            client.query(&statement, &[&ids, &fingerprints, &details, &NOTED_MAX]).await.map_err(&at)?;
        metrics::statement("note_conflicts", repeated.len(), begun.elapsed());
        let place = |row: &tokio_postgres::Row| {
            let place = usize::try_from(row.try_get::<_, i64>(0)?).unwrap_or_default();
            Ok(place.saturating_sub(1))
        };
        rows.iter().map(place).collect()
    }
}

//! Who has results that nobody has read yet.

use jiff::Timestamp;
use uuid::Uuid;

use super::error::RecordError;
use super::store::Store;
use crate::domain::PatientId;

/// Where a walk over notifications stands: the last one that was looked at.
pub type Place = (Timestamp, Uuid);

/// A recipient with unread results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// In the portal.
    pub recipient: String,
    /// A patient whose results those are; the recipient's own, if there are any.
    pub patient_id: PatientId,
    /// How many there are.
    pub count: i64,
}

/// One page of a walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnreadPage {
    /// Recipients whose first unread result is in the page.
    pub recipients: Vec<Unread>,
    /// Where the next page begins; `None`: this was the last.
    pub next: Option<Place>,
}

// The walk is over notifications, in an index that is there anyway. A recipient belongs
// to the page of the first unread result, so that each is on one page only. What a
// recipient may not hear of any more is not counted.
const PAGE: &str = "
WITH page AS MATERIALIZED (
    SELECT notification_id, accepted_at, recipient_id, patient_id, state, engagement
      FROM notification
     WHERE purpose = 'test_result' AND NOT contents_erased
       AND accepted_at >= $1::timestamptz - $2::bigint * interval '1 day' AND accepted_at < $1
       AND (accepted_at, notification_id) > ($3::timestamptz, $4::uuid)
     ORDER BY accepted_at, notification_id
     LIMIT $5
), met AS (
    SELECT DISTINCT recipient_id FROM page
     WHERE state IN ('sent', 'delivered') AND coalesce(engagement, 'seen') = 'seen'
), recipients AS (
    SELECT r.external_id, all_of.patient_id, all_of.unread
      FROM met JOIN recipient r USING (recipient_id)
     CROSS JOIN LATERAL (
        SELECT count(*) AS unread, (array_agg(n.notification_id ORDER BY n.accepted_at, n.notification_id))[1] AS first,
               (array_agg(n.patient_id ORDER BY v.relation = 'patient' DESC, n.patient_id))[1] AS patient_id
          FROM notification n JOIN visibility v USING (patient_id, recipient_id)
         WHERE n.recipient_id = met.recipient_id AND n.purpose = 'test_result' AND NOT n.contents_erased
           AND n.accepted_at >= $1::timestamptz - $2::bigint * interval '1 day' AND n.accepted_at < $1
           AND n.state IN ('sent', 'delivered') AND coalesce(n.engagement, 'seen') = 'seen'
           AND coalesce(v.valid_from <= now(), true) AND coalesce(v.valid_until > now(), true)) AS all_of
     WHERE all_of.first IN (SELECT notification_id FROM page) AND r.erased_at IS NULL
)
SELECT p.size, p.last_at, p.last_id, r.external_id, r.patient_id, r.unread
  FROM (SELECT count(*) AS size, max(accepted_at) AS last_at,
               (array_agg(notification_id ORDER BY accepted_at DESC, notification_id DESC))[1] AS last_id
          FROM page) AS p
  LEFT JOIN recipients r ON true
 ORDER BY r.external_id";

impl Store {
    /// Recipients with results that were handed over in the `days` before `until` and
    /// are not read: those of the next `limit` notifications behind `after`.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn unread_results(
        &self,
        until: Timestamp,
        days: u32,
        after: Option<Place>,
        limit: usize,
    ) -> Result<UnreadPage, RecordError> {
        let at = RecordError::at("digest_page");
        let client = self.client().await?;
        let statement = client.prepare_cached(PAGE).await.map_err(&at)?;
        let (after_at, after_id) = after.unwrap_or((Timestamp::UNIX_EPOCH, Uuid::nil()));
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = client
            .query(&statement, &[&until, &i64::from(days), &after_at, &after_id, &limit])
            .await
            .map_err(&at)?;
        let mut page = UnreadPage { recipients: Vec::new(), next: None };
        for row in &rows {
            if row.try_get::<_, i64>("size")? == limit {
                page.next = Some((row.try_get("last_at")?, row.try_get("last_id")?));
            }
            let Some(recipient) = row.try_get("external_id")? else { continue };
            let patient_id = PatientId::parse(row.try_get("patient_id")?)
                .ok_or_else(|| RecordError::bug("a notification's patient has an unusable identifier"))?;
            page.recipients.push(Unread { recipient, patient_id, count: row.try_get("unread")? });
        }
        Ok(page)
    }
}

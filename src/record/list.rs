//! Notifications of a patient or of a caller, newest first, a page at a time.

use deadpool_postgres::Pool;
use jiff::Timestamp;
use uuid::Uuid;

use super::error::RecordError;
use super::read::{NotificationView, notification_view};
use crate::domain::{NotificationId, PatientId, Purpose, State};

/// Rows that one page looks at, at most: a filter that hardly anything passes must
/// not read a whole table in one statement.
const SCAN_MAX_ROWS: i64 = 20_000;

/// Where a page begins: right behind this notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// When it was planned.
    pub accepted_at: Timestamp,
    /// Which one.
    pub id: NotificationId,
}

/// Which notifications. A patient or a caller has to be there: each has an index.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this patient.
    pub patient_id: Option<PatientId>,
    /// That this caller asked for.
    pub caller: Option<String>,
    /// For this purpose.
    pub purpose: Option<Purpose>,
    /// In one of these states; empty: in any.
    pub states: Vec<State>,
    /// Planned then or later.
    pub from: Option<Timestamp>,
    /// Planned before then.
    pub before: Option<Timestamp>,
}

/// A page.
#[derive(Debug)]
pub struct Page {
    /// Without deliveries and reasons.
    pub notifications: Vec<NotificationView>,
    /// Where the next page begins; `None`: there is none.
    pub next: Option<Place>,
}

const PAGE: &str = "
WITH scanned AS MATERIALIZED (
    SELECT notification_id, patient_id, recipient_id, purpose, urgency, strategy, state, reason, sequence,
           published_at, accepted_at, expires_at, updated_at, caller, cancelled_at, cancelled_by, engagement,
           engaged_at
      FROM notification
     WHERE ($1::text IS NULL OR patient_id = $1) AND ($2::text IS NULL OR caller = $2)
       AND ($3::timestamptz IS NULL OR accepted_at >= $3) AND ($4::timestamptz IS NULL OR accepted_at < $4)
       AND ($5::timestamptz IS NULL OR (accepted_at, notification_id) < ($5, $6::uuid))
     ORDER BY accepted_at DESC, notification_id DESC LIMIT $7
), page AS (
    SELECT * FROM scanned
     WHERE ($8::text IS NULL OR purpose = $8) AND (cardinality($9::text[]) = 0 OR state = ANY($9))
     ORDER BY accepted_at DESC, notification_id DESC LIMIT $10
), last AS (
    SELECT accepted_at AS last_at, notification_id AS last_id
      FROM scanned ORDER BY accepted_at, notification_id LIMIT 1
)
SELECT counted.scanned, last.*, page.*
  FROM (SELECT count(*) AS scanned FROM scanned) AS counted
  LEFT JOIN last ON true LEFT JOIN page ON true
 ORDER BY page.accepted_at DESC, page.notification_id DESC";

/// One page of at most `size` notifications behind `after`. It may have fewer although
/// more follow.
///
/// # Errors
/// `Unavailable` when the database is away.
pub async fn page(
    pool: &Pool,
    filter: &Filter,
    after: Option<Place>,
    size: usize,
) -> Result<Page, RecordError> {
    let client = pool.get().await?;
    let at = RecordError::at("list_notifications");
    let statement = client.prepare_cached(PAGE).await.map_err(&at)?;
    let states: Vec<&str> = filter.states.iter().map(|state| state.as_str()).collect();
    let (after_at, after_id) = after.map(|place| (place.accepted_at, place.id.0)).unzip();
    // One more, to know whether there is more.
    let limit = i64::try_from(size).unwrap_or(i64::MAX).saturating_add(1);
    let rows = client
        .query(
            &statement,
            &[
                &filter.patient_id.as_ref().map(PatientId::as_str),
                &filter.caller,
                &filter.from,
                &filter.before,
                &after_at,
                &after_id,
                &SCAN_MAX_ROWS,
                &filter.purpose.map(Purpose::as_str),
                &states,
                &limit,
            ],
        )
        .await
        .map_err(&at)?;
    let mut notifications = Vec::with_capacity(size);
    for row in &rows {
        if let Some(id) = row.get::<_, Option<Uuid>>("notification_id") {
            notifications.push(notification_view(NotificationId(id), row)?);
        }
    }
    let place = |view: &NotificationView| Place { accepted_at: view.accepted_at, id: view.id };
    let next = if notifications.len() > size {
        notifications.truncate(size);
        notifications.last().map(place)
    } else {
        rows.first()
            .filter(|row| row.get::<_, i64>("scanned") >= SCAN_MAX_ROWS)
            .map(|row| Place { accepted_at: row.get("last_at"), id: NotificationId(row.get("last_id")) })
    };
    Ok(Page { notifications, next })
}

/// Is there this notification?
///
/// # Errors
/// `Unavailable` when the database is away.
pub async fn exists(pool: &Pool, id: NotificationId) -> Result<bool, RecordError> {
    let client = pool.get().await?;
    let at = RecordError::at("notification_exists");
    let text = "SELECT EXISTS (SELECT FROM notification WHERE notification_id = $1)";
    let statement = client.prepare_cached(text).await.map_err(&at)?;
    Ok(client.query_one(&statement, &[&id.0]).await.map_err(&at)?.get(0))
}

//! What the front shows: a notification with its deliveries and reasons.

use deadpool_postgres::Pool;
use futures::future::try_join;
use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::error::RecordError;
use crate::domain::{
    Channel, DeliveryId, Engagement, NotificationId, PatientId, Purpose, Reason, Receipt, ReceiptStatus,
    RecipientId, State, Strategy, Urgency,
};

/// Lines of the why-log that one answer has, at most.
const WHY_MAX_LINES: i64 = 500;

/// A notification as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct NotificationView {
    /// Which one.
    pub id: NotificationId,
    /// Whom it is about.
    pub patient_id: PatientId,
    /// What it is for.
    pub purpose: Purpose,
    /// How soon.
    pub urgency: Urgency,
    /// How its channels are used.
    pub strategy: Strategy,
    /// Where it stands.
    pub state: State,
    /// Why there.
    pub reason: Reason,
    /// Number of its status changes, from 1.
    pub sequence: i32,
    /// Timestamp of the source record.
    pub published_at: Timestamp,
    /// When it was claimed.
    pub accepted_at: Timestamp,
    /// Too late to be useful.
    pub expires_at: Timestamp,
    /// Last change.
    pub updated_at: Timestamp,
    /// Who gets it.
    pub recipient_id: RecipientId,
    /// Who asked for it; `None`: it came from a test result.
    pub caller: Option<String>,
    /// When its cancellation was recorded.
    pub cancelled_at: Option<Timestamp>,
    /// Who took it back, where that is known.
    pub cancelled_by: Option<String>,
    /// The most that its recipient is known to have done, and when.
    pub engagement: Option<(Engagement, Timestamp)>,
    /// In the order in which channels are tried.
    pub deliveries: Vec<DeliveryView>,
    /// Oldest first.
    pub why: Vec<WhyLine>,
}

/// A delivery as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct DeliveryView {
    /// Which one.
    pub id: DeliveryId,
    /// Its channel.
    pub channel: Channel,
    /// Where it stands.
    pub state: State,
    /// Why there.
    pub reason: Reason,
    /// Provider calls that count.
    pub attempts: i32,
    /// Who carried it.
    pub provider: Option<String>,
    /// The provider's identifier of the message.
    pub provider_message_id: Option<String>,
    /// When it was planned.
    pub created_at: Timestamp,
    /// First call to the provider.
    pub first_attempt_at: Option<Timestamp>,
    /// When it is looked at next.
    pub due_at: Option<Timestamp>,
    /// Last change.
    pub updated_at: Timestamp,
    /// The receipt that decides.
    pub receipt: Option<Receipt>,
}

/// One line of the why-log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WhyLine {
    /// When.
    pub at: Timestamp,
    /// Which step decided.
    pub step: String,
    /// State after it.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// Channel that it concerns; `None`: all.
    pub channel: Option<Channel>,
    /// More, in the system's words.
    pub detail: Option<String>,
}

// One statement, so that notification and deliveries are of the same moment; the
// deliveries' ids follow from the notification's.
const NOTIFICATION: &str = "
SELECT n.patient_id, n.recipient_id, n.purpose, n.urgency, n.strategy, n.state, n.reason, n.sequence,
       n.published_at, n.accepted_at, n.expires_at, n.updated_at, n.caller, n.cancelled_at, n.cancelled_by,
       n.engagement, n.engaged_at,
       d.delivery_id, d.channel AS d_channel, d.state AS d_state, d.reason AS d_reason, d.attempt,
       d.provider, d.provider_message_id, d.created_at AS d_created_at, d.first_attempt_at,
       d.due_at, d.updated_at AS d_updated_at, d.receipt, d.receipt_at
FROM notification n
LEFT JOIN delivery d ON d.delivery_id = ANY ($2) AND d.notification_id = n.notification_id
WHERE n.notification_id = $1
ORDER BY d.position";

const WHY: &str = "
SELECT at, step, state, reason, channel, detail FROM why
WHERE notification_id = $1 ORDER BY why_id LIMIT $2";

/// A notification, its deliveries and the first 500 lines of its why-log; `None`
/// when nobody has claimed it yet.
///
/// # Errors
/// `Unavailable` when the database is away.
pub async fn notification(pool: &Pool, id: NotificationId) -> Result<Option<NotificationView>, RecordError> {
    let client = pool.get().await?;
    let at = RecordError::at("read_notification");
    let deliveries: Vec<Uuid> =
        Channel::ALL.iter().map(|&channel| DeliveryId::for_channel(id, channel).0).collect();
    let (notification, why) =
        try_join(client.prepare_cached(NOTIFICATION), client.prepare_cached(WHY)).await.map_err(&at)?;
    let (rows, why) = try_join(
        client.query(&notification, &[&id.0, &deliveries]),
        client.query(&why, &[&id.0, &WHY_MAX_LINES]),
    )
    .await
    .map_err(&at)?;
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let mut view = notification_view(id, first)?;
    for row in rows.iter().filter(|row| row.get::<_, Option<Uuid>>("delivery_id").is_some()) {
        view.deliveries.push(delivery_view(row)?);
    }
    view.why = why.iter().map(why_line).collect::<Result<_, _>>()?;
    Ok(Some(view))
}

pub(super) fn notification_view(id: NotificationId, row: &Row) -> Result<NotificationView, RecordError> {
    Ok(NotificationView {
        id,
        patient_id: patient_id(row)?,
        purpose: word(row, "purpose", Purpose::parse)?,
        urgency: word(row, "urgency", Urgency::parse)?,
        strategy: word(row, "strategy", Strategy::parse)?,
        state: word(row, "state", State::parse)?,
        reason: word(row, "reason", Reason::parse)?,
        sequence: row.get("sequence"),
        published_at: row.get("published_at"),
        accepted_at: row.get("accepted_at"),
        expires_at: row.get("expires_at"),
        updated_at: row.get("updated_at"),
        recipient_id: RecipientId(row.get("recipient_id")),
        caller: row.get("caller"),
        cancelled_at: row.get("cancelled_at"),
        cancelled_by: row.get("cancelled_by"),
        engagement: optional_word(row, "engagement", Engagement::parse)?.zip(row.get("engaged_at")),
        deliveries: Vec::new(),
        why: Vec::new(),
    })
}

fn delivery_view(row: &Row) -> Result<DeliveryView, RecordError> {
    Ok(DeliveryView {
        id: DeliveryId(row.get("delivery_id")),
        channel: word(row, "d_channel", Channel::parse)?,
        state: word(row, "d_state", State::parse)?,
        reason: word(row, "d_reason", Reason::parse)?,
        attempts: row.get("attempt"),
        provider: row.get("provider"),
        provider_message_id: row.get("provider_message_id"),
        created_at: row.get("d_created_at"),
        first_attempt_at: row.get("first_attempt_at"),
        due_at: row.get("due_at"),
        updated_at: row.get("d_updated_at"),
        receipt: optional_word(row, "receipt", ReceiptStatus::parse)?
            .zip(row.get("receipt_at"))
            .map(|(status, at)| Receipt { status, at }),
    })
}

pub(super) fn why_line(row: &Row) -> Result<WhyLine, RecordError> {
    Ok(WhyLine {
        at: row.get("at"),
        step: row.get("step"),
        state: word(row, "state", State::parse)?,
        reason: word(row, "reason", Reason::parse)?,
        channel: optional_word(row, "channel", Channel::parse)?,
        detail: row.get("detail"),
    })
}

fn patient_id(row: &Row) -> Result<PatientId, RecordError> {
    PatientId::parse(row.get("patient_id")).ok_or_else(|| unknown("patient_id"))
}

/// A column that holds one of our words.
pub(super) fn word<T>(
    row: &Row,
    column: &'static str,
    parse: fn(&str) -> Option<T>,
) -> Result<T, RecordError> {
    parse(row.get(column)).ok_or_else(|| unknown(column))
}

/// The same of a column that may be null.
fn optional_word<T>(
    row: &Row,
    column: &'static str,
    parse: fn(&str) -> Option<T>,
) -> Result<Option<T>, RecordError> {
    row.get::<_, Option<&str>>(column).map(|text| parse(text).ok_or_else(|| unknown(column))).transpose()
}

fn unknown(column: &str) -> RecordError {
    RecordError::bug(format!("column {column} has a value that this version does not know"))
}

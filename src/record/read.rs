//! What the front shows: a notification with its deliveries and reasons, a recipient.

use deadpool_postgres::Pool;
use futures::future::try_join;
use jiff::Timestamp;
use jiff::civil::Time;
use tokio_postgres::Row;
use uuid::Uuid;

use super::error::RecordError;
use crate::domain::{
    Channel, DeliveryId, Engagement, NotificationId, PatientId, Purpose, QuietHours, Reason, Receipt,
    ReceiptStatus, RecipientId, Redacted, Relation, State, Strategy, Urgency,
};

/// Lines of the why-log that one answer has, at most.
const WHY_MAX_LINES: i64 = 500;
/// Parts of a recipient (links, contact points) that one answer has, at most.
const PARTS_MAX: i64 = 1000;

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

/// A recipient as it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct RecipientView {
    /// The portal's identifier.
    pub external_id: String,
    /// Patients of whom the recipient hears.
    pub patients: Vec<(PatientId, Relation)>,
    /// BCP 47 tag.
    pub locale: Option<String>,
    /// IANA zone.
    pub time_zone: Option<String>,
    /// The recipient's own quiet hours.
    pub quiet_hours: Option<QuietHours>,
    /// The recipient's own order.
    pub channel_order: Vec<Channel>,
    /// In use first, then retired ones.
    pub contact_points: Vec<ContactPointView>,
    /// The consents in force.
    pub consents: Vec<ConsentView>,
    /// Contents and addresses are gone.
    pub erased: bool,
    /// Creation.
    pub created_at: Timestamp,
    /// Last change of the recipient's own fields.
    pub updated_at: Timestamp,
}

/// An address, used or retired.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactPointView {
    /// Its channel.
    pub channel: Channel,
    /// The address; show it masked only.
    pub address: Redacted<String>,
    /// `None`: never written to.
    pub verified_at: Option<Timestamp>,
    /// `None`: in use.
    pub retired_at: Option<Timestamp>,
    /// Why it was retired.
    pub retired_why: Option<String>,
}

/// A consent in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsentView {
    /// By which channel.
    pub channel: Channel,
    /// To what.
    pub purpose: Purpose,
    /// Agreed, or refused.
    pub granted: bool,
    /// When the recipient said so.
    pub given_at: Timestamp,
    /// Who recorded it.
    pub recorded_by: String,
    /// How it was given.
    pub how: String,
}

const RECIPIENT: &str = "
SELECT external_id, locale, time_zone, quiet_hours_start, quiet_hours_end, channel_order,
       erased_at IS NOT NULL AS erased, created_at, updated_at
FROM recipient WHERE recipient_id = $1";

const LINKS: &str = "
SELECT patient_id, relation FROM visibility
WHERE recipient_id = $1 ORDER BY relation, patient_id LIMIT $2";

const POINTS: &str = "
SELECT channel, address, verified_at, retired_at, retired_why FROM contact_point
WHERE recipient_id = $1 ORDER BY retired_at IS NOT NULL, retired_at DESC, position, channel, address LIMIT $2";

const CONSENTS: &str = "
SELECT DISTINCT ON (channel, purpose) channel, purpose, granted, recorded_at, recorded_by, how
FROM consent WHERE recipient_id = $1 ORDER BY channel, purpose, consent_id DESC";

/// A recipient; `None` when there is none.
///
/// # Errors
/// `Unavailable` when the database is away.
pub async fn recipient(pool: &Pool, id: RecipientId) -> Result<Option<RecipientView>, RecordError> {
    let mut client = pool.get().await?;
    let at = RecordError::at("read_recipient");
    // One snapshot for all parts.
    let snapshot = client
        .build_transaction()
        .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await
        .map_err(&at)?;
    let statement = snapshot.prepare_cached(RECIPIENT).await.map_err(&at)?;
    let Some(row) = snapshot.query_opt(&statement, &[&id.0]).await.map_err(&at)? else {
        return Ok(None);
    };
    let statement = snapshot.prepare_cached(LINKS).await.map_err(&at)?;
    let links = snapshot.query(&statement, &[&id.0, &PARTS_MAX]).await.map_err(&at)?;
    let statement = snapshot.prepare_cached(POINTS).await.map_err(&at)?;
    let points = snapshot.query(&statement, &[&id.0, &PARTS_MAX]).await.map_err(&at)?;
    let statement = snapshot.prepare_cached(CONSENTS).await.map_err(&at)?;
    let consents = snapshot.query(&statement, &[&id.0]).await.map_err(&at)?;
    snapshot.commit().await.map_err(&at)?;

    let mut view = recipient_view(&row)?;
    view.patients = links
        .iter()
        .map(|row| Ok((patient_id(row)?, word(row, "relation", Relation::parse)?)))
        .collect::<Result<_, RecordError>>()?;
    view.contact_points = points.iter().map(contact_point_view).collect::<Result<_, _>>()?;
    view.consents = consents.iter().map(consent_view).collect::<Result<_, _>>()?;
    Ok(Some(view))
}

fn recipient_view(row: &Row) -> Result<RecipientView, RecordError> {
    let quiet: (Option<Time>, Option<Time>) = (row.get("quiet_hours_start"), row.get("quiet_hours_end"));
    Ok(RecipientView {
        external_id: row.get("external_id"),
        patients: Vec::new(),
        locale: row.get("locale"),
        time_zone: row.get("time_zone"),
        quiet_hours: quiet.0.zip(quiet.1).map(|(start, end)| QuietHours { start, end }),
        channel_order: row
            .get::<_, Vec<&str>>("channel_order")
            .into_iter()
            .map(|text| Channel::parse(text).ok_or_else(|| unknown("channel_order")))
            .collect::<Result<_, _>>()?,
        contact_points: Vec::new(),
        consents: Vec::new(),
        erased: row.get("erased"),
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
    })
}

fn contact_point_view(row: &Row) -> Result<ContactPointView, RecordError> {
    Ok(ContactPointView {
        channel: word(row, "channel", Channel::parse)?,
        address: row.get::<_, String>("address").into(),
        verified_at: row.get("verified_at"),
        retired_at: row.get("retired_at"),
        retired_why: row.get("retired_why"),
    })
}

fn consent_view(row: &Row) -> Result<ConsentView, RecordError> {
    Ok(ConsentView {
        channel: word(row, "channel", Channel::parse)?,
        purpose: word(row, "purpose", Purpose::parse)?,
        granted: row.get("granted"),
        given_at: row.get("recorded_at"),
        recorded_by: row.get("recorded_by"),
        how: row.get("how"),
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

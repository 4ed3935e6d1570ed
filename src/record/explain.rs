//! What the decisions about a notification were made on, and all of its why-log.

use deadpool_postgres::Pool;
use jiff::Timestamp;
use jiff::civil::Time;

use super::error::RecordError;
use super::read::{WhyLine, why_line, word};
use crate::domain::{Channel, NotificationId, Purpose, QuietHours, RecipientId};

/// An entry of the consent ledger that counts, or did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consent {
    /// By which channel.
    pub channel: Channel,
    /// Agreed, or refused.
    pub granted: bool,
    /// When the recipient said so.
    pub given_at: Timestamp,
    /// Who recorded it.
    pub recorded_by: String,
    /// How it was given.
    pub how: String,
    /// It was the newest when the notification was planned.
    pub when_planned: bool,
    /// It is the newest.
    pub now: bool,
}

/// What decisions about a recipient's messages are made on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Basis {
    /// Of one purpose, by channel.
    pub consents: Vec<Consent>,
    /// The recipient's own quiet hours.
    pub quiet_hours: Option<QuietHours>,
    /// The recipient's own zone, an IANA name.
    pub time_zone: Option<String>,
}

const CONSENTS: &str = "
SELECT * FROM (
    SELECT channel, granted, recorded_at, recorded_by, how, consent_id,
           consent_id = max(consent_id) FILTER (WHERE recorded_at <= $3) OVER (PARTITION BY channel)
               IS TRUE AS planned,
           consent_id = max(consent_id) OVER (PARTITION BY channel) AS newest
      FROM consent WHERE recipient_id = $1 AND purpose = $2) AS entry
 WHERE planned OR newest ORDER BY channel, consent_id";

const QUIET: &str =
    "SELECT quiet_hours_start, quiet_hours_end, time_zone FROM recipient WHERE recipient_id = $1";

/// What a notification to this recipient, for this purpose, planned at this time, was
/// decided on.
///
/// # Errors
/// `Unavailable` when the database is away.
pub async fn basis(
    pool: &Pool,
    recipient_id: RecipientId,
    purpose: Purpose,
    planned_at: Timestamp,
) -> Result<Basis, RecordError> {
    let client = pool.get().await?;
    let at = RecordError::at("explain_basis");
    let statement = client.prepare_cached(CONSENTS).await.map_err(&at)?;
    let rows =
        client.query(&statement, &[&recipient_id.0, &purpose.as_str(), &planned_at]).await.map_err(&at)?;
    let consents = rows
        .iter()
        .map(|row| {
            Ok(Consent {
                channel: word(row, "channel", Channel::parse)?,
                granted: row.get("granted"),
                given_at: row.get("recorded_at"),
                recorded_by: row.get("recorded_by"),
                how: row.get("how"),
                when_planned: row.get("planned"),
                now: row.get("newest"),
            })
        })
        .collect::<Result<_, RecordError>>()?;
    let statement = client.prepare_cached(QUIET).await.map_err(&at)?;
    let Some(row) = client.query_opt(&statement, &[&recipient_id.0]).await.map_err(&at)? else {
        return Ok(Basis { consents, ..Basis::default() });
    };
    let hours: (Option<Time>, Option<Time>) = (row.get(0), row.get(1));
    let quiet_hours = hours.0.zip(hours.1).map(|(start, end)| QuietHours { start, end });
    Ok(Basis { consents, quiet_hours, time_zone: row.get(2) })
}

const WHY_PAGE: &str = "
SELECT why_id, at, step, state, reason, channel, detail FROM why
 WHERE notification_id = $1 AND why_id > $2 ORDER BY why_id LIMIT $3";

/// At most `size` lines of the why-log behind the line `after`, oldest first, and the
/// line behind which the next page begins, if there is one.
///
/// # Errors
/// `Unavailable` when the database is away.
pub async fn why_page(
    pool: &Pool,
    id: NotificationId,
    after: i64,
    size: usize,
) -> Result<(Vec<WhyLine>, Option<i64>), RecordError> {
    let client = pool.get().await?;
    let at = RecordError::at("explain_why");
    let statement = client.prepare_cached(WHY_PAGE).await.map_err(&at)?;
    let limit = i64::try_from(size).unwrap_or(i64::MAX).saturating_add(1);
    let rows = client.query(&statement, &[&id.0, &after, &limit]).await.map_err(&at)?;
    let next = if rows.len() > size { size.checked_sub(1).and_then(|last| rows.get(last)) } else { None };
    let next = next.map(|row| row.get("why_id"));
    let lines = rows.iter().take(size).map(why_line).collect::<Result<_, _>>()?;
    Ok((lines, next))
}

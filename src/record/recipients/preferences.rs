//! What a recipient prefers: order of channels, quiet hours, zone, locale.

use deadpool_postgres::Pool;
use jiff::civil::Time;
use tokio_postgres::Row;

use super::{ChangeError, Touch, commit, unknown_word};
use crate::domain::{Channel, QuietHours};
use crate::record::cases::query;
use crate::record::error::RecordError;

/// What is to change; `None` leaves it as it is. Checked by the caller (`api`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PreferencesPatch {
    /// BCP 47 tag; `Some(None)`: the default.
    pub locale: Option<Option<String>>,
    /// IANA zone; `Some(None)`: the default.
    pub time_zone: Option<Option<String>>,
    /// `Some(None)`: the default.
    pub quiet_hours: Option<Option<QuietHours>>,
    /// Empty: the default.
    pub channel_order: Option<Vec<Channel>>,
}

impl PreferencesPatch {
    /// The names of what changes, for the audit log.
    fn names(&self) -> String {
        let all = [
            (self.locale.is_some(), "locale"),
            (self.time_zone.is_some(), "time_zone"),
            (self.quiet_hours.is_some(), "quiet_hours"),
            (self.channel_order.is_some(), "channel_order"),
        ];
        all.iter().filter(|(named, _)| *named).map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
    }
}

/// What a recipient prefers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreferencesView {
    /// BCP 47 tag; `None`: the default.
    pub locale: Option<String>,
    /// IANA zone; `None`: the default.
    pub time_zone: Option<String>,
    /// `None`: the default.
    pub quiet_hours: Option<QuietHours>,
    /// Empty: the default.
    pub channel_order: Vec<Channel>,
}

const UPDATE: &str = "
UPDATE recipient
   SET locale = CASE WHEN $2 THEN $3 ELSE locale END,
       time_zone = CASE WHEN $4 THEN $5 ELSE time_zone END,
       quiet_hours_start = CASE WHEN $6 THEN $7 ELSE quiet_hours_start END,
       quiet_hours_end = CASE WHEN $6 THEN $8 ELSE quiet_hours_end END,
       channel_order = CASE WHEN $9 THEN $10 ELSE channel_order END,
       updated_at = now()
 WHERE recipient_id = $1
RETURNING locale, time_zone, quiet_hours_start, quiet_hours_end, channel_order";

/// Changes what the patch names, and tells what holds afterwards.
///
/// # Errors
/// As [`ChangeError`] tells; then nothing is written.
pub async fn update_preferences(
    pool: &Pool,
    touch: Touch<'_>,
    patch: &PreferencesPatch,
) -> Result<PreferencesView, ChangeError> {
    let mut client = pool.get().await.map_err(RecordError::from)?;
    let tx = touch.begin(&mut client).await?;
    let quiet = patch.quiet_hours.flatten();
    let order: Vec<&str> = patch.channel_order.iter().flatten().map(|channel| channel.as_str()).collect();
    let rows = query(
        &tx,
        "recipient_preferences",
        UPDATE,
        &[
            &touch.id().0,
            &patch.locale.is_some(),
            &patch.locale.as_ref().and_then(Option::as_deref),
            &patch.time_zone.is_some(),
            &patch.time_zone.as_ref().and_then(Option::as_deref),
            &patch.quiet_hours.is_some(),
            &quiet.map(|quiet| quiet.start),
            &quiet.map(|quiet| quiet.end),
            &patch.channel_order.is_some(),
            &order,
        ],
    )
    .await?;
    let view = rows.first().ok_or(ChangeError::Unknown).and_then(|row| Ok(view(row)?))?;
    touch.audit(&tx, "RecipientService/UpdatePreferences", Some(&patch.names())).await?;
    commit(tx).await?;
    Ok(view)
}

/// The preferences in a recipient's row.
pub(super) fn view(row: &Row) -> Result<PreferencesView, RecordError> {
    let quiet: (Option<Time>, Option<Time>) =
        (row.try_get("quiet_hours_start")?, row.try_get("quiet_hours_end")?);
    Ok(PreferencesView {
        locale: row.try_get("locale")?,
        time_zone: row.try_get("time_zone")?,
        quiet_hours: quiet.0.zip(quiet.1).map(|(start, end)| QuietHours { start, end }),
        channel_order: row
            .try_get::<_, Vec<&str>>("channel_order")?
            .into_iter()
            .map(|text| Channel::parse(text).ok_or_else(|| unknown_word("channel_order")))
            .collect::<Result<_, _>>()?,
    })
}

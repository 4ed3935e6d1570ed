//! Channels that operators have paused, what a pause holds, and the processes that send.

use std::time::Instant;

use deadpool_postgres::Pool;
use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::audit::{self, AuditEntry};
use super::error::RecordError;
use super::store::Store;
use crate::domain::{Channel, Urgency};
use crate::metrics;

/// A channel on which nothing goes out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelPause {
    /// Which one.
    pub channel: Channel,
    /// Critical messages go out all the same.
    pub except_critical: bool,
    /// Why, in the operator's words.
    pub why: String,
    /// Who paused it.
    pub paused_by: String,
    /// Since when.
    pub paused_at: Timestamp,
}

impl ChannelPause {
    /// Does it hold a message of this urgency on this channel?
    #[must_use]
    pub fn holds(&self, channel: Channel, urgency: Urgency) -> bool {
        self.channel == channel && !(self.except_critical && urgency == Urgency::Critical)
    }
}

/// A process that sends, as it said of itself a moment ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// The owner of its claims.
    pub owner: Uuid,
    /// Its role.
    pub role: String,
    /// Channels whose provider it leaves alone, because calls fail.
    pub breakers_open: Vec<Channel>,
    /// Since when it runs, and when it last said so.
    pub started_at: Timestamp,
    /// See `started_at`.
    pub seen_at: Timestamp,
}

const PAUSES: &str =
    "SELECT channel, except_critical, why, paused_by, paused_at FROM channel_pause ORDER BY channel";

const PAUSE: &str = "
INSERT INTO channel_pause AS p (channel, except_critical, why, paused_by) VALUES ($1, $2, $3, $4)
ON CONFLICT (channel) DO UPDATE
   SET except_critical = excluded.except_critical, why = excluded.why, paused_by = excluded.paused_by
RETURNING channel, except_critical, why, paused_by, paused_at";

const RESUME: &str = "DELETE FROM channel_pause WHERE channel = $1";

/// What is held for a pause that is over. The time of the pause is no time of trying.
/// Such rows are due when they expire: that is the condition of the index that finds them,
/// because one on state or reason would cost every update of a delivery.
const RELEASE: &str = "
UPDATE delivery d
   SET due_at = now(), first_attempt_at = d.first_attempt_at + (now() - d.updated_at), updated_at = now()
  FROM (SELECT h.delivery_id
          FROM unnest($2::text[]) AS c (channel) CROSS JOIN unnest($3::text[]) AS u (urgency)
          JOIN delivery h ON h.channel = c.channel AND h.urgency = u.urgency
           AND h.due_at >= h.expires_at AND h.state = 'held' AND h.reason = 'channel_paused' AND h.due_at > now()
         WHERE NOT EXISTS (
               SELECT FROM channel_pause p
                WHERE p.channel = c.channel AND NOT (p.except_critical AND u.urgency = 'critical'))
         ORDER BY h.due_at LIMIT $1
           FOR UPDATE OF h SKIP LOCKED) AS free
 WHERE d.delivery_id = free.delivery_id";

const REPORT: &str = "
INSERT INTO sender (owner, role, breakers_open) VALUES ($1, $2, $3)
ON CONFLICT (owner) DO UPDATE SET breakers_open = excluded.breakers_open, seen_at = now()";

const PRUNE: &str = "DELETE FROM sender WHERE seen_at < now() - interval '1 hour'";

/// Each says so every few seconds; one that has not for half a minute is gone.
const SENDERS: &str = "
SELECT owner, role, breakers_open, started_at, seen_at FROM sender
 WHERE seen_at > now() - interval '30 seconds' ORDER BY role, owner LIMIT 1000";

impl Store {
    /// The channels that are paused.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn channel_pauses(&self) -> Result<Vec<ChannelPause>, RecordError> {
        pauses(&self.pool).await
    }

    /// Makes due up to `limit` deliveries that a pause held which is over; their number.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn release_paused(&self, limit: i64) -> Result<u64, RecordError> {
        let begun = Instant::now();
        let client = self.client().await?;
        let statement = client.prepare_cached(RELEASE).await.map_err(RecordError::at("release_paused"))?;
        let channels: Vec<&str> = Channel::ALL.iter().map(|channel| channel.as_str()).collect();
        let urgencies: Vec<&str> = Urgency::ALL.iter().map(|urgency| urgency.as_str()).collect();
        let released = client
            .execute(&statement, &[&limit, &channels, &urgencies])
            .await
            .map_err(RecordError::at("release_paused"))?;
        metrics::statement("release_paused", usize::try_from(released).unwrap_or(0), begun.elapsed());
        Ok(released)
    }

    /// Says that this process sends, and which providers it leaves alone. `prunes`:
    /// forgets those that have not been seen for an hour too.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn report_sender(
        &self,
        role: &str,
        breakers_open: &[Channel],
        prunes: bool,
    ) -> Result<(), RecordError> {
        let client = self.client().await?;
        let statement = client.prepare_cached(REPORT).await.map_err(RecordError::at("report_sender"))?;
        let open: Vec<&str> = breakers_open.iter().map(|channel| channel.as_str()).collect();
        client
            .execute(&statement, &[&self.owner.0, &role, &open])
            .await
            .map_err(RecordError::at("report_sender"))?;
        if prunes {
            client.execute(PRUNE, &[]).await.map_err(RecordError::at("prune_senders"))?;
        }
        Ok(())
    }
}

/// The channels that are paused.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn pauses(pool: &Pool) -> Result<Vec<ChannelPause>, RecordError> {
    let client = pool.get().await?;
    let statement = client.prepare_cached(PAUSES).await.map_err(RecordError::at("channel_pauses"))?;
    let rows = client.query(&statement, &[]).await.map_err(RecordError::at("channel_pauses"))?;
    rows.iter().map(pause_of).collect()
}

/// Pauses a channel, or changes how it is paused; since when stays. Audited.
///
/// # Errors
/// As [`RecordError`] tells; then nothing has changed.
pub async fn pause(
    pool: &Pool,
    caller: &str,
    channel: Channel,
    except_critical: bool,
    why: &str,
) -> Result<ChannelPause, RecordError> {
    let mut client = pool.get().await?;
    let at = RecordError::at("pause_channel");
    let tx = client.transaction().await.map_err(&at)?;
    let row =
        tx.query_one(PAUSE, &[&channel.as_str(), &except_critical, &why, &caller]).await.map_err(&at)?;
    let detail = if except_critical { "all but critical messages" } else { "all messages" };
    audit::append(&tx, &entry(caller, "OperationsService/PauseChannel", channel, Some(detail))).await?;
    tx.commit().await.map_err(&at)?;
    pause_of(&row)
}

/// Ends a pause; false when there was none. Audited when there was one.
///
/// # Errors
/// As [`RecordError`] tells; then nothing has changed.
pub async fn resume(pool: &Pool, caller: &str, channel: Channel) -> Result<bool, RecordError> {
    let mut client = pool.get().await?;
    let at = RecordError::at("resume_channel");
    let tx = client.transaction().await.map_err(&at)?;
    let was_paused = tx.execute(RESUME, &[&channel.as_str()]).await.map_err(&at)? > 0;
    if was_paused {
        audit::append(&tx, &entry(caller, "OperationsService/ResumeChannel", channel, None)).await?;
    }
    tx.commit().await.map_err(&at)?;
    Ok(was_paused)
}

fn entry<'a>(
    caller: &'a str,
    action: &'static str,
    channel: Channel,
    detail: Option<&'a str>,
) -> AuditEntry<'a> {
    AuditEntry { caller, action, subject_kind: "channel", subject: channel.as_str(), detail }
}

/// The processes that send.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn senders(pool: &Pool) -> Result<Vec<Sender>, RecordError> {
    let client = pool.get().await?;
    let statement = client.prepare_cached(SENDERS).await.map_err(RecordError::at("senders"))?;
    let rows = client.query(&statement, &[]).await.map_err(RecordError::at("senders"))?;
    let sender = |row: &Row| {
        let open: Vec<&str> = row.try_get("breakers_open")?;
        Ok(Sender {
            owner: row.try_get("owner")?,
            role: row.try_get("role")?,
            breakers_open: open.into_iter().filter_map(Channel::parse).collect(),
            started_at: row.try_get("started_at")?,
            seen_at: row.try_get("seen_at")?,
        })
    };
    rows.iter().map(sender).collect()
}

fn pause_of(row: &Row) -> Result<ChannelPause, RecordError> {
    let channel: &str = row.try_get("channel")?;
    Ok(ChannelPause {
        channel: Channel::parse(channel).ok_or_else(|| {
            RecordError::bug("channel_pause.channel holds a word that this version does not know")
        })?,
        except_critical: row.try_get("except_critical")?,
        why: row.try_get("why")?,
        paused_by: row.try_get("paused_by")?,
        paused_at: row.try_get("paused_at")?,
    })
}

/// Two reads, because each index knows only its own lane.
const DUE: &str = "
SELECT (SELECT count(*) FROM delivery WHERE due_at <= now() AND urgency <> 'bulk') AS urgent,
       (SELECT count(*) FROM delivery WHERE due_at <= now() AND urgency = 'bulk') AS bulk,
       (SELECT (extract(epoch FROM now() - min(due_at)) * 1000)::bigint FROM delivery
         WHERE due_at <= now() AND urgency <> 'bulk') AS oldest_urgent_ms";

const HELD: &str = "
SELECT channel, count(*) AS held FROM delivery
 WHERE due_at >= expires_at AND state = 'held' AND reason = 'channel_paused' GROUP BY channel";

/// Deliveries that a worker should look at now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DueState {
    /// Those that are not bulk.
    pub urgent: i64,
    /// Those that are.
    pub bulk: i64,
    /// How long the oldest one that is not bulk has been due, in milliseconds.
    pub oldest_urgent_ms: Option<i64>,
}

/// What is due.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn due_state(pool: &Pool) -> Result<DueState, RecordError> {
    let client = pool.get().await?;
    let row = client.query_one(DUE, &[]).await.map_err(RecordError::at("due_state"))?;
    Ok(DueState {
        urgent: row.try_get("urgent")?,
        bulk: row.try_get("bulk")?,
        oldest_urgent_ms: row.try_get("oldest_urgent_ms")?,
    })
}

/// Deliveries that a pause holds, or one that has just ended, by channel.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn held_by_pause(pool: &Pool) -> Result<Vec<(Channel, i64)>, RecordError> {
    let client = pool.get().await?;
    let rows = client.query(HELD, &[]).await.map_err(RecordError::at("held_by_pause"))?;
    let mut held = Vec::with_capacity(rows.len());
    for row in &rows {
        if let Some(channel) = Channel::parse(row.try_get("channel")?) {
            held.push((channel, row.try_get("held")?));
        }
    }
    Ok(held)
}

//! Erasure: what is known of a recipient goes, why-log, audit and consent ledger stay.
//!
//! The first transaction is the one that counts: nobody is written to from then on,
//! because every claim and every due delivery asks. The rest goes in bounded steps, by
//! whoever has time: the call itself, the same call again, or a worker. A delivery that
//! is under way is not torn: it keeps its address, which a look-up after a crash needs,
//! until it has ended.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use deadpool_postgres::{Pool, Transaction};
use jiff::Timestamp;
use uuid::Uuid;

use super::{ChangeError, Touch, commit, lock};
use crate::domain::{BatchId, Channel, DeliveryId, NotificationId, RecipientId, Relation};
use crate::metrics;
use crate::record::cases::{self, query};
use crate::record::error::RecordError;
use crate::record::store::Store;

/// Notifications of one step: it locks them for some ten milliseconds.
const STEP_MAX: i64 = 200;
/// Batches whose rows are looked for at once, the newest. Rows of older ones are found
/// by their notifications.
const BATCHES_MAX: i64 = 2000;
/// When a worker looks again, while something is under way and at the end.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// Longer than any statement lasts: what was being accepted when the recipient was
/// erased has appeared by then.
const SETTLED_AFTER: Duration = Duration::from_secs(600);

/// How far an erasure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Erased {
    /// When it was asked for first.
    pub at: Timestamp,
    /// Nothing is left but what stays.
    pub complete: bool,
    /// Deliveries that were under way when they were last looked at.
    pub under_way: u32,
}

const MARK: &str = "
UPDATE recipient
   SET erased_at = coalesce(erased_at, now()), display_name = NULL, locale = NULL, time_zone = NULL,
       quiet_hours_start = NULL, quiet_hours_end = NULL, channel_order = '{}',
       updated_at = CASE WHEN erased_at IS NULL THEN now() ELSE updated_at END
 WHERE recipient_id = $1
RETURNING erased_at";

const LINKS: &str = "SELECT patient_id, relation FROM visibility WHERE recipient_id = $1";

const CLEAR_APPOINTMENTS: &str =
    "UPDATE appointment SET location = NULL WHERE patient_id = ANY($1) AND location IS NOT NULL";

/// An export that is being written ends first; then all of it goes.
const DROP_EXPORTS: &str = "DELETE FROM export WHERE patient_id = ANY($1)";

/// A row of a batch is found by the notification that it becomes: nothing else of it
/// is indexed.
const BATCHES: &str = "SELECT batch_id, caller FROM batch ORDER BY created_at DESC LIMIT $1";

const CLEAR_ROWS: &str =
    "UPDATE batch_recipient SET variables = NULL WHERE notification_id = ANY($1) AND variables IS NOT NULL";

const DROP_POINTS: &str = "DELETE FROM contact_point WHERE recipient_id = $1";
const DROP_CODES: &str = "DELETE FROM contact_verification WHERE recipient_id = $1";
const DROP_LINKS: &str = "DELETE FROM visibility WHERE recipient_id = $1";

const BEGIN: &str = "
INSERT INTO erasure (recipient_id, next_look_at) VALUES ($1, now() + $2::bigint * interval '1 millisecond')
ON CONFLICT (recipient_id) DO UPDATE SET begun_at = erasure.begun_at
RETURNING complete";

/// Erases a recipient: at once what could still be written to, and until `until` as
/// much of the rest as there is time for. Repeatable.
///
/// # Errors
/// [`ChangeError::Unknown`], or as [`RecordError`] tells: what was done until then
/// stays done.
pub async fn erase(pool: &Pool, touch: Touch<'_>, until: Instant) -> Result<Erased, ChangeError> {
    let begun = Instant::now();
    let (at, complete) = mark(pool, touch).await?;
    if complete {
        return Ok(Erased { at, complete, under_way: 0 });
    }
    loop {
        let step = step(pool, touch.id()).await?;
        if step.is_last || Instant::now() >= until {
            metrics::statement("recipient_erase", 1, begun.elapsed());
            return Ok(Erased { at, complete: step.complete, under_way: step.under_way });
        }
    }
}

/// Nobody is written to from here on. Since when, and whether all is done already.
async fn mark(pool: &Pool, touch: Touch<'_>) -> Result<(Timestamp, bool), ChangeError> {
    let mut client = pool.get().await.map_err(RecordError::from)?;
    let tx = client.transaction().await.map_err(RecordError::at("erase_begin"))?;
    let id = touch.id().0;
    let Some(before) = lock(&tx, touch.id()).await? else { return Err(ChangeError::Unknown) };
    let row = query(&tx, "erase_mark", MARK, &[&id]).await?;
    let at = row.first().ok_or(ChangeError::Unknown)?.try_get("erased_at").map_err(RecordError::from)?;
    clear_sources(&tx, touch).await?;
    query(&tx, "erase_contact_points", DROP_POINTS, &[&id]).await?;
    query(&tx, "erase_codes", DROP_CODES, &[&id]).await?;
    query(&tx, "erase_links", DROP_LINKS, &[&id]).await?;
    let look_again_ms = i64::try_from(LOOK_AGAIN.as_millis()).unwrap_or(i64::MAX);
    let turn = query(&tx, "erase_enqueue", BEGIN, &[&id, &look_again_ms]).await?;
    let complete = turn.first().map(|row| row.try_get("complete")).transpose().map_err(RecordError::from)?;
    let detail = if before { "again" } else { "begun" };
    touch.audit(&tx, "RecipientService/Erase", Some(detail)).await?;
    commit(tx).await?;
    Ok((at, complete.unwrap_or(false)))
}

/// Content that notifications are still to be made of: the places of appointments, and
/// the rows of batches. Links tell which those are, so they go afterwards.
async fn clear_sources(tx: &Transaction<'_>, touch: Touch<'_>) -> Result<(), RecordError> {
    let links = query(tx, "erase_patients", LINKS, &[&touch.id().0]).await?;
    let links: Vec<(&str, bool)> = links
        .iter()
        .map(|row| {
            let own = row.try_get::<_, &str>("relation")? == Relation::Patient.as_str();
            Ok((row.try_get("patient_id")?, own))
        })
        .collect::<Result<_, RecordError>>()?;
    let own: Vec<&str> = links.iter().filter(|(_, own)| *own).map(|(patient, _)| *patient).collect();
    query(tx, "erase_appointments", CLEAR_APPOINTMENTS, &[&own]).await?;
    query(tx, "erase_exports", DROP_EXPORTS, &[&own]).await?;
    let batches = query(tx, "erase_batches", BATCHES, &[&BATCHES_MAX]).await?;
    let mut ids: Vec<Uuid> = Vec::new();
    for row in &batches {
        let (batch, caller) = (BatchId(row.try_get("batch_id")?), row.try_get("caller")?);
        for (patient, own) in &links {
            ids.push(NotificationId::for_batch(caller, batch, patient, Some(touch.recipient)).0);
            if *own {
                ids.push(NotificationId::for_batch(caller, batch, patient, None).0);
            }
        }
    }
    query(tx, "erase_batch_rows", CLEAR_ROWS, &[&ids]).await?;
    Ok(())
}

/// What one step found.
struct Step {
    is_last: bool,
    complete: bool,
    under_way: u32,
}

const TURN: &str = "
SELECT looked_up_to, under_way, begun_at < now() - $2::bigint * interval '1 millisecond' AS settled
  FROM erasure WHERE recipient_id = $1 FOR UPDATE";

const NEXT: &str = "
SELECT notification_id FROM notification
 WHERE recipient_id = $1 AND ($2::uuid IS NULL OR notification_id > $2)
 ORDER BY notification_id LIMIT $3";

const CLEAR_VARIABLES: &str =
    "UPDATE notification SET variables = NULL WHERE notification_id = ANY($1) AND variables IS NOT NULL";

const CLEAR_ADDRESSES: &str = "
UPDATE delivery SET address = NULL
 WHERE delivery_id = ANY($1) AND address IS NOT NULL AND delivery_id <> ALL($2)";

/// The last step of a turn goes back to the beginning; a turn that found nothing under
/// way ends the erasure, and one after the time in which something may still appear
/// ends the looking, too.
const ADVANCE: &str = "
UPDATE erasure
   SET looked_up_to = $2::uuid,
       under_way = CASE WHEN $2::uuid IS NULL THEN 0 ELSE $3::integer END,
       complete = CASE WHEN $2::uuid IS NULL THEN $3::integer = 0 ELSE complete END,
       next_look_at = CASE WHEN $2::uuid IS NULL AND $3::integer = 0 AND $4::boolean THEN NULL
                           WHEN $2::uuid IS NULL AND $3::integer = 0 THEN begun_at + $5::bigint * interval '1 millisecond'
                           ELSE now() + $6::bigint * interval '1 millisecond' END
 WHERE recipient_id = $1";

/// The next notifications of an erased recipient lose their content; what waits is
/// called off.
async fn step(pool: &Pool, id: RecipientId) -> Result<Step, RecordError> {
    let mut client = pool.get().await?;
    let tx = client.transaction().await.map_err(RecordError::at("erase_step"))?;
    let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let settled_after = millis(SETTLED_AFTER);
    let turn = query(&tx, "erase_turn", TURN, &[&id.0, &settled_after]).await?;
    let turn = turn.first().ok_or_else(|| RecordError::bug("an erasure is not in its table"))?;
    let from: Option<Uuid> = turn.try_get("looked_up_to")?;
    let rows = query(&tx, "erase_next", NEXT, &[&id.0, &from, &STEP_MAX]).await?;
    let ids: Vec<NotificationId> =
        rows.iter().map(|row| Ok(NotificationId(row.try_get(0)?))).collect::<Result<_, RecordError>>()?;
    let found = clear(&tx, &ids).await?;
    let under_way = turn.try_get::<_, i32>("under_way")?.saturating_add(found);
    let is_last = i64::try_from(ids.len()).unwrap_or(i64::MAX) < STEP_MAX;
    let up_to = ids.last().map(|id| id.0).filter(|_| !is_last);
    let settled: bool = turn.try_get("settled")?;
    query(
        &tx,
        "erase_advance",
        ADVANCE,
        &[&id.0, &up_to, &under_way, &settled, &settled_after, &millis(LOOK_AGAIN)],
    )
    .await?;
    commit(tx).await?;
    let under_way = u32::try_from(under_way).unwrap_or(0);
    Ok(Step { is_last, complete: is_last && under_way == 0, under_way })
}

/// Takes the content of these notifications away. How many deliveries are under way.
async fn clear(tx: &Transaction<'_>, ids: &[NotificationId]) -> Result<i32, RecordError> {
    if ids.is_empty() {
        return Ok(0);
    }
    let mut known = cases::load(tx, ids).await?;
    for case in known.values_mut() {
        case.erase();
    }
    cases::write(tx, "erase", &known, &HashMap::new()).await?;
    let under_way: Vec<Uuid> = known.values().flat_map(|case| case.under_way().map(|leg| leg.0)).collect();
    let deliveries: Vec<Uuid> = ids
        .iter()
        .flat_map(|&id| Channel::ALL.iter().map(move |&channel| DeliveryId::for_channel(id, channel).0))
        .collect();
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    query(tx, "erase_addresses", CLEAR_ADDRESSES, &[&deliveries, &under_way]).await?;
    query(tx, "erase_variables", CLEAR_VARIABLES, &[&ids]).await?;
    query(tx, "erase_batch_rows", CLEAR_ROWS, &[&ids]).await?;
    Ok(i32::try_from(under_way.len()).unwrap_or(i32::MAX))
}

/// A worker takes it for a while, so that several share them.
const DUE: &str = "
UPDATE erasure e
   SET next_look_at = now() + $1::bigint * interval '1 millisecond'
  FROM (SELECT recipient_id FROM erasure
         WHERE next_look_at <= now() ORDER BY next_look_at LIMIT 1 FOR UPDATE SKIP LOCKED) AS due
 WHERE e.recipient_id = due.recipient_id
RETURNING e.recipient_id";

impl Store {
    /// Goes on with an erasure that is not through, for at most `time`. False: none
    /// is due.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn go_on_erasing(&self, time: Duration) -> Result<bool, RecordError> {
        let until = Instant::now() + time;
        let lease_ms = i64::try_from((time * 2).as_millis()).unwrap_or(i64::MAX);
        let client = self.client().await?;
        let rows = client.query(DUE, &[&lease_ms]).await.map_err(RecordError::at("erasure_due"))?;
        drop(client);
        let Some(row) = rows.first() else { return Ok(false) };
        let id = RecipientId(row.try_get(0)?);
        while !step(&self.pool, id).await?.is_last && Instant::now() < until {}
        Ok(true)
    }
}

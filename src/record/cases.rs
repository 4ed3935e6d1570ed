//! Cases: notifications with all of their deliveries, locked, changed by the pure
//! rules of [`Case`], and written back in the same transaction.
//!
//! Locks are taken in one order: deliveries, then notifications, each by id. The
//! statement that records outcomes takes them in the same order. What is left (a
//! delivery that appears in between) PostgreSQL finds, and it is tried again.

use std::collections::HashMap;

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::error::RecordError;
use super::outcome::Recorded;
use crate::domain::{
    Case, Change, Channel, DeliveryId, Due, Engagement, Leg, NotificationId, Reason, Receipt, ReceiptStatus,
    RecipientId, Standing, State, Strategy, Urgency,
};

const LOCK_DELIVERIES: &str =
    "SELECT delivery_id FROM delivery WHERE delivery_id = ANY($1) ORDER BY delivery_id FOR UPDATE";

const NOTIFICATIONS: &str = "
SELECT notification_id, recipient_id, urgency, strategy, channels, state, reason, sequence, caller,
       escalated_position, escalated_why,
       cancelled_at IS NOT NULL AS cancelled, cancelled_by, engagement, engaged_at,
       -- Without its values no other channel can be begun either.
       expires_at <= now() OR contents_erased AS expired,
       EXISTS (SELECT FROM recipient r
                WHERE r.recipient_id = notification.recipient_id AND r.erased_at IS NOT NULL) AS erased
  FROM notification WHERE notification_id = ANY($1) ORDER BY notification_id FOR UPDATE";

/// Read again after the notifications are locked: an outcome that was recorded
/// meanwhile may have begun another channel.
const LEGS: &str = "
SELECT notification_id, delivery_id, channel, position, state, reason, receipt, receipt_at, owner, epoch,
       due_at, first_attempt_at, sent_at
  FROM delivery WHERE delivery_id = ANY($1) ORDER BY position, delivery_id FOR UPDATE";

/// `due_after_ms`: null for never, negative for as it was.
const WRITE_LEGS: &str = "
UPDATE delivery d
   SET state = i.state, reason = i.reason, receipt = i.receipt, receipt_at = i.receipt_at, folded = true,
       owner = CASE WHEN i.keeps_owner THEN d.owner END,
       due_at = CASE WHEN i.due_after_ms < 0 THEN d.due_at
                     ELSE greatest(now() + i.due_after_ms * interval '1 millisecond',
                                   CASE WHEN i.reason = 'channel_paused' THEN d.expires_at END) END,
       unknown_since = CASE i.state WHEN 'outcome_unknown' THEN coalesce(d.unknown_since, now())
                                    WHEN 'dispatching' THEN d.unknown_since END,
       attempt = d.attempt + i.attempts,
       attempt_group = d.attempt_group + CASE WHEN i.new_group THEN 1 ELSE 0 END,
       provider = coalesce(i.provider, d.provider),
       provider_message_id = coalesce(i.provider_message_id, d.provider_message_id),
       sent_at = CASE WHEN i.state IN ('sent', 'delivered') THEN coalesce(d.sent_at, now()) ELSE d.sent_at END,
       updated_at = now()
  FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::timestamptz[], $6::bool[], $7::bigint[],
              $8::int[], $9::bool[], $10::text[], $11::text[])
       AS i (delivery_id, state, reason, receipt, receipt_at, keeps_owner, due_after_ms, attempts, new_group,
             provider, provider_message_id)
 WHERE d.delivery_id = i.delivery_id";

const ADD_LEGS: &str = "
INSERT INTO delivery (delivery_id, notification_id, recipient_id, channel, position, urgency, state, reason,
        due_at, expires_at, folded)
SELECT i.delivery_id, n.notification_id, n.recipient_id, i.channel, i.position, n.urgency, i.state, i.reason,
       CASE WHEN i.state = 'queued' THEN now() END, n.expires_at, true
  FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::smallint[], $5::text[], $6::text[])
       AS i (delivery_id, notification_id, channel, position, state, reason)
  JOIN notification n USING (notification_id)";

const WRITE_NOTIFICATIONS: &str = "
UPDATE notification n
   SET state = i.state, reason = i.reason, sequence = i.sequence,
       cancelled_at = CASE WHEN i.cancelled THEN coalesce(n.cancelled_at, now()) END,
       cancelled_by = i.cancelled_by,
       engagement = i.engagement, engaged_at = i.engaged_at,
       escalated_position = i.escalated_position, escalated_why = i.escalated_why, updated_at = now()
  FROM unnest($1::uuid[], $2::text[], $3::text[], $4::int[], $5::bool[], $6::text[], $7::timestamptz[],
              $8::text[], $9::smallint[], $10::text[])
       AS i (notification_id, state, reason, sequence, cancelled, engagement, engaged_at, cancelled_by,
             escalated_position, escalated_why)
 WHERE n.notification_id = i.notification_id";

const ANNOUNCE: &str = "
INSERT INTO outbox (notification_id, patient_id, recipient_id, purpose, sequence, state, reason, channel, caller)
SELECT n.notification_id, n.patient_id, n.recipient_id, n.purpose, i.sequence, i.state, i.reason, i.channel,
       n.caller
  FROM unnest($1::uuid[], $2::int[], $3::text[], $4::text[], $5::text[])
       WITH ORDINALITY AS i (notification_id, sequence, state, reason, channel, place)
  JOIN notification n USING (notification_id)
 ORDER BY i.place";

const EXPLAIN: &str = "
INSERT INTO why (notification_id, step, state, reason, channel, detail)
SELECT notification_id, $2, state, reason, channel, 'by ' || said_by
  FROM unnest($1::uuid[], $3::text[], $4::text[], $5::text[], $6::text[])
       WITH ORDINALITY AS i (notification_id, state, reason, channel, said_by, place)
 ORDER BY i.place";

/// Loads these notifications with their deliveries and locks them until the
/// transaction ends. What does not exist is absent.
pub(super) async fn load(
    tx: &Transaction<'_>,
    ids: &[NotificationId],
) -> Result<HashMap<NotificationId, Case>, RecordError> {
    let deliveries: Vec<Uuid> = ids
        .iter()
        .flat_map(|&id| Channel::ALL.iter().map(move |&channel| DeliveryId::for_channel(id, channel).0))
        .collect();
    let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
    query(tx, "case_locks", LOCK_DELIVERIES, &[&deliveries]).await?;
    let mut cases = HashMap::with_capacity(ids.len());
    for row in query(tx, "case_notifications", NOTIFICATIONS, &[&ids]).await? {
        let case = case(&row)?;
        cases.insert(case.notification_id, case);
    }
    for row in query(tx, "case_legs", LEGS, &[&deliveries]).await? {
        let id = NotificationId(row.try_get("notification_id")?);
        if let Some(case) = cases.get_mut(&id) {
            case.legs.push(leg(&row)?);
        }
    }
    Ok(cases)
}

/// Writes what has changed. `step` is where it happened, for the why-log;
/// `outcomes` are those of our own that were told to the cases.
pub(super) async fn write(
    tx: &Transaction<'_>,
    step: &'static str,
    cases: &HashMap<NotificationId, Case>,
    outcomes: &HashMap<DeliveryId, &Recorded>,
) -> Result<(), RecordError> {
    let changed: Vec<&Case> =
        cases.values().filter(|case| case.changed || case.legs.iter().any(|leg| leg.changed)).collect();
    if changed.is_empty() {
        return Ok(());
    }
    write_legs(tx, &changed, outcomes).await?;
    add_legs(tx, &changed).await?;
    write_notifications(tx, &changed).await?;
    let statuses = Lines::of(&changed, |case| &case.statuses);
    let Lines { ids, sequences, states, reasons, channels, .. } = &statuses;
    query(tx, "case_announce", ANNOUNCE, &[ids, sequences, states, reasons, channels]).await?;
    let why = Lines::of(&changed, |case| &case.why);
    let Lines { ids, states, reasons, channels, by, .. } = &why;
    query(tx, "case_explain", EXPLAIN, &[ids, &step, states, reasons, channels, by]).await?;
    Ok(())
}

/// Changes as columns.
#[derive(Default)]
struct Lines<'a> {
    ids: Vec<Uuid>,
    sequences: Vec<i32>,
    states: Vec<&'static str>,
    reasons: Vec<&'static str>,
    channels: Vec<Option<&'static str>>,
    by: Vec<Option<&'a str>>,
}

impl<'a> Lines<'a> {
    fn of(cases: &[&'a Case], list: fn(&Case) -> &Vec<Change>) -> Self {
        let mut lines = Self::default();
        for (case, change) in cases.iter().flat_map(|case| list(case).iter().map(move |line| (case, line))) {
            lines.ids.push(case.notification_id.0);
            lines.sequences.push(change.sequence);
            lines.states.push(change.state.as_str());
            lines.reasons.push(change.reason.as_str());
            lines.channels.push(change.channel.map(Channel::as_str));
            lines.by.push(change.by.as_deref());
        }
        lines
    }
}

/// Every leg that has changed, and every one that may still change: from now on
/// its outcome is folded, not written as it is.
async fn write_legs(
    tx: &Transaction<'_>,
    cases: &[&Case],
    outcomes: &HashMap<DeliveryId, &Recorded>,
) -> Result<(), RecordError> {
    let legs: Vec<&Leg> = cases
        .iter()
        .flat_map(|case| &case.legs)
        .filter(|leg| {
            !leg.is_new && (leg.changed || leg.owner.is_some() || !leg.standing.state.is_terminal())
        })
        .collect();
    let own = |leg: &&Leg| outcomes.get(&leg.delivery_id).copied().filter(|_| leg.changed);
    let ids: Vec<Uuid> = legs.iter().map(|leg| leg.delivery_id.0).collect();
    let states: Vec<&str> = legs.iter().map(|leg| leg.standing.state.as_str()).collect();
    let reasons: Vec<&str> = legs.iter().map(|leg| leg.standing.reason.as_str()).collect();
    let receipts: Vec<Option<&str>> =
        legs.iter().map(|leg| leg.standing.receipt.map(|receipt| receipt.status.as_str())).collect();
    let receipts_at: Vec<Option<Timestamp>> =
        legs.iter().map(|leg| leg.standing.receipt.map(|receipt| receipt.at)).collect();
    let owned: Vec<bool> = legs.iter().map(|leg| leg.owner.is_some()).collect();
    let due: Vec<Option<i64>> = legs.iter().map(|leg| due_after_ms(leg.due)).collect();
    let attempts: Vec<i32> = legs.iter().map(|leg| own(leg).map_or(0, |one| one.attempts)).collect();
    let groups: Vec<bool> = legs.iter().map(|leg| own(leg).is_some_and(|one| one.new_group)).collect();
    let providers: Vec<Option<&str>> = legs.iter().map(|leg| own(leg).and_then(|one| one.provider)).collect();
    let messages: Vec<Option<&str>> =
        legs.iter().map(|leg| own(leg).and_then(|one| one.provider_message_id.as_deref())).collect();
    query(
        tx,
        "case_write_legs",
        WRITE_LEGS,
        &[
            &ids,
            &states,
            &reasons,
            &receipts,
            &receipts_at,
            &owned,
            &due,
            &attempts,
            &groups,
            &providers,
            &messages,
        ],
    )
    .await?;
    Ok(())
}

fn due_after_ms(due: Due) -> Option<i64> {
    match due {
        Due::Unchanged => Some(-1),
        Due::Never => None,
        Due::After(after) => Some(i64::try_from(after.as_millis()).unwrap_or(i64::MAX)),
    }
}

async fn add_legs(tx: &Transaction<'_>, cases: &[&Case]) -> Result<(), RecordError> {
    let new: Vec<(Uuid, &Leg)> = cases
        .iter()
        .flat_map(|case| case.legs.iter().map(|leg| (case.notification_id.0, leg)))
        .filter(|(_, leg)| leg.is_new)
        .collect();
    if new.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = new.iter().map(|(_, leg)| leg.delivery_id.0).collect();
    let notifications: Vec<Uuid> = new.iter().map(|(id, _)| *id).collect();
    let channels: Vec<&str> = new.iter().map(|(_, leg)| leg.channel.as_str()).collect();
    let positions: Vec<i16> = new.iter().map(|(_, leg)| leg.position).collect();
    let states: Vec<&str> = new.iter().map(|(_, leg)| leg.standing.state.as_str()).collect();
    let reasons: Vec<&str> = new.iter().map(|(_, leg)| leg.standing.reason.as_str()).collect();
    query(tx, "case_add_legs", ADD_LEGS, &[&ids, &notifications, &channels, &positions, &states, &reasons])
        .await?;
    Ok(())
}

async fn write_notifications(tx: &Transaction<'_>, cases: &[&Case]) -> Result<(), RecordError> {
    let ids: Vec<Uuid> = cases.iter().map(|case| case.notification_id.0).collect();
    let states: Vec<&str> = cases.iter().map(|case| case.state.as_str()).collect();
    let reasons: Vec<&str> = cases.iter().map(|case| case.reason.as_str()).collect();
    let sequences: Vec<i32> = cases.iter().map(|case| case.sequence).collect();
    let cancelled: Vec<bool> = cases.iter().map(|case| case.cancelled).collect();
    let engagements: Vec<Option<&str>> =
        cases.iter().map(|case| case.engagement.map(|(engagement, _)| engagement.as_str())).collect();
    let engaged_at: Vec<Option<Timestamp>> =
        cases.iter().map(|case| case.engagement.map(|(_, at)| at)).collect();
    let cancelled_by: Vec<Option<&str>> = cases.iter().map(|case| case.cancelled_by.as_deref()).collect();
    let escalated: Vec<Option<i16>> =
        cases.iter().map(|case| case.escalated.map(|(position, _)| position)).collect();
    let escalated_why: Vec<Option<&str>> =
        cases.iter().map(|case| case.escalated.map(|(_, why)| why.as_str())).collect();
    query(
        tx,
        "case_write_notifications",
        WRITE_NOTIFICATIONS,
        &[
            &ids,
            &states,
            &reasons,
            &sequences,
            &cancelled,
            &engagements,
            &engaged_at,
            &cancelled_by,
            &escalated,
            &escalated_why,
        ],
    )
    .await?;
    Ok(())
}

/// A prepared statement of a transaction, with its name on its errors.
pub(super) async fn query(
    tx: &Transaction<'_>,
    name: &'static str,
    text: &str,
    parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)],
) -> Result<Vec<Row>, RecordError> {
    let statement = tx.prepare_cached(text).await.map_err(RecordError::at(name))?;
    tx.query(&statement, parameters).await.map_err(RecordError::at(name))
}

fn unknown_word(column: &str) -> RecordError {
    RecordError::bug(format!("{column} holds a word that this version does not know"))
}

fn word<T>(row: &Row, column: &str, parse: fn(&str) -> Option<T>) -> Result<T, RecordError> {
    parse(row.try_get(column)?).ok_or_else(|| unknown_word(column))
}

fn case(row: &Row) -> Result<Case, RecordError> {
    let channels: Vec<&str> = row.try_get("channels")?;
    let engagement: Option<&str> = row.try_get("engagement")?;
    let engaged_at: Option<Timestamp> = row.try_get("engaged_at")?;
    let engagement = engagement
        .map(|text| Engagement::parse(text).ok_or_else(|| unknown_word("engagement")))
        .transpose()?
        .zip(engaged_at);
    let escalated_why: Option<&str> = row.try_get("escalated_why")?;
    let escalated_why = escalated_why
        .map(|text| Reason::parse(text).ok_or_else(|| unknown_word("escalated_why")))
        .transpose()?;
    let escalated_position: Option<i16> = row.try_get("escalated_position")?;
    Ok(Case {
        notification_id: NotificationId(row.try_get("notification_id")?),
        recipient_id: RecipientId(row.try_get("recipient_id")?),
        urgency: word(row, "urgency", Urgency::parse)?,
        strategy: word(row, "strategy", Strategy::parse)?,
        channels: channels.into_iter().filter_map(Channel::parse).collect(),
        state: word(row, "state", State::parse)?,
        reason: word(row, "reason", Reason::parse)?,
        sequence: row.try_get("sequence")?,
        caller: row.try_get("caller")?,
        cancelled: row.try_get("cancelled")?,
        cancelled_by: row.try_get("cancelled_by")?,
        erased: row.try_get("erased")?,
        engagement,
        expired: row.try_get("expired")?,
        escalated: escalated_position.zip(escalated_why),
        legs: Vec::new(),
        changed: false,
        statuses: Vec::new(),
        why: Vec::new(),
    })
}

fn leg(row: &Row) -> Result<Leg, RecordError> {
    let status: Option<&str> = row.try_get("receipt")?;
    let at: Option<Timestamp> = row.try_get("receipt_at")?;
    let receipt = match (status, at) {
        (Some(status), Some(at)) => {
            let status = ReceiptStatus::parse(status).ok_or_else(|| unknown_word("receipt"))?;
            Some(Receipt { status, at })
        }
        _ => None,
    };
    let state = word(row, "state", State::parse)?;
    let reason = word(row, "reason", Reason::parse)?;
    Ok(Leg {
        delivery_id: DeliveryId(row.try_get("delivery_id")?),
        channel: word(row, "channel", Channel::parse)?,
        position: row.try_get("position")?,
        standing: Standing { state, reason, receipt },
        owner: row.try_get("owner")?,
        epoch: row.try_get("epoch")?,
        due_at: row.try_get("due_at")?,
        first_attempt_at: row.try_get("first_attempt_at")?,
        sent_at: row.try_get("sent_at")?,
        due: Due::Unchanged,
        changed: false,
        is_new: false,
    })
}

//! One batch: decode → plan → claim → hand over. Every record of it leaves with
//! its ticket settled, its deliveries handed to the dispatcher, or released
//! because its partition is closing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use jiff::Timestamp;
use tokio::sync::OwnedSemaphorePermit;
use tracing::{error, warn};

use super::Shared;
use super::claims::{claim_of, published_at, source_of};
use super::pending::Pending;
use super::retry::Retry;
use crate::decode::Rejected;
use crate::dispatch::{Assignment, Work};
use crate::domain::{DeliveryId, Event, NotificationId, Outcome, PatientId, Reason, Recipient};
use crate::metrics;
use crate::plan::{Decision, Planned, plan};
use crate::record::{Claim, RecordError};
use crate::topic::{Origin, Record};

/// Dead letters that are written side by side.
const DEAD_LETTERS_AT_ONCE: usize = 64;

/// A record that was decoded, with its place in the in-flight budget.
struct Decoded {
    record: Record,
    permit: OwnedSemaphorePermit,
    event: Event,
}

/// Runs one batch. `permits` holds one for each record.
pub(super) async fn process(shared: &Arc<Shared>, records: Vec<Record>, permits: OwnedSemaphorePermit) {
    let Some((decoded, rejected)) = decode(shared, records, permits).await else { return };
    bury(shared, rejected).await;
    if decoded.is_empty() {
        return;
    }
    let Some(facts) = facts(shared, &decoded).await else { return release(decoded) };
    let now = Timestamp::now();
    let planned: Vec<Vec<Planned>> = decoded
        .iter()
        .map(|one| {
            let known = facts.get(one.event.patient_id()).map_or(&[][..], Vec::as_slice);
            plan(&one.event, known, &shared.parts.settings, now)
        })
        .collect();
    claim_and_hand_over(shared, decoded, planned).await;
}

type Split = (Vec<Decoded>, Vec<(Record, Rejected)>);

/// `None`: interrupted while the registry was away; everything is released.
async fn decode(shared: &Shared, records: Vec<Record>, mut permits: OwnedSemaphorePermit) -> Option<Split> {
    let mut retry = Retry::new(shared, "registry");
    loop {
        let payloads = records
            .iter()
            .filter_map(|record| record.payload.as_ref())
            .map(|payload| payload.expose().as_slice());
        match shared.parts.decoder.prepare(payloads).await {
            Ok(()) => break,
            Err(error) => {
                if !retry.again(&error, records.iter().all(|r| r.ticket.partition().is_closing())).await {
                    records.into_iter().for_each(|record| record.ticket.release());
                    return None;
                }
            }
        }
    }
    drop(retry);
    let mut decoded = Vec::with_capacity(records.len());
    let mut rejected = Vec::new();
    for record in records {
        let payload = record.payload.as_ref().map(|payload| payload.expose().as_slice());
        match shared.parts.decoder.decode(shared.parts.kind, payload) {
            Ok(event) => match permits.split(1) {
                Some(permit) => decoded.push(Decoded { record, permit, event }),
                None => {
                    shared.bug(&"a batch has more records than places in flight");
                    record.ticket.release();
                }
            },
            Err(why) => rejected.push((record, why)),
        }
    }
    Some((decoded, rejected))
}

/// Writes dead letters and completes their records once they are acknowledged.
async fn bury(shared: &Shared, rejected: Vec<(Record, Rejected)>) {
    futures::stream::iter(rejected)
        .for_each_concurrent(DEAD_LETTERS_AT_ONCE, |(record, why)| bury_one(shared, record, why))
        .await;
}

async fn bury_one(shared: &Shared, record: Record, why: Rejected) {
    if shared.conditions.breaker_open.load(Ordering::Relaxed) || shared.breaker.lock().observe(true) {
        open_breaker(shared, &why);
        // Held, not dropped: the offset stays and no restart is provoked.
        while !record.ticket.partition().is_closing() && !shared.stop.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        record.ticket.release();
        return;
    }
    let partition = Arc::clone(record.ticket.partition());
    let origin = Origin {
        topic: &partition.topic,
        partition: partition.partition,
        offset: record.ticket.offset(),
        timestamp_ms: record.timestamp_ms,
        key: record.key.as_ref().map(|key| key.expose().as_slice()),
        payload: record.payload.as_ref().map(|payload| payload.expose().as_slice()),
        headers: record.headers.expose(),
    };
    let mut retry = Retry::new(shared, "kafka");
    while let Err(error) = shared.parts.dead_letters.send(&origin, why.reason, &why.detail).await {
        if !retry.again(&error, partition.is_closing()).await {
            return record.ticket.release();
        }
    }
    warn!(
        topic = &*partition.topic,
        partition = partition.partition,
        offset = record.ticket.offset(),
        reason = %why.reason,
        detail = why.detail,
        "dead letter"
    );
    metrics::dead_letter(&partition.topic, why.reason);
    metrics::records(&partition.topic, Outcome::Rejected(why.reason).as_str(), 1);
    record.ticket.complete();
}

fn open_breaker(shared: &Shared, why: &Rejected) {
    if !shared.conditions.breaker_open.swap(true, Ordering::Relaxed) {
        metrics::breaker_open(true);
        error!(
            reason = %why.reason,
            "dead-letter breaker open: the processor stops here instead of draining the topic into its dead \
             letters; mend the producer or the schema, then restart this pod"
        );
    }
}

/// `None`: interrupted while the database was away.
async fn facts(shared: &Shared, decoded: &[Decoded]) -> Option<HashMap<PatientId, Vec<Recipient>>> {
    let patients: HashSet<&PatientId> = decoded.iter().map(|one| one.event.patient_id()).collect();
    let patients: Vec<&PatientId> = patients.into_iter().collect();
    let mut retry = Retry::new(shared, "postgres");
    loop {
        match shared.parts.store.recipients_of(&patients).await {
            Ok(facts) => return Some(facts),
            Err(error @ RecordError::Bug(_)) => {
                shared.bug(&error);
                return None;
            }
            Err(error) => {
                if !retry.again(&error, all_closing(decoded)).await {
                    return None;
                }
            }
        }
    }
}

async fn claim_and_hand_over(shared: &Arc<Shared>, decoded: Vec<Decoded>, planned: Vec<Vec<Planned>>) {
    let mut claims = Vec::with_capacity(planned.len());
    let mut first_seen = HashSet::with_capacity(planned.len());
    for (one, plans) in decoded.iter().zip(&planned) {
        let source = source_of(&one.record);
        for plan in plans {
            // The same meaning twice in one batch: the first stands.
            if first_seen.insert(plan.notification_id) {
                claims.push(claim_of(plan, source.clone(), &one.event));
            }
        }
    }
    let lease_from = Instant::now();
    let batch = shared.next_batch();
    let Some(mut ours) = claim(shared, &mut claims, batch, &decoded).await else { return release(decoded) };
    let lease_until = lease_from + Duration::from_millis(shared.parts.config.lease_ms);
    shared.breaker.lock().observe_good(decoded.len());
    for (one, plans) in decoded.into_iter().zip(planned) {
        // Taken out, so that a second record of the same meaning finds it gone.
        let new: Vec<Planned> = plans.into_iter().filter(|plan| ours.remove(&plan.notification_id)).collect();
        hand_over(shared, one, new, batch, lease_until);
    }
}

/// `None`: interrupted while the database was away, or a bug.
async fn claim(
    shared: &Shared,
    claims: &mut [Claim],
    batch: i32,
    decoded: &[Decoded],
) -> Option<HashSet<NotificationId>> {
    let lease = Duration::from_millis(shared.parts.config.lease_ms);
    let mut retry = Retry::new(shared, "postgres");
    let mut answer_lost = false;
    loop {
        let result = async {
            let mut ours = shared.parts.store.claim(claims, batch, lease).await?;
            if answer_lost {
                ours.extend(shared.parts.store.claimed_before(claims, batch).await?);
            }
            Ok::<_, RecordError>(ours)
        };
        match result.await {
            Ok(ours) => return Some(ours),
            Err(error @ RecordError::Bug(_)) => {
                shared.bug(&error);
                return None;
            }
            Err(error) => {
                answer_lost = true;
                if !retry.again(&error, all_closing(decoded)).await {
                    return None;
                }
            }
        }
    }
}

/// What became ours goes to the dispatcher; a record without any is done here.
fn hand_over(shared: &Arc<Shared>, one: Decoded, new: Vec<Planned>, epoch: i32, lease_until: Instant) {
    let Decoded { record, permit, .. } = one;
    let published_at = published_at(&record);
    let outcome = new.iter().fold(Outcome::Ignored(Reason::Duplicate), |_, plan| match plan.decision {
        Decision::Dispatch => Outcome::Done,
        Decision::Hold { until, .. } => Outcome::Scheduled(until),
        Decision::Suppress(reason) => Outcome::Ignored(reason),
        Decision::Expire => Outcome::Ignored(Reason::Expired),
    });
    let now_due: Vec<Assignment> =
        new.into_iter().filter_map(|plan| assignment(plan, epoch, lease_until, published_at)).collect();
    if now_due.is_empty() {
        metrics::records(&record.ticket.partition().topic, outcome.as_str(), 1);
        record.ticket.complete();
        return;
    }
    let pending = Pending::new(record.ticket, permit, now_due.len());
    for assignment in now_due {
        shared.parts.dispatcher.submit(Work {
            assignment,
            may_begin: pending.may_begin(),
            on_recorded: pending.on_recorded(),
        });
    }
}

fn assignment(
    plan: Planned,
    epoch: i32,
    lease_until: Instant,
    published_at: Timestamp,
) -> Option<Assignment> {
    if plan.decision != Decision::Dispatch {
        return None;
    }
    let channel = *plan.channels.first()?;
    Some(Assignment {
        delivery_id: DeliveryId::for_channel(plan.notification_id, channel),
        notification_id: plan.notification_id,
        epoch,
        recipient_id: plan.recipient_id,
        purpose: plan.purpose,
        urgency: plan.urgency,
        channel,
        position: 0,
        channels: plan.channels,
        address: plan.address?,
        locale: plan.locale,
        variables: plan.variables,
        attempt: 0,
        attempt_group: 1,
        trying_for: Duration::ZERO,
        lease_until,
        expires_at: plan.expires_at,
        published_at: Some(published_at),
    })
}

fn all_closing(decoded: &[Decoded]) -> bool {
    decoded.iter().all(|one| one.record.ticket.partition().is_closing())
}

/// Interrupted: the offsets stay, the next owner reads the records again.
fn release(decoded: Vec<Decoded>) {
    decoded.into_iter().for_each(|one| one.record.ticket.release());
}

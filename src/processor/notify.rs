//! What asks for notifications: plan → claim → hand over. Every record leaves with
//! its ticket settled, its deliveries handed to the dispatcher, or released because
//! its partition is closing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use super::batch::{Decoded, all_closing, release};
use super::claims::{claim_of, published_at, source_of};
use super::pending::Pending;
use super::retry::Retry;
use super::{Notify, Shared};
use crate::dispatch::{Assignment, Work};
use crate::domain::{DeliveryId, Event, NotificationId, Outcome, PatientId, Reason, Recipient};
use crate::metrics;
use crate::plan::{Decision, Planned, plan};
use crate::record::{Claim, RecordError};

type DecodedEvent = Decoded<Event>;

/// Plans, claims and hands over what was decoded.
pub(super) async fn process(shared: &Arc<Shared>, flow: &Notify, decoded: Vec<DecodedEvent>) {
    let Some(facts) = facts(shared, &decoded).await else { return release(decoded) };
    let now = Timestamp::now();
    let planned: Vec<Vec<Planned>> = decoded
        .iter()
        .map(|one| {
            let known = facts.get(one.event.patient_id()).map_or(&[][..], Vec::as_slice);
            plan(&one.event, known, &flow.settings, now)
        })
        .collect();
    claim_and_hand_over(shared, flow, decoded, planned).await;
}

/// `None`: interrupted while the database was away.
async fn facts(shared: &Shared, decoded: &[DecodedEvent]) -> Option<HashMap<PatientId, Vec<Recipient>>> {
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

async fn claim_and_hand_over(
    shared: &Arc<Shared>,
    flow: &Notify,
    decoded: Vec<DecodedEvent>,
    planned: Vec<Vec<Planned>>,
) {
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
        hand_over(flow, one, new, batch, lease_until);
    }
}

/// `None`: interrupted while the database was away, or a bug.
async fn claim(
    shared: &Shared,
    claims: &mut [Claim],
    batch: i32,
    decoded: &[DecodedEvent],
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
fn hand_over(flow: &Notify, one: DecodedEvent, new: Vec<Planned>, epoch: i32, lease_until: Instant) {
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
        flow.dispatcher.submit(Work {
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

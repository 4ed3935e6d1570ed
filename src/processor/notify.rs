//! What asks for notifications: plan → claim → hand over. Every record leaves with
//! its ticket settled, its deliveries handed to the dispatcher, or released because
//! its partition is closing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use tracing::warn;

use super::batch::{Decoded, all_closing, release};
use super::claims::{claim_of, published_at, source_of, trace_of};
use super::pending::{Pending, count};
use super::retry::Retry;
use super::{Notify, Shared};
use crate::dispatch::{Assignment, Work};
use crate::domain::{DeliveryId, Event, Outcome, PatientId, Reason, Recipient, State, fingerprint};
use crate::plan::{Decision, Planned, plan};
use crate::record::{Claim, Claimed, RecordError, Repeated, Source};
use crate::topic::Record;
use crate::trace::{self, Kind, Span, TraceContext};

type DecodedEvent = Decoded<Event>;

/// Plans, claims and hands over what was decoded.
pub(super) async fn process(shared: &Arc<Shared>, flow: &Notify, decoded: Vec<DecodedEvent>) {
    let begun = SystemTime::now();
    let Some(facts) = facts(shared, &decoded).await else { return release(decoded) };
    let now = Timestamp::now();
    let planned: Vec<Vec<Planned>> = decoded
        .iter()
        .map(|one| {
            let known = facts.get(one.event.patient_id()).map_or(&[][..], Vec::as_slice);
            plan(&one.event, known, &flow.settings, now)
        })
        .collect();
    claim_and_hand_over(shared, flow, decoded, planned, Steps { begun, planned: SystemTime::now() }).await;
}

/// `None`: interrupted while the database was away, or a bug.
async fn facts(shared: &Shared, decoded: &[DecodedEvent]) -> Option<HashMap<PatientId, Vec<Recipient>>> {
    let patients: HashSet<&PatientId> = decoded.iter().map(|one| one.event.patient_id()).collect();
    let patients: Vec<&PatientId> = patients.into_iter().collect();
    let mut wait = Wait::of(shared, decoded);
    loop {
        match shared.parts.store.recipients_of(&patients).await {
            Ok(facts) => return Some(facts),
            Err(error) => wait.after(&error).await?,
        }
    }
}

/// Waits for a database that is away.
struct Wait<'a> {
    shared: &'a Shared,
    decoded: &'a [DecodedEvent],
    retry: Retry<'a>,
}

impl<'a> Wait<'a> {
    const fn of(shared: &'a Shared, decoded: &'a [DecodedEvent]) -> Self {
        Self { shared, decoded, retry: Retry::new(shared, "postgres") }
    }

    /// `None`: asking again is no longer worth it.
    async fn after(&mut self, error: &RecordError) -> Option<()> {
        if matches!(error, RecordError::Bug(_)) {
            self.shared.bug(error);
            return None;
        }
        self.retry.again(error, all_closing(self.decoded)).await.then_some(())
    }
}

async fn claim_and_hand_over(
    shared: &Arc<Shared>,
    flow: &Notify,
    decoded: Vec<DecodedEvent>,
    planned: Vec<Vec<Planned>>,
    steps: Steps,
) {
    let mut claims = Vec::with_capacity(planned.len());
    let mut first_seen = HashSet::with_capacity(planned.len());
    let fingerprints: Vec<[u8; 32]> = decoded.iter().map(|one| fingerprint(&one.event)).collect();
    for ((one, plans), &fingerprint) in decoded.iter().zip(&planned).zip(&fingerprints) {
        let source = source_of(&one.record);
        for plan in plans {
            // The same meaning twice in one batch: the first stands.
            if first_seen.insert(plan.notification_id) {
                claims.push(claim_of(plan, source.clone(), fingerprint));
            }
        }
    }
    let lease_from = Instant::now();
    let batch = shared.next_batch();
    let Some(mut ours) = claim(shared, &mut claims, batch, &decoded).await else { return release(decoded) };
    let lease_until = lease_from + Duration::from_millis(shared.parts.config.lease_ms);
    let claimed = SystemTime::now();
    shared.breaker.lock().observe_good(decoded.len());
    let (mut repeated, mut undecided) = (Vec::new(), Vec::new());
    for ((one, plans), fingerprint) in decoded.into_iter().zip(planned).zip(fingerprints) {
        let mut new = Vec::with_capacity(plans.len());
        for plan in plans {
            let notification_id = plan.notification_id;
            // Taken out, so that a second record of the same meaning finds it gone.
            match ours.remove(&notification_id) {
                Some(state) => {
                    steps.trace(&one.record, &plan, state, claimed);
                    new.push((plan, state));
                }
                None => {
                    repeated.push(Repeated { notification_id, fingerprint, source: source_of(&one.record) })
                }
            }
        }
        if new.is_empty() {
            undecided.push(one);
        } else {
            hand_over(flow, one, new, batch, lease_until);
        }
    }
    if !repeated.is_empty() {
        settle_repeated(shared, undecided, &repeated).await;
    }
}

/// `None`: interrupted while the database was away, or a bug.
async fn claim(
    shared: &Shared,
    claims: &mut [Claim],
    batch: i32,
    decoded: &[DecodedEvent],
) -> Option<Claimed> {
    let lease = Duration::from_millis(shared.parts.config.lease_ms);
    let mut wait = Wait::of(shared, decoded);
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
            Err(error) => wait.after(&error).await?,
        }
        answer_lost = true;
    }
}

/// Records that brought nothing new: duplicates, or another content under a key that
/// is taken, which is written down before the offset moves.
async fn settle_repeated(shared: &Shared, undecided: Vec<DecodedEvent>, repeated: &[Repeated]) {
    let Some(conflicts) = conflicts(shared, &undecided, repeated).await else { return release(undecided) };
    let conflicting: HashSet<&Source> = conflicts
        .into_iter()
        .filter_map(|place| repeated.get(place))
        .map(|Repeated { notification_id, source, .. }| {
            warn!(
                %notification_id,
                topic = &*source.topic,
                partition = source.partition,
                offset = source.offset,
                "another content for a notification that exists: the first stands, nothing is sent for this one"
            );
            source
        })
        .collect();
    for Decoded { record, .. } in undecided {
        let differs = conflicting.contains(&source_of(&record));
        let reason = if differs { Reason::ConflictingDuplicate } else { Reason::Duplicate };
        count(&record.ticket.partition().topic, Outcome::Ignored(reason));
        record.ticket.complete();
    }
}

/// `None`: interrupted while the database was away, or a bug.
async fn conflicts(
    shared: &Shared,
    undecided: &[DecodedEvent],
    repeated: &[Repeated],
) -> Option<HashSet<usize>> {
    let mut wait = Wait::of(shared, undecided);
    loop {
        match shared.parts.store.note_conflicts(repeated).await {
            Ok(conflicts) => return Some(conflicts),
            Err(error) => wait.after(&error).await?,
        }
    }
}

/// What became ours goes to the dispatcher; a record of which nothing is due is done.
fn hand_over(flow: &Notify, one: DecodedEvent, new: Vec<(Planned, State)>, epoch: i32, lease_until: Instant) {
    let Decoded { record, permit, .. } = one;
    let (published_at, trace) = (published_at(&record), trace_of(&record));
    let outcome =
        new.last().map_or(Outcome::Ignored(Reason::Duplicate), |(plan, state)| outcome(plan, *state));
    let now_due: Vec<Assignment> = new
        .iter()
        .filter(|(_, state)| *state == State::Dispatching)
        .flat_map(|(plan, _)| assignments(plan, epoch, lease_until, published_at, trace))
        .collect();
    if now_due.is_empty() {
        count(&record.ticket.partition().topic, outcome);
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

/// How a record ended whose notification was claimed in this state.
const fn outcome(plan: &Planned, state: State) -> Outcome {
    match plan.decision {
        _ if matches!(state, State::Cancelled) => Outcome::Ignored(Reason::Cancelled),
        Decision::Dispatch | Decision::Hold { .. } if matches!(state, State::Suppressed) => {
            Outcome::Ignored(Reason::Erased)
        }
        Decision::Dispatch => Outcome::Done,
        Decision::Hold { until, .. } => Outcome::Scheduled(until),
        Decision::Suppress(reason) => Outcome::Ignored(reason),
        Decision::Expire => Outcome::Ignored(Reason::Expired),
    }
}

/// What goes out at once of a notification: its first channel, or all of them.
fn assignments(
    plan: &Planned,
    epoch: i32,
    lease_until: Instant,
    published_at: Timestamp,
    trace: Option<TraceContext>,
) -> impl Iterator<Item = Assignment> {
    plan.begins().map(move |(position, channel, address)| Assignment {
        delivery_id: DeliveryId::for_channel(plan.notification_id, channel),
        notification_id: plan.notification_id,
        epoch,
        recipient_id: plan.recipient_id,
        purpose: plan.purpose,
        urgency: plan.urgency,
        channel,
        position,
        channels: plan.channels.clone(),
        strategy: plan.strategy,
        address: address.clone(),
        locale: plan.locale.clone(),
        variables: plan.variables.clone(),
        attempt: 0,
        attempt_group: 1,
        trying_for: Duration::ZERO,
        lease_until,
        expires_at: plan.expires_at,
        published_at: Some(published_at),
        trace: trace::of_notification(plan.notification_id, trace),
    })
}

/// When a batch got to which step.
#[derive(Clone, Copy)]
struct Steps {
    begun: SystemTime,
    planned: SystemTime,
}

impl Steps {
    /// The spans of a notification that became ours: itself, which all that is done for it
    /// later follows from, and how it came to be.
    fn trace(self, record: &Record, plan: &Planned, state: State, claimed: SystemTime) {
        if !trace::is_on() {
            return;
        }
        let id = plan.notification_id;
        let given = trace_of(record);
        let trace = trace::of_notification(id, given);
        let partition = record.ticket.partition();
        Span::root("notification", Kind::Consumer, given.unwrap_or(trace), trace::span_of(id))
            .since(self.begun)
            .with("messaging.system", "kafka")
            .with_text("messaging.destination.name", &partition.topic)
            .with_text("messaging.destination.partition.id", &partition.partition)
            .with("messaging.kafka.offset", record.ticket.offset())
            .with_text("notification_id", &id)
            .with("purpose", plan.purpose.as_str())
            .with("urgency", plan.urgency.as_str())
            .with("state", state.as_str())
            .with("reason", plan.decision.reason().as_str())
            .end();
        let of = |name| Span::begin(name, Kind::Internal, trace);
        of("plan").since(self.begun).until(self.planned).end();
        of("claim").since(self.planned).until(claimed).end();
    }
}

//! Due deliveries: releases of embargoes and quiet hours, schedules, retries, the
//! next channel, and claims whose owner died. The most urgent come first; bulk comes
//! last and has at most half of the worker's places, a channel three quarters.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::places::{Place, Places};
use super::rounds::Turned;
use crate::config;
use crate::deliver::LookUp;
use crate::dispatch::{self, Assignment, Dispatcher, OnRecorded, Work};
use crate::domain::{Channel, Outcome, PatientId, Reason, Recipient, RecipientId, Redacted, State, Urgency};
use crate::metrics;
use crate::plan::{Decision, Settings, denied, usable_channels, when};
use crate::record::{DueDelivery, RecordError, Recorded, Store};

/// Longest pause while the database is away.
const UNAVAILABLE_PAUSE: Duration = Duration::from_secs(2);
/// Batches that wait, claimed, while one is handed over.
const CLAIMED_AHEAD: usize = 1;
/// Longest wait for a place in one turn: outcomes that wait for the database keep theirs,
/// and are no reason to restart the process.
const PLACE_WAIT: Duration = Duration::from_secs(30);

/// The worker of due deliveries.
pub struct DueWorker {
    /// `[workers]`.
    pub config: config::Workers,
    /// How long a claim is ours.
    pub lease: Duration,
    /// How long a stop waits for sends that have begun.
    pub drain_timeout: Duration,
    /// The database.
    pub store: Store,
    /// Sends and records.
    pub dispatcher: Arc<Dispatcher>,
    /// Defaults of plans.
    pub settings: Settings,
}

impl DueWorker {
    /// Runs until `shutdown`, then waits for what has begun. A broken invariant
    /// cancels `fatal`. `turned` is told of each turn.
    pub async fn run(self, turned: Turned, shutdown: CancellationToken, fatal: CancellationToken) {
        let places = Places::new(self.config.in_flight_max);
        let this = Arc::new(self);
        let (batches, queue) = mpsc::channel(CLAIMED_AHEAD);
        tokio::join!(
            this.claim_all(&places, batches, &turned, &shutdown, &fatal),
            this.hand_over_all(queue, &shutdown, &fatal)
        );
        if fatal.is_cancelled() {
            return;
        }
        if tokio::time::timeout(this.drain_timeout, places.all_free()).await.is_err() {
            warn!("the drain ran out of time; the leases of what is left run out");
        }
    }

    /// Claims while there are places, until `shutdown`.
    async fn claim_all(
        &self,
        places: &Places,
        batches: mpsc::Sender<Batch>,
        turned: &Turned,
        shutdown: &CancellationToken,
        fatal: &CancellationToken,
    ) {
        let idle = Duration::from_millis(self.config.poll_interval_ms);
        while !shutdown.is_cancelled() && !fatal.is_cancelled() {
            turned.now();
            tokio::select! {
                _ = tokio::time::timeout(PLACE_WAIT, places.some_free()) => {}
                () = shutdown.cancelled() => return,
                () = fatal.cancelled() => return,
            }
            let pause = match self.turn(places, &batches).await {
                Ok(0) => idle,
                Ok(_) => continue,
                Err(error) => {
                    tell(&error, fatal);
                    UNAVAILABLE_PAUSE
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // More may be due than bulk or a channel had places for.
                () = places.share_freed() => {}
                () = shutdown.cancelled() => {}
                () = fatal.cancelled() => {}
            }
        }
    }

    /// Claims what there are places for, the most urgent first. The number of rows that
    /// were due.
    async fn turn(&self, places: &Places, batches: &mpsc::Sender<Batch>) -> Result<usize, RecordError> {
        let kinds = self.store.due_kinds().await?;
        let mut taken = 0;
        // Channels of which nothing more urgent may be due.
        let mut open = Channel::ALL.to_vec();
        for &urgency in Urgency::ALL.iter().rev() {
            let mut channels = open.clone();
            channels.retain(|channel| kinds.contains(&(urgency, *channel)));
            while !channels.is_empty() && taken < self.config.batch_max_rows {
                let mut shares = places.shares(urgency, &channels, self.config.batch_max_rows - taken);
                let wanted = shares.wanted();
                if wanted.is_empty() {
                    break;
                }
                let lease_from = Instant::now();
                let due = self.store.claim_due(urgency, &wanted, self.lease).await?;
                taken += due.len();
                let full = |(channel, share): &(Channel, usize)| {
                    due.iter().filter(|one| one.channel == *channel).count() == *share
                };
                let full: Vec<_> =
                    wanted.iter().filter(|one| full(one)).map(|(channel, _)| *channel).collect();
                let due: Vec<(DueDelivery, Place)> = due
                    .into_iter()
                    .filter_map(|one| Some((shares.place(one.channel)?, one)))
                    .map(|(place, one)| (one, place))
                    .collect();
                if !due.is_empty() {
                    metrics::due_claimed(due.len() as u64);
                    // Whoever takes them ends after this.
                    let _ = batches.send(Batch { due, lease_until: lease_from + self.lease }).await;
                }
                if full.len() == wanted.len() {
                    open.retain(|channel| !full.contains(channel));
                    break;
                }
                // A channel that had fewer rows than its share leaves the rest to the others.
                channels = full;
            }
        }
        Ok(taken)
    }

    /// Hands over one batch after the other, while the next one is claimed.
    async fn hand_over_all(
        self: &Arc<Self>,
        mut batches: mpsc::Receiver<Batch>,
        shutdown: &CancellationToken,
        fatal: &CancellationToken,
    ) {
        while let Some(batch) = batches.recv().await {
            if let Err(error) = self.hand_over(batch, shutdown).await {
                tell(&error, fatal);
                // What was claimed meanwhile waits, and nothing more is claimed.
                let _ = tokio::time::timeout(UNAVAILABLE_PAUSE, shutdown.cancelled()).await;
            }
        }
    }

    /// Looks at claimed rows once more, and sends what is still to be sent.
    async fn hand_over(
        self: &Arc<Self>,
        batch: Batch,
        shutdown: &CancellationToken,
    ) -> Result<(), RecordError> {
        let Batch { due, lease_until } = batch;
        let facts = match self.facts(&due).await {
            Ok(facts) => facts,
            Err(error) => {
                self.hand_back(due, lease_until).await;
                return Err(error);
            }
        };
        let mut send = Vec::new();
        for (one, place) in due {
            let recipient = facts.get(&(one.recipient_id, one.patient_id.clone()));
            if matches!(one.was, State::Dispatching | State::OutcomeUnknown) {
                let worker = Arc::clone(self);
                let recipient = recipient.cloned();
                let stop = shutdown.clone();
                tokio::spawn(async move {
                    worker.reconcile(one, recipient, lease_until, place, stop).await;
                });
            } else {
                match self.prepare(&one, recipient, lease_until) {
                    Prepared::Send(assignment) => send.push((one, assignment, place)),
                    Prepared::Ended((recorded, outcome)) => self.record(recorded, outcome, place).await,
                }
            }
        }
        self.send(send, shutdown).await
    }

    async fn facts(
        &self,
        due: &[(DueDelivery, Place)],
    ) -> Result<HashMap<(RecipientId, PatientId), Recipient>, RecordError> {
        let mut wanted: Vec<(RecipientId, PatientId)> =
            due.iter().map(|(one, _)| (one.recipient_id, one.patient_id.clone())).collect();
        wanted.sort_unstable();
        wanted.dedup();
        self.store.recipients(&wanted).await
    }

    /// What was claimed and not begun goes back, so that its lease does not run out
    /// and make its outcome look unknown. The recorder waits for the database.
    async fn hand_back(&self, due: Vec<(DueDelivery, Place)>, lease_until: Instant) {
        for (one, place) in due {
            let assignment = assignment(&one, lease_until);
            let (recorded, outcome) = match one.was {
                State::Dispatching | State::OutcomeUnknown => {
                    dispatch::look_up_later(&assignment, Reason::OwnerLost)
                }
                _ => dispatch::released(&assignment),
            };
            self.record(recorded, outcome, place).await;
        }
    }

    async fn record(&self, recorded: Recorded, outcome: Outcome, place: Place) {
        self.dispatcher.record(recorded, outcome, give_back(place)).await;
    }

    /// What may have changed since it was planned is looked at again: cancellation,
    /// expiry, erasure, access, consent, address, quiet hours.
    fn prepare(&self, due: &DueDelivery, recipient: Option<&Recipient>, lease_until: Instant) -> Prepared {
        let mut assignment = assignment(due, lease_until);
        if due.cancelled {
            return Prepared::Ended(dispatch::cancelled(&assignment, Reason::Cancelled));
        }
        if due.reached {
            return Prepared::Ended(dispatch::cancelled(&assignment, Reason::Reached));
        }
        if due.expired {
            return Prepared::Ended(dispatch::expired(&assignment));
        }
        let Some(recipient) = recipient else {
            return Prepared::Ended(dispatch::suppressed(&assignment, Reason::Erased));
        };
        let now = Timestamp::now();
        if let Some(reason) = denied(recipient, due.purpose, now) {
            return Prepared::Ended(dispatch::suppressed(&assignment, reason));
        }
        let (_, closed) = usable_channels(recipient, &[due.channel], due.purpose, &self.settings);
        if let Some(reason) = closed {
            return Prepared::Ended(dispatch::suppressed(&assignment, reason));
        }
        if let Some(point) = recipient.contact_point(due.channel) {
            assignment.address = point.address.clone();
        }
        match when(recipient, due.urgency, None, due.expires_at, &self.settings, now) {
            Decision::Hold { until, why } => {
                let wait = Duration::try_from(until.duration_since(now)).unwrap_or_default();
                let reason = Decision::Hold { until, why }.reason();
                Prepared::Ended(dispatch::held(&assignment, reason, wait))
            }
            Decision::Expire => Prepared::Ended(dispatch::expired(&assignment)),
            Decision::Dispatch | Decision::Suppress(_) => Prepared::Send(assignment),
        }
    }

    /// Addresses first: a look-up after a crash has to know where it was sent to.
    async fn send(
        &self,
        ready: Vec<(DueDelivery, Assignment, Place)>,
        shutdown: &CancellationToken,
    ) -> Result<(), RecordError> {
        let moved: Vec<_> = ready
            .iter()
            .filter(|(due, assignment, _)| due.address.as_ref() != Some(&assignment.address))
            .map(|(_, assignment, _)| (assignment.delivery_id, assignment.address.clone()))
            .collect();
        let written = if moved.is_empty() { Ok(()) } else { self.store.set_addresses(&moved).await };
        for (_, assignment, place) in ready {
            if written.is_ok() {
                self.submit(assignment, place, shutdown);
            } else {
                let (recorded, outcome) = dispatch::released(&assignment);
                self.record(recorded, outcome, place).await;
            }
        }
        written
    }

    fn submit(&self, assignment: Assignment, place: Place, shutdown: &CancellationToken) {
        let stop = shutdown.clone();
        self.dispatcher.submit(Work {
            assignment,
            may_begin: Box::new(move || !stop.is_cancelled()),
            on_recorded: give_back(place),
        });
    }

    /// Nobody knows whether it was sent. The provider is asked if it can be;
    /// otherwise a receipt has until the deadline. Never a blind repetition.
    async fn reconcile(
        &self,
        due: DueDelivery,
        recipient: Option<Recipient>,
        lease_until: Instant,
        place: Place,
        shutdown: CancellationToken,
    ) {
        let assignment = assignment(&due, lease_until);
        let providers = self.dispatcher.providers();
        let policy = self.dispatcher.policy();
        if due.was == State::Dispatching {
            metrics::outcome_unknown(due.channel, 1);
            warn!(delivery_id = %due.delivery_id, channel = %due.channel, "its owner died; the outcome is unknown");
        }
        let known_for = due.unknown_for.unwrap_or_default();
        let asked = match &due.address {
            Some(address) => {
                providers.look_up(due.channel, due.delivery_id, address, due.first_attempt_at).await
            }
            // Claimed, and its address never written down: it was not begun.
            None => LookUp::NotFound,
        };
        let (recorded, outcome) = match asked {
            LookUp::Found { provider_message_id } => {
                dispatch::found(&assignment, providers.name(due.channel), provider_message_id)
            }
            LookUp::NotFound => match self.prepare(&due, recipient.as_ref(), lease_until) {
                Prepared::Send(assignment) => return self.submit(assignment, place, &shutdown),
                Prepared::Ended(ended) => ended,
            },
            LookUp::Unavailable(reason) if known_for < policy.outcome_unknown_deadline(due.purpose) => {
                dispatch::look_up_later(&assignment, reason)
            }
            LookUp::Unsupported if due.was == State::Dispatching => {
                dispatch::unknown(&assignment, Reason::OwnerLost, false, policy)
            }
            LookUp::Unavailable(_) | LookUp::Unsupported => dispatch::never_known(&assignment),
        };
        self.record(recorded, outcome, place).await;
    }
}

/// Rows that were claimed together.
struct Batch {
    due: Vec<(DueDelivery, Place)>,
    lease_until: Instant,
}

fn tell(error: &RecordError, fatal: &CancellationToken) {
    match error {
        RecordError::Unavailable(_) => {
            metrics::unavailable("postgres");
            warn!(%error, "due deliveries wait");
        }
        RecordError::Bug(_) => {
            error!(%error, "due deliveries cannot be worked on; the process ends");
            fatal.cancel();
        }
    }
}

/// What a last look at a due delivery comes to.
enum Prepared {
    /// It goes out.
    Send(Assignment),
    /// It does not, or not now.
    Ended((Recorded, Outcome)),
}

fn give_back(place: Place) -> OnRecorded {
    Box::new(move |_outcome| drop(place))
}

fn assignment(due: &DueDelivery, lease_until: Instant) -> Assignment {
    Assignment {
        delivery_id: due.delivery_id,
        notification_id: due.notification_id,
        epoch: due.epoch,
        recipient_id: due.recipient_id,
        purpose: due.purpose,
        urgency: due.urgency,
        channel: due.channel,
        position: due.position,
        channels: due.channels.clone(),
        strategy: due.strategy,
        address: due.address.clone().unwrap_or_else(|| Redacted::new(String::new())),
        locale: due.locale.clone(),
        variables: due.variables.clone(),
        attempt: due.attempt,
        attempt_group: due.attempt_group,
        trying_for: due.trying_for,
        lease_until,
        expires_at: due.expires_at,
        // The objective's clock does not run while a message is held on purpose.
        published_at: (due.was != State::Held).then_some(due.published_at),
        trace: due.trace,
    }
}

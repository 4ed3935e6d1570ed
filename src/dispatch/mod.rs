//! From a claimed delivery to its recorded outcome: lease, words, provider's
//! call, what it means, and the batch that writes it down. The processor and the
//! workers both end here, so that a message is sent in one way only.

mod lanes;
mod outcome;
mod pauses;
mod recorder;

pub use lanes::Lanes;
pub use outcome::{
    after_send, cancelled, expired, found, held, look_up_later, never_known, not_rendered, released,
    suppressed, unknown,
};
pub use pauses::{Gate, Pauses, Teller};
pub use recorder::{OnRecorded, Recorder, RecorderOptions};

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tracing::warn;

use crate::deliver::{Message, Providers, Renderer, SendOutcome};
use crate::domain::{
    Channel, DeliveryId, NotificationId, Outcome, Purpose, Reason, RecipientId, Redacted, State, Strategy,
    Urgency,
};
use crate::metrics;
use crate::plan::RetryPolicy;
use crate::record::Recorded;
use crate::trace::{Kind, Span, TraceContext};

/// What must be left of a lease beyond the wait for a free call and the call
/// itself (each at most the provider's time-out), for recording.
const LEASE_MARGIN: Duration = Duration::from_secs(5);

/// A delivery whose claim we hold.
#[derive(Debug)]
pub struct Assignment {
    /// Which delivery.
    pub delivery_id: DeliveryId,
    /// Of which notification.
    pub notification_id: NotificationId,
    /// The claim.
    pub epoch: i32,
    /// Who gets it: messages to one recipient go out one after the other.
    pub recipient_id: RecipientId,
    /// What for.
    pub purpose: Purpose,
    /// How soon.
    pub urgency: Urgency,
    /// Which way.
    pub channel: Channel,
    /// Its place in the plan.
    pub position: i16,
    /// The plan's channels.
    pub channels: Vec<Channel>,
    /// How they are used.
    pub strategy: Strategy,
    /// Where to.
    pub address: Redacted<String>,
    /// Locale of the words.
    pub locale: String,
    /// Template variables.
    pub variables: Redacted<Vec<(String, String)>>,
    /// Attempts before this one.
    pub attempt: i32,
    /// Key to the provider within one group of attempts.
    pub attempt_group: i32,
    /// How long it has been tried.
    pub trying_for: Duration,
    /// Until when the claim is surely ours, by this process's monotonic clock,
    /// counted from before the claim was asked for.
    pub lease_until: Instant,
    /// Too late to be useful.
    pub expires_at: Timestamp,
    /// The source record's time stamp; `None`: it was held on purpose since.
    pub published_at: Option<Timestamp>,
    /// To which trace it belongs.
    pub trace: TraceContext,
}

/// May a send still begin? Asked right before the call.
pub type MayBegin = Box<dyn Fn() -> bool + Send + Sync>;

/// An assignment on its way, with what has to happen once it is recorded.
pub struct Work {
    /// What to send.
    pub assignment: Assignment,
    /// False once the partition is revoked or the process stops.
    pub may_begin: MayBegin,
    /// Called when the outcome is durable.
    pub on_recorded: OnRecorded,
}

/// Sends assignments and has their outcomes recorded.
pub struct Dispatcher {
    providers: Arc<Providers>,
    renderer: Arc<Renderer>,
    recorder: Recorder,
    policy: RetryPolicy,
    pauses: Pauses,
    lanes: Lanes<Work>,
}

impl Dispatcher {
    /// Wires the parts.
    #[must_use]
    pub fn new(
        providers: Arc<Providers>,
        renderer: Arc<Renderer>,
        recorder: Recorder,
        policy: RetryPolicy,
        pauses: Pauses,
    ) -> Arc<Self> {
        Arc::new(Self { providers, renderer, recorder, policy, pauses, lanes: Lanes::default() })
    }

    /// Puts work into its recipient's lane. Work of one lane runs in the order of
    /// submission, but bulk after everything else; lanes run side by side. The
    /// caller bounds how much is in flight.
    pub fn submit(self: &Arc<Self>, work: Work) {
        let key = work.assignment.recipient_id.0;
        let bulk = work.assignment.urgency == Urgency::Bulk;
        if let Some(first) = self.lanes.enter(key, bulk, work) {
            let dispatcher = Arc::clone(self);
            tokio::spawn(async move {
                let mut next = Some(first);
                while let Some(work) = next {
                    dispatcher.run(work).await;
                    next = dispatcher.lanes.next(key);
                }
            });
        }
    }

    /// Records an outcome that needed no provider's call.
    pub async fn record(&self, recorded: Recorded, outcome: Outcome, on_recorded: OnRecorded) {
        self.recorder.record(recorded, outcome, on_recorded).await;
    }

    /// The providers, for look-ups.
    #[must_use]
    pub fn providers(&self) -> &Providers {
        &self.providers
    }

    /// When to try again.
    #[must_use]
    pub const fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    async fn run(&self, work: Work) {
        let Work { assignment, may_begin, on_recorded } = work;
        let (recorded, outcome) = self.deliver(&assignment, &may_begin).await;
        metrics::deliveries(assignment.channel, recorded.state.as_str(), 1);
        if let Some(end) = end(assignment.channel, &recorded) {
            metrics::delivery_end(assignment.channel, end);
        }
        self.recorder.record(recorded, outcome, on_recorded).await;
    }

    async fn deliver(&self, assignment: &Assignment, may_begin: &MayBegin) -> (Recorded, Outcome) {
        let needed = self.providers.timeout(assignment.channel) * 2 + LEASE_MARGIN;
        if !may_begin() || assignment.lease_until.saturating_duration_since(Instant::now()) < needed {
            return released(assignment);
        }
        if Timestamp::now() >= assignment.expires_at {
            return expired(assignment);
        }
        match self.pauses.gate(assignment.channel, assignment.urgency).await {
            Gate::Open => {}
            // A worker releases it when the pause is over; until then nobody looks at it.
            Gate::Paused => {
                let wait = assignment.expires_at.duration_since(Timestamp::now());
                let wait = Duration::try_from(wait).unwrap_or_default();
                return held(assignment, Reason::ChannelPaused, wait);
            }
            Gate::Unknown => return released(assignment),
        }
        let content = match self.renderer.render(
            assignment.purpose,
            assignment.channel,
            &assignment.locale,
            assignment.variables.expose(),
            assignment.delivery_id,
        ) {
            Ok(content) => content,
            Err(error) => {
                let trace_id = assignment.trace.trace();
                warn!(notification_id = %assignment.notification_id, %trace_id, %error, "a message could not be rendered");
                return not_rendered(assignment);
            }
        };
        let message = Message {
            delivery_id: assignment.delivery_id,
            recipient_id: assignment.recipient_id,
            purpose: assignment.purpose,
            attempt_group: assignment.attempt_group,
            urgency: assignment.urgency,
            address: assignment.address.clone(),
            content,
        };
        // The clock of the objective stops when the provider is handed the message.
        let handed_over = assignment.published_at.map(|at| Timestamp::now().duration_since(at));
        let span = Span::begin("deliver", Kind::Client, assignment.trace);
        let outcome = self.providers.send(&message).await;
        if let (SendOutcome::Sent { .. }, Some(elapsed)) = (&outcome, handed_over) {
            let elapsed = Duration::try_from(elapsed).unwrap_or_default();
            metrics::accept_to_provider(assignment.purpose, assignment.urgency, elapsed);
        }
        let provider = self.providers.name(assignment.channel);
        let can_look_up = self.providers.can_look_up(assignment.channel);
        let after = after_send(assignment, &outcome, provider, can_look_up, &self.policy, rand::random());
        traced(span, assignment, provider, &after.0);
        after
    }
}

/// How a delivery has ended with its attempt, if it has: receipts tell of the others.
fn end(channel: Channel, recorded: &Recorded) -> Option<&'static str> {
    match recorded.state {
        State::PermanentFailure | State::TechnicalFailure | State::Expired => Some(recorded.state.as_str()),
        // Nobody says more of it: FCM has no receipts.
        State::Sent if channel == Channel::Push => Some(State::Delivered.as_str()),
        _ => None,
    }
}

/// Ends the span of a provider's call.
fn traced(span: Span, assignment: &Assignment, provider: &'static str, recorded: &Recorded) {
    let span = span
        .with_text("notification_id", &assignment.notification_id)
        .with_text("delivery_id", &assignment.delivery_id)
        .with("channel", assignment.channel.as_str())
        .with("provider", provider)
        .with("purpose", assignment.purpose.as_str())
        .with("urgency", assignment.urgency.as_str())
        .with("attempt", i64::from(assignment.attempt) + 1)
        .with("state", recorded.state.as_str());
    if recorded.state == State::Sent { span.end() } else { span.fail(recorded.reason.as_str()) }
}

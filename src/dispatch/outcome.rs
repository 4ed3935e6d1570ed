//! What a provider's answer means for the delivery, its notification and the
//! record that it came from (ARCHITECTURE.md, "What moves the offset"). Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::Assignment;
use crate::deliver::SendOutcome;
use crate::domain::{Channel, DeliveryId, Outcome, Reason, State, Strategy};
use crate::plan::{Evidence, RetryPolicy};
use crate::record::{NextDelivery, Recorded};

/// First pause before a provider is asked what became of a message: it may still
/// be on its way through the provider's own queues.
const LOOK_UP_AFTER: Duration = Duration::from_secs(15);

fn recorded(assignment: &Assignment, state: State, reason: Reason) -> Recorded {
    Recorded {
        delivery_id: assignment.delivery_id,
        notification_id: assignment.notification_id,
        epoch: assignment.epoch,
        state,
        reason,
        notification_state: state,
        attempts: 0,
        new_group: false,
        due_after: None,
        provider: None,
        provider_message_id: None,
        next: None,
        evidence: next_channel(assignment).map(|_| Evidence {
            urgency: assignment.urgency,
            channel: assignment.channel,
            trying_for: assignment.trying_for,
        }),
    }
}

/// The plan's channel after this one; none where all were begun at once.
fn next_channel(assignment: &Assignment) -> Option<NextDelivery> {
    if assignment.strategy == Strategy::AllAtOnce {
        return None;
    }
    let position = assignment.position.checked_add(1)?;
    let channel: Channel = *assignment.channels.get(usize::try_from(position).ok()?)?;
    let delivery_id = DeliveryId::for_channel(assignment.notification_id, channel);
    Some(NextDelivery { delivery_id, channel, position })
}

/// This channel has failed for good: the next one follows, or the notification ends.
fn failed(assignment: &Assignment, state: State, reason: Reason, attempts: i32) -> (Recorded, Outcome) {
    let mut record = recorded(assignment, state, reason);
    record.attempts = attempts;
    record.next = next_channel(assignment);
    if record.next.is_some() {
        record.notification_state = State::Queued;
        return (record, Outcome::Scheduled(Timestamp::now()));
    }
    (record, Outcome::Failed(reason))
}

/// After a provider's call. `chance` in 0..1 spreads retries.
#[must_use]
pub fn after_send(
    assignment: &Assignment,
    outcome: &SendOutcome,
    provider: &'static str,
    can_look_up: bool,
    policy: &RetryPolicy,
    chance: f64,
) -> (Recorded, Outcome) {
    let (mut record, outcome) = match outcome {
        SendOutcome::Sent { provider_message_id } => {
            let mut record = recorded(assignment, State::Sent, Reason::ProviderAccepted);
            record.attempts = 1;
            record.provider_message_id = Some(provider_message_id.clone());
            (record, Outcome::Done)
        }
        SendOutcome::Permanent(reason) => failed(assignment, State::PermanentFailure, *reason, 1),
        SendOutcome::Transient { reason, after } => transient(assignment, *reason, *after, policy, chance),
        SendOutcome::Throttled { after } => {
            let mut record = recorded(assignment, State::Held, Reason::Throttled);
            record.new_group = true;
            record.due_after = Some(*after);
            (record, Outcome::Scheduled(soon(*after)))
        }
        SendOutcome::Ambiguous(reason) => unknown(assignment, *reason, can_look_up, policy),
    };
    record.provider = Some(provider);
    (record, outcome)
}

fn transient(
    assignment: &Assignment,
    reason: Reason,
    asked: Option<Duration>,
    policy: &RetryPolicy,
    chance: f64,
) -> (Recorded, Outcome) {
    let attempt = u32::try_from(assignment.attempt + 1).unwrap_or(u32::MAX);
    match policy.pause(attempt, assignment.trying_for, asked, chance) {
        None => failed(assignment, State::TechnicalFailure, Reason::RetriesExhausted, 1),
        Some(pause) => {
            let mut record = recorded(assignment, State::TemporaryFailure, reason);
            record.attempts = 1;
            record.new_group = true;
            record.due_after = Some(pause);
            (record, Outcome::Scheduled(soon(pause)))
        }
    }
}

/// Nobody knows whether it was sent: never a blind repetition. With a look-up it
/// is asked for soon; without one it waits for a receipt until the deadline.
#[must_use]
pub fn unknown(
    assignment: &Assignment,
    reason: Reason,
    can_look_up: bool,
    policy: &RetryPolicy,
) -> (Recorded, Outcome) {
    let deadline = policy.outcome_unknown_deadline(assignment.purpose);
    let wait = if can_look_up { LOOK_UP_AFTER.min(deadline) } else { deadline };
    let mut record = recorded(assignment, State::OutcomeUnknown, reason);
    record.attempts = 1;
    record.due_after = Some(wait);
    (record, Outcome::Scheduled(soon(wait)))
}

/// The look-up itself failed: once more later, within the deadline.
#[must_use]
pub fn look_up_later(assignment: &Assignment, reason: Reason) -> (Recorded, Outcome) {
    let mut record = recorded(assignment, State::OutcomeUnknown, reason);
    record.due_after = Some(LOOK_UP_AFTER);
    (record, Outcome::Scheduled(soon(LOOK_UP_AFTER)))
}

/// Claimed, and not begun: back to the queue at once.
#[must_use]
pub fn released(assignment: &Assignment) -> (Recorded, Outcome) {
    let mut record = recorded(assignment, State::Queued, Reason::Released);
    record.due_after = Some(Duration::ZERO);
    (record, Outcome::Scheduled(Timestamp::now()))
}

/// Too late to be useful.
#[must_use]
pub fn expired(assignment: &Assignment) -> (Recorded, Outcome) {
    (recorded(assignment, State::Expired, Reason::Expired), Outcome::Ignored(Reason::Expired))
}

/// It is not wanted any more: its caller took it back, or its recipient was reached.
#[must_use]
pub fn cancelled(assignment: &Assignment, reason: Reason) -> (Recorded, Outcome) {
    (recorded(assignment, State::Cancelled, reason), Outcome::Ignored(reason))
}

/// This channel was decided against at the last moment (consent or address is
/// gone): the next one follows, or the notification ends.
#[must_use]
pub fn suppressed(assignment: &Assignment, reason: Reason) -> (Recorded, Outcome) {
    failed(assignment, State::Suppressed, reason, 0)
}

/// Not now: quiet hours have begun since it was planned.
#[must_use]
pub fn held(assignment: &Assignment, reason: Reason, wait: Duration) -> (Recorded, Outcome) {
    let mut record = recorded(assignment, State::Held, reason);
    record.due_after = Some(wait);
    (record, Outcome::Scheduled(soon(wait)))
}

/// The provider's own records have it.
#[must_use]
pub fn found(
    assignment: &Assignment,
    provider: &'static str,
    provider_message_id: String,
) -> (Recorded, Outcome) {
    let mut record = recorded(assignment, State::Sent, Reason::FoundAtProvider);
    record.provider = Some(provider);
    record.provider_message_id = Some(provider_message_id);
    (record, Outcome::Done)
}

/// The outcome stayed unknown until the deadline: the next channel follows, or the
/// notification ends. The same channel is never tried again.
#[must_use]
pub fn never_known(assignment: &Assignment) -> (Recorded, Outcome) {
    failed(assignment, State::TechnicalFailure, Reason::OutcomeUnknown, 0)
}

/// No words for it on this channel.
#[must_use]
pub fn not_rendered(assignment: &Assignment) -> (Recorded, Outcome) {
    failed(assignment, State::TechnicalFailure, Reason::RenderFailed, 0)
}

fn soon(pause: Duration) -> Timestamp {
    Timestamp::now().saturating_add(pause).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use uuid::Uuid;

    use super::*;
    use crate::config::Config;
    use crate::domain::{NotificationId, Purpose, RecipientId, Redacted, Urgency};

    fn assignment(position: i16) -> Assignment {
        let notification_id = NotificationId(Uuid::from_u128(1));
        let channels = vec![Channel::Sms, Channel::Email];
        let channel = channels[usize::try_from(position).unwrap()];
        Assignment {
            delivery_id: DeliveryId::for_channel(notification_id, channel),
            notification_id,
            epoch: 3,
            recipient_id: RecipientId(Uuid::from_u128(2)),
            purpose: Purpose::TestResult,
            urgency: Urgency::Normal,
            channel,
            position,
            channels,
            strategy: Strategy::InOrder,
            address: Redacted::new("+15550100001".to_owned()),
            locale: "en".to_owned(),
            variables: Redacted::default(),
            attempt: 0,
            attempt_group: 1,
            trying_for: Duration::ZERO,
            lease_until: Instant::now(),
            expires_at: Timestamp::MAX,
            published_at: None,
            trace: crate::trace::of_notification(notification_id, None),
        }
    }

    fn after(assignment: &Assignment, outcome: &SendOutcome) -> (Recorded, Outcome) {
        let policy = RetryPolicy::new(&Config::from_defaults().retry);
        after_send(assignment, outcome, "twilio", true, &policy, 0.5)
    }

    #[test]
    fn sent_ends_the_attempts() {
        let (record, outcome) =
            after(&assignment(0), &SendOutcome::Sent { provider_message_id: "SM1".to_owned() });
        assert_eq!((record.state, record.due_after, outcome), (State::Sent, None, Outcome::Done));
        assert_eq!((record.attempts, record.epoch), (1, 3));
    }

    #[test]
    fn a_permanent_failure_starts_the_next_channel_and_the_last_one_ends() {
        let refused = SendOutcome::Permanent(Reason::InvalidAddress);
        let (record, outcome) = after(&assignment(0), &refused);
        assert_eq!(record.state, State::PermanentFailure);
        assert_eq!(record.notification_state, State::Queued);
        assert_eq!(record.next.unwrap().channel, Channel::Email);
        assert!(matches!(outcome, Outcome::Scheduled(_)));
        let (record, outcome) = after(&assignment(1), &refused);
        assert_eq!(record.notification_state, State::PermanentFailure);
        assert!(record.next.is_none());
        assert_eq!(outcome, Outcome::Failed(Reason::InvalidAddress));
    }

    #[test]
    fn beside_channels_that_were_begun_at_once_none_follows() {
        let mut beside = assignment(0);
        beside.strategy = Strategy::AllAtOnce;
        let (record, outcome) = after(&beside, &SendOutcome::Permanent(Reason::InvalidAddress));
        assert!(record.next.is_none());
        assert_eq!(outcome, Outcome::Failed(Reason::InvalidAddress));
    }

    #[test]
    fn a_transient_failure_is_due_again_under_a_new_key() {
        let (record, _) =
            after(&assignment(0), &SendOutcome::Transient { reason: Reason::ProviderError, after: None });
        assert_eq!((record.state, record.attempts, record.new_group), (State::TemporaryFailure, 1, true));
        assert!(record.due_after.unwrap() >= Duration::from_millis(2500));
    }

    #[test]
    fn retries_end_and_then_the_next_channel_follows() {
        let mut tired = assignment(0);
        tired.trying_for = Duration::from_secs(86_400);
        let (record, _) =
            after(&tired, &SendOutcome::Transient { reason: Reason::ProviderError, after: None });
        assert_eq!((record.state, record.reason), (State::TechnicalFailure, Reason::RetriesExhausted));
        assert!(record.next.is_some());
    }

    #[test]
    fn a_throttled_call_is_no_attempt() {
        let pause = Duration::from_secs(7);
        let (record, _) = after(&assignment(0), &SendOutcome::Throttled { after: pause });
        assert_eq!((record.state, record.attempts, record.due_after), (State::Held, 0, Some(pause)));
    }

    #[test]
    fn an_ambiguous_outcome_keeps_its_key_and_is_never_due_at_once() {
        let (record, _) = after(&assignment(0), &SendOutcome::Ambiguous(Reason::ProviderTimeout));
        assert_eq!((record.state, record.new_group), (State::OutcomeUnknown, false));
        assert!(record.due_after.unwrap() >= LOOK_UP_AFTER);
    }
}

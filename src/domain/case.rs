//! One notification with all of its deliveries, and what news does to it. Pure:
//! whoever holds the rows locked loads a case, tells it the news in order, and
//! writes what has changed.
//!
//! The notification's state is a function of its deliveries' states
//! ([`Case::aggregate`]); each delivery's state is one of its own last outcome
//! and its receipts ([`Standing`]).

use std::time::Duration;

use jiff::Timestamp;
use uuid::Uuid;

use super::fold::{Receipt, Standing};
use super::ids::{DeliveryId, NotificationId, RecipientId};
use super::notification::{Channel, Reason, State, Strategy, Urgency};
use super::update::Engagement;

mod escalation;

pub use escalation::{Escalation, Windows};

/// What becomes of a delivery's due time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// As it was.
    Unchanged,
    /// Nobody has to look at it any more.
    Never,
    /// Somebody has to, after this time.
    After(Duration),
}

/// One delivery of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leg {
    /// Which delivery.
    pub delivery_id: DeliveryId,
    /// Its channel.
    pub channel: Channel,
    /// Its place in the plan.
    pub position: i16,
    /// Where it stands.
    pub standing: Standing,
    /// Who holds its claim.
    pub owner: Option<Uuid>,
    /// The claim.
    pub epoch: i32,
    /// When somebody has to look at it, as it was loaded.
    pub due_at: Option<Timestamp>,
    /// Its first provider call may have begun at this time.
    pub first_attempt_at: Option<Timestamp>,
    /// A provider took it at this time, as far as was known when it was loaded.
    pub sent_at: Option<Timestamp>,
    /// What becomes of its due time.
    pub due: Due,
    /// It has to be written.
    pub changed: bool,
    /// It has no row yet.
    pub is_new: bool,
}

/// An outcome of our own attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// Under whose claim.
    pub owner: Uuid,
    /// Under which claim.
    pub epoch: i32,
    /// What it came to.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// When somebody has to look at it next.
    pub due_after: Option<Duration>,
}

/// A line for the why-log, or a status change with its place in the sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Of the notification's status changes; of a why-line: the last one's.
    pub sequence: i32,
    /// The new state.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// The channel that brought it; `None`: none did.
    pub channel: Option<Channel>,
    /// Whose word it follows from, of a why-line; `None`: nobody's.
    pub by: Option<String>,
}

/// A notification and its deliveries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Which notification.
    pub notification_id: NotificationId,
    /// Who gets it.
    pub recipient_id: RecipientId,
    /// How soon it has to go out.
    pub urgency: Urgency,
    /// How its channels are used.
    pub strategy: Strategy,
    /// The plan's channels, in order.
    pub channels: Vec<Channel>,
    /// Where it stands.
    pub state: State,
    /// The cause of its last change.
    pub reason: Reason,
    /// Number of its last status change.
    pub sequence: i32,
    /// Who asked for it; `None`: it came from a test result.
    pub caller: Option<String>,
    /// It was taken back.
    pub cancelled: bool,
    /// By whom, where that is known.
    pub cancelled_by: Option<String>,
    /// Its recipient was erased: nothing more is sent.
    pub erased: bool,
    /// The most that its recipient is known to have done, and when.
    pub engagement: Option<(Engagement, Timestamp)>,
    /// Too late to be useful: no other channel is begun.
    pub expired: bool,
    /// The place in the plan that the last escalation began, and why it did.
    pub escalated: Option<(i16, Reason)>,
    /// Its deliveries, in the order of the plan.
    pub legs: Vec<Leg>,
    /// It has to be written.
    pub changed: bool,
    /// Status changes since it was loaded.
    pub statuses: Vec<Change>,
    /// Lines for the why-log since it was loaded.
    pub why: Vec<Change>,
}

const fn waits(state: State) -> bool {
    matches!(state, State::Held | State::Queued | State::TemporaryFailure)
}

const fn failed(state: State) -> bool {
    matches!(state, State::PermanentFailure | State::TechnicalFailure | State::Suppressed)
}

/// How a delivery ends that is called off for this reason: ours is a decision against
/// it, everybody else's takes it back.
const fn called_off(reason: Reason) -> State {
    match reason {
        Reason::Erased => State::Suppressed,
        _ => State::Cancelled,
    }
}

impl Case {
    /// The channel of one of its deliveries.
    #[must_use]
    pub fn channel_of(&self, delivery_id: DeliveryId) -> Option<Channel> {
        self.legs.iter().find(|leg| leg.delivery_id == delivery_id).map(|leg| leg.channel)
    }

    /// A provider's word about one of its deliveries. False when it changes nothing.
    pub fn receive(&mut self, delivery_id: DeliveryId, receipt: Receipt) -> bool {
        let Some(at) = self.legs.iter().position(|leg| leg.delivery_id == delivery_id) else { return false };
        let leg = &mut self.legs[at];
        let next = leg.standing.received(receipt);
        let moved = (next.state, next.reason) != (leg.standing.state, leg.standing.reason);
        // A word of progress that moves nothing decides nothing later either.
        if next == leg.standing || !(moved || receipt.decides()) {
            return false;
        }
        leg.standing = next;
        leg.changed = true;
        if moved {
            leg.due = Due::Never;
            self.moved(at);
        }
        moved
    }

    /// Our own attempt has an outcome. False when its claim was lost.
    pub fn record(&mut self, delivery_id: DeliveryId, own: Own) -> bool {
        let closed = self.closed();
        let held = |leg: &Leg| {
            leg.delivery_id == delivery_id
                && leg.owner == Some(own.owner)
                && leg.epoch == own.epoch
                // It keeps its owner, and is recorded.
                && leg.standing.state != State::OutcomeUnknown
        };
        let Some(at) = self.legs.iter().position(held) else { return false };
        let leg = &mut self.legs[at];
        let (state, reason, due_after) = match closed {
            // What would be tried again is not needed any more.
            Some(closed) if waits(own.state) => (called_off(closed), closed, None),
            _ => (own.state, own.reason, own.due_after),
        };
        leg.standing = leg.standing.recorded(state, reason);
        leg.due = match due_after {
            Some(after) if leg.standing.state == state => Due::After(after),
            _ => Due::Never,
        };
        if leg.standing.state != State::OutcomeUnknown {
            leg.owner = None;
        }
        leg.changed = true;
        self.moved(at);
        true
    }

    /// It is taken back: what waits is not sent, nothing new is begun.
    /// What a provider has cannot be taken back. False when that changes no state.
    /// `by` is whoever says so.
    pub fn cancel(&mut self, by: &str) -> bool {
        if self.cancelled {
            return false;
        }
        // Also of one that has ended: a late bounce must not begin another channel.
        self.cancelled = true;
        self.cancelled_by = Some(by.to_owned());
        self.changed = true;
        let known = self.why.len();
        self.close();
        if self.state.is_terminal() {
            self.sign(known, by);
            return false;
        }
        let (state, _) = self.aggregate();
        self.announce(state, Reason::Cancelled, None);
        self.explain(state, Reason::Cancelled, None);
        self.sign(known, by);
        true
    }

    /// Its recipient was erased: what waits is not sent, nothing new is begun. What is
    /// under way ends as it ends. False when that changes no state.
    pub fn erase(&mut self) -> bool {
        self.erased = true;
        // From now on the outcomes of what is under way are folded into this.
        self.changed |= self.legs.iter().any(|leg| !leg.standing.state.is_terminal());
        self.close();
        if self.state.is_terminal() {
            return false;
        }
        let (state, reason) = self.aggregate();
        if (state, reason) == (self.state, self.reason) {
            return false;
        }
        self.announce(state, reason, None);
        self.explain(state, reason, None);
        true
    }

    /// Deliveries that a provider may be getting or have got just now.
    pub fn under_way(&self) -> impl Iterator<Item = DeliveryId> {
        let under_way = |leg: &&Leg| matches!(leg.standing.state, State::Dispatching | State::OutcomeUnknown);
        self.legs.iter().filter(under_way).map(|leg| leg.delivery_id)
    }

    /// Its recipient did something with it, here or in the portal: what still waits
    /// is not needed. False when as much was known before. `by` is whoever says so.
    pub fn engage(&mut self, engagement: Engagement, at: Timestamp, by: &str) -> bool {
        if self.engagement.is_some_and(|(known, _)| known >= engagement) {
            return false;
        }
        self.engagement = Some((engagement, at));
        self.changed = true;
        let known = self.why.len();
        self.close();
        let (state, _) = self.aggregate();
        let reason = match engagement {
            Engagement::Seen => Reason::Seen,
            Engagement::Read => Reason::Read,
            Engagement::Acted => Reason::Acted,
        };
        self.announce(state, reason, None);
        self.explain(state, reason, None);
        self.sign(known, by);
        true
    }

    /// Why nothing more may be begun; `None`: it may.
    fn closed(&self) -> Option<Reason> {
        // Of what was begun because it had not been read, only the newest arrival counts.
        let unread_before = match self.escalated {
            Some((position, Reason::NotReadInTime)) => position,
            _ => 0,
        };
        let counts = |leg: &Leg| leg.position >= unread_before;
        let arrived = || self.legs.iter().any(|leg| leg.standing.state == State::Delivered && counts(leg));
        if self.erased {
            Some(Reason::Erased)
        } else if self.cancelled {
            Some(Reason::Cancelled)
        } else if self.engagement.is_some() || (self.strategy == Strategy::InOrder && arrived()) {
            Some(Reason::Reached)
        } else {
            None
        }
    }

    fn moved(&mut self, at: usize) {
        let Leg { channel, standing, .. } = self.legs[at];
        self.explain(standing.state, standing.reason, Some(channel));
        self.close();
        if failed(standing.state) && self.closed().is_none() && !self.expired {
            self.revive(Reason::Reached, standing.reason);
            self.go_on(standing.reason);
        }
        let (state, reason) = self.aggregate();
        if (state, reason) != (self.state, self.reason) {
            self.announce(state, reason, Some(channel));
        }
    }

    /// Calls off what waits, when nothing more may be begun.
    fn close(&mut self) {
        let Some(reason) = self.closed() else { return };
        let waiting: Vec<usize> =
            (0..self.legs.len()).filter(|&at| waits(self.legs[at].standing.state)).collect();
        for at in waiting {
            let leg = &mut self.legs[at];
            let state = called_off(reason);
            leg.standing.state = state;
            leg.standing.reason = reason;
            leg.due = Due::Never;
            leg.changed = true;
            let channel = leg.channel;
            self.explain(state, reason, Some(channel));
        }
    }

    /// What was called off for this reason (the recipient had been reached, another
    /// channel was to be faster) is wanted again: it turned out otherwise. It was never
    /// handed over, so it is not sent twice.
    fn revive(&mut self, called_off: Reason, because: Reason) {
        for at in 0..self.legs.len() {
            let leg = &mut self.legs[at];
            if (leg.standing.state, leg.standing.reason) != (State::Cancelled, called_off) {
                continue;
            }
            (leg.standing.state, leg.standing.reason) = (State::Queued, because);
            leg.due = Due::After(Duration::ZERO);
            leg.changed = true;
            let channel = leg.channel;
            self.explain(State::Queued, because, Some(channel));
        }
    }

    /// The next channel of the plan, when every one since the last escalation has failed.
    /// After the last one, what an escalation had given up is tried on.
    fn go_on(&mut self, reason: Reason) {
        let from = self.escalated.map_or(0, |(position, _)| position);
        let newest = |leg: &&Leg| leg.position >= from;
        let is_over = self.legs.iter().filter(newest).all(|leg| failed(leg.standing.state));
        if !is_over || self.strategy != Strategy::InOrder {
            return;
        }
        match self.next_channel() {
            Some((position, channel)) => self.begin(position, channel, reason),
            None => self.revive(Reason::NotSentInTime, reason),
        }
    }

    /// The plan's place after those that were begun.
    fn next_channel(&self) -> Option<(i16, Channel)> {
        let position = self.legs.iter().map(|leg| leg.position + 1).max().unwrap_or(0);
        Some((position, *self.channels.get(usize::try_from(position).ok()?)?))
    }

    fn begin(&mut self, position: i16, channel: Channel, reason: Reason) {
        self.legs.push(Leg {
            delivery_id: DeliveryId::for_channel(self.notification_id, channel),
            channel,
            position,
            standing: Standing { state: State::Queued, reason, receipt: None },
            owner: None,
            epoch: 0,
            due_at: None,
            first_attempt_at: None,
            sent_at: None,
            due: Due::After(Duration::ZERO),
            changed: true,
            is_new: true,
        });
    }

    /// What its deliveries come to together: the best that any of them has reached;
    /// without one, the one that still runs; without one, how the last one ended.
    #[must_use]
    pub fn aggregate(&self) -> (State, Reason) {
        const ORDER: [State; 7] = [
            State::Delivered,
            State::Sent,
            State::Dispatching,
            State::OutcomeUnknown,
            State::TemporaryFailure,
            State::Queued,
            State::Held,
        ];
        let of = |state| self.legs.iter().find(|leg| leg.standing.state == state);
        let leg = ORDER.into_iter().find_map(of).or(self.legs.last());
        leg.map_or((self.state, self.reason), |leg| (leg.standing.state, leg.standing.reason))
    }

    fn announce(&mut self, state: State, reason: Reason, channel: Option<Channel>) {
        self.sequence += 1;
        (self.state, self.reason) = (state, reason);
        self.changed = true;
        self.statuses.push(Change { sequence: self.sequence, state, reason, channel, by: None });
    }

    fn explain(&mut self, state: State, reason: Reason, channel: Option<Channel>) {
        self.why.push(Change { sequence: self.sequence, state, reason, channel, by: None });
    }

    /// The lines of the why-log from this one on follow from somebody's word.
    fn sign(&mut self, from: usize, by: &str) {
        for line in self.why.iter_mut().skip(from) {
            line.by = Some(by.to_owned());
        }
    }
}

#[cfg(test)]
mod tests;

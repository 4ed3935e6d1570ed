//! Escalation: the next channel is begun because of what did not happen in time. Nobody
//! took the message, its provider did not say that it arrived, or it was not read.

use std::time::Duration;

use jiff::Timestamp;

use super::{Case, Due, Leg, waits};
use crate::domain::notification::{Reason, State, Strategy};

/// The longest time without a look: another channel may have been begun meanwhile.
const LOOK_MAX: Duration = Duration::from_secs(600);

/// How long each thing is waited for. Zero: it is not waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Windows {
    /// From the first attempt until a provider has it.
    pub sent: Duration,
    /// From then until its provider says that it arrived.
    pub delivered: Duration,
    /// From when a provider had it until it was read.
    pub read: Duration,
}

impl Windows {
    /// The shortest one; `None`: nothing is waited for.
    #[must_use]
    pub fn shortest(self) -> Option<Duration> {
        [self.sent, self.delivered, self.read].into_iter().filter(|window| !window.is_zero()).min()
    }
}

/// What is to be done about a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Escalation {
    /// Nothing, whatever else does not happen.
    Never,
    /// Nothing yet; it is looked at again at this time.
    LookAt(Timestamp),
    /// The next channel is begun, for this reason.
    Begin(Reason),
}

impl Case {
    /// Its newest delivery, whose evidence counts.
    #[must_use]
    pub fn newest(&self) -> Option<&Leg> {
        self.legs.iter().max_by_key(|leg| leg.position)
    }

    /// What is to be done now, given how long its newest delivery is waited for.
    ///
    /// A delivery that a provider may be getting is left alone: what became of it is found
    /// out first. So is one that waits on purpose: quiet hours, an embargo, a paused channel.
    #[must_use]
    pub fn escalation(&self, windows: Windows, now: Timestamp) -> Escalation {
        let is_over = self.erased || self.cancelled || self.expired || self.engagement.is_some();
        let can = self.strategy == Strategy::InOrder && self.next_channel().is_some();
        let (Some(newest), Some(shortest)) = (self.newest(), windows.shortest()) else {
            return Escalation::Never;
        };
        if is_over || !can {
            return Escalation::Never;
        }
        let Leg { standing, first_attempt_at, sent_at, due_at, .. } = newest;
        let sent_at = sent_at.or(*first_attempt_at);
        let (unsent, undelivered, unread) = (
            deadline(*first_attempt_at, windows.sent).map(|at| (at, Reason::NotSentInTime)),
            deadline(sent_at, windows.delivered).map(|at| (at, Reason::NotDeliveredInTime)),
            deadline(sent_at, windows.read).map(|at| (at, Reason::NotReadInTime)),
        );
        let on_purpose = standing.state == State::Held && standing.reason != Reason::Throttled
            || standing.reason == Reason::ChannelPaused;
        let deadlines = match standing.state {
            state if waits(state) && on_purpose => {
                return Escalation::LookAt(after(due_at.map_or(now, |due_at| due_at.max(now)), shortest));
            }
            state if waits(state) => vec![unsent],
            State::Dispatching | State::OutcomeUnknown => Vec::new(),
            State::Sent => vec![undelivered, unread],
            State::Delivered if unread.is_some() => vec![unread],
            _ => return Escalation::Never,
        };
        let first = deadlines.into_iter().flatten().min_by_key(|(at, _)| *at);
        match first {
            Some((at, reason)) if at <= now => Escalation::Begin(reason),
            Some((at, _)) => Escalation::LookAt(at.min(after(now, LOOK_MAX))),
            None if standing.state == State::Sent => Escalation::Never,
            None => Escalation::LookAt(after(now, shortest)),
        }
    }

    /// Begins the next channel. What still waits for an attempt on the newest one is given
    /// up, so that it is not sent twice.
    pub fn escalate(&mut self, reason: Reason) {
        let Some((position, channel)) = self.next_channel() else { return };
        let newest = self.legs.iter_mut().max_by_key(|leg| leg.position);
        if let Some(leg) = newest.filter(|leg| waits(leg.standing.state)) {
            (leg.standing.state, leg.standing.reason) = (State::Cancelled, reason);
            leg.due = Due::Never;
            leg.changed = true;
            let channel = leg.channel;
            self.explain(State::Cancelled, reason, Some(channel));
        }
        self.escalated = Some((position, reason));
        self.changed = true;
        self.begin(position, channel, reason);
        self.explain(State::Queued, reason, Some(channel));
        let (state, why) = self.aggregate();
        if (state, why) != (self.state, self.reason) {
            self.announce(state, why, Some(channel));
        }
    }
}

fn after(time: Timestamp, wait: Duration) -> Timestamp {
    time.saturating_add(wait).unwrap_or(Timestamp::MAX)
}

/// `None`: it is not waited for, or has not begun.
fn deadline(since: Option<Timestamp>, window: Duration) -> Option<Timestamp> {
    since.filter(|_| !window.is_zero()).map(|since| after(since, window))
}

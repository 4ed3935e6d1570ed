//! Who gets what, on which channel, when, until when; or why not. Pure: the
//! event, the recipients' facts and the time go in, decisions come out.

mod access;
mod escalation;
mod quiet_hours;
mod retry;
mod settings;

pub use access::denied;
pub use escalation::{EscalationPolicy, Evidence};
pub use quiet_hours::end_of_quiet_hours;
pub use retry::RetryPolicy;
pub use settings::{PlanError, Settings};

use jiff::Timestamp;

use crate::domain::{
    Channel, Event, HoldReason, NotificationId, NotificationRequested, PatientId, Purpose, Reason, Recipient,
    RecipientId, Redacted, Strategy, TestResultPublished, Urgency,
};

/// What is done with a planned notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// To a provider, now.
    Dispatch,
    /// To a provider, not before this time.
    Hold {
        /// Not before.
        until: Timestamp,
        /// What it waits for.
        why: HoldReason,
    },
    /// To nobody, for this reason.
    Suppress(Reason),
    /// To nobody: it would come too late.
    Expire,
}

impl Decision {
    /// The reason as the why-log has it.
    #[must_use]
    pub const fn reason(self) -> Reason {
        match self {
            Self::Dispatch => Reason::DueNow,
            Self::Hold { why: HoldReason::Embargo, .. } => Reason::Embargo,
            Self::Hold { why: HoldReason::QuietHours, .. } => Reason::QuietHours,
            Self::Hold { why: HoldReason::Scheduled, .. } => Reason::Scheduled,
            Self::Hold { why: HoldReason::Throttled, .. } => Reason::Throttled,
            Self::Suppress(reason) => reason,
            Self::Expire => Reason::Expired,
        }
    }
}

/// One notification, decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Planned {
    /// Derived from its meaning.
    pub notification_id: NotificationId,
    /// Who gets it.
    pub recipient_id: RecipientId,
    /// Whom it is about.
    pub patient_id: PatientId,
    /// What for.
    pub purpose: Purpose,
    /// How soon.
    pub urgency: Urgency,
    /// Channels that are wanted, allowed and have an address, in order; empty
    /// when nothing is to be sent.
    pub channels: Vec<Channel>,
    /// The address on each of these channels.
    pub addresses: Vec<Redacted<String>>,
    /// How the channels are used.
    pub strategy: Strategy,
    /// Locale of the words.
    pub locale: String,
    /// Values for the template.
    pub variables: Redacted<Vec<(String, String)>>,
    /// The backend that asked, if one did.
    pub caller: Option<String>,
    /// What happens now.
    pub decision: Decision,
    /// Too late to be useful.
    pub expires_at: Timestamp,
}

impl Planned {
    /// What it begins with: place in the plan, channel and address of each delivery.
    /// The first channel, or all of them at once; nothing when nobody is written to.
    pub fn begins(&self) -> impl Iterator<Item = (i16, Channel, &Redacted<String>)> {
        let sends = matches!(self.decision, Decision::Dispatch | Decision::Hold { .. });
        let count = match self.strategy {
            _ if !sends => 0,
            Strategy::InOrder => 1,
            Strategy::AllAtOnce => self.channels.len(),
        };
        let places = (0..).zip(&self.channels).zip(&self.addresses);
        places.take(count).map(|((position, &channel), address)| (position, channel, address))
    }
}

/// The part of an event that does not depend on its kind.
struct Wish<'a> {
    patient_id: &'a PatientId,
    purpose: Purpose,
    urgency: Urgency,
    channels: &'a [Channel],
    strategy: Strategy,
    not_before: Option<(Timestamp, HoldReason)>,
    expires_at: Timestamp,
    variables: Redacted<Vec<(String, String)>>,
    caller: Option<String>,
}

/// Plans an event for every recipient who may hear of it.
///
/// `recipients` are those of the event's patient. An event that reaches nobody
/// still gives one planned notification, suppressed with its reason.
#[must_use]
pub fn plan(event: &Event, recipients: &[Recipient], settings: &Settings, now: Timestamp) -> Vec<Planned> {
    match event {
        Event::TestResult(result) => plan_result(result, recipients, settings, now),
        Event::Notification(request) => plan_request(request, recipients, settings, now),
    }
}

fn plan_result(
    result: &TestResultPublished,
    recipients: &[Recipient],
    settings: &Settings,
    now: Timestamp,
) -> Vec<Planned> {
    let id = |recipient| NotificationId::for_result(&result.result_id, result.version, recipient);
    let visible_from = result.available_at.max(result.released_at);
    let wish = || Wish {
        patient_id: &result.patient_id,
        purpose: Purpose::TestResult,
        urgency: result.urgency.notification_urgency(),
        channels: &[],
        strategy: Strategy::InOrder,
        not_before: Some((result.available_at, HoldReason::Embargo)),
        expires_at: settings.expiry(Purpose::TestResult, visible_from),
        variables: Redacted::default(),
        caller: None,
    };
    if recipients.is_empty() {
        let nobody = RecipientId::from_external(result.patient_id.as_str());
        return vec![suppressed(id(nobody), nobody, wish(), Reason::UnknownPatient, settings)];
    }
    recipients.iter().map(|recipient| decide(id(recipient.id), recipient, wish(), settings, now)).collect()
}

fn plan_request(
    request: &NotificationRequested,
    recipients: &[Recipient],
    settings: &Settings,
    now: Timestamp,
) -> Vec<Planned> {
    let id = NotificationId::for_request(&request.caller, &request.idempotency_key);
    let not_before = request.send_at.map(|at| (at, HoldReason::Scheduled));
    // A time that had passed already means at once.
    let useful_from = request.send_at.map_or(request.requested_at, |at| at.max(request.requested_at));
    let wish = Wish {
        patient_id: &request.patient_id,
        purpose: request.purpose,
        urgency: request.urgency,
        channels: &request.channels,
        strategy: request.strategy,
        not_before,
        expires_at: request.expires_at.unwrap_or_else(|| settings.expiry(request.purpose, useful_from)),
        variables: request.variables.clone(),
        caller: Some(request.caller.clone()),
    };
    let wanted = request.recipient.as_deref().unwrap_or(request.patient_id.as_str());
    let found = match &request.recipient {
        Some(external_id) => recipients.iter().find(|one| one.external_id == *external_id),
        None => recipients
            .iter()
            .find(|one| one.relation == crate::domain::Relation::Patient)
            .or_else(|| recipients.iter().find(|one| denied(one, request.purpose, now).is_none()))
            .or_else(|| recipients.first()),
    };
    vec![match found {
        Some(recipient) => decide(id, recipient, wish, settings, now),
        None => {
            let reason = if recipients.is_empty() { Reason::UnknownPatient } else { Reason::NoRecipient };
            suppressed(id, RecipientId::from_external(wanted), wish, reason, settings)
        }
    }]
}

/// Access, consent, address, bound of the schedule, embargo or schedule, quiet hours, expiry:
/// in this order.
fn decide(
    id: NotificationId,
    recipient: &Recipient,
    wish: Wish<'_>,
    settings: &Settings,
    now: Timestamp,
) -> Planned {
    let (channels, none_because) = match denied(recipient, wish.purpose, now) {
        Some(reason) => (Vec::new(), Some(reason)),
        None => usable_channels(recipient, wish.channels, wish.purpose, settings),
    };
    let decision = match none_because {
        Some(reason) => Decision::Suppress(reason),
        None if too_far(wish.not_before, settings, now) => Decision::Suppress(Reason::ScheduledTooFar),
        None => when(recipient, wish.urgency, wish.not_before, wish.expires_at, settings, now),
    };
    let addresses = channels.iter().filter_map(|&channel| recipient.contact_point(channel));
    Planned {
        notification_id: id,
        recipient_id: recipient.id,
        patient_id: wish.patient_id.clone(),
        purpose: wish.purpose,
        urgency: wish.urgency,
        addresses: addresses.map(|point| point.address.clone()).collect(),
        channels,
        strategy: wish.strategy,
        locale: recipient.locale.clone().unwrap_or_else(|| settings.default_locale.clone()),
        variables: wish.variables,
        caller: wish.caller,
        decision,
        expires_at: wish.expires_at,
    }
}

/// A schedule (not an embargo) that lies further ahead than we promise to keep.
fn too_far(not_before: Option<(Timestamp, HoldReason)>, settings: &Settings, now: Timestamp) -> bool {
    not_before.is_some_and(|(at, why)| {
        why == HoldReason::Scheduled && at.duration_since(now) > settings.schedule_max
    })
}

fn suppressed(
    id: NotificationId,
    recipient_id: RecipientId,
    wish: Wish<'_>,
    reason: Reason,
    settings: &Settings,
) -> Planned {
    Planned {
        notification_id: id,
        recipient_id,
        patient_id: wish.patient_id.clone(),
        purpose: wish.purpose,
        urgency: wish.urgency,
        channels: Vec::new(),
        addresses: Vec::new(),
        strategy: wish.strategy,
        locale: settings.default_locale.clone(),
        variables: wish.variables,
        caller: wish.caller,
        decision: Decision::Suppress(reason),
        expires_at: wish.expires_at,
    }
}

/// The channels that may be used now, in order; or the reason why there is none.
///
/// The caller's order comes first, then the recipient's own, then the default.
#[must_use]
pub fn usable_channels(
    recipient: &Recipient,
    asked: &[Channel],
    purpose: Purpose,
    settings: &Settings,
) -> (Vec<Channel>, Option<Reason>) {
    let order = [asked, &recipient.channel_order, &settings.default_channels]
        .into_iter()
        .find(|order| !order.is_empty())
        .unwrap_or_default();
    let allowed: Vec<Channel> =
        order.iter().copied().filter(|&channel| recipient.consents_to(channel, purpose)).collect();
    if allowed.is_empty() {
        return (allowed, Some(Reason::NoConsent));
    }
    let reachable: Vec<Channel> =
        allowed.into_iter().filter(|&channel| recipient.contact_point(channel).is_some()).collect();
    let none_because = reachable.is_empty().then_some(Reason::NoContactPoint);
    (reachable, none_because)
}

/// When it may go out: after its embargo or schedule, outside of quiet hours
/// (which a critical message does not heed), before its expiry.
#[must_use]
pub fn when(
    recipient: &Recipient,
    urgency: Urgency,
    not_before: Option<(Timestamp, HoldReason)>,
    expires_at: Timestamp,
    settings: &Settings,
    now: Timestamp,
) -> Decision {
    let mut start = now;
    let mut hold = None;
    if let Some((at, why)) = not_before
        && at > now
    {
        start = at;
        hold = Some(why);
    }
    if urgency != Urgency::Critical {
        let quiet = recipient.quiet_hours.unwrap_or(settings.quiet_hours);
        let zone = settings.zone(recipient.time_zone.as_deref());
        if let Some(end) = end_of_quiet_hours(start, quiet, &zone) {
            start = end;
            hold = Some(HoldReason::QuietHours);
        }
    }
    match hold {
        _ if start >= expires_at => Decision::Expire,
        None => Decision::Dispatch,
        Some(why) => Decision::Hold { until: start, why },
    }
}

#[cfg(test)]
mod tests;

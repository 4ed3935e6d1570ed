//! How long evidence is waited for before the next channel is begun.

use std::time::Duration;

use crate::config::Config;
use crate::domain::{Channel, Reason, State, Urgency, Windows};

/// Windows by urgency, and the channels whose providers say what arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EscalationPolicy {
    critical: Windows,
    high: Windows,
    normal: Windows,
    sms_tells: bool,
    email_tells: bool,
}

/// What of an outcome decides whether it is looked at again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evidence {
    /// How soon it was to go out.
    pub urgency: Urgency,
    /// On which channel.
    pub channel: Channel,
    /// How long it has been tried.
    pub trying_for: Duration,
}

impl EscalationPolicy {
    /// From `[escalation]`. A channel tells what arrived where `[sms]` or `[email]` has its
    /// provider report it; push providers never do.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let keys = &config.escalation;
        let windows = |sent, delivered, read| Windows {
            sent: Duration::from_millis(sent),
            delivered: Duration::from_millis(delivered),
            read: Duration::from_millis(read),
        };
        Self {
            critical: windows(
                keys.critical_sent_within_ms,
                keys.critical_delivered_within_ms,
                keys.critical_read_within_ms,
            ),
            high: windows(keys.high_sent_within_ms, keys.high_delivered_within_ms, keys.high_read_within_ms),
            normal: windows(
                keys.normal_sent_within_ms,
                keys.normal_delivered_within_ms,
                keys.normal_read_within_ms,
            ),
            sms_tells: !config.sms.status_callback_base_url.is_empty(),
            email_tells: !config.email.event_webhook_public_key.is_empty(),
        }
    }

    /// What is waited for on this channel. Silence of a provider that never says what
    /// arrived is no evidence. Bulk does not escalate.
    #[must_use]
    pub const fn windows(&self, urgency: Urgency, channel: Channel) -> Windows {
        let windows = match urgency {
            Urgency::Critical => self.critical,
            Urgency::High => self.high,
            Urgency::Normal => self.normal,
            Urgency::Bulk => {
                return Windows { sent: Duration::ZERO, delivered: Duration::ZERO, read: Duration::ZERO };
            }
        };
        let tells = match channel {
            Channel::Sms => self.sms_tells,
            Channel::Email => self.email_tells,
            Channel::Push => false,
        };
        if tells { windows } else { Windows { delivered: Duration::ZERO, ..windows } }
    }

    /// After what time a notification whose delivery came to this is looked at; `None`:
    /// no evidence is missing.
    #[must_use]
    pub fn look_after(&self, of: Evidence, state: State, reason: Reason) -> Option<Duration> {
        let windows = self.windows(of.urgency, of.channel);
        match (state, reason) {
            (State::TemporaryFailure, _) | (State::Held, Reason::Throttled) => Some(windows.sent)
                .filter(|window| !window.is_zero())
                .map(|it| it.saturating_sub(of.trying_for)),
            (State::Sent, _) => Windows { sent: Duration::ZERO, ..windows }.shortest(),
            (State::OutcomeUnknown, _) => windows.shortest(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> EscalationPolicy {
        let mut config = Config::from_defaults();
        config.escalation.high_sent_within_ms = 60_000;
        config.escalation.high_delivered_within_ms = 120_000;
        config.escalation.high_read_within_ms = 0;
        config.sms.status_callback_base_url = "https://hooks.example.org".to_owned();
        EscalationPolicy::new(&config)
    }

    fn tried(channel: Channel, trying_for_s: u64) -> Evidence {
        Evidence { urgency: Urgency::High, channel, trying_for: Duration::from_secs(trying_for_s) }
    }

    #[test]
    fn silence_is_evidence_only_where_the_provider_tells() {
        let look = |channel| {
            policy()
                .look_after(tried(channel, 0), State::Sent, Reason::ProviderAccepted)
                .map(|it| it.as_secs())
        };
        assert_eq!([Channel::Sms, Channel::Email, Channel::Push].map(look), [Some(120), None, None]);
    }

    #[test]
    fn the_time_of_earlier_attempts_counts() {
        let look = |seconds, state, reason| {
            policy().look_after(tried(Channel::Push, seconds), state, reason).map(|it| it.as_secs())
        };
        assert_eq!(look(0, State::TemporaryFailure, Reason::ProviderError), Some(60));
        assert_eq!(look(45, State::Held, Reason::Throttled), Some(15));
        assert_eq!(look(90, State::TemporaryFailure, Reason::ProviderError), Some(0));
        assert_eq!(look(0, State::Held, Reason::QuietHours), None);
        assert_eq!(look(0, State::OutcomeUnknown, Reason::ProviderTimeout), Some(60));
        assert_eq!(look(0, State::PermanentFailure, Reason::InvalidAddress), None);
    }

    #[test]
    fn bulk_does_not_escalate() {
        let bulk = Evidence { urgency: Urgency::Bulk, ..tried(Channel::Sms, 0) };
        assert_eq!(policy().look_after(bulk, State::TemporaryFailure, Reason::ProviderError), None);
    }
}

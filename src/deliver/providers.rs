//! The providers of a process: one a channel, each with its bound of calls side
//! by side and its breaker.

use std::fmt;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::breaker::{Admission, Breaker, Settings, Verdict};
use super::fcm::Fcm;
use super::smtp::Smtp;
use super::twilio::Twilio;
use super::{Content, LookUp, Message, SendOutcome};
use crate::config::{Config, Email, Plan, Push, Sms};
use crate::domain::{Channel, DeliveryId, Reason, Redacted, Urgency};
use crate::metrics;

/// Longest time-out that a provider may have.
const TIMEOUT_MAX_MS: u64 = 10 * 60 * 1000;
/// Most calls side by side that a provider may have.
const CONCURRENCY_MAX: u64 = 100_000;
/// Pause for a message that found no free call in time.
const BUSY_PAUSE: Duration = Duration::from_secs(1);
/// Calls side by side of the provider for benchmarks: as many as a semaphore can count.
const INSTANT_CONCURRENCY: usize = Semaphore::MAX_PERMITS;

/// A key of the configuration, and what is wrong with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// For example `sms.base_url`.
    pub key: &'static str,
    /// In words, without the value of a secret.
    pub problem: String,
}

/// The providers cannot be built from this configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct DeliverError {
    /// Every fault, not only the first.
    pub faults: Vec<Fault>,
}

impl fmt::Display for DeliverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the providers cannot be used as configured:")?;
        self.faults.iter().try_for_each(|fault| write!(f, "\n  {} {}", fault.key, fault.problem))
    }
}

enum Provider {
    Disabled,
    Twilio(Box<Twilio>),
    Smtp(Box<Smtp>),
    Fcm(Box<Fcm>),
    Instant,
}

struct Slot {
    provider: Provider,
    timeout: Duration,
    calls: Semaphore,
    /// Half of them. A bulk message takes one of these first, so an urgent message
    /// has at most so many bulk ones before it in the line for a call.
    bulk_calls: Semaphore,
    breaker: Mutex<Breaker>,
}

/// Every provider of a process.
pub struct Providers {
    slots: [Slot; Channel::ALL.len()],
}

impl fmt::Debug for Providers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Providers").finish_non_exhaustive()
    }
}

impl Slot {
    fn new(provider: Provider, timeout_ms: u64, concurrency: usize) -> Self {
        Self {
            provider,
            timeout: Duration::from_millis(timeout_ms),
            calls: Semaphore::new(concurrency.min(Semaphore::MAX_PERMITS)),
            bulk_calls: Semaphore::new((concurrency / 2).clamp(1, Semaphore::MAX_PERMITS)),
            breaker: Mutex::new(Breaker::new(Settings::default())),
        }
    }
}

/// Reports to the breaker, also when the call's future is dropped half-way.
struct Call<'a> {
    channel: Channel,
    breaker: &'a Mutex<Breaker>,
    admission: Admission,
    verdict: Verdict,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        let mut breaker = self.breaker.lock();
        let was_open = breaker.is_open();
        breaker.record(self.admission, self.verdict, Instant::now());
        let is_open = breaker.is_open();
        if was_open || is_open {
            let pause = breaker.pause_left(Instant::now()).unwrap_or_default();
            metrics::circuit(self.channel, is_open.then_some(pause));
        }
    }
}

impl Providers {
    /// Builds the providers of all channels that are switched on.
    ///
    /// # Errors
    /// [`DeliverError`] with every fault of the sections `sms`, `email` and `push`.
    pub fn from_config(config: &Config) -> Result<Self, DeliverError> {
        let providers = Self::from_sections(&config.sms, &config.email, &config.push, &config.plan)?;
        // Known to be closed, rather than not known, until one opens.
        for &channel in Channel::ALL.iter().filter(|&&channel| providers.enabled(channel)) {
            metrics::circuit(channel, None);
        }
        Ok(providers)
    }

    pub(super) fn from_sections(
        sms: &Sms,
        email: &Email,
        push: &Push,
        plan: &Plan,
    ) -> Result<Self, DeliverError> {
        let mut faults = Vec::new();
        let bounds = [
            (sms.enabled, ("sms.timeout_ms", sms.timeout_ms), ("sms.concurrency", sms.concurrency)),
            (email.enabled, ("email.timeout_ms", email.timeout_ms), ("email.concurrency", email.concurrency)),
            (push.enabled, ("push.timeout_ms", push.timeout_ms), ("push.concurrency", push.concurrency)),
        ];
        for (_, timeout, concurrency) in bounds.into_iter().filter(|(enabled, _, _)| *enabled) {
            faults.extend(out_of_bounds(timeout.0, timeout.1, TIMEOUT_MAX_MS));
            faults.extend(out_of_bounds(concurrency.0, concurrency.1 as u64, CONCURRENCY_MAX));
        }
        let mut built =
            |enabled: bool, provider: &dyn Fn() -> Result<Provider, Vec<(&'static str, String)>>| {
                if !enabled {
                    return Provider::Disabled;
                }
                provider().unwrap_or_else(|problems| {
                    faults.extend(problems.into_iter().map(|(key, problem)| Fault { key, problem }));
                    Provider::Disabled
                })
            };
        let twilio = built(sms.enabled, &|| Twilio::from_config(sms).map(Box::new).map(Provider::Twilio));
        let smtp = built(email.enabled, &|| Smtp::from_config(email, plan).map(Box::new).map(Provider::Smtp));
        let fcm = built(push.enabled, &|| Fcm::from_config(push).map(Box::new).map(Provider::Fcm));
        if !faults.is_empty() {
            return Err(DeliverError { faults });
        }
        Ok(Self {
            slots: [
                Slot::new(twilio, sms.timeout_ms, sms.concurrency),
                Slot::new(smtp, email.timeout_ms, email.concurrency),
                Slot::new(fcm, push.timeout_ms, push.concurrency),
            ],
        })
    }

    /// Providers that answer "sent" at once, without any I/O: for benchmarks of
    /// everything around them.
    #[must_use]
    pub fn instant() -> Self {
        Self {
            slots: [(); Channel::ALL.len()].map(|()| Slot::new(Provider::Instant, 1000, INSTANT_CONCURRENCY)),
        }
    }

    /// Hands a message to the provider of its channel. It takes at most twice
    /// [`Providers::timeout`]: once waiting for a free call (then `Throttled`, as
    /// nothing was sent), once for the call. While the provider's breaker is open
    /// it is not called at all. Bulk messages have half of the calls, at least one.
    ///
    /// A channel that is switched off answers `Permanent(ChannelDisabled)`,
    /// which says nothing of the address.
    pub async fn send(&self, message: &Message) -> SendOutcome {
        let channel = message.content.channel();
        let slot = self.slot(channel);
        match slot.provider {
            Provider::Disabled => return SendOutcome::Permanent(Reason::ChannelDisabled),
            Provider::Instant => {
                return SendOutcome::Sent { provider_message_id: message.delivery_id.to_string() };
            }
            Provider::Twilio(_) | Provider::Smtp(_) | Provider::Fcm(_) => {}
        }
        if let Some(after) = slot.refused() {
            return SendOutcome::Transient { reason: Reason::ProviderUnreachable, after: Some(after) };
        }
        let Some(_permits) = slot.free_call(message.urgency).await else {
            return SendOutcome::Throttled { after: BUSY_PAUSE };
        };
        let admission = slot.breaker.lock().admit(Instant::now());
        if let Admission::Refused { after } = admission {
            return SendOutcome::Transient { reason: Reason::ProviderUnreachable, after: Some(after) };
        }
        let mut call = Call { channel, breaker: &slot.breaker, admission, verdict: Verdict::Abandoned };
        let begun = Instant::now();
        let outcome = slot.call(message).await;
        metrics::provider_call(channel, outcome.as_str(), begun.elapsed());
        call.verdict = verdict(&outcome);
        outcome
    }

    /// Asks the provider's own records about a message whose outcome is unknown
    /// and that was tried at or after `since`.
    pub async fn look_up(
        &self,
        channel: Channel,
        delivery_id: DeliveryId,
        address: &Redacted<String>,
        since: Timestamp,
    ) -> LookUp {
        match &self.slot(channel).provider {
            Provider::Twilio(twilio) => twilio.look_up(delivery_id, address, since).await,
            Provider::Disabled | Provider::Smtp(_) | Provider::Fcm(_) | Provider::Instant => {
                LookUp::Unsupported
            }
        }
    }

    /// Does the provider of a channel answer, and take our credentials? Nothing is sent.
    ///
    /// # Errors
    /// Why it could not be called now; a channel that is switched off says so.
    pub async fn greet(&self, channel: Channel) -> Result<(), Reason> {
        match &self.slot(channel).provider {
            Provider::Disabled => Err(Reason::ChannelDisabled),
            Provider::Twilio(twilio) => twilio.greet().await,
            Provider::Smtp(smtp) => smtp.greet().await,
            Provider::Fcm(fcm) => fcm.greet().await,
            Provider::Instant => Ok(()),
        }
    }

    /// Longest time of one call on a channel. [`Providers::send`] takes at most
    /// twice as long, so a claim must have at least that much left.
    #[must_use]
    pub const fn timeout(&self, channel: Channel) -> Duration {
        self.slot(channel).timeout
    }

    /// Can a channel's provider be asked what became of a message
    /// ([`Providers::look_up`])?
    #[must_use]
    pub const fn can_look_up(&self, channel: Channel) -> bool {
        matches!(self.slot(channel).provider, Provider::Twilio(_))
    }

    /// Is the channel switched on?
    #[must_use]
    pub const fn enabled(&self, channel: Channel) -> bool {
        !matches!(self.slot(channel).provider, Provider::Disabled)
    }

    /// Who carries a channel, for the delivery's row.
    #[must_use]
    pub const fn name(&self, channel: Channel) -> &'static str {
        provider_name(channel)
    }

    /// Is a channel's breaker open, so that its provider is left alone?
    #[must_use]
    pub fn breaker_open(&self, channel: Channel) -> bool {
        self.slot(channel).breaker.lock().is_open()
    }

    const fn slot(&self, channel: Channel) -> &Slot {
        match channel {
            Channel::Sms => &self.slots[0],
            Channel::Email => &self.slots[1],
            Channel::Push => &self.slots[2],
        }
    }
}

/// Who carries a channel.
#[must_use]
pub const fn provider_name(channel: Channel) -> &'static str {
    match channel {
        Channel::Sms => "twilio",
        Channel::Email => "smtp",
        Channel::Push => "fcm",
    }
}

impl Slot {
    /// What is left of the breaker's pause, without taking the probe's turn.
    fn refused(&self) -> Option<Duration> {
        self.breaker.lock().pause_left(Instant::now())
    }

    /// Waits for a free call, at most one time-out in all. `None`: there was none.
    async fn free_call(
        &self,
        urgency: Urgency,
    ) -> Option<(SemaphorePermit<'_>, Option<SemaphorePermit<'_>>)> {
        let permits = async {
            let bulk = match urgency {
                Urgency::Bulk => Some(self.bulk_calls.acquire().await.ok()?),
                Urgency::Normal | Urgency::High | Urgency::Critical => None,
            };
            Some((self.calls.acquire().await.ok()?, bulk))
        };
        tokio::time::timeout(self.timeout, permits).await.ok().flatten()
    }

    async fn call(&self, message: &Message) -> SendOutcome {
        match (&self.provider, &message.content) {
            (Provider::Twilio(twilio), Content::Sms { body }) => twilio.send(message, body.expose()).await,
            (Provider::Smtp(smtp), Content::Email { subject, text, html }) => {
                smtp.send(message, subject, text, html).await
            }
            (Provider::Fcm(fcm), Content::Push { title, body, link }) => {
                fcm.send(message, title, body, link).await
            }
            _ => SendOutcome::Permanent(Reason::ChannelDisabled),
        }
    }
}

/// Refused credentials count as failures too: nothing else can succeed, and
/// servers lock accounts that keep trying.
const fn verdict(outcome: &SendOutcome) -> Verdict {
    match outcome {
        SendOutcome::Sent { .. } | SendOutcome::Permanent(_) | SendOutcome::Throttled { .. } => {
            Verdict::Answered
        }
        SendOutcome::Transient { .. } | SendOutcome::Ambiguous(_) => Verdict::Failed,
    }
}

fn out_of_bounds(key: &'static str, value: u64, max: u64) -> Option<Fault> {
    let problem = || format!("must be 1 to {max}, not {value}");
    (!(1..=max).contains(&value)).then(|| Fault { key, problem: problem() })
}

//! Sends codes that prove an address, at once and once.
//!
//! A code is worth nothing after ten minutes and stands in no database, so it is no
//! delivery: it is not deferred, not repeated, and goes by no other channel. The provider
//! is asked for no reports about it, and its words have no link.

use std::sync::Arc;

use uuid::Uuid;

use super::providers::{DeliverError, Providers};
use super::{Message, RenderError, Renderer, SendOutcome};
use crate::config::{Config, Secret};
use crate::domain::{Channel, DeliveryId, Purpose, RecipientId, Redacted, Urgency};

/// Calls side by side, at most: codes are few, and bulk of them is an attack.
const CONCURRENCY_MAX: usize = 32;
/// Longest time of a call, and of the wait for a free one: both fit into one gRPC call.
const TIMEOUT_MAX_MS: u64 = 4_000;

/// A message with a code.
#[derive(Debug)]
pub struct CodeMessage {
    /// Names it towards the provider; new each time.
    pub id: Uuid,
    /// Who gets it.
    pub recipient_id: RecipientId,
    /// SMS or e-mail.
    pub channel: Channel,
    /// Where to.
    pub address: Redacted<String>,
    /// Of the words; empty: the default.
    pub locale: String,
    /// The code.
    pub code: Redacted<String>,
}

/// The providers, for codes only.
#[derive(Debug)]
pub struct CodeSender {
    providers: Providers,
    renderer: Arc<Renderer>,
}

impl CodeSender {
    /// Connects to nobody yet.
    ///
    /// # Errors
    /// [`DeliverError`] with every fault of the sections `sms` and `email`.
    pub fn from_config(config: &Config, renderer: Arc<Renderer>) -> Result<Self, DeliverError> {
        let (mut sms, mut email, mut push) = (config.sms.clone(), config.email.clone(), config.push.clone());
        sms.concurrency = sms.concurrency.min(CONCURRENCY_MAX);
        sms.timeout_ms = sms.timeout_ms.min(TIMEOUT_MAX_MS);
        sms.status_callback_base_url.clear();
        email.concurrency = email.concurrency.min(CONCURRENCY_MAX);
        email.timeout_ms = email.timeout_ms.min(TIMEOUT_MAX_MS);
        // Without these a mail has neither a link nor a mark that the provider reports by.
        email.unsubscribe_base_url.clear();
        email.unsubscribe_key = Secret::default();
        email.event_webhook_public_key.clear();
        push.enabled = false;
        Ok(Self { providers: Providers::from_sections(&sms, &email, &push, &config.plan)?, renderer })
    }

    /// Is the channel switched on?
    #[must_use]
    pub const fn enabled(&self, channel: Channel) -> bool {
        self.providers.enabled(channel)
    }

    /// Hands a code to its provider; within eight seconds.
    ///
    /// # Errors
    /// [`RenderError`] when there are no words for it.
    pub async fn send(&self, message: CodeMessage) -> Result<SendOutcome, RenderError> {
        let content = self.renderer.code(message.channel, &message.locale, &message.code)?;
        let message = Message {
            delivery_id: DeliveryId(message.id),
            recipient_id: message.recipient_id,
            purpose: Purpose::General,
            attempt_group: 0,
            urgency: Urgency::High,
            address: message.address,
            content,
        };
        Ok(self.providers.send(&message).await)
    }
}

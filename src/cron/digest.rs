//! `digest`: tells recipients that they have results which they have not read yet: how
//! many messages, and nothing of what is in them.
//!
//! It only asks: consent, quiet hours and channels are decided where every request's are.
//! The key is of tick and recipient, so what a dead runner had published already is the
//! same notification when it is published again.

use std::sync::Arc;

use futures::future::try_join_all;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Job, Missed, Step, StepError};
use crate::domain::ids::{DIGEST_CALLER, digest_key};
use crate::domain::{NotificationRequested, Purpose, Redacted, Strategy, Urgency};
use crate::record::Store;
use crate::record::digest::{Place, Unread};
use crate::record::ticks::Tick;
use crate::topic::encoder::Encoder;
use crate::topic::names::NOTIFICATIONS;
use crate::topic::producer::Producer;

const RECIPIENTS: &str = "recipients";
/// What a digest says of more.
const SHOWN_MAX: i64 = 999;
/// A digest is useless when it comes later than this after its tick was due.
const USEFUL: SignedDuration = SignedDuration::from_hours(48);

/// Asks for one message a recipient with unread results.
pub struct Digest {
    /// The database.
    pub store: Store,
    /// The broker.
    pub producer: Arc<Producer>,
    /// Avro.
    pub encoder: Arc<Encoder>,
    /// The topic of requests, in full.
    pub topic: String,
    /// Results of so many days before the tick was due count.
    pub days: u32,
    /// Results that one step looks at.
    pub page_max: usize,
}

/// The last result that was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor(Option<Place>);

impl Job for Digest {
    const NAME: &'static str = "digest";
    const MISSED: Missed = Missed::RunWithinHours(24);
    const COUNTS: &'static [&'static str] = &[RECIPIENTS];
    type Cursor = Cursor;

    async fn step(&self, tick: &Tick, cursor: &Cursor) -> Result<Step<Cursor>, StepError> {
        let page = self.store.unread_results(tick.due_at, self.days, cursor.0, self.page_max).await?;
        try_join_all(page.recipients.iter().map(|unread| self.publish(tick.due_at, unread))).await?;
        let count = page.recipients.len() as u64;
        Ok(Step { next: page.next.map(|place| Cursor(Some(place))), counts: vec![(RECIPIENTS, count)] })
    }
}

impl Digest {
    async fn publish(&self, due_at: Timestamp, unread: &Unread) -> Result<(), StepError> {
        let request = requested(due_at, unread);
        let payload = self
            .encoder
            .notification(&NOTIFICATIONS, &request)
            .await
            .map_err(|error| StepError::Away { dependency: "registry", why: error.to_string() })?;
        let key = unread.patient_id.as_str().as_bytes();
        self.producer
            .send(&self.topic, Some(key), Some(&payload), &[])
            .await
            .map_err(|error| StepError::Away { dependency: "kafka", why: error.to_string() })?;
        Ok(())
    }
}

/// The request; all of its times are the tick's, so that a repeat is the same.
fn requested(due_at: Timestamp, unread: &Unread) -> NotificationRequested {
    NotificationRequested {
        caller: DIGEST_CALLER.to_owned(),
        idempotency_key: digest_key(due_at.as_microsecond(), &unread.recipient),
        patient_id: unread.patient_id.clone(),
        recipient: Some(unread.recipient.clone()),
        purpose: Purpose::General,
        urgency: Urgency::Normal,
        channels: Vec::new(),
        strategy: Strategy::InOrder,
        send_at: None,
        expires_at: due_at.checked_add(USEFUL).ok(),
        variables: Redacted::new(vec![("unread".to_owned(), unread.count.min(SHOWN_MAX).to_string())]),
        requested_at: due_at,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{NotificationId, PatientId};

    #[test]
    fn a_repeat_is_the_same_request_and_another_tick_another_one() {
        let unread = |recipient: &str, count| Unread {
            recipient: recipient.to_owned(),
            patient_id: PatientId::parse("pat-1").unwrap(),
            count,
        };
        let monday: Timestamp = "2026-06-01T08:00:00Z".parse().unwrap();
        let id = |due_at, recipient: &str| {
            let request = requested(due_at, &unread(recipient, 3));
            NotificationId::for_request(&request.caller, &request.idempotency_key)
        };
        assert_eq!(id(monday, "rcp-1"), id(monday, "rcp-1"));
        assert_ne!(id(monday, "rcp-1"), id(monday, "rcp-2"));
        assert_ne!(id(monday, "rcp-1"), id(monday + SignedDuration::from_hours(168), "rcp-1"));
        let many = requested(monday, &unread("rcp-1", 5000));
        assert_eq!(many.variables.expose()[0], ("unread".to_owned(), "999".to_owned()));
    }
}

//! Reminders of appointments: claimed when due, made from the appointment as it is then,
//! published, and only then marked. A repeat after a crash in between has the same key
//! and is the same notification.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use jiff::Timestamp;
use tracing::warn;

use super::rounds::{TURN_TIME, Worker};
use crate::domain::appointment::{ReminderState, variables};
use crate::domain::ids::{REMINDER_CALLER, reminder_key};
use crate::domain::{
    Fact, NotificationId, NotificationRequested, NotificationUpdate, Purpose, Redacted, Strategy, Urgency,
};
use crate::metrics;
use crate::record::reminders::{DueReminder, ReminderEnd};
use crate::record::{RecordError, Store};
use crate::topic::encoder::Encoder;
use crate::topic::names::{NOTIFICATION_UPDATES, NOTIFICATIONS};
use crate::topic::producer::Producer;

/// Pause before a reminder that could not be published is looked at again.
const PUBLISH_PAUSE: Duration = Duration::from_secs(1);
/// What is left of a lease for writing down how its reminders ended.
const RECORD_TIME: Duration = Duration::from_secs(5);

/// Publishes due reminders, and takes back those that no longer hold; any number of
/// processes may.
pub struct ReminderWorker {
    /// The database.
    pub store: Store,
    /// The broker.
    pub producer: Arc<Producer>,
    /// Avro.
    pub encoder: Encoder,
    /// Before every topic's name.
    pub topic_prefix: String,
    /// Longest time a produced record may wait for its acknowledgement.
    pub publish_timeout: Duration,
    /// Reminders of one claim, at most.
    pub batch_max: usize,
    /// Pause between looks when nothing was due.
    pub poll_interval: Duration,
}

impl Worker for ReminderWorker {
    const NAME: &'static str = "reminders";

    async fn turn(&self) -> Result<Duration, RecordError> {
        let claimed = self.fire().await?;
        Ok(if claimed == self.batch_max { Duration::ZERO } else { self.poll_interval })
    }

    fn turn_timeout(&self) -> Duration {
        TURN_TIME.saturating_add(self.publish_timeout)
    }
}

impl ReminderWorker {
    /// Takes what is due; how many reminders that were.
    async fn fire(&self) -> Result<usize, RecordError> {
        let lease = self.publish_timeout.saturating_add(RECORD_TIME);
        let due = self.store.due_reminders(self.batch_max, lease).await?;
        if due.is_empty() {
            return Ok(0);
        }
        let ends = join_all(due.iter().map(|reminder| self.end(reminder))).await;
        let ended: Vec<(&DueReminder, ReminderEnd)> = due.iter().zip(ends).collect();
        let written = self.store.end_reminders(&ended, PUBLISH_PAUSE).await?;
        for (_, end) in &ended {
            metrics::reminder(end.as_str());
        }
        let lost = (ended.len() as u64).saturating_sub(written);
        if lost > 0 {
            // Another worker publishes them again, as the same notifications.
            warn!(reminders = lost, "leases of reminders ran out before they were marked");
        }
        Ok(due.len())
    }

    async fn end(&self, reminder: &DueReminder) -> ReminderEnd {
        let now = Timestamp::now();
        let recalls = reminder.state == ReminderState::Recalling;
        // The record has milliseconds, and must have its end after its begin.
        let over = reminder.started || reminder.starts_at.as_millisecond() <= now.as_millisecond();
        if !recalls && over {
            return ReminderEnd::TooLate;
        }
        if !recalls && reminder.superseded {
            return if reminder.tried { ReminderEnd::Withdrawn } else { ReminderEnd::Superseded };
        }
        let recipients = reminder.recipients.iter().map(|one| Some(one.as_str()));
        let published = join_all(std::iter::once(None).chain(recipients).map(async |recipient| {
            if recalls {
                self.recall(&cancelled(reminder, recipient, now), reminder).await
            } else {
                self.publish(&requested(reminder, recipient, now), reminder).await
            }
        }));
        match published.await.into_iter().collect::<Result<(), _>>() {
            Ok(()) if recalls => ReminderEnd::Recalled,
            Ok(()) => ReminderEnd::Fired,
            Err(away) => {
                metrics::unavailable(away.dependency);
                warn!(error = away.why, "a reminder cannot be published now");
                ReminderEnd::Released
            }
        }
    }

    async fn publish(&self, request: &NotificationRequested, reminder: &DueReminder) -> Result<(), Away> {
        let payload = self.encoder.notification(&NOTIFICATIONS, request).await.map_err(Away::registry)?;
        self.produce(&NOTIFICATIONS.full_name(&self.topic_prefix), reminder, &payload).await
    }

    async fn recall(&self, update: &NotificationUpdate, reminder: &DueReminder) -> Result<(), Away> {
        let payload = self.encoder.update(update).await.map_err(Away::registry)?;
        self.produce(&NOTIFICATION_UPDATES.full_name(&self.topic_prefix), reminder, &payload).await
    }

    async fn produce(&self, topic: &str, reminder: &DueReminder, payload: &[u8]) -> Result<(), Away> {
        let key = reminder.patient_id.as_str().as_bytes();
        self.producer.send(topic, Some(key), Some(payload), &[]).await.map_err(Away::kafka)?;
        Ok(())
    }
}

/// What was away.
struct Away {
    dependency: &'static str,
    why: String,
}

impl Away {
    fn registry(error: impl std::fmt::Display) -> Self {
        Self { dependency: "registry", why: error.to_string() }
    }

    fn kafka(error: impl std::fmt::Display) -> Self {
        Self { dependency: "kafka", why: error.to_string() }
    }
}

/// The request of a reminder: useless once the appointment starts.
fn requested(reminder: &DueReminder, recipient: Option<&str>, now: Timestamp) -> NotificationRequested {
    let DueReminder { appointment_id, schedule, offset_s, .. } = reminder;
    NotificationRequested {
        caller: REMINDER_CALLER.to_owned(),
        idempotency_key: reminder_key(appointment_id, *schedule, *offset_s, recipient),
        patient_id: reminder.patient_id.clone(),
        recipient: recipient.map(str::to_owned),
        purpose: Purpose::AppointmentReminder,
        urgency: Urgency::Normal,
        channels: Vec::new(),
        strategy: Strategy::InOrder,
        send_at: None,
        expires_at: Some(reminder.starts_at),
        variables: Redacted::new(variables(
            reminder.starts_at,
            &reminder.time_zone,
            reminder.location.as_ref(),
        )),
        requested_at: now,
    }
}

/// The cancellation of a reminder that was published.
fn cancelled(reminder: &DueReminder, recipient: Option<&str>, now: Timestamp) -> NotificationUpdate {
    let DueReminder { appointment_id, schedule, offset_s, .. } = reminder;
    let id = NotificationId::for_reminder(appointment_id, *schedule, *offset_s, recipient);
    NotificationUpdate {
        update_id: id.update_id(REMINDER_CALLER, "cancelled"),
        occurred_at: now,
        source: REMINDER_CALLER.to_owned(),
        patient_id: Some(reminder.patient_id.clone()),
        fact: Fact::Cancelled { notification_id: id, caller: Some(REMINDER_CALLER.to_owned()) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::PatientId;

    fn reminder() -> DueReminder {
        DueReminder {
            appointment_id: "apt-1".to_owned(),
            schedule: 2,
            offset_s: 7200,
            state: ReminderState::Planned,
            starts_at: Timestamp::from_second(1_800_007_200).unwrap(),
            patient_id: PatientId::parse("pat-1").unwrap(),
            recipients: vec!["rcp-2".to_owned()],
            time_zone: "Europe/Vienna".to_owned(),
            location: None,
            started: false,
            superseded: false,
            tried: false,
        }
    }

    #[test]
    fn what_takes_a_reminder_back_names_what_was_published() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        for recipient in [None, Some("rcp-2")] {
            let request = requested(&reminder(), recipient, now);
            let id = NotificationId::for_request(&request.caller, &request.idempotency_key);
            let update = cancelled(&reminder(), recipient, now);
            let caller = Some(request.caller.clone());
            assert_eq!(update.fact, Fact::Cancelled { notification_id: id, caller });
            assert_eq!(request.expires_at, Some(reminder().starts_at));
        }
    }
}

//! What the patient is told of an appointment that was made, moved or cancelled.

use futures::future::try_join_all;
use jiff::Timestamp;
use tokio::time::Instant;

use crate::api::error::ApiError;
use crate::api::proto;
use crate::api::publisher::Publisher;
use crate::domain::appointment::{Appointment, NoticeKind};
use crate::domain::ids::{NOTICE_CALLER, notice_key};
use crate::domain::{NotificationId, NotificationRequested, Purpose, Redacted, Strategy, Urgency};

/// Publishes the notice of the last change that is told of, if it is wanted and the
/// start is still to come. The same again is the same notifications.
pub(super) async fn publish(
    publisher: &Publisher,
    appointment: &Appointment,
    wanted: bool,
    until: Instant,
) -> Result<Option<proto::AppointmentNotice>, ApiError> {
    let now = Timestamp::now();
    if !wanted || appointment.starts_at.as_millisecond() <= now.as_millisecond() {
        return Ok(None);
    }
    let recipients = appointment.recipients.iter().map(|one| Some(one.as_str()));
    let requests: Vec<NotificationRequested> =
        std::iter::once(None).chain(recipients).map(|one| request(appointment, one, now)).collect();
    let notification_ids = requests
        .iter()
        .map(|one| NotificationId::for_request(&one.caller, &one.idempotency_key).to_string())
        .collect();
    try_join_all(requests.into_iter().map(|one| publisher.publish(one, until))).await?;
    Ok(Some(proto::AppointmentNotice { notification_ids }))
}

fn request(appointment: &Appointment, recipient: Option<&str>, now: Timestamp) -> NotificationRequested {
    let (kind, version) = appointment.notice;
    let mut variables = appointment.variables();
    if kind != NoticeKind::Updated {
        variables.push(("change".to_owned(), kind.as_str().to_owned()));
    }
    NotificationRequested {
        caller: NOTICE_CALLER.to_owned(),
        idempotency_key: notice_key(&appointment.id, version, recipient),
        patient_id: appointment.patient_id.clone(),
        recipient: recipient.map(str::to_owned),
        purpose: Purpose::AppointmentConfirmation,
        urgency: Urgency::Normal,
        channels: Vec::new(),
        strategy: Strategy::InOrder,
        send_at: None,
        expires_at: Some(appointment.starts_at),
        variables: Redacted::new(variables),
        requested_at: now,
    }
}

//! What the patient is told of an appointment that was made, moved or cancelled.

use std::time::Duration;

use futures::future::try_join_all;
use jiff::Timestamp;
use tokio::time::{Instant, timeout_at};

use super::Appointments;
use crate::api::auth::Allowance;
use crate::api::error::ApiError;
use crate::api::proto;
use crate::domain::appointment::{Appointment, NoticeKind};
use crate::domain::ids::{NOTICE_CALLER, notice_key};
use crate::domain::{NotificationId, NotificationRequested, Purpose, Redacted, Strategy, Urgency};
use crate::record::appointments::AppointmentView;
use crate::record::notices;

/// Longest time that a notice may take: the later ones of its appointment wait for it.
const PUBLISH_MAX: Duration = Duration::from_secs(5);

/// Publishes the notice of the last change that is told of, if the call wants it, it was
/// asked for when the change was made, and the start is still to come. The same again is
/// the same notifications; one whose change was followed by another is not published.
pub(super) async fn publish(
    service: &Appointments,
    view: &AppointmentView,
    wanted: bool,
    allowance: &Allowance,
    until: Instant,
) -> Result<Option<proto::AppointmentNotice>, ApiError> {
    let (appointment, now) = (&view.appointment, Timestamp::now());
    let over = appointment.starts_at.as_millisecond() <= now.as_millisecond();
    if !wanted || !view.is_told() || over {
        return Ok(None);
    }
    let recipients = appointment.recipients.iter().map(|one| Some(one.as_str()));
    let requests: Vec<NotificationRequested> =
        std::iter::once(None).chain(recipients).map(|one| request(appointment, one, now)).collect();
    let notification_ids = requests
        .iter()
        .map(|one| NotificationId::for_request(&one.caller, &one.idempotency_key).to_string())
        .collect();
    let taken = allowance.take(u32::try_from(requests.len()).unwrap_or(u32::MAX))?;
    let until = until.min(Instant::now() + PUBLISH_MAX);
    let Ok(_place) = timeout_at(until, service.notices.acquire()).await else {
        return Err(ApiError::Overloaded);
    };
    let publish = try_join_all(requests.into_iter().map(|one| service.publisher.publish(one, until)));
    let (id, version) = (&appointment.id, appointment.notice.1);
    let Some(published) = notices::while_newest(&service.pool, id, version, publish).await? else {
        return Ok(None);
    };
    published?;
    taken.keep();
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

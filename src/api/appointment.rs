//! `AppointmentService`: the calls; what a Put has to say is checked in `put`, what the
//! patient is told is made in `notice`.

mod notice;
mod put;

use deadpool_postgres::Pool;
use jiff::Timestamp;
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};

use super::auth::{Allowance, Caller};
use super::convert::{appointment_status_to, reminder_state_to, timestamp_to};
use super::error::ApiError;
use super::guard::Deadline;
use super::page;
use super::proto;
use super::publisher::Publisher;
use super::validate::Violations;
use crate::config;
use crate::domain::appointment::{Appointment, AppointmentStatus, Verdict};
use crate::domain::{NotificationId, Redacted};
use crate::record::appointments::{self, AppointmentView, Change, Changed, ListQuery, Outcome, ReminderView};

/// Notices that one process publishes at once: each holds a connection to the database
/// until the broker has acknowledged it.
pub const NOTICES_MAX: usize = 4;

/// Keeps appointments and their reminders.
#[derive(Debug)]
pub struct Appointments {
    /// To the broker, for notices.
    pub publisher: Publisher,
    /// To the database.
    pub pool: Pool,
    /// Offsets of reminders.
    pub config: config::Appointments,
    /// Places for notices that are being published.
    pub notices: Semaphore,
}

impl Appointments {
    fn by<'a>(&self, caller: &'a Caller, action: &'static str, notify: bool) -> Change<'a> {
        Change { caller: &caller.name, action, confirmed_max_s: self.config.confirmed_offset_max_s, notify }
    }

    /// Brings an appointment that must be there into another state.
    async fn set(
        &self,
        change: Change<'_>,
        appointment_id: &str,
        expected_version: Option<i64>,
        status: AppointmentStatus,
    ) -> Result<AppointmentView, ApiError> {
        let decide = |stored: Option<&Appointment>| {
            let stored = stored?;
            Some(match stored.with_status(status) {
                None => Verdict::Unchanged(stored.clone()),
                Some(_) if expected_version.is_some_and(|seen| seen != stored.version) => {
                    Verdict::VersionMismatch(stored.version)
                }
                Some(_) if stored.status == AppointmentStatus::Cancelled => Verdict::Cancelled,
                Some(next) => Verdict::Write(next),
            })
        };
        let changed = appointments::change(&self.pool, appointment_id, change, decide).await?;
        stored(changed).map(|(_, view)| view)
    }
}

#[tonic::async_trait]
impl proto::appointment_service_server::AppointmentService for Appointments {
    async fn put(
        &self,
        request: Request<proto::AppointmentServicePutRequest>,
    ) -> Result<Response<proto::AppointmentServicePutResponse>, Status> {
        let deadline = Deadline::of(&request);
        let (caller, allowance) = (Caller::of(&request)?, Allowance::of(&request));
        let message = request.into_inner();
        let notify = message.notify;
        let wanted = put::wanted(message, &self.config.reminder_offsets_s, Timestamp::now())?;
        let id = wanted.id.clone();
        let change = self.by(&caller, "AppointmentService/Put", notify);
        let changed = appointments::change(&self.pool, &id, change, |stored| Some(wanted.over(stored))).await;
        let (outcome, view) = stored(changed.map_err(ApiError::from)?)?;
        let told = notify && outcome != Outcome::Outdated;
        let notice = notice::publish(self, &view, told, &allowance, deadline.for_work()).await?;
        Ok(Response::new(proto::AppointmentServicePutResponse {
            appointment: Some(appointment_to(view)),
            outcome: outcome_to(outcome).into(),
            notice,
        }))
    }

    async fn get(
        &self,
        request: Request<proto::AppointmentServiceGetRequest>,
    ) -> Result<Response<proto::AppointmentServiceGetResponse>, Status> {
        let id = request.into_inner().appointment_id;
        check_id(&id, None)?;
        let found = appointments::get(&self.pool, &id).await.map_err(ApiError::from)?;
        let view = found.ok_or(ApiError::NotFound("appointment"))?;
        Ok(Response::new(proto::AppointmentServiceGetResponse { appointment: Some(appointment_to(view)) }))
    }

    async fn list(
        &self,
        request: Request<proto::AppointmentServiceListRequest>,
    ) -> Result<Response<proto::AppointmentServiceListResponse>, Status> {
        Ok(Response::new(list(&self.pool, &request.into_inner()).await?))
    }

    async fn cancel(
        &self,
        request: Request<proto::AppointmentServiceCancelRequest>,
    ) -> Result<Response<proto::AppointmentServiceCancelResponse>, Status> {
        let deadline = Deadline::of(&request);
        let (caller, allowance) = (Caller::of(&request)?, Allowance::of(&request));
        let message = request.into_inner();
        check_id(&message.appointment_id, message.expected_version)?;
        let change = self.by(&caller, "AppointmentService/Cancel", message.notify);
        let (id, expected) = (&message.appointment_id, message.expected_version);
        let view = self.set(change, id, expected, AppointmentStatus::Cancelled).await?;
        let notice = notice::publish(self, &view, message.notify, &allowance, deadline.for_work()).await?;
        Ok(Response::new(proto::AppointmentServiceCancelResponse {
            appointment: Some(appointment_to(view)),
            notice,
        }))
    }

    async fn confirm(
        &self,
        request: Request<proto::AppointmentServiceConfirmRequest>,
    ) -> Result<Response<proto::AppointmentServiceConfirmResponse>, Status> {
        let caller = Caller::of(&request)?;
        let message = request.into_inner();
        check_id(&message.appointment_id, message.expected_version)?;
        let change = self.by(&caller, "AppointmentService/Confirm", false);
        let (id, expected) = (&message.appointment_id, message.expected_version);
        let view = self.set(change, id, expected, AppointmentStatus::Confirmed).await?;
        Ok(Response::new(proto::AppointmentServiceConfirmResponse {
            appointment: Some(appointment_to(view)),
        }))
    }
}

fn check_id(appointment_id: &str, expected_version: Option<i64>) -> Result<(), ApiError> {
    let mut faults = Violations::default();
    faults.opaque("appointment_id", appointment_id);
    let valid = expected_version.is_none_or(|version| version >= 1);
    faults.require(valid, "expected_version", "must be 1 or more");
    faults.finish()
}

fn stored(changed: Changed) -> Result<(Outcome, AppointmentView), ApiError> {
    match changed {
        Changed::Stored(outcome, view) => Ok((outcome, *view)),
        Changed::NotFound => Err(ApiError::NotFound("appointment")),
        Changed::VersionMismatch(0) => Err(ApiError::Precondition {
            reason: "VERSION_MISMATCH",
            message: "there is no such appointment yet, so it has no version".to_owned(),
        }),
        Changed::VersionMismatch(version) => Err(ApiError::Precondition {
            reason: "VERSION_MISMATCH",
            message: format!("the appointment has version {version} now; read it and decide again"),
        }),
        Changed::Cancelled => Err(ApiError::Precondition {
            reason: "APPOINTMENT_CANCELLED",
            message: "the appointment is cancelled; put it with status booked to book it again".to_owned(),
        }),
        Changed::OtherPatient => Err(ApiError::Exists {
            reason: "APPOINTMENT_EXISTS",
            message: "the identifier belongs to the appointment of another patient".to_owned(),
            metadata: Vec::new(),
        }),
    }
}

async fn list(
    pool: &Pool,
    message: &proto::AppointmentServiceListRequest,
) -> Result<proto::AppointmentServiceListResponse, ApiError> {
    let mut faults = Violations::default();
    let patient_id = faults.patient_id("patient_id", &message.patient_id);
    let from = faults.timestamp("starts_from", message.starts_from);
    let before = faults.timestamp("starts_before", message.starts_before);
    let size = page::size(message.page_size, &mut faults);
    let text = |time: Option<Timestamp>| time.map(|time| time.to_string()).unwrap_or_default();
    let filters = [message.patient_id.as_str(), &text(from), &text(before)];
    let position = page::position(&filters, &message.page_token, &mut faults);
    faults.finish()?;
    let after = position.as_deref().and_then(|position| {
        let (micros, id) = position.split_once(':')?;
        Some((Timestamp::from_microsecond(micros.parse().ok()?).ok()?, id))
    });
    let Some(patient_id) = patient_id else {
        return Err(ApiError::invalid("patient_id", "is required"));
    };
    // One more than asked for tells whether there is another page.
    let limit = i64::try_from(size + 1).unwrap_or(i64::MAX);
    let query = ListQuery { patient_id: &patient_id, from, before, after, limit };
    let mut found = appointments::list(pool, &query).await?;
    let more = found.len() > size;
    found.truncate(size);
    let last = found.last().filter(|_| more).map(|view| &view.appointment);
    let next =
        last.map(|last| page::token(&filters, &format!("{}:{}", last.starts_at.as_microsecond(), last.id)));
    Ok(proto::AppointmentServiceListResponse {
        next_page_token: next.unwrap_or_default(),
        appointments: found.into_iter().map(appointment_to).collect(),
    })
}

const fn outcome_to(outcome: Outcome) -> proto::PutOutcome {
    match outcome {
        Outcome::Created => proto::PutOutcome::Created,
        Outcome::Changed => proto::PutOutcome::Changed,
        Outcome::Unchanged => proto::PutOutcome::Unchanged,
        Outcome::Outdated => proto::PutOutcome::Outdated,
    }
}

fn seconds(seconds: i32) -> prost_types::Duration {
    prost_types::Duration { seconds: seconds.into(), nanos: 0 }
}

fn appointment_to(view: AppointmentView) -> proto::Appointment {
    let AppointmentView { appointment, created_at, updated_at, reminders, .. } = view;
    let reminders = reminders.into_iter().map(|one| reminder_to(&appointment.id, one)).collect();
    proto::Appointment {
        appointment_id: appointment.id,
        patient_id: appointment.patient_id.as_str().to_owned(),
        recipient_ids: appointment.recipients,
        starts_at: Some(timestamp_to(appointment.starts_at)),
        time_zone: appointment.time_zone,
        location: appointment.location.map(Redacted::into_exposed).unwrap_or_default(),
        status: appointment_status_to(appointment.status).into(),
        reminder_offsets: appointment.offsets_s.into_iter().map(seconds).collect(),
        version: appointment.version,
        source_updated_at: appointment.source_updated_at.map(timestamp_to),
        created_at: Some(timestamp_to(created_at)),
        updated_at: Some(timestamp_to(updated_at)),
        reminders,
    }
}

fn reminder_to(appointment_id: &str, view: ReminderView) -> proto::AppointmentReminder {
    let id = |recipient: Option<&str>| {
        NotificationId::for_reminder(appointment_id, view.schedule, view.offset_s, recipient).to_string()
    };
    let notification_ids = match &view.recipients {
        None => Vec::new(),
        Some(recipients) => {
            std::iter::once(None).chain(recipients.iter().map(|one| Some(one.as_str()))).map(id).collect()
        }
    };
    proto::AppointmentReminder {
        offset: Some(seconds(view.offset_s)),
        due_at: Some(timestamp_to(view.due_at)),
        state: reminder_state_to(view.state).into(),
        reason: view.reason,
        starts_at: Some(timestamp_to(view.starts_at)),
        notification_ids,
    }
}

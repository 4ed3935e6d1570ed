//! Appointments and their reminders: changed together, under the appointment's lock.

use deadpool_postgres::{GenericClient, Pool, Transaction};
use jiff::Timestamp;
use tokio_postgres::Row;

use super::audit::{self, AuditEntry};
use super::error::RecordError;
use crate::domain::appointment::{Appointment, AppointmentStatus, NoticeKind, ReminderState, Verdict};
use crate::domain::{PatientId, Redacted};

/// Reminders that one answer has, at most.
const REMINDERS_MAX: i64 = 200;

/// An appointment as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppointmentView {
    /// Its content.
    pub appointment: Appointment,
    /// First put.
    pub created_at: Timestamp,
    /// Last change.
    pub updated_at: Timestamp,
    /// The newest version of which somebody asked to tell the patient; `None`: none.
    pub told_version: Option<i64>,
    /// By due time, at most 200, the newest.
    pub reminders: Vec<ReminderView>,
}

impl AppointmentView {
    /// True when its last change that can be told of was asked to be told.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.told_version == Some(self.appointment.notice.1)
    }
}

/// A reminder as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReminderView {
    /// The schedule that it belongs to.
    pub schedule: i32,
    /// Before the start.
    pub offset_s: i32,
    /// The start that it reminds of.
    pub starts_at: Timestamp,
    /// When it is sent.
    pub due_at: Timestamp,
    /// Where it stands.
    pub state: ReminderState,
    /// Why there.
    pub reason: String,
    /// To whom besides the patient it was published; `None`: it was not.
    pub recipients: Option<Vec<String>>,
}

/// What a call did to an appointment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is new.
    Created,
    /// It was changed.
    Changed,
    /// It was so already.
    Unchanged,
    /// The stored one is newer and stays.
    Outdated,
}

/// How a change ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// As it is stored now.
    Stored(Outcome, Box<AppointmentView>),
    /// There is no such appointment.
    NotFound,
    /// It has this version; 0: it does not exist.
    VersionMismatch(i64),
    /// It is cancelled and stays so.
    Cancelled,
    /// The identifier belongs to another patient's appointment.
    OtherPatient,
}

/// Who changes, by which call, under which policy.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// Who calls.
    pub caller: &'a str,
    /// Service and method, for the audit log.
    pub action: &'static str,
    /// `appointments.confirmed_offset_max_s`.
    pub confirmed_max_s: i32,
    /// The patient is to be told of what this call changes.
    pub notify: bool,
}

// One writer at a time for each identifier, whether there is a row yet or not.
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('appointment:' || $1, 0))";

const SELECT: &str = "
SELECT appointment_id, patient_id, recipients, starts_at, time_zone, location, status, offsets_s, version, schedule,
       notice, notice_version, source_updated_at, created_at, updated_at, told_version
  FROM appointment";

// A call asks to tell of what it changes itself, not of what was stored before it.
const WRITE: &str = "
INSERT INTO appointment AS old (appointment_id, patient_id, recipients, starts_at, time_zone, location, status,
                                offsets_s, version, schedule, notice, notice_version, source_updated_at, created_by,
                                told_version)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12::bigint, $13, $14, CASE WHEN $15 THEN $12::bigint END)
ON CONFLICT (appointment_id) DO UPDATE
SET recipients = excluded.recipients, starts_at = excluded.starts_at, time_zone = excluded.time_zone,
    location = excluded.location, status = excluded.status, offsets_s = excluded.offsets_s,
    version = excluded.version, schedule = excluded.schedule, notice = excluded.notice,
    notice_version = excluded.notice_version, source_updated_at = excluded.source_updated_at,
    told_version = CASE WHEN old.notice_version <> excluded.notice_version
                        THEN coalesce(excluded.told_version, old.told_version) ELSE old.told_version END,
    updated_at = CASE WHEN old.version = excluded.version THEN old.updated_at ELSE now() END";

// A row that a worker has claimed may be on its way to the broker: it is taken back
// once its worker has said so, or at the end of the worker's lease.
const CALL_OFF: &str = "
UPDATE appointment_reminder
   SET state = CASE WHEN state = 'planned' AND owner IS NULL THEN 'cancelled' ELSE 'recalling' END,
       look_at = CASE WHEN state = 'fired' THEN now() WHEN owner IS NULL THEN NULL ELSE look_at END,
       reason = CASE WHEN schedule <> $2 THEN 'moved' ELSE $4::text END, updated_at = now()
 WHERE appointment_id = $1
   AND ((state = 'planned' AND NOT (schedule = $2 AND offset_s = ANY ($3)))
        OR (state = 'fired' AND starts_at > now() AND (schedule <> $2 OR $5)))";

// One that was called off before it was published is wanted again; anything else
// that is there stays as it is.
const PLAN: &str = "
INSERT INTO appointment_reminder AS old (appointment_id, schedule, offset_s, starts_at, due_at, state, reason, look_at)
SELECT $1, $2, offset_s, $3, due_at,
       CASE WHEN due_at <= now() THEN 'skipped' ELSE 'planned' END,
       CASE WHEN due_at <= now() THEN 'too_late' ELSE 'planned' END,
       CASE WHEN due_at <= now() THEN NULL ELSE due_at END
  FROM (SELECT offset_s, $3::timestamptz - offset_s * interval '1 second' AS due_at
          FROM UNNEST($4::integer[]) AS offset_s) AS wanted
ON CONFLICT (appointment_id, schedule, offset_s) DO UPDATE
SET state = excluded.state, reason = excluded.reason, look_at = excluded.look_at, owner = NULL, updated_at = now()
WHERE old.state = 'cancelled'";

/// Changes one appointment: `decide` is shown what is stored and says what becomes of
/// it (`None`: there must be one). Row, reminders and audit line are one transaction.
///
/// # Errors
/// As [`RecordError`] tells; nothing is changed then, or, where the commit's answer was
/// lost, everything: the same call again is harmless.
pub async fn change(
    pool: &Pool,
    appointment_id: &str,
    by: Change<'_>,
    decide: impl FnOnce(Option<&Appointment>) -> Option<Verdict> + Send,
) -> Result<Changed, RecordError> {
    let at = RecordError::at("appointment_change");
    let mut client = pool.get().await?;
    let transaction = client.transaction().await.map_err(&at)?;
    let lock = transaction.prepare_cached(LOCK).await.map_err(&at)?;
    transaction.execute(&lock, &[&appointment_id]).await.map_err(&at)?;
    let stored = one(&transaction, appointment_id).await?;
    let before = stored.as_ref().map(|view| &view.appointment);
    let (outcome, next) = match decide(before) {
        None => return Ok(Changed::NotFound),
        Some(Verdict::VersionMismatch(version)) => return Ok(Changed::VersionMismatch(version)),
        Some(Verdict::Cancelled) => return Ok(Changed::Cancelled),
        Some(Verdict::OtherPatient) => return Ok(Changed::OtherPatient),
        Some(Verdict::Outdated(_)) => (Outcome::Outdated, None),
        Some(Verdict::Unchanged(next)) => (Outcome::Unchanged, Some(next)),
        Some(Verdict::Write(next)) => {
            (if before.is_some() { Outcome::Changed } else { Outcome::Created }, Some(next))
        }
    };
    if let Some(next) = next.filter(|next| before != Some(next)) {
        write(&transaction, &next, by).await?;
        if outcome != Outcome::Unchanged {
            move_reminders(&transaction, &next, by.confirmed_max_s).await?;
            let detail = format!("version {}, {}", next.version, next.status);
            let entry = AuditEntry {
                caller: by.caller,
                action: by.action,
                subject_kind: "appointment",
                subject: appointment_id,
                detail: Some(&detail),
            };
            audit::append(&transaction, &entry).await?;
        }
    }
    let view = whole(&transaction, appointment_id).await?;
    transaction.commit().await.map_err(&at)?;
    let view = view.ok_or_else(|| RecordError::bug("an appointment was written and is not there"))?;
    Ok(Changed::Stored(outcome, Box::new(view)))
}

async fn write(transaction: &Transaction<'_>, next: &Appointment, by: Change<'_>) -> Result<(), RecordError> {
    let at = RecordError::at("appointment_write");
    let statement = transaction.prepare_cached(WRITE).await.map_err(&at)?;
    let (notice, notice_version) = next.notice;
    transaction
        .execute(
            &statement,
            &[
                &next.id,
                &next.patient_id.as_str(),
                &next.recipients,
                &next.starts_at,
                &next.time_zone,
                &next.location.as_ref().map(Redacted::expose),
                &next.status.as_str(),
                &next.offsets_s,
                &next.version,
                &next.schedule,
                &notice.as_str(),
                &notice_version,
                &next.source_updated_at,
                &by.caller,
                &by.notify,
            ],
        )
        .await
        .map_err(&at)?;
    Ok(())
}

async fn move_reminders(
    transaction: &Transaction<'_>,
    next: &Appointment,
    confirmed_max_s: i32,
) -> Result<(), RecordError> {
    let at = RecordError::at("appointment_reminders");
    let wanted = next.wanted_offsets_s(confirmed_max_s);
    let (reason, cancelled) = match next.status {
        AppointmentStatus::Booked => ("not_wanted", false),
        AppointmentStatus::Confirmed => ("confirmed", false),
        AppointmentStatus::Cancelled => ("cancelled", true),
    };
    let call_off = transaction.prepare_cached(CALL_OFF).await.map_err(&at)?;
    transaction
        .execute(&call_off, &[&next.id, &next.schedule, &wanted, &reason, &cancelled])
        .await
        .map_err(&at)?;
    let plan = transaction.prepare_cached(PLAN).await.map_err(&at)?;
    transaction.execute(&plan, &[&next.id, &next.schedule, &next.starts_at, &wanted]).await.map_err(&at)?;
    Ok(())
}

/// One appointment with its reminders.
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn get(pool: &Pool, appointment_id: &str) -> Result<Option<AppointmentView>, RecordError> {
    whole(&pool.get().await?, appointment_id).await
}

const LIST: &str = "
 WHERE patient_id = $1 AND starts_at >= coalesce($2::timestamptz, '-infinity') AND starts_at < coalesce($3::timestamptz, 'infinity')
   AND (starts_at, appointment_id) > (coalesce($4::timestamptz, '-infinity'), $5)
 ORDER BY starts_at, appointment_id LIMIT $6";

/// Appointments of a patient, without reminders, by start and identifier.
#[derive(Debug, Clone)]
pub struct ListQuery<'a> {
    /// Whose.
    pub patient_id: &'a PatientId,
    /// Start at this time or later.
    pub from: Option<Timestamp>,
    /// Start before this time.
    pub before: Option<Timestamp>,
    /// After this one.
    pub after: Option<(Timestamp, &'a str)>,
    /// At most so many.
    pub limit: i64,
}

/// See [`ListQuery`].
///
/// # Errors
/// As [`RecordError`] tells.
pub async fn list(pool: &Pool, query: &ListQuery<'_>) -> Result<Vec<AppointmentView>, RecordError> {
    let at = RecordError::at("appointment_list");
    let client = pool.get().await?;
    let statement = client.prepare_cached(&format!("{SELECT}{LIST}")).await.map_err(&at)?;
    let (after, after_id) = query.after.unzip();
    let rows = client
        .query(
            &statement,
            &[
                &query.patient_id.as_str(),
                &query.from,
                &query.before,
                &after,
                &after_id.unwrap_or_default(),
                &query.limit,
            ],
        )
        .await
        .map_err(&at)?;
    rows.iter().map(view).collect()
}

const REMINDERS: &str = "
SELECT * FROM (
    SELECT schedule, offset_s, starts_at, due_at, state, reason,
           CASE WHEN state IN ('fired', 'recalling', 'recalled') THEN recipients END AS recipients
      FROM appointment_reminder WHERE appointment_id = $1
     ORDER BY schedule DESC, due_at DESC LIMIT $2
) AS newest ORDER BY due_at, schedule";

async fn whole(
    client: &impl GenericClient,
    appointment_id: &str,
) -> Result<Option<AppointmentView>, RecordError> {
    let at = RecordError::at("appointment_get");
    let Some(mut found) = one(client, appointment_id).await? else {
        return Ok(None);
    };
    let statement = client.prepare_cached(REMINDERS).await.map_err(&at)?;
    let rows = client.query(&statement, &[&appointment_id, &REMINDERS_MAX]).await.map_err(&at)?;
    found.reminders = rows.iter().map(reminder).collect::<Result<_, _>>()?;
    Ok(Some(found))
}

async fn one(
    client: &impl GenericClient,
    appointment_id: &str,
) -> Result<Option<AppointmentView>, RecordError> {
    let at = RecordError::at("appointment_get");
    let statement =
        client.prepare_cached(&format!("{SELECT} WHERE appointment_id = $1")).await.map_err(&at)?;
    let row = client.query_opt(&statement, &[&appointment_id]).await.map_err(&at)?;
    row.as_ref().map(view).transpose()
}

fn view(row: &Row) -> Result<AppointmentView, RecordError> {
    let patient_id = PatientId::parse(row.get("patient_id"))
        .ok_or_else(|| RecordError::bug("an appointment's patient has an unusable identifier"))?;
    let appointment = Appointment {
        id: row.get("appointment_id"),
        patient_id,
        recipients: row.get("recipients"),
        starts_at: row.get("starts_at"),
        time_zone: row.get("time_zone"),
        location: row.get::<_, Option<String>>("location").map(Redacted::new),
        status: word(row, "status", AppointmentStatus::parse)?,
        offsets_s: row.get("offsets_s"),
        source_updated_at: row.get("source_updated_at"),
        version: row.get("version"),
        schedule: row.get("schedule"),
        notice: (word(row, "notice", NoticeKind::parse)?, row.get("notice_version")),
    };
    Ok(AppointmentView {
        appointment,
        created_at: row.get("created_at"),
        updated_at: row.get("updated_at"),
        told_version: row.get("told_version"),
        reminders: Vec::new(),
    })
}

fn reminder(row: &Row) -> Result<ReminderView, RecordError> {
    Ok(ReminderView {
        schedule: row.get("schedule"),
        offset_s: row.get("offset_s"),
        starts_at: row.get("starts_at"),
        due_at: row.get("due_at"),
        state: word(row, "state", ReminderState::parse)?,
        reason: row.get("reason"),
        recipients: row.get("recipients"),
    })
}

fn word<T>(row: &Row, column: &str, parse: fn(&str) -> Option<T>) -> Result<T, RecordError> {
    let text: &str = row.get(column);
    parse(text).ok_or_else(|| RecordError::bug(format!("column {column} has an unknown word")))
}

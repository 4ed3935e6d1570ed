//! Reminders that are due: claimed by any number of workers, published once.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_postgres::Row;

use super::error::RecordError;
use super::store::Store;
use crate::domain::appointment::ReminderState;
use crate::domain::{PatientId, Redacted};
use crate::metrics;

/// A due reminder that is ours until the lease ends, and its appointment as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueReminder {
    /// Which appointment.
    pub appointment_id: String,
    /// Which schedule of it.
    pub schedule: i32,
    /// Before the start.
    pub offset_s: i32,
    /// Planned, or to be taken back.
    pub state: ReminderState,
    /// The start that it reminds of.
    pub starts_at: Timestamp,
    /// Whose appointment it is.
    pub patient_id: PatientId,
    /// Who is reminded besides the patient; of one that is taken back, all to whom it
    /// may have been published.
    pub recipients: Vec<String>,
    /// IANA zone of the place.
    pub time_zone: String,
    /// Name of the place.
    pub location: Option<Redacted<String>>,
    /// True when the appointment has started, by the database's clock.
    pub started: bool,
    /// True when a later reminder of the same schedule is due as well.
    pub superseded: bool,
    /// True when somebody has claimed it before: the broker may have it.
    pub tried: bool,
}

/// How a claimed reminder ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReminderEnd {
    /// The broker has it.
    Fired,
    /// Its cancellation is published.
    Recalled,
    /// The appointment has started.
    TooLate,
    /// A later one takes its place.
    Superseded,
    /// A later one takes its place, and the broker may have it: it is taken back next.
    Withdrawn,
    /// It could not be published now.
    Released,
}

impl ReminderEnd {
    /// A metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fired => "fired",
            Self::Recalled => "recalled",
            Self::TooLate => "too_late",
            Self::Superseded => "superseded",
            Self::Withdrawn => "withdrawn",
            Self::Released => "released",
        }
    }
}

// The row says by its state what is to be done; the appointment gives the words. To
// whom it goes, and may have gone before, is kept for the case that it has to be taken
// back.
const CLAIM: &str = "
WITH due AS (
    SELECT appointment_id, schedule, offset_s, owner FROM appointment_reminder
     WHERE look_at <= now()
     ORDER BY look_at
     LIMIT $1
       FOR UPDATE SKIP LOCKED
), ours AS (
    UPDATE appointment_reminder r
       SET owner = $2, look_at = now() + $3::bigint * interval '1 millisecond', updated_at = now(),
           recipients = CASE WHEN r.state = 'planned'
                             THEN coalesce(r.recipients, '{}') || ARRAY(
                                  SELECT one FROM unnest(a.recipients) AS one
                                   WHERE one <> ALL (coalesce(r.recipients, '{}')))
                             ELSE r.recipients END
      FROM due JOIN appointment a USING (appointment_id)
     WHERE (r.appointment_id, r.schedule, r.offset_s) = (due.appointment_id, due.schedule, due.offset_s)
    RETURNING r.*, a.patient_id, a.time_zone, a.location, a.recipients AS wanted, due.owner AS tried_by
)
SELECT o.appointment_id, o.schedule, o.offset_s, o.state, o.starts_at, o.patient_id, o.time_zone, o.location,
       CASE WHEN o.state = 'planned' THEN o.wanted ELSE o.recipients END AS recipients,
       o.starts_at <= now() AS started, o.tried_by IS NOT NULL AS tried,
       EXISTS (SELECT FROM appointment_reminder later
                WHERE later.appointment_id = o.appointment_id AND later.schedule = o.schedule
                  AND later.offset_s < o.offset_s AND later.due_at <= now()
                  AND later.state IN ('planned', 'fired')) AS superseded
  FROM ours o
 ORDER BY o.due_at";

// A reminder that was called off while it was on its way to the broker is taken back
// at once. One that could not be published is looked at again soon.
const END: &str = "
UPDATE appointment_reminder r
   SET state = CASE WHEN e.ended = 'recalled' THEN 'recalled'
                    WHEN e.ended = 'released' OR r.state <> 'planned' THEN r.state
                    WHEN e.ended = 'withdrawn' THEN 'recalling'
                    WHEN e.ended = 'fired' THEN 'fired' ELSE 'skipped' END,
       reason = CASE WHEN e.ended = 'released' OR r.state <> 'planned' THEN r.reason
                     WHEN e.ended = 'fired' THEN 'published'
                     WHEN e.ended = 'withdrawn' THEN 'superseded' ELSE e.ended END,
       look_at = CASE WHEN e.ended = 'released' THEN now() + $6::bigint * interval '1 millisecond'
                      WHEN e.ended = 'withdrawn' OR e.ended <> 'recalled' AND r.state = 'recalling' THEN now() END,
       fired_at = CASE WHEN e.ended = 'fired' THEN coalesce(r.fired_at, now()) ELSE r.fired_at END,
       owner = CASE WHEN e.ended = 'released' THEN r.owner END, updated_at = now()
  FROM UNNEST($2::text[], $3::integer[], $4::integer[], $5::text[])
       AS e (appointment_id, schedule, offset_s, ended)
 WHERE (r.appointment_id, r.schedule, r.offset_s) = (e.appointment_id, e.schedule, e.offset_s)
   AND r.owner = $1 AND r.look_at IS NOT NULL";

impl Store {
    /// Claims due reminders for a while; rows of owners that died are among them.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn due_reminders(
        &self,
        limit: usize,
        lease: Duration,
    ) -> Result<Vec<DueReminder>, RecordError> {
        let at = RecordError::at("reminders_claim");
        let begun = Instant::now();
        let client = self.client().await?;
        let statement = client.prepare_cached(CLAIM).await.map_err(&at)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = client.query(&statement, &[&limit, &self.owner.0, &millis(lease)]).await.map_err(&at)?;
        metrics::statement("reminders_claim", rows.len(), begun.elapsed());
        rows.iter().map(due).collect()
    }

    /// Writes down how claimed reminders ended; those whose lease another one has by now
    /// are left alone. Released ones are due again after `pause`. Returns how many were ours.
    ///
    /// # Errors
    /// As [`RecordError`] tells.
    pub async fn end_reminders(
        &self,
        ended: &[(&DueReminder, ReminderEnd)],
        pause: Duration,
    ) -> Result<u64, RecordError> {
        let at = RecordError::at("reminders_end");
        let begun = Instant::now();
        let appointments: Vec<&str> = ended.iter().map(|(one, _)| one.appointment_id.as_str()).collect();
        let schedules: Vec<i32> = ended.iter().map(|(one, _)| one.schedule).collect();
        let offsets: Vec<i32> = ended.iter().map(|(one, _)| one.offset_s).collect();
        let words: Vec<&str> = ended.iter().map(|(_, end)| end.as_str()).collect();
        let client = self.client().await?;
        let statement = client.prepare_cached(END).await.map_err(&at)?;
        let written = client
            .execute(
                &statement,
                &[&self.owner.0, &appointments, &schedules, &offsets, &words, &millis(pause)],
            )
            .await
            .map_err(&at)?;
        metrics::statement("reminders_end", ended.len(), begun.elapsed());
        Ok(written)
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

fn due(row: &Row) -> Result<DueReminder, RecordError> {
    let patient_id = PatientId::parse(row.get("patient_id"));
    let state = ReminderState::parse(row.get("state"));
    Ok(DueReminder {
        appointment_id: row.get("appointment_id"),
        schedule: row.get("schedule"),
        offset_s: row.get("offset_s"),
        state: state.ok_or_else(|| RecordError::bug("a reminder is in an unknown state"))?,
        starts_at: row.get("starts_at"),
        patient_id: patient_id
            .ok_or_else(|| RecordError::bug("an appointment's patient has an unusable identifier"))?,
        recipients: row.get::<_, Option<Vec<String>>>("recipients").unwrap_or_default(),
        time_zone: row.get("time_zone"),
        location: row.get::<_, Option<String>>("location").map(Redacted::new),
        started: row.get("started"),
        superseded: row.get("superseded"),
        tried: row.get("tried"),
    })
}

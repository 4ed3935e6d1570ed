//! The lines of an export, section by section. A line is a row as it is stored, without
//! what only concurrent processes and the program need: a column that is added later is
//! in it.

use deadpool_postgres::Transaction;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::Pieces;
use crate::domain::{Channel, DeliveryId, NotificationId};
use crate::record::error::RecordError;

/// Lines that are fetched at a time; a line has at most some 70 KB.
const FETCH_ROWS: i32 = 200;

crate::domain::notification::words! {
    /// What a line of an export is about: its field `record`.
    Section {
        /// The patient as a recipient.
        Recipient = "recipient",
        /// Who hears of the patient, and within which limits.
        Access = "access",
        /// When the patient comes of age.
        ComingOfAge = "coming_of_age",
        /// An address or a device of the patient, used or retired.
        ContactPoint = "contact_point",
        /// An entry of the patient's consent ledger.
        Consent = "consent",
        /// An appointment.
        Appointment = "appointment",
        /// A reminder of an appointment.
        Reminder = "appointment_reminder",
        /// A notification about the patient, to the patient or to a proxy.
        Notification = "notification",
        /// What was tried on one channel.
        Delivery = "delivery",
        /// A decision about a notification.
        Why = "why",
    }
}

/// The patient's own recipients.
macro_rules! own {
    () => {
        "(SELECT recipient_id FROM visibility WHERE patient_id = $1 AND relation = 'patient')"
    };
}

impl Section {
    /// Lines of a patient (`$1`); of the notifications `$1` and deliveries `$2` for what
    /// belongs to notifications.
    const fn statement(self) -> &'static str {
        match self {
            Self::Recipient => {
                concat!("SELECT to_jsonb(r) FROM recipient r WHERE recipient_id IN ", own!(), " ORDER BY recipient_id")
            }
            Self::Access => {
                "SELECT to_jsonb(v) || jsonb_build_object('external_id', r.external_id)
                   FROM visibility v JOIN recipient r USING (recipient_id)
                  WHERE v.patient_id = $1 ORDER BY v.recipient_id"
            }
            Self::ComingOfAge => "SELECT to_jsonb(a) FROM coming_of_age a WHERE patient_id = $1",
            Self::ContactPoint => concat!(
                "SELECT to_jsonb(c) FROM contact_point c WHERE recipient_id IN ",
                own!(),
                " ORDER BY recipient_id, channel, position, address"
            ),
            Self::Consent => {
                concat!("SELECT to_jsonb(c) FROM consent c WHERE recipient_id IN ", own!(), " ORDER BY consent_id")
            }
            Self::Appointment => {
                "SELECT to_jsonb(a) FROM appointment a WHERE patient_id = $1 ORDER BY starts_at, appointment_id"
            }
            Self::Reminder => {
                "SELECT to_jsonb(m) - ARRAY['owner', 'look_at']
                   FROM appointment a JOIN appointment_reminder m USING (appointment_id)
                  WHERE a.patient_id = $1 ORDER BY m.appointment_id, m.schedule, m.due_at"
            }
            Self::Notification => {
                "SELECT to_jsonb(n) - ARRAY['fingerprint', CASE WHEN r.erased_at IS NOT NULL THEN 'variables' ELSE '' END],
                        n.notification_id
                   FROM notification n LEFT JOIN recipient r USING (recipient_id)
                  WHERE n.patient_id = $1 ORDER BY n.accepted_at, n.notification_id"
            }
            Self::Delivery => {
                "SELECT to_jsonb(d) - ARRAY['owner', 'epoch', CASE WHEN v.recipient_id IS NULL THEN 'address' ELSE '' END]
                   FROM delivery d JOIN notification n USING (notification_id)
                   LEFT JOIN visibility v ON v.patient_id = n.patient_id AND v.recipient_id = n.recipient_id
                                         AND v.relation = 'patient'
                  WHERE d.notification_id = ANY($1) AND d.delivery_id = ANY($2)
                  ORDER BY d.notification_id, d.position"
            }
            Self::Why => {
                "SELECT to_jsonb(w) FROM why w WHERE notification_id = ANY($1) AND cardinality($2::uuid[]) >= 0
                  ORDER BY why_id"
            }
        }
    }
}

/// Writes every section. False: there is too much.
pub(super) async fn write_all(out: &mut Pieces<'_>, patient: &str) -> Result<bool, RecordError> {
    for section in Section::ALL {
        let fits = match section {
            // They follow their notifications.
            Section::Delivery | Section::Why => true,
            Section::Notification => notifications(out, patient).await?,
            _ => rows(out, *section, &[&patient]).await?,
        };
        if !fits {
            return Ok(false);
        }
    }
    out.flush().await
}

/// The rows of one section, some at a time.
async fn rows(
    out: &mut Pieces<'_>,
    section: Section,
    parameters: &[&(dyn ToSql + Sync)],
) -> Result<bool, RecordError> {
    let at = RecordError::at(section.as_str());
    let tx = out.tx;
    let statement = tx.prepare_cached(&line_of(section, "")).await.map_err(&at)?;
    let portal = tx.bind(&statement, parameters).await.map_err(&at)?;
    loop {
        let found = tx.query_portal(&portal, FETCH_ROWS).await.map_err(&at)?;
        for row in &found {
            if !out.add(row.try_get("line")?).await? {
                return Ok(false);
            }
        }
        if is_last(found.len()) {
            return Ok(true);
        }
    }
}

/// Some notifications, then what belongs to them, and so on.
async fn notifications(out: &mut Pieces<'_>, patient: &str) -> Result<bool, RecordError> {
    let at = RecordError::at(Section::Notification.as_str());
    let tx: &Transaction<'_> = out.tx;
    let statement = tx.prepare_cached(&line_of(Section::Notification, ", id")).await.map_err(&at)?;
    let portal = tx.bind(&statement, &[&patient]).await.map_err(&at)?;
    loop {
        let found = tx.query_portal(&portal, FETCH_ROWS).await.map_err(&at)?;
        let mut ids: Vec<Uuid> = Vec::with_capacity(found.len());
        for row in &found {
            ids.push(row.try_get("id")?);
            if !out.add(row.try_get("line")?).await? {
                return Ok(false);
            }
        }
        let legs: Vec<Uuid> = ids
            .iter()
            .flat_map(|&id| Channel::ALL.iter().map(move |&channel| (NotificationId(id), channel)))
            .map(|(id, channel)| DeliveryId::for_channel(id, channel).0)
            .collect();
        for section in [Section::Delivery, Section::Why] {
            if !rows(out, section, &[&ids, &legs]).await? {
                return Ok(false);
            }
        }
        if is_last(found.len()) {
            return Ok(true);
        }
    }
}

fn is_last(found: usize) -> bool {
    i32::try_from(found).unwrap_or(i32::MAX) < FETCH_ROWS
}

fn line_of(section: Section, more: &str) -> String {
    let (name, content) = (section.as_str(), section.statement());
    let columns = if more.is_empty() { "content" } else { "content, id" };
    format!(
        "SELECT (jsonb_build_object('record', '{name}') || content)::text AS line{more} FROM ({content}) AS row ({columns})"
    )
}

//! Appointments: what a change of one means for its version, its reminders and what
//! the patient is told.

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::ids::PatientId;
use super::redacted::Redacted;

super::notification::words! {
    /// Where an appointment stands.
    AppointmentStatus {
        /// It is to take place.
        Booked = "booked",
        /// The patient will come.
        Confirmed = "confirmed",
        /// It does not take place.
        Cancelled = "cancelled",
    }
}

super::notification::words! {
    /// Where a reminder stands.
    ReminderState {
        /// It waits for its time.
        Planned = "planned",
        /// The broker has it.
        Fired = "fired",
        /// Its time had passed, or a later one took its place.
        Skipped = "skipped",
        /// It was called off before its time.
        Cancelled = "cancelled",
        /// The broker has, or may have it, and it no longer holds: it is being taken back.
        Recalling = "recalling",
        /// Its cancellation was published.
        Recalled = "recalled",
    }
}

super::notification::words! {
    /// What a change is called in a notice: keys of the templates' variable `change`,
    /// `updated` aside, for which they have other words.
    NoticeKind {
        /// It is new, or was booked again.
        Made = "made",
        /// Its start is another one.
        Moved = "moved",
        /// It does not take place.
        Cancelled = "cancelled",
        /// Its place changed.
        Updated = "updated",
    }
}

/// An appointment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appointment {
    /// Opaque; unique in the portal.
    pub id: String,
    /// Whose it is.
    pub patient_id: PatientId,
    /// Who is reminded besides the patient, by the portal's identifiers.
    pub recipients: Vec<String>,
    /// When it starts.
    pub starts_at: Timestamp,
    /// IANA zone of the place.
    pub time_zone: String,
    /// Name of the place; `None`: none, or erased.
    pub location: Option<Redacted<String>>,
    /// Where it stands.
    pub status: AppointmentStatus,
    /// Reminders before the start, in seconds, longest first.
    pub offsets_s: Vec<i32>,
    /// When the source last changed it, by the source's clock.
    pub source_updated_at: Option<Timestamp>,
    /// Grows with each change, from 1.
    pub version: i64,
    /// Grows when the start changes or it is booked again, from 1.
    pub schedule: i32,
    /// What the last change that is told of is called, and the version that brought it.
    pub notice: (NoticeKind, i64),
}

/// An appointment as a caller wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// As [`Appointment::id`].
    pub id: String,
    /// As [`Appointment::patient_id`].
    pub patient_id: PatientId,
    /// As [`Appointment::recipients`].
    pub recipients: Vec<String>,
    /// As [`Appointment::starts_at`].
    pub starts_at: Timestamp,
    /// As [`Appointment::time_zone`].
    pub time_zone: String,
    /// As [`Appointment::location`].
    pub location: Option<Redacted<String>>,
    /// `None`: booked, or confirmed as long as the start stays.
    pub status: Option<AppointmentStatus>,
    /// As [`Appointment::offsets_s`].
    pub offsets_s: Vec<i32>,
    /// `None`: newest.
    pub source_updated_at: Option<Timestamp>,
    /// The version that the caller has seen; 0: none; `None`: any.
    pub expected_version: Option<i64>,
}

/// What becomes of a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is written: new, or changed.
    Write(Appointment),
    /// It is so already; only the source's time may be newer.
    Unchanged(Appointment),
    /// The stored one is newer and stays.
    Outdated(Appointment),
    /// The stored one has another version than the caller has seen.
    VersionMismatch(i64),
    /// It is cancelled, and the wish does not say that it is to be booked again.
    Cancelled,
    /// The identifier belongs to another patient's appointment.
    OtherPatient,
}

impl Wanted {
    /// Decides what becomes of this wish, where `stored` is there.
    #[must_use]
    pub fn over(self, stored: Option<&Appointment>) -> Verdict {
        let Some(stored) = stored else {
            return match self.expected_version {
                Some(seen) if seen != 0 => Verdict::VersionMismatch(0),
                _ => Verdict::Write(self.first()),
            };
        };
        if stored.patient_id != self.patient_id {
            return Verdict::OtherPatient;
        }
        if self.source_updated_at.zip(stored.source_updated_at).is_some_and(|(wanted, known)| wanted < known)
        {
            return Verdict::Outdated(stored.clone());
        }
        if self.status.is_none() && stored.status == AppointmentStatus::Cancelled {
            return Verdict::Cancelled;
        }
        let expected = self.expected_version;
        let next = self.after(stored);
        let same = Appointment { source_updated_at: stored.source_updated_at, ..next.clone() };
        if same == *stored {
            return Verdict::Unchanged(next);
        }
        match expected {
            Some(seen) if seen != stored.version => Verdict::VersionMismatch(stored.version),
            _ => Verdict::Write(next.changed_from(stored)),
        }
    }

    fn first(self) -> Appointment {
        let status = self.status.unwrap_or(AppointmentStatus::Booked);
        let notice =
            if status == AppointmentStatus::Cancelled { NoticeKind::Cancelled } else { NoticeKind::Made };
        Appointment {
            id: self.id,
            patient_id: self.patient_id,
            recipients: self.recipients,
            starts_at: self.starts_at,
            time_zone: self.time_zone,
            location: self.location,
            status,
            offsets_s: self.offsets_s,
            source_updated_at: self.source_updated_at,
            version: 1,
            schedule: 1,
            notice: (notice, 1),
        }
    }

    /// The wish with the stored one's numbers.
    fn after(self, stored: &Appointment) -> Appointment {
        let kept = if self.starts_at == stored.starts_at { stored.status } else { AppointmentStatus::Booked };
        let status = self.status.unwrap_or(kept);
        let source_updated_at = self.source_updated_at.or(stored.source_updated_at);
        Appointment {
            status,
            source_updated_at,
            version: stored.version,
            schedule: stored.schedule,
            notice: stored.notice,
            ..self.first()
        }
    }
}

impl Appointment {
    /// This one with the numbers that the change from `old` brings.
    fn changed_from(mut self, old: &Self) -> Self {
        use AppointmentStatus::Cancelled;
        let rebooked = old.status == Cancelled && self.status != Cancelled;
        let moved = old.starts_at != self.starts_at;
        self.version = old.version + 1;
        self.schedule = old.schedule + i32::from(rebooked || moved);
        let placed = (&old.location, &old.time_zone) != (&self.location, &self.time_zone);
        let kind = match self.status {
            // One that stays cancelled and has another time or place is told as that: what
            // was told before had other words.
            Cancelled => (old.status != Cancelled || moved || placed).then_some(NoticeKind::Cancelled),
            _ if rebooked => Some(NoticeKind::Made),
            _ if moved => Some(NoticeKind::Moved),
            _ => placed.then_some(NoticeKind::Updated),
        };
        self.notice = kind.map_or(old.notice, |kind| (kind, self.version));
        self
    }

    /// This one in another state; `None`: it is in it already.
    #[must_use]
    pub fn with_status(&self, status: AppointmentStatus) -> Option<Self> {
        let next = Self { status, ..self.clone() };
        (next != *self).then(|| next.changed_from(self))
    }

    /// The offsets of which reminders are wanted: none of one that is cancelled, and
    /// of one that is confirmed those up to `confirmed_max_s`.
    #[must_use]
    pub fn wanted_offsets_s(&self, confirmed_max_s: i32) -> Vec<i32> {
        let longest = match self.status {
            AppointmentStatus::Booked => i32::MAX,
            AppointmentStatus::Confirmed => confirmed_max_s,
            AppointmentStatus::Cancelled => return Vec::new(),
        };
        self.offsets_s.iter().copied().filter(|&offset| offset <= longest).collect()
    }

    /// Template variables that tell of it. A zone that this build does not know reads
    /// as UTC; requests with such zones are refused.
    #[must_use]
    pub fn variables(&self) -> Vec<(String, String)> {
        variables(self.starts_at, &self.time_zone, self.location.as_ref())
    }
}

/// Template variables of an appointment: day, time and place as the patient reads them.
#[must_use]
pub fn variables(
    starts_at: Timestamp,
    time_zone: &str,
    location: Option<&Redacted<String>>,
) -> Vec<(String, String)> {
    let zone = TimeZone::get(time_zone).unwrap_or(TimeZone::UTC);
    let local = starts_at.to_zoned(zone);
    let mut variables = vec![
        ("appointment_date".to_owned(), local.strftime("%Y-%m-%d").to_string()),
        ("appointment_time".to_owned(), local.strftime("%H:%M").to_string()),
    ];
    variables.extend(location.map(|place| ("location".to_owned(), place.expose().clone())));
    variables
}

#[cfg(test)]
mod tests;

//! `retention`: what is kept no longer goes, class by class, page by page. What a step
//! has taken away is gone for the next one too, so a repeat finds nothing to do.

use serde::{Deserialize, Serialize};

use super::{Job, Missed, Step, StepError};
use crate::config;
use crate::domain::Purpose;
use crate::record::Store;
use crate::record::digest::Place;
use crate::record::ticks::Tick;

/// What is counted.
const NOTIFICATIONS: &str = "notifications";
const KEPT: &str = "notifications_kept";
const BATCH_ROWS: &str = "batch_rows";
const LOCATIONS: &str = "locations";
const REMINDERS: &str = "reminders";
const TICKS: &str = "ticks";

/// Days that things are kept.
#[derive(Debug, Clone)]
pub struct Days {
    purposes: Vec<(Purpose, u32)>,
    batches: u32,
    appointments: u32,
    ticks: u32,
}

impl Days {
    /// As configured.
    #[must_use]
    pub fn new(config: &config::Cron) -> Self {
        let of = |purpose| match purpose {
            Purpose::TestResult => config.retention_test_result_days,
            Purpose::AppointmentReminder => config.retention_appointment_reminder_days,
            Purpose::AppointmentConfirmation => config.retention_appointment_confirmation_days,
            Purpose::General => config.retention_general_days,
            Purpose::Campaign => config.retention_campaign_days,
        };
        Self {
            purposes: Purpose::ALL.iter().map(|purpose| (*purpose, of(*purpose))).collect(),
            batches: config.retention_batch_days,
            appointments: config.retention_appointment_days,
            ticks: config.retention_tick_days,
        }
    }
}

/// Erases and forgets.
pub struct Retention {
    /// The database.
    pub store: Store,
    /// How long.
    pub days: Days,
    /// Rows of one step.
    pub page_max: usize,
}

/// What is being gone through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cursor {
    /// Nothing yet.
    #[default]
    Start,
    /// Contents of notifications: which purpose, by its place in [`Purpose::ALL`], and the
    /// last notification that was looked at.
    Contents(usize, Option<Place>),
    /// Rows and values of batches.
    Batches,
    /// Places of appointments.
    Locations,
    /// Reminders that are over.
    Reminders,
    /// The history of ticks.
    Ticks,
}

impl Job for Retention {
    const NAME: &'static str = "retention";
    const MISSED: Missed = Missed::RunOnce;
    const COUNTS: &'static [&'static str] = &[NOTIFICATIONS, KEPT, BATCH_ROWS, LOCATIONS, REMINDERS, TICKS];
    type Cursor = Cursor;

    async fn step(&self, _: &Tick, cursor: &Cursor) -> Result<Step<Cursor>, StepError> {
        let limit = i64::try_from(self.page_max).unwrap_or(i64::MAX);
        let (store, days) = (&self.store, &self.days);
        match *cursor {
            Cursor::Start => self.contents(0, None, limit).await,
            Cursor::Contents(purpose, after) => self.contents(purpose, after, limit).await,
            Cursor::Batches => {
                // Of a batch that has fewer rows left, the rest has gone with them: there may
                // be another one.
                let rows = store.erase_old_batch(days.batches, limit).await?;
                let next = if rows.is_some() { Cursor::Batches } else { Cursor::Locations };
                Ok(Step { next: Some(next), counts: vec![(BATCH_ROWS, rows.unwrap_or(0))] })
            }
            Cursor::Locations => {
                let rows = store.erase_old_locations(days.appointments, limit).await?;
                Ok(self.until_few(rows, LOCATIONS, *cursor, Some(Cursor::Reminders)))
            }
            Cursor::Reminders => {
                let rows = store.drop_old_reminders(days.appointments, limit).await?;
                Ok(self.until_few(rows, REMINDERS, *cursor, Some(Cursor::Ticks)))
            }
            Cursor::Ticks => {
                let rows = store.prune_ticks(days.ticks, limit).await?;
                Ok(self.until_few(rows, TICKS, *cursor, None))
            }
        }
    }
}

impl Retention {
    async fn contents(
        &self,
        purpose: usize,
        after: Option<Place>,
        limit: i64,
    ) -> Result<Step<Cursor>, StepError> {
        let Some((of, days)) = self.days.purposes.get(purpose).copied() else {
            return Ok(Step { next: Some(Cursor::Batches), counts: Vec::new() });
        };
        let erased = self.store.erase_old_contents(of, days, after, limit).await?;
        let next = match erased.next {
            Some(place) => Cursor::Contents(purpose, Some(place)),
            None => Cursor::Contents(purpose.saturating_add(1), None),
        };
        Ok(Step { next: Some(next), counts: vec![(NOTIFICATIONS, erased.rows), (KEPT, erased.kept)] })
    }

    /// The same again while pages are full.
    fn until_few(&self, rows: u64, word: &'static str, same: Cursor, next: Option<Cursor>) -> Step<Cursor> {
        let is_full = usize::try_from(rows).unwrap_or(usize::MAX) >= self.page_max;
        Step { next: if is_full { Some(same) } else { next }, counts: vec![(word, rows)] }
    }
}

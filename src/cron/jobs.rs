//! The registry of jobs: what there is, when it is due, and what it needs.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::digest::Digest;
use super::retention::{Days, Retention};
use super::runner::Runner;
use super::schedule::{Schedule, ScheduleError};
use super::stale::Stale;
use super::{Job, Missed};
use crate::config::Config;
use crate::record::Store;
use crate::topic::encoder::Encoder;
use crate::topic::names::NOTIFICATIONS;
use crate::topic::producer::Producer;

/// A job as it is configured.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// Is it run at all?
    pub enabled: bool,
    /// When it is due.
    pub schedule: Schedule,
    /// What becomes of ticks that nobody ran in time.
    pub missed: Missed,
}

impl Entry {
    fn of<J: Job>(enabled: bool, expression: &str, zone: &str) -> Result<Self, ScheduleError> {
        let schedule = Schedule::parse(expression, zone)?;
        Ok(Self { name: J::NAME, enabled, schedule, missed: J::MISSED })
    }

    /// The next due time; `None`: it is off, or there is none within years.
    #[must_use]
    pub fn next(&self, now: Timestamp) -> Option<Timestamp> {
        if self.enabled { self.schedule.next(now) } else { None }
    }
}

/// Every job.
///
/// # Errors
/// When a schedule cannot be used.
pub fn entries(config: &Config) -> Result<[Entry; 3], ScheduleError> {
    let cron = &config.cron;
    Ok([
        Entry::of::<Digest>(cron.digest_enabled, &cron.digest_schedule, &cron.digest_time_zone)?,
        Entry::of::<Retention>(true, &cron.retention_schedule, &cron.retention_time_zone)?,
        Entry::of::<Stale>(true, &cron.stale_schedule, &cron.stale_time_zone)?,
    ])
}

/// What runners are made of.
pub struct Jobs {
    /// The configuration.
    pub config: Arc<Config>,
    /// The database.
    pub store: Store,
    /// The broker.
    pub producer: Arc<Producer>,
    /// Avro.
    pub encoder: Arc<Encoder>,
    /// Cancelled when the process stops.
    pub stop: CancellationToken,
}

impl Jobs {
    /// The digest's runner.
    ///
    /// # Errors
    /// As the next two: when its schedule cannot be used.
    pub fn digest(&self) -> Result<Runner<Digest>, ScheduleError> {
        let cron = &self.config.cron;
        let job = Digest {
            store: self.store.clone(),
            producer: Arc::clone(&self.producer),
            encoder: Arc::clone(&self.encoder),
            topic: NOTIFICATIONS.full_name(&self.config.kafka.topic_prefix),
            days: cron.digest_days,
            page_max: cron.page_max_rows,
        };
        self.runner(job, &cron.digest_schedule, &cron.digest_time_zone)
    }

    /// The retention's runner.
    ///
    /// # Errors
    /// When its schedule cannot be used.
    pub fn retention(&self) -> Result<Runner<Retention>, ScheduleError> {
        let cron = &self.config.cron;
        let job =
            Retention { store: self.store.clone(), days: Days::new(cron), page_max: cron.page_max_rows };
        self.runner(job, &cron.retention_schedule, &cron.retention_time_zone)
    }

    /// The runner that looks for what is overdue.
    ///
    /// # Errors
    /// When its schedule cannot be used.
    pub fn stale(&self) -> Result<Runner<Stale>, ScheduleError> {
        let cron = &self.config.cron;
        self.runner(Stale { store: self.store.clone() }, &cron.stale_schedule, &cron.stale_time_zone)
    }

    fn runner<J: Job>(&self, job: J, expression: &str, zone: &str) -> Result<Runner<J>, ScheduleError> {
        Ok(Runner {
            job,
            schedule: Schedule::parse(expression, zone)?,
            store: self.store.clone(),
            stop: self.stop.clone(),
            lease: Duration::from_millis(self.config.cron.lease_ms),
            poll_interval: Duration::from_millis(self.config.workers.poll_interval_ms),
        })
    }
}

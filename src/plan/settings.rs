//! `[plan]`, parsed once.

use std::time::Duration;

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::config;
use crate::domain::{Channel, Purpose, QuietHours};

/// A value of `[plan]` that cannot be used. The configuration is checked when it
/// is loaded, so this is met only by code that builds one by hand.
#[derive(Debug, thiserror::Error)]
#[error("plan.{key}: `{value}` is not {wanted}")]
pub struct PlanError {
    key: &'static str,
    value: String,
    wanted: &'static str,
}

/// Defaults and limits that plans depend on.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Locale of recipients who chose none.
    pub default_locale: String,
    /// Zone of recipients who chose none.
    pub default_time_zone: TimeZone,
    /// Quiet hours of recipients who chose none.
    pub quiet_hours: QuietHours,
    /// Channels of recipients who chose none, in order.
    pub default_channels: Vec<Channel>,
    /// How far ahead a message may be scheduled.
    pub schedule_max: SignedDuration,
    test_result_expiry: Duration,
    appointment_expiry: Duration,
    general_expiry: Duration,
    campaign_expiry: Duration,
}

impl Settings {
    /// Parses the section.
    ///
    /// # Errors
    /// Names the first key whose value cannot be used.
    pub fn new(config: &config::Plan) -> Result<Self, PlanError> {
        let channels = config.default_channels.iter().map(|word| {
            Channel::parse(word).ok_or_else(|| PlanError {
                key: "default_channels",
                value: word.clone(),
                wanted: "sms, email or push",
            })
        });
        Ok(Self {
            default_locale: config.default_locale.clone(),
            default_time_zone: TimeZone::get(&config.default_time_zone).map_err(|_| PlanError {
                key: "default_time_zone",
                value: config.default_time_zone.clone(),
                wanted: "an IANA time zone",
            })?,
            quiet_hours: QuietHours {
                start: time_of_day("quiet_hours_start", &config.quiet_hours_start)?,
                end: time_of_day("quiet_hours_end", &config.quiet_hours_end)?,
            },
            default_channels: channels.collect::<Result<_, _>>()?,
            schedule_max: signed(config.schedule_max_ms),
            test_result_expiry: Duration::from_millis(config.test_result_expiry_ms),
            appointment_expiry: Duration::from_millis(config.appointment_expiry_ms),
            general_expiry: Duration::from_millis(config.general_expiry_ms),
            campaign_expiry: Duration::from_millis(config.campaign_expiry_ms),
        })
    }

    /// When a message of this purpose, useful from `from` on, comes too late.
    #[must_use]
    pub fn expiry(&self, purpose: Purpose, from: Timestamp) -> Timestamp {
        let after = match purpose {
            Purpose::TestResult => self.test_result_expiry,
            Purpose::AppointmentReminder | Purpose::AppointmentConfirmation => self.appointment_expiry,
            Purpose::General => self.general_expiry,
            Purpose::Campaign => self.campaign_expiry,
        };
        from.saturating_add(after).unwrap_or(Timestamp::MAX)
    }

    /// A recipient's zone; the default for one that is not known.
    #[must_use]
    pub fn zone(&self, name: Option<&str>) -> TimeZone {
        name.and_then(|name| TimeZone::get(name).ok()).unwrap_or_else(|| self.default_time_zone.clone())
    }
}

/// Milliseconds as times of day and dates are reckoned with.
fn signed(ms: u64) -> SignedDuration {
    SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX))
}

fn time_of_day(key: &'static str, value: &str) -> Result<Time, PlanError> {
    Time::strptime("%H:%M", value).map_err(|_| PlanError {
        key,
        value: value.to_owned(),
        wanted: "a time of day like 21:00",
    })
}

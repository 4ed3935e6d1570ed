//! When a job is due: a cron expression in a time zone, right about daylight saving.
//!
//! The expression is walked on the clock on the wall, and each time on it becomes one
//! instant: one that clocks jump over becomes the instant of the jump, one that comes
//! twice its first. So nothing is due twice, and nothing is left out.

use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

/// How far back the latest due time is looked for.
const LOOK_BACK: SignedDuration = SignedDuration::from_hours(24 * 366 * 5);
/// The first look back; each next one is four times as far.
const FIRST_LOOK_BACK: SignedDuration = SignedDuration::from_hours(1);
/// Due times between two instants are counted up to here.
pub const COUNTED_MAX: u32 = 1000;

/// Why a schedule cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not five fields of a cron expression.
    #[error(
        "{0:?} is no cron expression: minute hour day-of-month month day-of-week, for example 30 3 * * *"
    )]
    Expression(String),
    /// Not in the IANA data base.
    #[error("{0:?} is no IANA time zone such as Europe/Zurich")]
    Zone(String),
}

/// A cron expression in a time zone.
#[derive(Debug, Clone)]
pub struct Schedule {
    expression: String,
    // In UTC: its times are those on the wall.
    wall: cronexpr::Crontab,
    zone: TimeZone,
    zone_name: String,
}

impl Schedule {
    /// Five fields (minute, hour, day of month, month, day of week), and an IANA zone.
    ///
    /// # Errors
    /// [`ScheduleError`] names the part that cannot be used.
    pub fn parse(expression: &str, zone: &str) -> Result<Self, ScheduleError> {
        let wall = cronexpr::parse_crontab(&format!("{expression} UTC"));
        Ok(Self {
            expression: expression.to_owned(),
            wall: wall.map_err(|_| ScheduleError::Expression(expression.to_owned()))?,
            zone: TimeZone::get(zone).map_err(|_| ScheduleError::Zone(zone.to_owned()))?,
            zone_name: zone.to_owned(),
        })
    }

    /// The expression.
    #[must_use]
    pub fn expression(&self) -> &str {
        &self.expression
    }

    /// The zone's name.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone_name
    }

    /// The first due time after an instant; `None`: there is none within years.
    #[must_use]
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let mut wall = self.zone.to_datetime(after);
        loop {
            wall = self.next_on_wall(wall)?;
            let due = self.instant(wall)?;
            // The second run of an hour that comes twice: its times were due in the first.
            if due > after {
                return Some(due);
            }
        }
    }

    /// The last due time until an instant, that one included; `None`: there is none
    /// within five years.
    #[must_use]
    pub fn latest(&self, until: Timestamp) -> Option<Timestamp> {
        let mut back = FIRST_LOOK_BACK;
        loop {
            let mut latest = None;
            let mut next = self.next(until.checked_sub(back).ok()?);
            while let Some(due) = next.filter(|due| *due <= until) {
                latest = Some(due);
                next = self.next(due);
            }
            if latest.is_some() || back >= LOOK_BACK {
                return latest;
            }
            back = (back * 4).min(LOOK_BACK);
        }
    }

    /// How many due times lie after `after` and before `before`, at most [`COUNTED_MAX`].
    #[must_use]
    pub fn between(&self, after: Timestamp, before: Timestamp) -> u32 {
        let mut count = 0;
        let mut next = self.next(after);
        while let Some(due) = next.filter(|due| *due < before && count < COUNTED_MAX) {
            count += 1;
            next = self.next(due);
        }
        count
    }

    fn next_on_wall(&self, wall: DateTime) -> Option<DateTime> {
        let as_utc = TimeZone::UTC.to_timestamp(wall).ok()?;
        let next = self.wall.find_next(as_utc).ok()?;
        Some(next.datetime())
    }

    /// The one instant of a time on the wall.
    fn instant(&self, wall: DateTime) -> Option<Timestamp> {
        let ambiguous = self.zone.to_ambiguous_timestamp(wall);
        match ambiguous.offset() {
            AmbiguousOffset::Gap { before, .. } => {
                // By the old offset it lies at the jump or after it.
                let after = before.to_timestamp(wall).ok()?.checked_add(SignedDuration::from_secs(1)).ok()?;
                let jump = self.zone.preceding(after).next()?;
                Some(jump.timestamp())
            }
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => ambiguous.earlier().ok(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn due(expression: &str, zone: &str, from: &str, count: usize) -> Vec<String> {
        let schedule = Schedule::parse(expression, zone).unwrap();
        std::iter::successors(schedule.next(at(from)), |last| schedule.next(*last))
            .take(count)
            .map(|due| due.to_string())
            .collect()
    }

    #[test]
    fn a_time_that_clocks_jump_over_is_due_at_the_jump_once() {
        for (zone, from, expected) in [
            // 02:00 becomes 03:00 on 29 March.
            (
                "Europe/Zurich",
                "2026-03-27T12:00:00Z",
                ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
            ),
            // 02:00 becomes 03:00 on 8 March.
            (
                "America/New_York",
                "2026-03-06T12:00:00Z",
                ["2026-03-07T07:30:00Z", "2026-03-08T07:00:00Z", "2026-03-09T06:30:00Z"],
            ),
        ] {
            assert_eq!(due("30 2 * * *", zone, from, 3), expected, "{zone}");
        }
        // 02:00 becomes 02:30 on 4 October: half an hour.
        assert_eq!(
            due("15 2 * * *", "Australia/Lord_Howe", "2026-10-02T20:00:00Z", 2),
            ["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"]
        );
        // Several times of one jump are due once.
        assert_eq!(
            due("0,20,40 2 * * *", "Europe/Zurich", "2026-03-29T00:00:00Z", 2),
            ["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"]
        );
    }

    #[test]
    fn a_time_that_comes_twice_is_due_once() {
        for (expression, zone, from, expected) in [
            // 03:00 becomes 02:00 on 25 October.
            (
                "30 2 * * *",
                "Europe/Zurich",
                "2026-10-24T12:00:00Z",
                ["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
            ),
            // 02:00 becomes 01:00 on 1 November.
            (
                "30 1 * * *",
                "America/New_York",
                "2026-10-31T12:00:00Z",
                ["2026-11-01T05:30:00Z", "2026-11-02T06:30:00Z"],
            ),
            // 02:00 becomes 01:30 on 5 April.
            (
                "45 1 * * *",
                "Australia/Lord_Howe",
                "2026-04-04T00:00:00Z",
                ["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"],
            ),
        ] {
            assert_eq!(due(expression, zone, from, 2), expected, "{zone}");
        }
        // Asked within the second run, the times of the first are over.
        let schedule = Schedule::parse("30 2 * * *", "Europe/Zurich").unwrap();
        assert_eq!(schedule.next(at("2026-10-25T01:10:00Z")), Some(at("2026-10-26T01:30:00Z")));
        assert_eq!(schedule.latest(at("2026-10-25T01:45:00Z")), Some(at("2026-10-25T00:30:00Z")));
    }

    #[test]
    fn the_latest_due_time_and_those_before_it_are_found() {
        let yearly = Schedule::parse("0 0 29 2 *", "UTC").unwrap();
        assert_eq!(yearly.latest(at("2027-06-01T00:00:00Z")), Some(at("2024-02-29T00:00:00Z")));
        let minutes = Schedule::parse("* * * * *", "UTC").unwrap();
        let now = at("2026-06-01T10:00:30Z");
        assert_eq!(minutes.latest(now), Some(at("2026-06-01T10:00:00Z")));
        assert_eq!(minutes.latest(at("2026-06-01T10:00:00Z")), Some(at("2026-06-01T10:00:00Z")));
        assert_eq!(minutes.between(at("2026-06-01T09:50:00Z"), at("2026-06-01T10:00:00Z")), 9);
        assert_eq!(minutes.between(at("2020-06-01T09:50:00Z"), now), COUNTED_MAX);
        let never = Schedule::parse("0 0 31 2 *", "UTC").unwrap();
        assert_eq!((never.next(now), never.latest(now)), (None, None));
    }

    #[test]
    fn what_is_no_schedule_says_which_part() {
        let expression = Schedule::parse("61 * * * *", "UTC").unwrap_err();
        assert_eq!(expression, ScheduleError::Expression("61 * * * *".to_owned()));
        assert!(Schedule::parse("* * * * * UTC", "UTC").is_err());
        assert_eq!(Schedule::parse("* * * * *", "Mars").unwrap_err(), ScheduleError::Zone("Mars".to_owned()));
    }
}

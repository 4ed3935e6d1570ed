//! Quiet hours, in the recipient's own time zone, over any change of clocks.

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};

use crate::domain::QuietHours;

/// The end of the quiet hours that `at` lies in; `None` when it lies in none.
///
/// `start` is the first quiet minute and `end` the first one after; `start` after
/// `end` runs over midnight; equal means that there are no quiet hours. A time of
/// day that a change of clocks skips is taken as far behind the gap as it lies in it,
/// one that occurs twice at its first occurrence (jiff's "compatible" rule, RFC 5545):
/// whoever asks between the two is not in quiet hours any more.
#[must_use]
pub fn end_of_quiet_hours(at: Timestamp, quiet: QuietHours, zone: &TimeZone) -> Option<Timestamp> {
    if quiet.start == quiet.end {
        return None;
    }
    let local = at.to_zoned(zone.clone());
    let (time, date) = (local.time(), local.date());
    let end_date = if is_between(time, quiet.start, quiet.end) {
        // Over midnight and before it: the end is tomorrow's.
        if quiet.start > quiet.end && time >= quiet.start { date.checked_add(1.day()).ok()? } else { date }
    } else {
        return None;
    };
    let end = end_date.to_datetime(quiet.end).to_zoned(zone.clone()).ok()?.timestamp();
    (end > at).then_some(end)
}

fn is_between(time: Time, start: Time, end: Time) -> bool {
    if start < end { start <= time && time < end } else { time >= start || time < end }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use jiff::civil::time;
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    const NIGHT: QuietHours = QuietHours { start: time(21, 0, 0, 0), end: time(8, 0, 0, 0) };

    fn end(text: &str, zone: &str) -> Option<String> {
        end_of_quiet_hours(at(text), NIGHT, &TimeZone::get(zone).unwrap()).map(|end| end.to_string())
    }

    #[test]
    fn the_night_ends_in_the_recipients_own_morning() {
        // 23:30 in New York (EST, -5) is 04:30 UTC.
        assert_eq!(end("2026-01-10T04:30:00Z", "America/New_York").as_deref(), Some("2026-01-10T13:00:00Z"));
        assert_eq!(end("2026-01-10T04:30:00Z", "Asia/Tokyo"), None);
    }

    #[test]
    fn the_bounds_are_first_quiet_and_first_after() {
        assert_eq!(end("2026-01-10T20:59:59Z", "UTC"), None);
        assert_eq!(end("2026-01-10T21:00:00Z", "UTC").as_deref(), Some("2026-01-11T08:00:00Z"));
        assert_eq!(end("2026-01-11T07:59:59Z", "UTC").as_deref(), Some("2026-01-11T08:00:00Z"));
        assert_eq!(end("2026-01-11T08:00:00Z", "UTC"), None);
    }

    #[test]
    fn clocks_that_go_forward_or_back_do_not_move_the_morning() {
        // Spring forward in New York on 2026-03-08: 8:00 is EDT (-4).
        assert_eq!(end("2026-03-08T04:30:00Z", "America/New_York").as_deref(), Some("2026-03-08T12:00:00Z"));
        // Fall back on 2026-11-01: 8:00 is EST (-5).
        assert_eq!(end("2026-11-01T03:30:00Z", "America/New_York").as_deref(), Some("2026-11-01T13:00:00Z"));
    }

    #[test]
    fn an_end_that_is_skipped_or_occurs_twice_comes_once() {
        let zone = TimeZone::get("America/New_York").unwrap();
        let until = |minute| QuietHours { start: time(21, 0, 0, 0), end: minute };
        let end =
            |text: &str, end| end_of_quiet_hours(at(text), until(end), &zone).map(|end| end.to_string());
        // 2:30 is skipped on 2026-03-08.
        assert_eq!(
            end("2026-03-08T04:30:00Z", time(2, 30, 0, 0)).as_deref(),
            Some("2026-03-08T07:30:00Z"),
            "3:30 EDT"
        );
        // 1:30 comes twice on 2026-11-01: at 5:30 and at 6:30 UTC.
        let twice = time(1, 30, 0, 0);
        assert_eq!(end("2026-11-01T05:29:59Z", twice).as_deref(), Some("2026-11-01T05:30:00Z"));
        assert_eq!(end("2026-11-01T05:30:00Z", twice), None);
        assert_eq!(end("2026-11-01T06:15:00Z", twice), None, "1:15 for the second time");
    }

    #[test]
    fn equal_bounds_mean_never() {
        let never = QuietHours { start: time(0, 0, 0, 0), end: time(0, 0, 0, 0) };
        assert_eq!(end_of_quiet_hours(at("2026-01-10T00:00:00Z"), never, &TimeZone::UTC), None);
    }

    proptest! {
        #[test]
        fn the_end_lies_ahead_and_outside(
            second in 1_700_000_000_i64..1_900_000_000,
            start in 0_i8..24, end in 0_i8..24,
            zone in prop::sample::select(vec![
                "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kolkata", "Pacific/Apia",
            ]),
        ) {
            let zone = TimeZone::get(zone).unwrap();
            let quiet = QuietHours { start: time(start, 0, 0, 0), end: time(end, 0, 0, 0) };
            let now = Timestamp::from_second(second).unwrap();
            if let Some(end) = end_of_quiet_hours(now, quiet, &zone) {
                prop_assert!(end > now);
                prop_assert!(end.duration_since(now) <= SignedDuration::from_hours(25));
            }
        }
    }
}

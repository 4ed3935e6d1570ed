//! Batches: their states, and when they will be done.

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

super::notification::words! {
    /// Where a batch stands.
    BatchState {
        /// It has no recipients yet.
        Draft = "draft",
        /// It has some, and there are more to come.
        Uploading = "uploading",
        /// It has all of them.
        Ready = "ready",
        /// It is released for publishing.
        Running = "running",
        /// It is held back.
        Paused = "paused",
        /// Every recipient is published.
        Done = "done",
        /// It was ended before that, by its caller or by its expiry.
        Cancelled = "cancelled",
    }
}

super::notification::words! {
    /// What can be done to a batch.
    BatchAction {
        /// Recipients are added.
        Upload = "upload",
        /// There are no more recipients to come.
        Complete = "complete",
        /// It is released.
        Start = "start",
        /// It is held back.
        Pause = "pause",
        /// It goes on.
        Resume = "resume",
        /// It is ended for good.
        Cancel = "cancel",
        /// The last recipient was published.
        Finish = "finish",
    }
}

impl BatchState {
    /// The state after an action; `None`: the action is not possible in this one. An
    /// action that a batch has already been through in its last step changes nothing, so
    /// that a repeated call is answered as the first.
    #[must_use]
    pub const fn after(self, action: BatchAction) -> Option<Self> {
        use BatchAction as Do;
        Some(match (self, action) {
            (Self::Draft | Self::Uploading, Do::Upload) => Self::Uploading,
            (Self::Draft | Self::Uploading | Self::Ready, Do::Complete) => Self::Ready,
            (Self::Ready | Self::Running, Do::Start) => Self::Running,
            (Self::Running | Self::Paused, Do::Pause) => Self::Paused,
            (Self::Paused | Self::Running, Do::Resume) => Self::Running,
            (Self::Running | Self::Done, Do::Finish) => Self::Done,
            (
                Self::Draft | Self::Uploading | Self::Ready | Self::Running | Self::Paused | Self::Cancelled,
                Do::Cancel,
            ) => Self::Cancelled,
            _ => return None,
        })
    }

    /// Nothing more becomes of it.
    #[must_use]
    pub const fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled)
    }
}

/// Times of day, every day, in which a batch is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SendWindow {
    /// First minute; after `end` it runs over midnight.
    pub start: Time,
    /// First minute after it; not the same as `start`.
    pub end: Time,
    /// IANA zone.
    pub time_zone: String,
}

impl SendWindow {
    /// The end of the opening that holds `at`; or, when it is closed, the time of its
    /// next opening. A zone that this build does not know reads as UTC.
    fn look(&self, at: Timestamp) -> Opening {
        let zone = TimeZone::get(&self.time_zone).unwrap_or(TimeZone::UTC);
        let local = at.to_zoned(zone.clone());
        let time = local.time();
        let open = if self.start < self.end {
            (self.start..self.end).contains(&time)
        } else {
            time >= self.start || time < self.end
        };
        let until = if open { self.end } else { self.start };
        let days = i64::from(until <= time);
        let next = local
            .date()
            .checked_add(SignedDuration::from_hours(24 * days))
            .ok()
            .and_then(|date| zone.to_ambiguous_zoned(date.to_datetime(until)).compatible().ok())
            // A clock that jumps over the bound brings it forward; time goes on in any case.
            .map_or(at, |zoned| zoned.timestamp())
            .max(at + SignedDuration::from_secs(1));
        if open { Opening::OpenUntil(next) } else { Opening::ClosedUntil(next) }
    }

    /// When it opens next; `None`: it is open at this time.
    #[must_use]
    pub fn opens_at(&self, at: Timestamp) -> Option<Timestamp> {
        match self.look(at) {
            Opening::OpenUntil(_) => None,
            Opening::ClosedUntil(start) => Some(start),
        }
    }
}

enum Opening {
    OpenUntil(Timestamp),
    ClosedUntil(Timestamp),
}

/// Days that an estimate looks ahead, at most.
const ETA_MAX_DAYS: i32 = 732;

/// When the last of `remaining` recipients will be published at a rate, within a window,
/// by a publisher that runs from now on; `None`: not within two years, or it stands.
#[must_use]
pub fn eta(
    remaining: i64,
    rate_per_s: f64,
    window: Option<&SendWindow>,
    now: Timestamp,
) -> Option<Timestamp> {
    if rate_per_s <= 0.0 {
        return None;
    }
    // What is beyond the type's range is beyond any estimate.
    #[allow(clippy::cast_possible_truncation, reason = "it stops at the bounds")]
    let seconds = (remaining.max(0) as f64 / rate_per_s).ceil() as i64;
    let mut left = SignedDuration::from_secs(seconds);
    let Some(window) = window else {
        return now.checked_add(left).ok();
    };
    let mut at = now;
    for _ in 0..2 * ETA_MAX_DAYS {
        match window.look(at) {
            Opening::OpenUntil(end) => {
                let open = end.duration_since(at);
                if left <= open {
                    return at.checked_add(left).ok();
                }
                left -= open;
                at = end;
            }
            Opening::ClosedUntil(start) => at = start,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_goes_its_way_and_no_other() {
        use BatchAction as Do;
        let way = [Do::Upload, Do::Upload, Do::Complete, Do::Start, Do::Pause, Do::Resume, Do::Finish];
        let end = way.iter().try_fold(BatchState::Draft, |state, &action| state.after(action));
        assert_eq!(end, Some(BatchState::Done));
        let possible: Vec<(&str, Vec<&str>)> = BatchState::ALL
            .iter()
            .map(|state| {
                let can = Do::ALL.iter().filter(|&&action| state.after(action).is_some());
                (state.as_str(), can.map(|action| action.as_str()).collect())
            })
            .collect();
        assert_eq!(
            possible,
            [
                ("draft", vec!["upload", "complete", "cancel"]),
                ("uploading", vec!["upload", "complete", "cancel"]),
                ("ready", vec!["complete", "start", "cancel"]),
                ("running", vec!["start", "pause", "resume", "cancel", "finish"]),
                ("paused", vec!["pause", "resume", "cancel"]),
                ("done", vec!["finish"]),
                ("cancelled", vec!["cancel"]),
            ]
        );
    }

    #[test]
    fn a_repeated_action_changes_nothing_and_an_end_stays() {
        for &state in BatchState::ALL {
            for &action in BatchAction::ALL {
                let Some(next) = state.after(action) else { continue };
                assert_eq!(next.after(action), Some(next), "{state} {action}");
                assert!(!state.is_over() || next == state, "{state} {action}");
            }
        }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn window(start: i8, end: i8) -> SendWindow {
        SendWindow {
            start: Time::constant(start, 0, 0, 0),
            end: Time::constant(end, 0, 0, 0),
            time_zone: "Europe/Vienna".to_owned(),
        }
    }

    #[test]
    fn an_estimate_counts_open_hours_only() {
        let now = at("2026-11-22T17:00:00Z");
        assert_eq!(eta(7200, 2.0, None, now), Some(at("2026-11-22T18:00:00Z")));
        assert_eq!(eta(0, 2.0, None, now), Some(now));
        assert_eq!(eta(1, 2.0, None, now), Some(at("2026-11-22T17:00:01Z")), "a part of a second is one");
        // Vienna is an hour ahead: open until 19:00Z, and again from 07:00Z.
        let day = window(8, 20);
        assert_eq!(day.opens_at(now), None);
        assert_eq!(day.opens_at(at("2026-11-22T19:00:00Z")), Some(at("2026-11-23T07:00:00Z")));
        assert_eq!(eta(3 * 3600, 1.0, Some(&day), now), Some(at("2026-11-23T08:00:00Z")));
        let night = window(20, 8);
        assert_eq!(night.opens_at(now), Some(at("2026-11-22T19:00:00Z")));
        assert_eq!(night.opens_at(at("2026-11-22T23:30:00Z")), None);
        assert_eq!(eta(3600, 1.0, Some(&night), now), Some(at("2026-11-22T20:00:00Z")));
        assert_eq!(eta(i64::MAX / 2, 1.0, Some(&day), now), None);
        assert_eq!(eta(1, 0.0, None, now), None, "it stands");
    }

    #[test]
    fn a_night_in_which_clocks_change_is_as_long_as_it_is() {
        // 2026-10-25: clocks in Vienna go back at 03:00, so 00:00 to 08:00 are nine hours.
        let night = window(0, 8);
        let begin = at("2026-10-24T22:00:00Z");
        assert_eq!(eta(9 * 3600, 1.0, Some(&night), begin), Some(at("2026-10-25T07:00:00Z")));
    }
}

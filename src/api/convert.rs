//! Between the contract's words and the domain's: total in both directions, so that
//! a new word does not compile before it is given a meaning here.

use jiff::Timestamp;
use jiff::civil::Time;

use super::proto;
use crate::domain::appointment::{AppointmentStatus, ReminderState};
use crate::domain::batch::BatchState;
use crate::domain::job::JobState;
use crate::domain::{
    Channel, Engagement, Platform, Purpose, QuietHours, ReceiptStatus, Relation, State, Strategy, Urgency,
};

/// A pair of functions for each enum; `*_UNSPECIFIED` is `None`.
macro_rules! both_ways {
    ($type:ident, $from:ident, $to:ident, $unspecified:ident, { $($word:ident),+ $(,)? }) => {
        /// The domain's word; `None` for the unspecified one.
        #[must_use]
        pub const fn $from(word: proto::$type) -> Option<$type> {
            match word {
                proto::$type::$unspecified => None,
                $(proto::$type::$word => Some($type::$word),)+
            }
        }

        /// The contract's word.
        #[must_use]
        pub const fn $to(word: $type) -> proto::$type {
            match word { $($type::$word => proto::$type::$word,)+ }
        }
    };
}

both_ways!(Purpose, purpose_from, purpose_to, Unspecified, {
    TestResult, AppointmentReminder, AppointmentConfirmation, General, Campaign,
});
both_ways!(Urgency, urgency_from, urgency_to, Unspecified, { Bulk, Normal, High, Critical });
both_ways!(Channel, channel_from, channel_to, Unspecified, { Sms, Email, Push });
both_ways!(Strategy, strategy_from, strategy_to, Unspecified, { InOrder, AllAtOnce });
both_ways!(Platform, platform_from, platform_to, Unspecified, { Android, Ios, Web });
both_ways!(Relation, relation_from, relation_to, Unspecified, { Patient, Proxy });
both_ways!(Engagement, engagement_from, engagement_to, Unspecified, { Seen, Read, Acted });
both_ways!(ReceiptStatus, receipt_status_from, receipt_status_to, Unspecified, {
    Accepted, Sent, Delivered, Complained, Undelivered, Failed, Bounced, TokenInvalid,
});
both_ways!(State, state_from, state_to, Unspecified, {
    Accepted, Held, Queued, Dispatching, Sent, Delivered, TemporaryFailure, OutcomeUnknown,
    PermanentFailure, TechnicalFailure, Expired, Cancelled, Suppressed,
});

both_ways!(AppointmentStatus, appointment_status_from, appointment_status_to, Unspecified, {
    Booked, Confirmed, Cancelled,
});
both_ways!(ReminderState, reminder_state_from, reminder_state_to, Unspecified, {
    Planned, Fired, Skipped, Cancelled, Recalling, Recalled,
});
both_ways!(JobState, job_state_from, job_state_to, Unspecified, { Queued, Running, Done, Parked, Cancelled });
both_ways!(BatchState, batch_state_from, batch_state_to, Unspecified, {
    Draft, Uploading, Ready, Running, Paused, Done, Cancelled,
});

/// The contract's form of a time.
#[must_use]
pub fn timestamp_to(time: Timestamp) -> prost_types::Timestamp {
    // Before 1970 the fraction of a jiff time is negative; the contract counts it up.
    let (seconds, nanos) = match (time.as_second(), time.subsec_nanosecond()) {
        (seconds, nanos) if nanos < 0 => (seconds - 1, nanos + 1_000_000_000),
        parts => parts,
    };
    prost_types::Timestamp { seconds, nanos }
}

/// `HH:MM`; `None` for anything else.
#[must_use]
pub fn minute_from(text: &str) -> Option<Time> {
    let shaped = text.len() == 5 && text.as_bytes()[2] == b':';
    shaped.then(|| Time::strptime("%H:%M", text).ok()).flatten()
}

/// The contract's form of quiet hours.
#[must_use]
pub fn quiet_hours_to(quiet: QuietHours) -> proto::QuietHours {
    proto::QuietHours { start: minute_to(quiet.start), end: minute_to(quiet.end) }
}

/// `HH:MM`.
#[must_use]
pub fn minute_to(time: Time) -> String {
    format!("{:02}:{:02}", time.hour(), time.minute())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_keep_their_spelling_in_the_contract() {
        for &state in State::ALL {
            let spelled = format!("STATE_{}", state.as_str().to_uppercase());
            assert_eq!(state_to(state).as_str_name(), spelled);
            assert_eq!(state_from(state_to(state)), Some(state));
        }
        for &purpose in Purpose::ALL {
            assert_eq!(
                purpose_to(purpose).as_str_name(),
                format!("PURPOSE_{}", purpose.as_str().to_uppercase())
            );
        }
        for &strategy in Strategy::ALL {
            let spelled = format!("STRATEGY_{}", strategy.as_str().to_uppercase());
            assert_eq!(strategy_to(strategy).as_str_name(), spelled);
        }
        for &engagement in Engagement::ALL {
            let spelled = format!("ENGAGEMENT_{}", engagement.as_str().to_uppercase());
            assert_eq!(engagement_to(engagement).as_str_name(), spelled);
        }
        for &platform in Platform::ALL {
            let spelled = format!("PLATFORM_{}", platform.as_str().to_uppercase());
            assert_eq!(platform_to(platform).as_str_name(), spelled);
        }
        for &status in ReceiptStatus::ALL {
            let spelled = format!("RECEIPT_STATUS_{}", status.as_str().to_uppercase());
            assert_eq!(receipt_status_to(status).as_str_name(), spelled);
        }
        assert_eq!(channel_from(proto::Channel::Unspecified), None);
    }

    #[test]
    fn times_before_the_epoch_keep_a_positive_fraction() {
        let time = Timestamp::from_nanosecond(-1).unwrap();
        assert_eq!(timestamp_to(time), prost_types::Timestamp { seconds: -1, nanos: 999_999_999 });
        let time = Timestamp::from_nanosecond(1_500_000_000).unwrap();
        assert_eq!(timestamp_to(time), prost_types::Timestamp { seconds: 1, nanos: 500_000_000 });
    }

    #[test]
    fn minutes_are_two_digits_each() {
        assert_eq!(minute_from("21:05"), Some(Time::constant(21, 5, 0, 0)));
        for bad in ["", "9:00", "24:00", "12:60", "12-00", "12:00:00", "ab:cd", "1é:0"] {
            assert_eq!(minute_from(bad), None, "{bad}");
        }
    }
}

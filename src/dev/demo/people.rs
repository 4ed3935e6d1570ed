//! Whom the demonstration writes to.

use jiff::civil::time;
use jiff::{SignedDuration, Timestamp};

use crate::config::Config;
use crate::domain::{Channel, Purpose, QuietHours, Redacted, Relation};
use crate::record::recipients::{ConsentUpsert, ContactPointUpsert, RecipientUpsert};
use crate::topic::sample::sample_patient;

/// The recipients of one patient: mostly the patient alone, and now and then
/// somebody whom a portal has to get right.
pub(super) fn recipients_of(number: u64) -> Vec<RecipientUpsert> {
    let patient = sample_patient(number);
    let name = patient.as_str().to_owned();
    let mut own = RecipientUpsert {
        external_id: name.clone(),
        patients: vec![(patient.clone(), Relation::Patient)],
        display_name: Some(Redacted::new(format!("Patient {number}"))),
        locale: (number.is_multiple_of(5)).then(|| "es".to_owned()),
        time_zone: None,
        quiet_hours: Some(never_quiet()),
        channel_order: match number % 20 {
            0..=9 => vec![Channel::Sms, Channel::Email],
            10..=14 => vec![Channel::Email, Channel::Sms],
            _ => vec![Channel::Push, Channel::Sms],
        },
        contact_points: contact_points(number),
        consents: Channel::ALL.iter().map(|&channel| word(channel, Purpose::Campaign, true)).collect(),
    };
    match number % 100 {
        // Opted out of everything about results.
        7 => {
            own.consents
                .extend(Channel::ALL.iter().map(|&channel| word(channel, Purpose::TestResult, false)));
        }
        // Never agreed to campaigns.
        47 | 57 => own.consents.clear(),
        // Reachable nowhere.
        17 => own.contact_points.clear(),
        // A number that the carrier refuses: the next channel follows.
        27 => own.contact_points.iter_mut().filter(|point| point.channel == Channel::Sms).for_each(|point| {
            point.address = Redacted::new("+15005550001".to_owned());
        }),
        // Asleep now, wherever the clock stands.
        37 => own.quiet_hours = Some(quiet_now()),
        _ => {}
    }
    let mut all = vec![own];
    if number.is_multiple_of(10) {
        all.push(RecipientUpsert {
            external_id: format!("proxy-{number:06}"),
            patients: vec![(patient, Relation::Proxy)],
            display_name: Some(Redacted::new(format!("Proxy of patient {number}"))),
            locale: None,
            time_zone: None,
            quiet_hours: Some(never_quiet()),
            channel_order: vec![Channel::Email],
            contact_points: vec![point(Channel::Email, format!("proxy-{number:06}@example.org"))],
            consents: Vec::new(),
        });
    }
    all
}

fn contact_points(number: u64) -> Vec<ContactPointUpsert> {
    vec![
        point(Channel::Sms, format!("+1555{number:07}")),
        point(Channel::Email, format!("patient-{number:06}@example.org")),
        point(Channel::Push, format!("device-{number:06}")),
    ]
}

fn point(channel: Channel, address: String) -> ContactPointUpsert {
    ContactPointUpsert { channel, address: Redacted::new(address), verified_at: Some(Timestamp::now()) }
}

fn word(channel: Channel, purpose: Purpose, granted: bool) -> ConsentUpsert {
    ConsentUpsert {
        channel,
        purpose,
        granted,
        given_at: Timestamp::now(),
        recorded_by: "demo".to_owned(),
        how: "settings page".to_owned(),
    }
}

fn never_quiet() -> QuietHours {
    QuietHours { start: time(0, 0, 0, 0), end: time(0, 0, 0, 0) }
}

/// From two hours ago until six hours ahead in the default time zone.
fn quiet_now() -> QuietHours {
    let zone = Config::from_defaults().plan.default_time_zone;
    let now = Timestamp::now().in_tz(&zone).map_or(time(12, 0, 0, 0), |local| local.time());
    let hour = |shift: i64| {
        now.wrapping_add(SignedDuration::from_hours(shift))
            .with()
            .minute(0)
            .second(0)
            .subsec_nanosecond(0)
            .build()
    };
    QuietHours { start: hour(-2).unwrap_or(now), end: hour(6).unwrap_or(now) }
}

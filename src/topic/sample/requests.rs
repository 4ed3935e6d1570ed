//! Requests as the portal's backends would publish them, and what becomes known about
//! them later.

use jiff::{SignedDuration, Timestamp, ToSpan as _};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::sample_patient;
use crate::domain::{
    Channel, DeliveryId, DeliveryRef, Engagement, Fact, NotificationId, NotificationRequested,
    NotificationUpdate, Purpose, ReceiptStatus, Redacted, Strategy, Urgency,
};

/// Who asks, in a sample.
const CALLER: &str = "sample";
const PLACES: [&str; 3] = ["Main Street", "Riverside", "North Clinic"];
const CAMPAIGNS: [&str; 3] = ["flu_shots", "portal_news", "opening_hours"];
/// Requests were made within this time before `now`.
const REQUESTED_WITHIN_MS: i64 = 2_000;
/// Appointments lie up to this far ahead.
const AHEAD_MAX_DAYS: i64 = 14;
/// An update happened within this time before `now`.
const HAPPENED_WITHIN_MS: i64 = 1_000;

/// What a sample of requests consists of.
#[derive(Debug, Clone, Copy)]
pub struct RequestOptions {
    /// Names the sample: it is part of every idempotency key.
    pub seed: u64,
    /// Requests.
    pub count: u64,
    /// Patients, numbered from 1; at least 1. See [`sample_patient`].
    pub patients: u64,
    /// A campaign of bulk messages instead of reminders, confirmations and messages
    /// to one person.
    pub is_bulk: bool,
    /// When the newest request was made.
    pub now: Timestamp,
}

/// The requests of a sample, one after the other: mostly by the recipient's own order
/// of channels, some by another order, some by all channels at once.
pub fn sample_requests(options: RequestOptions) -> impl Iterator<Item = NotificationRequested> + Send {
    let mut random = StdRng::seed_from_u64(options.seed);
    (1..=options.count).map(move |number| request(&options, number, &mut random))
}

fn key(seed: u64, number: u64, is_bulk: bool) -> String {
    format!("{}-{seed:x}-{number:08}", if is_bulk { "bulk" } else { "one" })
}

fn request(options: &RequestOptions, number: u64, random: &mut StdRng) -> NotificationRequested {
    let patient = random.random_range(1..=options.patients.max(1));
    let age = SignedDuration::from_millis(random.random_range(0..REQUESTED_WITHIN_MS));
    let purpose = match random.random_range(0..20) {
        _ if options.is_bulk => Purpose::Campaign,
        0..10 => Purpose::AppointmentReminder,
        10..15 => Purpose::AppointmentConfirmation,
        _ => Purpose::General,
    };
    let urgency = match purpose {
        Purpose::Campaign => Urgency::Bulk,
        Purpose::AppointmentConfirmation => Urgency::High,
        _ => Urgency::Normal,
    };
    let (channels, strategy) = match random.random_range(0..10) {
        _ if options.is_bulk => (Vec::new(), Strategy::InOrder),
        0..7 => (Vec::new(), Strategy::InOrder),
        7..9 => (vec![Channel::Email, Channel::Sms], Strategy::InOrder),
        _ => (Channel::ALL.to_vec(), Strategy::AllAtOnce),
    };
    NotificationRequested {
        caller: CALLER.to_owned(),
        idempotency_key: key(options.seed, number, options.is_bulk),
        patient_id: sample_patient(patient),
        recipient: None,
        purpose,
        urgency,
        channels,
        strategy,
        send_at: None,
        expires_at: None,
        variables: Redacted::new(variables(purpose, options.now, random)),
        requested_at: options.now - age,
    }
}

fn variables(purpose: Purpose, now: Timestamp, random: &mut StdRng) -> Vec<(String, String)> {
    let any = |words: &[&str], random: &mut StdRng| words[random.random_range(0..words.len())].to_owned();
    let days = random.random_range(1..=AHEAD_MAX_DAYS);
    let day = now.to_zoned(jiff::tz::TimeZone::UTC).date().saturating_add(days.days());
    let date = ("appointment_date".to_owned(), day.to_string());
    let time = ("appointment_time".to_owned(), format!("{:02}:30", random.random_range(8..17)));
    match purpose {
        Purpose::AppointmentReminder => vec![date, time, ("location".to_owned(), any(&PLACES, random))],
        Purpose::AppointmentConfirmation => {
            vec![date, time, ("change".to_owned(), any(&["made", "moved"], random))]
        }
        Purpose::Campaign => vec![("topic".to_owned(), any(&CAMPAIGNS, random))],
        Purpose::TestResult | Purpose::General => Vec::new(),
    }
}

/// What becomes known about the requests of a sample (not of its campaign): one
/// update for each, mostly a receipt or a reading, now and then a cancellation or an
/// opt-out of text messages.
pub fn sample_updates(options: RequestOptions) -> impl Iterator<Item = NotificationUpdate> + Send {
    let requests = sample_requests(RequestOptions { is_bulk: false, ..options });
    // Another sequence than that of the requests, which is drawn beside it.
    let mut random = StdRng::seed_from_u64(!options.seed);
    requests.map(move |request| update(&options, &request, &mut random))
}

fn update(
    options: &RequestOptions,
    request: &NotificationRequested,
    random: &mut StdRng,
) -> NotificationUpdate {
    let notification_id = NotificationId::for_request(&request.caller, &request.idempotency_key);
    let channel = request.channels.first().copied().unwrap_or(Channel::Sms);
    let delivery = DeliveryRef::Id(DeliveryId::for_channel(notification_id, channel));
    let (source, fact) = match random.random_range(0..100) {
        0..50 => ("provider", Fact::Receipt { delivery, status: ReceiptStatus::Delivered, code: None }),
        50..53 => {
            let code = Some("30005".to_owned());
            ("provider", Fact::Receipt { delivery, status: ReceiptStatus::Undelivered, code })
        }
        53..70 => ("portal", Fact::Engaged { notification_id, engagement: Engagement::Seen }),
        70..95 => ("portal", Fact::Engaged { notification_id, engagement: Engagement::Read }),
        95..99 => (CALLER, Fact::Cancelled { notification_id, caller: Some(CALLER.to_owned()) }),
        _ => {
            let recipient = request.patient_id.as_str().to_owned();
            (
                "portal",
                Fact::Consent { recipient, channel: Some(Channel::Sms), purpose: None, granted: false },
            )
        }
    };
    let age = SignedDuration::from_millis(random.random_range(0..HAPPENED_WITHIN_MS));
    NotificationUpdate {
        update_id: format!("sample-{}", request.idempotency_key),
        occurred_at: options.now - age,
        source: source.to_owned(),
        patient_id: Some(request.patient_id.clone()),
        fact,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::ids::is_opaque;

    fn options(seed: u64, is_bulk: bool) -> RequestOptions {
        let now = Timestamp::from_millisecond(1_795_600_000_000).unwrap();
        RequestOptions { seed, count: 2_000, patients: 100, is_bulk, now }
    }

    #[test]
    fn a_seed_names_a_sample() {
        let sample = |seed| sample_requests(options(seed, false)).collect::<Vec<_>>();
        assert_eq!(sample(7), sample(7));
        assert_ne!(sample(7)[0].idempotency_key, sample(8)[0].idempotency_key);
    }

    #[test]
    fn requests_fit_their_topic() {
        for request in sample_requests(options(u64::MAX, false)) {
            assert!(is_opaque(&request.idempotency_key), "{}", request.idempotency_key);
            assert!(request.urgency > Urgency::Bulk && request.purpose != Purpose::Campaign);
        }
        let mut campaign = sample_requests(options(7, true));
        assert!(campaign.all(|one| one.urgency == Urgency::Bulk && one.purpose == Purpose::Campaign));
    }

    #[test]
    fn updates_are_about_the_requests_of_the_same_seed() {
        let ids: Vec<_> = sample_requests(options(7, false))
            .map(|request| NotificationId::for_request(&request.caller, &request.idempotency_key))
            .collect();
        let mut kinds = [0_usize; 4];
        for (update, id) in sample_updates(options(7, false)).zip(&ids) {
            assert!(is_opaque(&update.update_id));
            match update.fact {
                Fact::Receipt { delivery, .. } => {
                    let deliveries =
                        Channel::ALL.iter().map(|&channel| DeliveryId::for_channel(*id, channel));
                    assert!(deliveries.map(DeliveryRef::Id).any(|known| known == delivery));
                    kinds[0] += 1;
                }
                Fact::Engaged { notification_id, .. } => {
                    assert_eq!(notification_id, *id);
                    kinds[1] += 1;
                }
                Fact::Cancelled { notification_id, .. } => {
                    assert_eq!(notification_id, *id);
                    kinds[2] += 1;
                }
                Fact::Consent { granted, .. } => {
                    assert!(!granted);
                    kinds[3] += 1;
                }
                Fact::Unknown => panic!("a sample says nothing unknown"),
            }
        }
        assert!(kinds.iter().all(|count| *count > 5), "{kinds:?}");
    }
}

//! What changes of appointments mean.

use jiff::SignedDuration;

use super::*;

fn start() -> Timestamp {
    "2026-12-01T09:30:00Z".parse().unwrap()
}

fn wanted() -> Wanted {
    Wanted {
        id: "apt-1".to_owned(),
        patient_id: PatientId::parse("pat-1").unwrap(),
        recipients: Vec::new(),
        starts_at: start(),
        time_zone: "Europe/Vienna".to_owned(),
        location: None,
        status: None,
        offsets_s: vec![259_200, 86_400, 7200],
        source_updated_at: None,
        expected_version: None,
    }
}

fn written(verdict: Verdict) -> Appointment {
    match verdict {
        Verdict::Write(appointment) => appointment,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_move_makes_a_new_schedule_and_what_is_told_has_its_version() {
    let first = written(wanted().over(None));
    assert_eq!((first.version, first.schedule, first.notice), (1, 1, (NoticeKind::Made, 1)));
    assert_eq!(wanted().over(Some(&first)), Verdict::Unchanged(first.clone()));

    let later = start() + SignedDuration::from_hours(24);
    let moved = written(Wanted { starts_at: later, ..wanted() }.over(Some(&first)));
    assert_eq!((moved.version, moved.schedule, moved.notice), (2, 2, (NoticeKind::Moved, 2)));

    let other_offsets = Wanted { offsets_s: vec![3600], starts_at: later, ..wanted() };
    let fewer = written(other_offsets.over(Some(&moved)));
    assert_eq!((fewer.version, fewer.schedule, fewer.notice), (3, 2, (NoticeKind::Moved, 2)));

    let named = Wanted { location: Some("Clinic 2".to_owned().into()), ..wanted() };
    let placed = written(named.over(Some(&first)));
    assert_eq!((placed.schedule, placed.notice), (1, (NoticeKind::Updated, 2)));
}

#[test]
fn what_is_confirmed_stays_so_until_it_is_moved_and_what_is_cancelled_until_it_is_booked() {
    let first = written(wanted().over(None));
    let confirmed = first.with_status(AppointmentStatus::Confirmed).unwrap();
    assert_eq!((confirmed.version, confirmed.schedule, confirmed.notice), (2, 1, first.notice));
    assert_eq!(confirmed.with_status(AppointmentStatus::Confirmed), None);
    assert_eq!(wanted().over(Some(&confirmed)), Verdict::Unchanged(confirmed.clone()));
    let later = Wanted { starts_at: start() + SignedDuration::from_mins(5), ..wanted() };
    assert_eq!(written(later.over(Some(&confirmed))).status, AppointmentStatus::Booked);

    let cancelled = confirmed.with_status(AppointmentStatus::Cancelled).unwrap();
    assert_eq!(cancelled.notice, (NoticeKind::Cancelled, 3));
    assert_eq!(wanted().over(Some(&cancelled)), Verdict::Cancelled);
    let elsewhere = Wanted {
        status: Some(AppointmentStatus::Cancelled),
        starts_at: start() + SignedDuration::from_hours(1),
        ..wanted()
    };
    let elsewhere = written(elsewhere.over(Some(&cancelled)));
    assert_eq!(elsewhere.notice, (NoticeKind::Cancelled, 4), "other words are another notice");
    let fewer = Wanted { status: Some(AppointmentStatus::Cancelled), offsets_s: vec![3600], ..wanted() };
    assert_eq!(written(fewer.over(Some(&cancelled))).notice, cancelled.notice);
    let again = Wanted { status: Some(AppointmentStatus::Booked), ..wanted() };
    let again = written(again.over(Some(&cancelled)));
    assert_eq!((again.version, again.schedule, again.notice), (4, 2, (NoticeKind::Made, 4)));
}

#[test]
fn neither_an_older_word_nor_an_unseen_version_overwrites() {
    let at = |s| Some(Timestamp::from_second(s).unwrap());
    let stored = written(Wanted { source_updated_at: at(100), ..wanted() }.over(None));
    let change = |source_updated_at, expected_version| {
        let wish =
            Wanted { recipients: vec!["rcp-2".to_owned()], source_updated_at, expected_version, ..wanted() };
        wish.over(Some(&stored))
    };
    assert_eq!(change(at(99), None), Verdict::Outdated(stored.clone()));
    assert_eq!(change(at(100), Some(2)), Verdict::VersionMismatch(1));
    assert_eq!(change(at(100), Some(0)), Verdict::VersionMismatch(1));
    assert_eq!(written(change(at(101), Some(1))).source_updated_at, at(101));
    assert_eq!(written(change(None, None)).source_updated_at, at(100), "the known time stays");
    assert_eq!(Wanted { expected_version: Some(1), ..wanted() }.over(None), Verdict::VersionMismatch(0));
    let repeated = Wanted { source_updated_at: at(100), expected_version: Some(0), ..wanted() };
    assert!(matches!(repeated.over(Some(&stored)), Verdict::Unchanged(_)), "a repeat is no conflict");
    let other = Wanted { patient_id: PatientId::parse("pat-2").unwrap(), ..wanted() };
    assert_eq!(other.over(Some(&stored)), Verdict::OtherPatient);
}

#[test]
fn reminders_depend_on_the_status() {
    let booked = written(wanted().over(None));
    assert_eq!(booked.wanted_offsets_s(86_400), [259_200, 86_400, 7200]);
    let confirmed = booked.with_status(AppointmentStatus::Confirmed).unwrap();
    assert_eq!(confirmed.wanted_offsets_s(86_400), [86_400, 7200]);
    assert_eq!(confirmed.wanted_offsets_s(0), [0; 0]);
    let cancelled = booked.with_status(AppointmentStatus::Cancelled).unwrap();
    assert_eq!(cancelled.wanted_offsets_s(86_400), [0; 0]);
}

#[test]
fn the_patient_reads_the_clock_of_the_place() {
    // Clocks go back in the night before: the exact 24 hours are an hour by the clock.
    let starts_at: Timestamp = "2026-10-25T08:00:00Z".parse().unwrap();
    let place = Redacted::new("Clinic 2".to_owned());
    let shown = variables(starts_at, "Europe/Vienna", Some(&place));
    let values: Vec<&str> = shown.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(values, ["2026-10-25", "09:00", "Clinic 2"]);
    let day_before = variables(starts_at - SignedDuration::from_hours(24), "Europe/Vienna", None);
    assert_eq!(day_before[1].1, "10:00");
}

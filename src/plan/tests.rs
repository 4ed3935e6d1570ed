//! Who gets what when, and who does not.

use jiff::civil::time;
use jiff::{SignedDuration, Timestamp};

use super::*;
use crate::config::Config;
use crate::domain::{Access, ContactPoint, QuietHours, Relation, ResultUrgency, Strategy};

fn settings() -> Settings {
    Settings::new(&Config::from_defaults().plan).unwrap()
}

fn noon() -> Timestamp {
    "2026-06-10T16:00:00Z".parse().unwrap() // noon in New York
}

fn night() -> Timestamp {
    "2026-06-10T03:00:00Z".parse().unwrap() // 23:00 in New York
}

fn recipient(name: &str) -> Recipient {
    let point = |channel, address: &str| ContactPoint { channel, address: Redacted::new(address.to_owned()) };
    Recipient {
        id: RecipientId::from_external(name),
        external_id: name.to_owned(),
        relation: Relation::Patient,
        access: Some(Access::default()),
        locale: None,
        time_zone: None,
        quiet_hours: None,
        channel_order: vec![Channel::Sms, Channel::Email],
        contact_points: vec![point(Channel::Sms, "+15550100001"), point(Channel::Email, "a@example.org")],
        consents: vec![],
        erased: false,
    }
}

fn result(urgency: ResultUrgency, available_at: Timestamp) -> Event {
    Event::TestResult(TestResultPublished {
        result_id: "res-1".to_owned(),
        version: 1,
        patient_id: PatientId::parse("pat-1").unwrap(),
        facility_id: "fac-1".to_owned(),
        category: Redacted::new("laboratory".to_owned()),
        urgency,
        released_at: available_at,
        available_at,
    })
}

fn only(planned: Vec<Planned>) -> Planned {
    assert_eq!(planned.len(), 1);
    planned.into_iter().next().unwrap()
}

#[test]
fn a_released_result_goes_out_by_the_recipients_own_order() {
    let planned =
        only(plan(&result(ResultUrgency::Normal, noon()), &[recipient("pat-1")], &settings(), noon()));
    assert_eq!(planned.decision, Decision::Dispatch);
    assert_eq!(planned.channels, [Channel::Sms, Channel::Email]);
    assert_eq!(planned.addresses[0].expose(), "+15550100001");
}

#[test]
fn patient_and_proxy_each_get_one() {
    let mut proxy = recipient("proxy-1");
    proxy.relation = Relation::Proxy;
    let planned =
        plan(&result(ResultUrgency::Normal, noon()), &[recipient("pat-1"), proxy], &settings(), noon());
    assert_eq!(planned.len(), 2);
    assert_ne!(planned[0].notification_id, planned[1].notification_id);
}

#[test]
fn a_proxy_whose_access_has_ended_is_told_nothing_and_it_is_said_why() {
    let mut proxy = recipient("proxy-1");
    proxy.relation = Relation::Proxy;
    proxy.access = Some(Access { valid_until: Some(noon()), ..Access::default() });
    let current = Recipient { access: Some(Access::default()), ..proxy.clone() };
    let current = Recipient { id: RecipientId::from_external("proxy-2"), ..current };
    let event = result(ResultUrgency::Normal, noon());
    let planned = plan(&event, &[recipient("pat-1"), proxy.clone()], &settings(), noon());
    assert_eq!(planned[0].decision, Decision::Dispatch);
    assert_eq!(planned[1].decision, Decision::Suppress(Reason::AccessEnded));
    // A request that names nobody goes to a proxy who may hear of it.
    let asked = only(plan(&Event::Notification(request()), &[proxy, current.clone()], &settings(), noon()));
    assert_eq!((asked.recipient_id, asked.decision), (current.id, Decision::Dispatch));
}

#[test]
fn quiet_hours_hold_all_but_the_critical() {
    let held = only(plan(&result(ResultUrgency::Abnormal, night()), &[recipient("p")], &settings(), night()));
    let morning = "2026-06-10T12:00:00Z".parse().unwrap();
    assert_eq!(held.decision, Decision::Hold { until: morning, why: HoldReason::QuietHours });
    let urgent =
        only(plan(&result(ResultUrgency::Critical, night()), &[recipient("p")], &settings(), night()));
    assert_eq!(urgent.decision, Decision::Dispatch);
}

#[test]
fn an_embargo_that_ends_at_night_waits_for_the_morning() {
    let ends = night();
    let planned = only(plan(
        &result(ResultUrgency::Normal, ends),
        &[recipient("p")],
        &settings(),
        ends - SignedDuration::from_hours(7),
    ));
    let Decision::Hold { until, why } = planned.decision else { panic!("{:?}", planned.decision) };
    assert_eq!((until, why), ("2026-06-10T12:00:00Z".parse().unwrap(), HoldReason::QuietHours));
}

#[test]
fn an_embargo_holds_even_the_critical() {
    let later = noon() + SignedDuration::from_hours(2);
    let planned = only(plan(&result(ResultUrgency::Critical, later), &[recipient("p")], &settings(), noon()));
    assert_eq!(planned.decision, Decision::Hold { until: later, why: HoldReason::Embargo });
}

#[test]
fn what_would_come_too_late_expires() {
    let old = noon() - SignedDuration::from_hours(24 * 8);
    let planned = only(plan(&result(ResultUrgency::Normal, old), &[recipient("p")], &settings(), noon()));
    assert_eq!(planned.decision, Decision::Expire);
}

#[test]
fn consent_that_was_withdrawn_takes_the_next_channel_or_suppresses() {
    let mut one = recipient("p");
    one.consents = vec![(Channel::Sms, Purpose::TestResult, false)];
    let event = result(ResultUrgency::Normal, noon());
    assert_eq!(only(plan(&event, &[one.clone()], &settings(), noon())).channels, [Channel::Email]);
    one.consents.push((Channel::Email, Purpose::TestResult, false));
    let none = only(plan(&event, &[one], &settings(), noon()));
    assert_eq!(none.decision, Decision::Suppress(Reason::NoConsent));
    assert!(none.addresses.is_empty());
}

#[test]
fn nobody_is_written_to_without_an_address_an_entry_or_after_erasure() {
    let event = result(ResultUrgency::Normal, noon());
    let mut no_address = recipient("p");
    no_address.contact_points.clear();
    let mut erased = recipient("p");
    erased.erased = true;
    let reason = |recipients: &[Recipient]| only(plan(&event, recipients, &settings(), noon())).decision;
    assert_eq!(reason(&[no_address]), Decision::Suppress(Reason::NoContactPoint));
    assert_eq!(reason(&[erased]), Decision::Suppress(Reason::Erased));
    assert_eq!(reason(&[]), Decision::Suppress(Reason::UnknownPatient));
}

fn request() -> NotificationRequested {
    NotificationRequested {
        caller: "portal".to_owned(),
        idempotency_key: "k1".to_owned(),
        patient_id: PatientId::parse("pat-1").unwrap(),
        recipient: None,
        purpose: Purpose::General,
        urgency: Urgency::Normal,
        channels: vec![],
        strategy: Strategy::InOrder,
        send_at: None,
        expires_at: None,
        variables: Redacted::default(),
        requested_at: noon(),
    }
}

fn planned(request: NotificationRequested) -> Planned {
    only(plan(&Event::Notification(request), &[recipient("pat-1")], &settings(), noon()))
}

#[test]
fn in_order_begins_with_the_first_channel_and_all_at_once_with_each() {
    let begins = |planned: &Planned| -> Vec<(i16, Channel)> {
        planned.begins().map(|(position, channel, _)| (position, channel)).collect()
    };
    assert_eq!(begins(&planned(request())), [(0, Channel::Sms)]);
    let both = NotificationRequested { strategy: Strategy::AllAtOnce, ..request() };
    let now = planned(both.clone());
    assert_eq!(begins(&now), [(0, Channel::Sms), (1, Channel::Email)]);
    let addresses: Vec<&String> = now.begins().map(|(_, _, address)| address.expose()).collect();
    assert_eq!(addresses, ["+15550100001", "a@example.org"]);
    let later = planned(NotificationRequested {
        send_at: Some(noon() + SignedDuration::from_hours(2)),
        channels: vec![Channel::Push, Channel::Email],
        ..both.clone()
    });
    assert_eq!(begins(&later), [(0, Channel::Email)], "a channel without an address is none");
    let late = NotificationRequested { requested_at: noon() - SignedDuration::from_hours(24 * 8), ..both };
    assert_eq!(begins(&planned(late)), [], "what has expired begins with nothing");
}

#[test]
fn a_schedule_of_the_past_is_at_once_and_one_too_far_ahead_is_refused() {
    let hours = SignedDuration::from_hours;
    let at = |send_at| planned(NotificationRequested { send_at: Some(send_at), ..request() });
    let past = at(noon() - hours(24 * 300));
    assert_eq!(past.decision, Decision::Dispatch, "useful from when it was asked for");
    let year = hours(24 * 366);
    assert!(matches!(at(noon() + year).decision, Decision::Hold { .. }));
    let far = at(noon() + year + SignedDuration::from_millis(1));
    assert_eq!(far.decision, Decision::Suppress(Reason::ScheduledTooFar));
    assert_eq!(far.begins().count(), 0);
}

#[test]
fn a_campaign_needs_consent() {
    let request = NotificationRequested { purpose: Purpose::Campaign, urgency: Urgency::Bulk, ..request() };
    let mut one = recipient("pat-1");
    one.quiet_hours = Some(QuietHours { start: time(0, 0, 0, 0), end: time(0, 0, 0, 0) });
    let event = Event::Notification(request);
    let refused = only(plan(&event, &[one.clone()], &settings(), noon()));
    assert_eq!(refused.decision, Decision::Suppress(Reason::NoConsent));
    one.consents = vec![(Channel::Email, Purpose::Campaign, true)];
    let allowed = only(plan(&event, &[one], &settings(), noon()));
    assert_eq!((allowed.decision, allowed.channels), (Decision::Dispatch, vec![Channel::Email]));
    assert_eq!(allowed.notification_id, refused.notification_id);
}

#[test]
fn a_plan_prints_no_address() {
    let planned = plan(&result(ResultUrgency::Normal, noon()), &[recipient("p")], &settings(), noon());
    let printed = format!("{planned:?}");
    assert!(
        !printed.contains("+1555") && !printed.contains("example.org") && !printed.contains("laboratory")
    );
}

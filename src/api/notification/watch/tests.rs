use std::sync::Arc;

use jiff::Timestamp;

use super::*;
use crate::api::auth::Scope;
use crate::domain::{Purpose, Reason, RecipientId, State};

fn caller(scopes: &[Scope]) -> Caller {
    Caller::new("portal".to_owned(), scopes.to_vec())
}

fn id(key: &str) -> NotificationId {
    NotificationId::for_request("portal", key)
}

fn watcher(target: Target, caller: Caller, next: Vec<i64>) -> (broadcast::Sender<Event>, Watcher) {
    let (sender, live) = broadcast::channel(4);
    let watcher = Watcher {
        binding: token::binding(&target, &caller),
        target,
        caller,
        next,
        seen: Seen::default(),
        first: None,
        said_hello: true,
        catch_up: None,
        live,
        faults: hub::Faults::default(),
        heartbeat: Duration::from_millis(20),
        ended: false,
    };
    (sender, watcher)
}

fn event(partition: usize, offset: i64, key: &str, sequence: i32, of: Option<&str>) -> Event {
    Event {
        partition,
        offset,
        change: Some(Arc::new(StatusChanged {
            notification_id: id(key),
            patient_id: PatientId::parse("pat-1").unwrap(),
            recipient_id: RecipientId::from_external("pat-1"),
            purpose: Purpose::General,
            sequence,
            state: State::Sent,
            reason: Reason::ProviderAccepted,
            channel: None,
            caller: of.map(str::to_owned),
            changed_at: Timestamp::UNIX_EPOCH,
        })),
    }
}

fn sequences(watcher: &mut Watcher, events: &[Event]) -> Vec<i32> {
    events.iter().filter_map(|event| watcher.take(event)).map(|change| change.sequence).collect()
}

#[test]
fn a_change_comes_once_and_in_order_a_notification_whatever_the_relay_repeats() {
    let (_sender, mut watcher) = watcher(Target::Own, caller(&[]), vec![10, 0]);
    let of = Some("portal");
    let events = [
        event(0, 9, "a", 1, of), // before the place where it resumed
        event(0, 10, "a", 2, of),
        event(0, 10, "a", 2, of), // the same record again
        event(0, 11, "a", 2, of), // told twice by the relay
        event(0, 12, "a", 1, of),
        event(0, 13, "a", 3, of),
        event(1, 0, "b", 1, of),
    ];
    assert_eq!(sequences(&mut watcher, &events), [2, 3, 1]);
    assert_eq!(watcher.next, [14, 1], "also what is passed over is behind it");
}

#[test]
fn one_sees_what_the_stream_is_about_and_what_one_may() {
    let events = [
        event(0, 0, "a", 1, Some("portal")),
        event(0, 1, "b", 2, Some("scheduling")),
        event(0, 2, "c", 3, None),
    ];
    let patient = || Target::Patient(PatientId::parse("pat-1").unwrap());
    let all = [Scope::NotificationsAll];
    for (target, scopes, expected) in [
        (Target::Own, &[][..], &[1][..]),
        (Target::Own, &all, &[1]),
        (patient(), &[], &[1]),
        (patient(), &all, &[1, 2, 3]),
        (Target::Patient(PatientId::parse("pat-2").unwrap()), &all, &[]),
        (Target::Notification(id("b")), &all, &[2]),
    ] {
        let (_sender, mut watcher) = watcher(target, caller(scopes), vec![0]);
        assert_eq!(sequences(&mut watcher, &events), expected);
    }
}

#[tokio::test]
async fn silence_is_broken_a_slow_client_is_told_and_so_is_an_end() {
    let (sender, quiet) = watcher(Target::Own, caller(&[]), vec![0]);
    let (message, mut slow) = quiet.message().await.unwrap();
    assert_eq!(message.unwrap().change, None, "a sign of life");
    for offset in 0..6 {
        sender.send(event(0, offset, "a", 1, Some("portal"))).unwrap();
    }
    assert!(matches!(slow.event().await, Err(WatchError::Lagged)));
    while slow.event().await.is_ok_and(|event| event.offset < 5) {}
    drop(sender);
    let (message, ended) = slow.message().await.unwrap();
    assert_eq!(message.unwrap_err().code(), tonic::Code::Unavailable);
    assert!(ended.message().await.is_none());
}

#[test]
fn a_resume_token_comes_back_and_is_bound_to_its_target() {
    let next = vec![0, 127, 1 << 40];
    let own = token::binding(&Target::Own, &caller(&[]));
    let text = token::write(&next, own);
    assert_eq!(token::read(&text, own), Some(next));
    assert_eq!(token::read(&text, token::binding(&Target::Notification(id("a")), &caller(&[]))), None);
    for bad in ["", "x", "AQ", &"A".repeat(5000)] {
        assert_eq!(token::read(bad, own), None);
    }
    let many = token::write(&[i64::MAX; 300], own);
    assert!(many.len() <= 4096, "{}", many.len());
}

#[test]
fn what_needs_one_notification_is_refused_without_it() {
    let message = proto::NotificationServiceWatchRequest {
        after_sequence: 3,
        consistency_token: Some("x".to_owned()),
        resume_token: Some("x".to_owned()),
        target: None,
    };
    let Err(ApiError::Invalid(faults)) = wanted(&message, &caller(&[])) else { panic!("it was taken") };
    let fields: Vec<&str> = faults.iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(fields, ["after_sequence", "consistency_token", "resume_token"]);
}

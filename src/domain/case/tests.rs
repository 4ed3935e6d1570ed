use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::domain::update::ReceiptStatus;

const OWNER: Uuid = Uuid::from_u128(7);

fn id() -> NotificationId {
    NotificationId(Uuid::from_u128(1))
}

fn delivery(channel: Channel) -> DeliveryId {
    DeliveryId::for_channel(id(), channel)
}

fn leg(channel: Channel, position: i16, state: State) -> Leg {
    Leg {
        delivery_id: delivery(channel),
        channel,
        position,
        standing: Standing { state, reason: Reason::DueNow, receipt: None },
        owner: (state == State::Dispatching).then_some(OWNER),
        epoch: 3,
        due_at: None,
        first_attempt_at: None,
        sent_at: None,
        due: Due::Unchanged,
        changed: false,
        is_new: false,
    }
}

fn case(strategy: super::Strategy, legs: Vec<Leg>) -> Case {
    Case {
        notification_id: id(),
        recipient_id: RecipientId(Uuid::from_u128(2)),
        urgency: Urgency::High,
        strategy,
        channels: vec![Channel::Sms, Channel::Email],
        state: legs[0].standing.state,
        reason: Reason::DueNow,
        sequence: 1,
        caller: None,
        cancelled: false,
        cancelled_by: None,
        erased: false,
        engagement: None,
        expired: false,
        escalated: None,
        legs,
        changed: false,
        statuses: Vec::new(),
        why: Vec::new(),
    }
}

fn in_order(state: State) -> Case {
    case(super::Strategy::InOrder, vec![leg(Channel::Sms, 0, state)])
}

fn own(state: State, reason: Reason) -> Own {
    Own { owner: OWNER, epoch: 3, state, reason, due_after: None }
}

fn word(status: ReceiptStatus, second: i64) -> Receipt {
    Receipt { status, at: Timestamp::from_second(second).unwrap() }
}

fn states(case: &Case) -> Vec<State> {
    case.statuses.iter().map(|change| change.state).collect()
}

#[test]
fn a_failure_by_receipt_starts_the_next_channel() {
    let mut case = in_order(State::Sent);
    assert!(case.receive(delivery(Channel::Sms), word(ReceiptStatus::Undelivered, 1)));
    assert_eq!(case.legs.len(), 2);
    assert_eq!((case.legs[1].channel, case.legs[1].standing.state), (Channel::Email, State::Queued));
    assert!(case.legs[1].is_new);
    assert_eq!((case.state, case.reason), (State::Queued, Reason::Undelivered));
}

#[test]
fn late_delivery_calls_off_the_next_channel() {
    let mut case = in_order(State::Sent);
    case.receive(delivery(Channel::Sms), word(ReceiptStatus::Undelivered, 1));
    case.receive(delivery(Channel::Sms), word(ReceiptStatus::Delivered, 2));
    assert_eq!(case.legs[1].standing.state, State::Cancelled);
    assert_eq!((case.legs[1].standing.reason, case.legs[1].due), (Reason::Reached, Due::Never));
    assert_eq!(states(&case), [State::Queued, State::Delivered]);
}

#[test]
fn what_was_read_is_not_sent_again_by_another_channel() {
    let mut case = in_order(State::Sent);
    assert!(case.engage(Engagement::Read, Timestamp::UNIX_EPOCH, "portal"));
    assert!(!case.engage(Engagement::Seen, Timestamp::UNIX_EPOCH, "portal"), "less than is known");
    case.receive(delivery(Channel::Sms), word(ReceiptStatus::Bounced, 1));
    assert_eq!(case.legs.len(), 1, "no next channel");
    assert_eq!(case.state, State::PermanentFailure);
}

#[test]
fn an_expired_one_begins_no_channel() {
    let mut case = in_order(State::Sent);
    case.expired = true;
    case.receive(delivery(Channel::Sms), word(ReceiptStatus::Bounced, 1));
    assert_eq!((case.legs.len(), case.state), (1, State::PermanentFailure));
}

#[test]
fn a_receipt_during_the_call_meets_the_outcome() {
    for status in [ReceiptStatus::Delivered, ReceiptStatus::Sent] {
        let mut case = in_order(State::Dispatching);
        case.receive(delivery(Channel::Sms), word(status, 1));
        assert_eq!(case.legs[0].owner, Some(OWNER), "the sender still records");
        assert!(case.record(delivery(Channel::Sms), own(State::TemporaryFailure, Reason::ProviderError)));
        assert_ne!(case.state, State::TemporaryFailure, "{status}: it is not sent again");
        assert_eq!(case.legs[0].due, Due::Never);
    }
}

#[test]
fn a_claim_that_was_lost_records_nothing() {
    let mut case = in_order(State::Dispatching);
    let stale = Own { epoch: 2, ..own(State::Sent, Reason::ProviderAccepted) };
    assert!(!case.record(delivery(Channel::Sms), stale));
    assert!(case.record(delivery(Channel::Sms), own(State::Sent, Reason::ProviderAccepted)));
    assert!(!case.record(delivery(Channel::Sms), own(State::Sent, Reason::ProviderAccepted)), "twice");
}

#[test]
fn cancelling_stops_what_waits_and_what_would_be_tried_again() {
    let mut held = in_order(State::Held);
    assert!(held.cancel("portal") && !held.cancel("portal"));
    assert_eq!((held.state, held.legs[0].due), (State::Cancelled, Due::Never));
    assert!(held.why.iter().all(|line| line.by.as_deref() == Some("portal")), "{:?}", held.why);

    let mut flying = in_order(State::Dispatching);
    assert!(flying.cancel("portal"));
    assert_eq!(flying.state, State::Dispatching);
    flying.record(delivery(Channel::Sms), own(State::TemporaryFailure, Reason::ProviderError));
    assert_eq!((flying.state, flying.legs.len()), (State::Cancelled, 1));
    let signed: Vec<bool> = flying.why.iter().map(|line| line.by.is_some()).collect();
    assert_eq!(signed, [true, false], "an outcome is nobody's word");

    let mut sent = in_order(State::Delivered);
    assert!(!sent.cancel("portal"), "it has arrived");
    sent.receive(delivery(Channel::Sms), word(ReceiptStatus::Bounced, 1));
    assert_eq!((sent.state, sent.legs.len()), (State::PermanentFailure, 1), "and is not wanted any more");
}

#[test]
fn side_by_side_one_arrival_calls_nothing_off_and_a_reading_does() {
    let legs = || vec![leg(Channel::Sms, 0, State::Sent), leg(Channel::Email, 1, State::TemporaryFailure)];
    let mut arrived = case(super::Strategy::AllAtOnce, legs());
    arrived.receive(delivery(Channel::Sms), word(ReceiptStatus::Delivered, 1));
    assert_eq!(arrived.legs[1].standing.state, State::TemporaryFailure);
    let mut read = case(super::Strategy::AllAtOnce, legs());
    read.engage(Engagement::Read, Timestamp::UNIX_EPOCH, "portal");
    assert_eq!(read.legs[1].standing.state, State::Cancelled);
    assert_eq!(read.state, State::Sent);
}

#[test]
fn side_by_side_the_best_counts_and_a_failure_begins_nothing() {
    let legs = vec![leg(Channel::Sms, 0, State::Dispatching), leg(Channel::Email, 1, State::Dispatching)];
    let mut case = case(super::Strategy::AllAtOnce, legs);
    case.record(delivery(Channel::Email), own(State::Sent, Reason::ProviderAccepted));
    case.record(delivery(Channel::Sms), own(State::PermanentFailure, Reason::InvalidAddress));
    assert_eq!((case.state, case.legs.len()), (State::Sent, 2));
    case.receive(delivery(Channel::Email), word(ReceiptStatus::Bounced, 1));
    assert_eq!(case.state, State::PermanentFailure);
}

#[test]
fn a_bounce_revives_what_an_arrival_had_called_off() {
    let mut case = in_order(State::Sent);
    case.receive(delivery(Channel::Sms), word(ReceiptStatus::Undelivered, 1));
    case.receive(delivery(Channel::Sms), word(ReceiptStatus::Delivered, 2));
    case.receive(delivery(Channel::Sms), word(ReceiptStatus::Bounced, 3));
    assert_eq!((case.legs[1].standing.state, case.legs[1].due), (State::Queued, Due::After(Duration::ZERO)));
    assert_eq!(states(&case), [State::Queued, State::Delivered, State::Queued]);
    let why = case.why.last().unwrap();
    assert_eq!((why.state, why.reason, why.channel), (State::Queued, Reason::Bounced, Some(Channel::Email)));
}

#[test]
fn a_complaint_after_delivery_is_news() {
    let mut case = in_order(State::Sent);
    case.receive(delivery(Channel::Sms), word(ReceiptStatus::Delivered, 1));
    assert!(case.receive(delivery(Channel::Sms), word(ReceiptStatus::Complained, 2)));
    assert_eq!((case.state, case.reason), (State::Delivered, Reason::Complained));
    assert_eq!(case.statuses.len(), 2);
}

proptest! {
    #[test]
    fn a_notification_ends_alike_whatever_the_order_of_its_news(
        news in prop::collection::vec((select(ReceiptStatus::ALL), 0_i64..4), 0..8),
        order in prop::collection::vec(any::<Index>(), 8),
        (early, late) in (0_usize..9, 0_usize..9),
        outcome in select(&[State::Sent, State::OutcomeUnknown, State::TemporaryFailure][..]),
    ) {
        let run = |news: &[(ReceiptStatus, i64)], own_after: usize| {
            let mut case = in_order(State::Dispatching);
            let record = |case: &mut Case| case.record(delivery(Channel::Sms), own(outcome, Reason::DueNow));
            for (number, &(status, second)) in news.iter().enumerate() {
                if number == own_after {
                    record(&mut case);
                }
                case.receive(delivery(Channel::Sms), word(status, second));
            }
            if own_after >= news.len() {
                record(&mut case);
            }
            (case.state, case.legs[0].standing.state, case.legs.iter().any(|leg| leg.standing.state == State::Queued))
        };
        let mut left = news.clone();
        let shuffled: Vec<_> =
            order.iter().map_while(|at| (!left.is_empty()).then(|| left.remove(at.index(left.len())))).collect();
        prop_assert_eq!(run(&news, early), run(&shuffled, late));
    }

    #[test]
    fn sequences_have_no_gap_and_the_last_status_is_the_state(
        news in prop::collection::vec((select(ReceiptStatus::ALL), 0_i64..4, any::<Index>()), 0..12),
        cancel_at in any::<Index>(),
        late in prop::collection::vec((0_usize..12, select(&[
            Reason::NotSentInTime, Reason::NotDeliveredInTime, Reason::NotReadInTime,
        ][..])), 0..3),
    ) {
        let mut case = in_order(State::Sent);
        case.channels.push(Channel::Push);
        for (number, (status, second, which)) in news.iter().enumerate() {
            if number == cancel_at.index(24) {
                case.cancel("portal");
            }
            for (_, why) in late.iter().filter(|(before, _)| *before == number) {
                // As the worker asks before it escalates.
                if !case.cancelled && case.engagement.is_none() {
                    case.escalate(*why);
                }
            }
            let which = case.legs[which.index(case.legs.len())].delivery_id;
            case.receive(which, word(*status, *second));
        }
        let sequences: Vec<i32> = case.statuses.iter().map(|change| change.sequence).collect();
        let expected: Vec<i32> = (2..).take(sequences.len()).collect();
        prop_assert_eq!(sequences, expected);
        if let Some(last) = case.statuses.last() {
            prop_assert_eq!((last.state, last.reason), (case.state, case.reason));
        }
        prop_assert!(case.legs.len() <= case.channels.len());
        let mut places: Vec<i16> = case.legs.iter().map(|leg| leg.position).collect();
        places.dedup();
        prop_assert_eq!(places.len(), case.legs.len(), "each channel is begun once");
    }
}

#[test]
fn an_erasure_calls_off_what_waits_and_tears_nothing_that_is_under_way() {
    let mut waiting = in_order(State::Held);
    assert!(waiting.erase());
    assert_eq!((waiting.state, waiting.reason), (State::Suppressed, Reason::Erased));
    assert_eq!((waiting.legs[0].due, waiting.under_way().count()), (Due::Never, 0));
    assert!(!waiting.erase(), "once is enough");

    let mut flying = in_order(State::Dispatching);
    assert!(!flying.erase());
    assert!(flying.changed, "its outcome is folded from now on");
    assert_eq!(flying.under_way().collect::<Vec<_>>(), [delivery(Channel::Sms)]);
    let again = Own {
        due_after: Some(Duration::from_secs(5)),
        ..own(State::TemporaryFailure, Reason::ProviderError)
    };
    assert!(flying.record(delivery(Channel::Sms), again));
    assert_eq!((flying.state, flying.reason), (State::Suppressed, Reason::Erased), "not tried again");

    // What a provider says later is true all the same, and begins nothing.
    let mut sent = in_order(State::Sent);
    sent.erase();
    assert!(sent.receive(delivery(Channel::Sms), word(ReceiptStatus::Undelivered, 1)));
    assert_eq!((sent.state, sent.legs.len()), (State::PermanentFailure, 1));
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// A minute to be sent, an hour to arrive, a day to be read.
const ALL: Windows = Windows {
    sent: Duration::from_secs(60),
    delivered: Duration::from_secs(3600),
    read: Duration::from_secs(86_400),
};

/// First tried at second 0, as far as it was tried.
fn tried(state: State) -> Case {
    let mut case = in_order(state);
    case.legs[0].first_attempt_at = Some(at(0));
    case.legs[0].sent_at = matches!(state, State::Sent | State::Delivered).then(|| at(10));
    case
}

#[test]
fn each_lack_of_evidence_has_its_own_time() {
    let first = |state, windows, second| tried(state).escalation(windows, at(second));
    assert_eq!(first(State::TemporaryFailure, ALL, 59), Escalation::LookAt(at(60)));
    assert_eq!(first(State::TemporaryFailure, ALL, 60), Escalation::Begin(Reason::NotSentInTime));
    assert_eq!(first(State::Sent, ALL, 3600), Escalation::LookAt(at(3610)));
    assert_eq!(first(State::Sent, ALL, 3610), Escalation::Begin(Reason::NotDeliveredInTime));
    assert_eq!(first(State::Delivered, ALL, 86_410), Escalation::Begin(Reason::NotReadInTime));
    assert_eq!(
        first(State::Delivered, ALL, 3610),
        Escalation::LookAt(at(4210)),
        "at the latest in ten minutes"
    );
    let arrival = Windows { read: Duration::ZERO, ..ALL };
    assert_eq!(first(State::Delivered, arrival, 99_999), Escalation::Never);
    assert_eq!(first(State::Sent, Windows { delivered: Duration::ZERO, ..arrival }, 0), Escalation::Never);
    assert_eq!(first(State::TemporaryFailure, Windows::default(), 99_999), Escalation::Never);
    // What a provider may be getting is found out first.
    assert_eq!(first(State::Dispatching, ALL, 500), Escalation::LookAt(at(560)));
    assert_eq!(first(State::OutcomeUnknown, ALL, 500), Escalation::LookAt(at(560)));
}

#[test]
fn what_waits_on_purpose_or_is_over_does_not_escalate() {
    let mut asleep = in_order(State::Held);
    asleep.legs[0].standing.reason = Reason::QuietHours;
    asleep.legs[0].due_at = Some(at(1000));
    assert_eq!(asleep.escalation(ALL, at(500)), Escalation::LookAt(at(1060)));
    let mut paused = tried(State::Queued);
    paused.legs[0].standing.reason = Reason::ChannelPaused;
    assert_eq!(paused.escalation(ALL, at(500)), Escalation::LookAt(at(560)));
    let mut throttled = tried(State::Held);
    throttled.legs[0].standing.reason = Reason::Throttled;
    assert_eq!(throttled.escalation(ALL, at(60)), Escalation::Begin(Reason::NotSentInTime));
    let ends: [fn(&mut Case); 6] = [
        |case| case.expired = true,
        |case| case.erased = true,
        |case| case.cancelled = true,
        |case| case.channels.truncate(1),
        |case| case.strategy = super::Strategy::AllAtOnce,
        |case| case.engagement = Some((Engagement::Read, at(1))),
    ];
    for end in ends {
        let mut over = tried(State::Sent);
        end(&mut over);
        assert_eq!(over.escalation(ALL, at(99_999)), Escalation::Never);
    }
}

#[test]
fn what_is_late_is_given_up_and_tried_on_when_nothing_else_works() {
    let mut case = tried(State::TemporaryFailure);
    case.escalate(Reason::NotSentInTime);
    let of = |case: &Case, at: usize| (case.legs[at].standing.state, case.legs[at].standing.reason);
    assert_eq!(of(&case, 0), (State::Cancelled, Reason::NotSentInTime));
    assert_eq!(
        (of(&case, 1).0, case.legs[1].channel, case.legs[1].is_new),
        (State::Queued, Channel::Email, true)
    );
    assert_eq!((case.state, case.reason), (State::Queued, Reason::NotSentInTime));
    assert_eq!(case.escalation(ALL, at(99_999)), Escalation::Never, "there is no third channel");
    case.receive(delivery(Channel::Email), word(ReceiptStatus::Bounced, 1));
    assert_eq!(of(&case, 0), (State::Queued, Reason::Bounced));
    assert_eq!(case.state, State::Queued);
    case.receive(delivery(Channel::Sms), word(ReceiptStatus::Undelivered, 2));
    assert_eq!((case.legs.len(), case.state), (2, State::PermanentFailure));
}

#[test]
fn an_arrival_calls_off_what_was_begun_for_want_of_one() {
    let mut case = tried(State::Sent);
    case.escalate(Reason::NotDeliveredInTime);
    assert_eq!((case.state, case.legs[0].standing.state), (State::Sent, State::Sent), "it may still arrive");
    case.receive(delivery(Channel::Sms), word(ReceiptStatus::Delivered, 1));
    assert_eq!(case.legs[1].standing.state, State::Cancelled);
    assert_eq!(case.state, State::Delivered);
}

#[test]
fn what_arrived_and_was_not_read_does_not_call_off_the_next() {
    let unread = || {
        let mut case = tried(State::Delivered);
        case.channels.push(Channel::Push);
        case.escalate(Reason::NotReadInTime);
        case
    };
    let mut case = unread();
    assert_eq!((case.state, case.legs[1].standing.state), (State::Delivered, State::Queued));
    case.receive(delivery(Channel::Email), word(ReceiptStatus::Bounced, 1));
    assert_eq!(case.legs[2].standing.state, State::Queued, "its failure begins the one after");
    assert_eq!(case.state, State::Delivered);
    assert!(case.engage(Engagement::Read, at(2), "portal"));
    assert_eq!(case.legs[2].standing.state, State::Cancelled);

    let mut taken_back = unread();
    assert!(!taken_back.cancel("portal"), "it has arrived");
    assert_eq!(taken_back.legs[1].standing.state, State::Cancelled, "the rest is not sent");
}

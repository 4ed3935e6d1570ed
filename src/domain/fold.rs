//! The fold of what a provider says into the state of a delivery. Pure, and the
//! only place that decides it.
//!
//! Receipts come late, twice, in any order and not at all. So a delivery keeps
//! the greatest receipt by a total order, and its state is a function of its own
//! last outcome and of that receipt: whatever the order of arrival, the end is
//! the same, and a receipt that says less than what is known changes nothing.

use jiff::Timestamp;

use super::notification::{Reason, State};
use super::update::ReceiptStatus;

/// A provider's word about a delivery.
///
/// Ordered in three classes. Words of progress, by how far they go. Words of a
/// failure on the way, by their time. Words of arrival and bounces, by their time
/// too, because an e-mail can bounce after it was delivered; at the same time the
/// bounce is greater. So a failure on the way, or a device that is gone today, does
/// not undo that the message arrived, and a phone that is switched on later does
/// undo the failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// What it says.
    pub status: ReceiptStatus,
    /// When it happened, by the provider's clock.
    pub at: Timestamp,
}

impl Receipt {
    /// True when the word says how it ended.
    #[must_use]
    pub const fn decides(self) -> bool {
        !matches!(self.status, ReceiptStatus::Accepted | ReceiptStatus::Sent)
    }

    fn rank(self) -> (u8, Timestamp, ReceiptStatus) {
        match self.status {
            ReceiptStatus::Accepted | ReceiptStatus::Sent => (0, Timestamp::MIN, self.status),
            ReceiptStatus::Undelivered | ReceiptStatus::Failed | ReceiptStatus::TokenInvalid => {
                (1, self.at, self.status)
            }
            ReceiptStatus::Delivered | ReceiptStatus::Complained | ReceiptStatus::Bounced => {
                (2, self.at, self.status)
            }
        }
    }

    /// The state that a deciding word means; `None` for one of progress.
    #[must_use]
    pub const fn meaning(self) -> Option<(State, Reason)> {
        match self.status {
            ReceiptStatus::Accepted | ReceiptStatus::Sent => None,
            ReceiptStatus::Delivered => Some((State::Delivered, Reason::ReceiptDelivered)),
            ReceiptStatus::Complained => Some((State::Delivered, Reason::Complained)),
            ReceiptStatus::Undelivered | ReceiptStatus::Failed => {
                Some((State::PermanentFailure, Reason::Undelivered))
            }
            ReceiptStatus::Bounced => Some((State::PermanentFailure, Reason::Bounced)),
            ReceiptStatus::TokenInvalid => Some((State::PermanentFailure, Reason::TokenInvalid)),
        }
    }
}

impl PartialOrd for Receipt {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Receipt {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // The time of a word of progress breaks ties only, for `Ord` to agree with `Eq`.
        self.rank().cmp(&other.rank()).then(self.at.cmp(&other.at))
    }
}

/// Where a delivery stands, and what its provider has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Its state.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// The greatest receipt so far.
    pub receipt: Option<Receipt>,
}

impl Standing {
    /// One more receipt has come.
    #[must_use]
    pub fn received(self, receipt: Receipt) -> Self {
        let greatest = self.receipt.map_or(receipt, |known| known.max(receipt));
        settle(self.state, self.reason, Some(greatest))
    }

    /// Our own attempt has come to this, whatever receipts came while it ran.
    #[must_use]
    pub fn recorded(self, state: State, reason: Reason) -> Self {
        settle(state, reason, self.receipt)
    }
}

/// What our own outcome and the greatest receipt mean together.
fn settle(state: State, reason: Reason, receipt: Option<Receipt>) -> Standing {
    let (state, reason) = match receipt {
        None => (state, reason),
        Some(receipt) => receipt.meaning().unwrap_or(match state {
            // The provider has it: nobody has to ask, and nobody may send it again.
            State::Accepted
            | State::Held
            | State::Queued
            | State::Dispatching
            | State::TemporaryFailure
            | State::OutcomeUnknown => (State::Sent, Reason::ReceiptSent),
            State::Sent
            | State::Delivered
            | State::PermanentFailure
            | State::TechnicalFailure
            | State::Expired
            | State::Cancelled
            | State::Suppressed => (state, reason),
        }),
    };
    Standing { state, reason, receipt }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::{Index, select};

    use super::*;

    fn receipt() -> impl Strategy<Value = Receipt> {
        (select(ReceiptStatus::ALL), 0_i64..5).prop_map(|(status, second)| Receipt {
            status,
            at: Timestamp::from_second(1_795_000_000 + second).unwrap(),
        })
    }

    /// How our own part can end, and the states in which receipts may find it before.
    fn own() -> impl Strategy<Value = (State, Reason)> {
        select(
            &[
                (State::Sent, Reason::ProviderAccepted),
                (State::OutcomeUnknown, Reason::ProviderTimeout),
                (State::TemporaryFailure, Reason::ProviderError),
                (State::PermanentFailure, Reason::InvalidAddress),
                (State::TechnicalFailure, Reason::OutcomeUnknown),
            ][..],
        )
    }

    fn begun() -> Standing {
        Standing { state: State::Dispatching, reason: Reason::DueNow, receipt: None }
    }

    /// Our own outcome is recorded after `before` of the receipts.
    fn run(receipts: &[Receipt], before: usize, (state, reason): (State, Reason)) -> Standing {
        let mut standing = begun();
        for (number, &receipt) in receipts.iter().enumerate() {
            if number == before {
                standing = standing.recorded(state, reason);
            }
            standing = standing.received(receipt);
        }
        if before >= receipts.len() { standing.recorded(state, reason) } else { standing }
    }

    fn permuted(receipts: &[Receipt], order: &[Index]) -> Vec<Receipt> {
        let mut left = receipts.to_vec();
        order.iter().map_while(|at| (!left.is_empty()).then(|| left.remove(at.index(left.len())))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn every_shuffle_and_repeat_ends_alike(
            receipts in prop::collection::vec(receipt(), 0..7),
            order in prop::collection::vec(any::<Index>(), 7),
            repeats in prop::collection::vec((any::<Index>(), any::<Index>()), 0..5),
            (early, late) in (0_usize..14, 0_usize..14),
            own in own(),
        ) {
            let mut other = permuted(&receipts, &order);
            for (what, place) in repeats.iter().filter(|_| !receipts.is_empty()) {
                other.insert(place.index(other.len() + 1), receipts[what.index(receipts.len())]);
            }
            let (one, two) = (run(&receipts, early, own), run(&other, late, own));
            prop_assert_eq!(one.state, two.state);
            prop_assert_eq!(one.receipt, two.receipt);
        }

        #[test]
        fn the_loss_of_any_receipt_but_the_greatest_ends_alike(
            receipts in prop::collection::vec(receipt(), 1..7),
            kept in prop::collection::vec(any::<bool>(), 7),
            before in 0_usize..8,
            own in own(),
        ) {
            let greatest = *receipts.iter().max().unwrap();
            let some: Vec<Receipt> = receipts
                .iter()
                .zip(&kept)
                .filter(|(receipt, kept)| **kept || **receipt == greatest)
                .map(|(receipt, _)| *receipt)
                .collect();
            let (all, some) = (run(&receipts, before, own), run(&some, before, own));
            prop_assert_eq!((all.state, all.receipt), (some.state, some.receipt));
        }

        #[test]
        fn nothing_goes_back_but_by_late_truth(
            receipts in prop::collection::vec(receipt(), 1..10),
            own in own(),
        ) {
            let mut standing = begun().recorded(own.0, own.1);
            for receipt in receipts {
                let next = standing.received(receipt);
                if standing.state.is_terminal() && next.state != standing.state {
                    prop_assert!(receipt.decides(), "{:?} then {:?}", standing, next);
                    prop_assert!(matches!(next.state, State::Delivered | State::PermanentFailure));
                }
                if standing.state == State::Delivered && next.state != State::Delivered {
                    prop_assert_eq!(receipt.status, ReceiptStatus::Bounced);
                }
                if standing.state == State::Sent {
                    prop_assert!(next.state == State::Sent || next.state.is_terminal());
                }
                standing = next;
            }
        }
    }

    fn at(second: i64, status: ReceiptStatus) -> Receipt {
        Receipt { status, at: Timestamp::from_second(second).unwrap() }
    }

    #[test]
    fn a_bounce_after_delivery_is_taken_and_an_older_one_is_not() {
        let delivered = begun().received(at(10, ReceiptStatus::Delivered));
        assert_eq!(delivered.state, State::Delivered);
        assert_eq!(delivered.received(at(5, ReceiptStatus::Bounced)).state, State::Delivered);
        let bounced = delivered.received(at(20, ReceiptStatus::Bounced));
        assert_eq!((bounced.state, bounced.reason), (State::PermanentFailure, Reason::Bounced));
        assert_eq!(bounced.received(at(30, ReceiptStatus::Delivered)).state, State::Delivered);
    }

    #[test]
    fn a_device_that_is_gone_does_not_undo_what_arrived() {
        let delivered = begun().received(at(10, ReceiptStatus::Delivered));
        for status in [ReceiptStatus::TokenInvalid, ReceiptStatus::Undelivered, ReceiptStatus::Failed] {
            assert_eq!(delivered.received(at(20, status)).state, State::Delivered, "{status}");
            let failed = begun().received(at(20, status));
            assert_eq!(failed.received(at(10, ReceiptStatus::Delivered)).state, State::Delivered, "{status}");
        }
    }

    #[test]
    fn progress_ends_doubt_and_retries_and_nothing_else() {
        for (state, then) in [
            (State::OutcomeUnknown, State::Sent),
            (State::TemporaryFailure, State::Sent),
            (State::TechnicalFailure, State::TechnicalFailure),
            (State::Delivered, State::Delivered),
        ] {
            let standing = Standing { state, reason: Reason::ProviderTimeout, receipt: None };
            assert_eq!(standing.received(at(1, ReceiptStatus::Accepted)).state, then, "{state}");
        }
    }
}

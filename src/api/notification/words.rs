//! Reasons and states in people's words. Total: a new reason does not compile before
//! it has a sentence.

use crate::domain::{Reason, State};
use crate::record::read::NotificationView;

/// Where a notification stands, and why.
pub(super) fn summary(view: &NotificationView) -> String {
    let cause = sentence(view.reason);
    let by = match (&view.cancelled_by, view.cancelled_at) {
        (Some(by), Some(_)) => format!(" It was taken back by {by}."),
        (None, Some(_)) => " It was taken back.".to_owned(),
        (_, None) => String::new(),
    };
    format!("{} {cause}{by}", stands(view.state))
}

const fn stands(state: State) -> &'static str {
    match state {
        State::Accepted => "It was taken over.",
        State::Held => "It waits for its time.",
        State::Queued => "It is due, and waits for a sender.",
        State::Dispatching => "It is being handed to a provider.",
        State::Sent => "A provider has it; whether it arrived is not known.",
        State::Delivered => "It arrived.",
        State::TemporaryFailure => "An attempt failed, and another one follows.",
        State::OutcomeUnknown => "Whether a provider has it is not known; it is being found out.",
        State::PermanentFailure => "It could not be delivered.",
        State::TechnicalFailure => "It could not be delivered in time.",
        State::Expired => "It was not sent, because it would have come too late.",
        State::Cancelled => "It was not sent.",
        State::Suppressed => "It was decided not to send it.",
    }
}

/// What a reason means.
pub(super) const fn sentence(reason: Reason) -> &'static str {
    match way(reason) {
        Some(words) => words,
        None => end(reason),
    }
}

/// Of the way that messages go, and of what is known of them later.
const fn way(reason: Reason) -> Option<&'static str> {
    Some(match reason {
        Reason::DueNow => "Nothing stood against sending it at once.",
        Reason::Embargo => "The result may not be announced before the laboratory releases it.",
        Reason::QuietHours => "The recipient's quiet hours had begun; it goes out when they end.",
        Reason::Scheduled => "Its caller asked for a later time.",
        Reason::Throttled => "The provider asked for a pause.",
        Reason::ChannelPaused => "Operators have paused the channel; it goes out when they resume it.",
        Reason::ProviderAccepted => "The provider took it.",
        Reason::FoundAtProvider => {
            "The answer of the provider was lost; a look-up shows that it has the message."
        }
        Reason::NotFoundAtProvider => {
            "The answer of the provider was lost; a look-up shows that it does not have the message."
        }
        Reason::Released => "The sender was stopping and gave it back unsent; another one takes it.",
        Reason::ReceiptSent => "The provider says that it is on its way.",
        Reason::ReceiptDelivered => "The provider says that it arrived.",
        Reason::Complained => "The recipient marked it as unwanted; this channel is not used any more.",
        Reason::Reached => "The recipient was reached already, so the other channels are not needed.",
        Reason::Seen => "It was shown to the recipient.",
        Reason::Read => "The recipient opened it.",
        Reason::Acted => "The recipient followed its link.",
        Reason::NotSentInTime => "No provider took it in time, so the next channel follows.",
        Reason::NotDeliveredInTime => {
            "The provider did not say in time that it arrived, so the next channel follows."
        }
        Reason::NotReadInTime => "It was not read in time, so the next channel follows.",
        Reason::Duplicate => "The same was asked for again; it is sent once.",
        Reason::ConflictingDuplicate => {
            "Something else was asked for under the same key; the first request stands, the other one is not sent."
        }
        Reason::UnknownUpdate => "Something was reported that this version does not understand.",
        Reason::Unmatched => "Something was reported before this was known.",
        Reason::Superseded => "A newer version of the same result was there first.",
        Reason::Cancelled => "Its caller took it back.",
        Reason::CancelRefused => {
            "Somebody wanted to take it back who had not asked for it; that does not count."
        }
        _ => return None,
    })
}

/// Of why messages are not sent, fail, or cannot be read.
const fn end(reason: Reason) -> &'static str {
    match reason {
        Reason::UnknownPatient => "No such patient is known.",
        Reason::NoRecipient => "Nobody may hear of this patient, or not the one who was asked for.",
        Reason::AccessNotBegun => "The access to the patient that the recipient was granted has not begun.",
        Reason::AccessEnded => "The access to the patient that the recipient was granted has ended.",
        Reason::AccessNotGranted => {
            "The recipient was granted access to the patient, but not for this purpose."
        }
        Reason::NoConsent => {
            "The recipient has not agreed, or has objected, on every channel that was wanted."
        }
        Reason::NoContactPoint => {
            "The recipient has no verified address on any channel that is wanted and allowed."
        }
        Reason::Erased => "The recipient was erased.",
        Reason::ScheduledTooFar => "It was asked for a time further ahead than the service allows.",
        Reason::Expired => "Its time had passed.",
        Reason::InvalidAddress => "The provider says that the address is not valid.",
        Reason::TokenInvalid => "The provider says that the device is gone.",
        Reason::OptedOut => "The provider says that the recipient wants no messages.",
        Reason::Undelivered => "The provider says that it did not arrive.",
        Reason::Bounced => "The mailbox sent it back.",
        Reason::ProviderRefused => "The provider refuses this message for good.",
        Reason::ProviderError => "The provider failed.",
        Reason::ProviderUnreachable => "The provider could not be reached.",
        Reason::ProviderTimeout => "The provider did not answer in time; it may have sent it.",
        Reason::ProviderCredentials => "The provider refused our credentials.",
        Reason::OwnerLost => "The sender died in the middle; the message may have been sent.",
        Reason::RetriesExhausted => "It was tried for as long as the service is configured to try.",
        Reason::OutcomeUnknown => "Whether it was sent could not be found out; it is not sent a second time.",
        Reason::ChannelDisabled => "The channel is switched off.",
        Reason::RenderFailed => "Its words could not be made.",
        Reason::EmptyKey => "The record had no key.",
        Reason::EmptyPayload => "The record had no content.",
        Reason::PayloadTooLarge => "The record was too large.",
        Reason::NotWireFormat => "The record was not in the form of the schema registry.",
        Reason::UnknownSchema => "The record's schema is not known.",
        Reason::IncompatibleSchema => "The record's schema cannot be read.",
        Reason::Undecodable => "The record does not fit its schema.",
        Reason::UnusableField => "The record has a field that cannot be used.",
        Reason::DueNow
        | Reason::Embargo
        | Reason::QuietHours
        | Reason::Scheduled
        | Reason::Throttled
        | Reason::ChannelPaused
        | Reason::ProviderAccepted
        | Reason::FoundAtProvider
        | Reason::NotFoundAtProvider
        | Reason::Released
        | Reason::ReceiptSent
        | Reason::ReceiptDelivered
        | Reason::Complained
        | Reason::Reached
        | Reason::Seen
        | Reason::Read
        | Reason::Acted
        | Reason::NotSentInTime
        | Reason::NotDeliveredInTime
        | Reason::NotReadInTime
        | Reason::Duplicate
        | Reason::ConflictingDuplicate
        | Reason::UnknownUpdate
        | Reason::Unmatched
        | Reason::Superseded
        | Reason::Cancelled
        | Reason::CancelRefused => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_sentence_of_its_own() {
        let mut sentences: Vec<&str> = Reason::ALL.iter().map(|&reason| sentence(reason)).collect();
        for words in &sentences {
            assert!(words.ends_with('.') && words.len() > 10, "{words}");
        }
        sentences.sort_unstable();
        sentences.dedup();
        assert_eq!(sentences.len(), Reason::ALL.len());
    }
}

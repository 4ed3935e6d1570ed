//! What a notification is for, how urgent it is, where it goes and where it stands.

/// An enum of words that stand in the database, on topics, in metrics and in
/// configuration: one spelling everywhere.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$vdoc])* $variant,)+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The word that stands for it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The value that a word stands for; `None` for any other word.
            #[must_use]
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}
pub(crate) use words;

words! {
    /// Why a recipient is written to; consent and expiry depend on it.
    Purpose {
        /// A new test result is there.
        TestResult = "test_result",
        /// An appointment is near.
        AppointmentReminder = "appointment_reminder",
        /// An appointment was made, moved or cancelled.
        AppointmentConfirmation = "appointment_confirmation",
        /// A message of the portal to one person.
        General = "general",
        /// A message of the portal to many.
        Campaign = "campaign",
    }
}

words! {
    /// How soon it has to go out; greater is sooner.
    Urgency {
        /// With whatever capacity is left.
        Bulk = "bulk",
        /// In turn.
        Normal = "normal",
        /// Before normal.
        High = "high",
        /// At once, quiet hours or not.
        Critical = "critical",
    }
}

words! {
    /// The way to a recipient.
    Channel {
        /// Text message.
        Sms = "sms",
        /// Electronic mail.
        Email = "email",
        /// Push message to the portal's app.
        Push = "push",
    }
}

words! {
    /// How the channels of a notification are used.
    Strategy {
        /// The first one, and the next when it fails.
        InOrder = "in_order",
        /// All of them side by side.
        AllAtOnce = "all_at_once",
    }
}

words! {
    /// Where a notification or a delivery stands.
    State {
        /// Taken over; nothing decided yet.
        Accepted = "accepted",
        /// Waits for a time: embargo, quiet hours, schedule, throttle.
        Held = "held",
        /// Due, and waits for a sender.
        Queued = "queued",
        /// A sender has the claim and may be calling the provider.
        Dispatching = "dispatching",
        /// The provider has it.
        Sent = "sent",
        /// The provider says that it arrived.
        Delivered = "delivered",
        /// This attempt failed, another one is due.
        TemporaryFailure = "temporary_failure",
        /// The provider's answer was lost; nobody knows whether it was sent.
        OutcomeUnknown = "outcome_unknown",
        /// The address cannot be reached.
        PermanentFailure = "permanent_failure",
        /// We or the provider could not do it in time.
        TechnicalFailure = "technical_failure",
        /// Too late to be useful.
        Expired = "expired",
        /// Taken back by its caller.
        Cancelled = "cancelled",
        /// Decided against, with a reason.
        Suppressed = "suppressed",
    }
}

impl State {
    /// True when nothing more will be tried. A receipt may still move
    /// `delivered` and `permanent_failure` (late truth).
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Delivered
                | Self::PermanentFailure
                | Self::TechnicalFailure
                | Self::Expired
                | Self::Cancelled
                | Self::Suppressed
        )
    }
}

words! {
    /// What a held notification waits for.
    HoldReason {
        /// `available_at` lies ahead.
        Embargo = "embargo",
        /// The recipient sleeps.
        QuietHours = "quiet_hours",
        /// `send_at` lies ahead.
        Scheduled = "scheduled",
        /// The provider asked for a pause.
        Throttled = "throttled",
    }
}

words! {
    /// Why something was decided: the vocabulary of the why-log, of dead
    /// letters' headers and of metric labels. Bounded, and free of PHI.
    Reason {
        // The way it went.
        /// The plan: a message is due now.
        DueNow = "due_now",
        /// Held until the result may be seen.
        Embargo = "embargo",
        /// Held until the recipient's quiet hours end.
        QuietHours = "quiet_hours",
        /// Held until the time that the caller set.
        Scheduled = "scheduled",
        /// The provider asked for a pause.
        Throttled = "throttled",
        /// Held until an operator resumes the channel.
        ChannelPaused = "channel_paused",
        /// The provider took it.
        ProviderAccepted = "provider_accepted",
        /// A look-up at the provider found it.
        FoundAtProvider = "found_at_provider",
        /// A look-up at the provider did not find it.
        NotFoundAtProvider = "not_found_at_provider",
        /// Given back unsent: its owner was stopping.
        Released = "released",
        /// A receipt says that the provider has it.
        ReceiptSent = "receipt_sent",
        /// A receipt says that it arrived.
        ReceiptDelivered = "receipt_delivered",
        /// The recipient called it spam, so it arrived.
        Complained = "complained",
        /// The recipient was reached already: what was still planned is not needed.
        Reached = "reached",
        /// It was shown to the recipient.
        Seen = "seen",
        /// The recipient opened it.
        Read = "read",
        /// The recipient followed its link.
        Acted = "acted",
        /// No provider took it in time: the next channel follows.
        NotSentInTime = "not_sent_in_time",
        /// No provider said in time that it arrived: the next channel follows.
        NotDeliveredInTime = "not_delivered_in_time",
        /// It was not read in time: the next channel follows.
        NotReadInTime = "not_read_in_time",

        // Suppressed.
        /// No such patient is known.
        UnknownPatient = "unknown_patient",
        /// The patient has nobody who may hear of this.
        NoRecipient = "no_recipient",
        /// No channel is both wanted and allowed.
        NoConsent = "no_consent",
        /// No verified address on any channel that is wanted and allowed.
        NoContactPoint = "no_contact_point",
        /// The recipient was erased.
        Erased = "erased",
        /// The recipient's access to this patient's news has not begun.
        AccessNotBegun = "access_not_begun",
        /// The recipient's access to this patient's news has ended.
        AccessEnded = "access_ended",
        /// The recipient's access to this patient's news is for other purposes.
        AccessNotGranted = "access_not_granted",
        /// `send_at` lies further ahead than `plan.schedule_max_ms` allows.
        ScheduledTooFar = "scheduled_too_far",

        // Ignored.
        /// The claim row exists already.
        Duplicate = "duplicate",
        /// The claim row exists already, and was made for another content.
        ConflictingDuplicate = "conflicting_duplicate",
        /// A newer writer says something that this version does not know.
        UnknownUpdate = "unknown_update",
        /// Kept until what it is about is known.
        Unmatched = "unmatched",
        /// A newer version of the same result was there first.
        Superseded = "superseded",
        /// Its time had passed.
        Expired = "expired",
        /// The caller took it back.
        Cancelled = "cancelled",
        /// Somebody wanted to take it back who did not ask for it.
        CancelRefused = "cancel_refused",

        // Failed.
        /// The provider says that the address is not valid.
        InvalidAddress = "invalid_address",
        /// The provider says that this device is gone.
        TokenInvalid = "token_invalid",
        /// The provider says that the recipient opted out.
        OptedOut = "opted_out",
        /// A receipt says that it did not arrive.
        Undelivered = "undelivered",
        /// The mailbox sent it back.
        Bounced = "bounced",
        /// The provider refuses this message for good.
        ProviderRefused = "provider_refused",
        /// The provider failed on its side.
        ProviderError = "provider_error",
        /// The provider could not be reached.
        ProviderUnreachable = "provider_unreachable",
        /// The provider did not answer in time: it may have sent it.
        ProviderTimeout = "provider_timeout",
        /// Our credentials were refused by the provider.
        ProviderCredentials = "provider_credentials",
        /// The owner of the claim died while it was sending.
        OwnerLost = "owner_lost",
        /// Retried for as long as the configuration allows.
        RetriesExhausted = "retries_exhausted",
        /// The outcome stayed unknown until the deadline.
        OutcomeUnknown = "outcome_unknown",
        /// Channel is switched off by configuration.
        ChannelDisabled = "channel_disabled",
        /// The message could not be rendered.
        RenderFailed = "render_failed",

        // Rejected.
        /// No key: records of one patient could overtake each other.
        EmptyKey = "empty_key",
        /// No value at all.
        EmptyPayload = "empty_payload",
        /// Longer than `processor.payload_max_bytes`.
        PayloadTooLarge = "payload_too_large",
        /// Not in the registry's wire format.
        NotWireFormat = "not_wire_format",
        /// The registry does not know the schema id.
        UnknownSchema = "unknown_schema",
        /// The writer's schema cannot be read as ours.
        IncompatibleSchema = "incompatible_schema",
        /// The bytes do not fit the writer's schema.
        Undecodable = "undecodable",
        /// A field has a value that cannot be used.
        UnusableField = "unusable_field",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_comes_back() {
        for &state in State::ALL {
            assert_eq!(State::parse(state.as_str()), Some(state));
        }
        for &reason in Reason::ALL {
            assert_eq!(Reason::parse(reason.as_str()), Some(reason));
        }
        assert_eq!(Channel::parse("fax"), None);
    }

    #[test]
    fn greater_urgency_is_sooner() {
        assert!(Urgency::Critical > Urgency::High && Urgency::Normal > Urgency::Bulk);
    }
}

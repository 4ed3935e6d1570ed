//! Words with a meaning of their own in a text message from a patient.
//!
//! A message counts only as a whole: without case, blanks and punctuation it has to
//! be one of the words, so `Stop.`, `STOP ALL` and `opt-out` do, and `don't stop` or
//! `please stop the pain` do not. Whoever takes messages in hands every other one to
//! a person: a wish to hear no more may be put in any reasonable words.
//!
//! The English words to opt out are those that 47 CFR 64.1200(a)(10) names as
//! reasonable per se (FCC 24-24, 2024) and those of the CTIA's Messaging Principles
//! and Best Practices, which carriers and Twilio act on themselves. `YES` is not taken
//! for an opt-in, though Twilio does: patients answer it to confirm appointments.

/// What such a word asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Keyword {
    /// No more messages on this channel.
    OptOut,
    /// Messages on this channel again.
    OptIn,
    /// Who writes, and how to stop it.
    Help,
}

const OPT_OUT: [&str; 14] = [
    "STOP",
    "STOPALL",
    "UNSUBSCRIBE",
    "CANCEL",
    "END",
    "QUIT",
    "REVOKE",
    "OPTOUT",
    // Spanish.
    "ALTO",
    "PARAR",
    "PARE",
    "BAJA",
    "CANCELAR",
    "DETENER",
];
const OPT_IN: [&str; 2] = ["START", "UNSTOP"];
const HELP: [&str; 3] = ["HELP", "INFO", "AYUDA"];
/// Longer than any of the words.
const CHARS_MAX: usize = 16;

impl Keyword {
    /// The meaning of a message as a whole; `None` when it has none of its own.
    #[must_use]
    pub fn of(message: &str) -> Option<Self> {
        let bare: String = message
            .chars()
            .filter(|c| c.is_alphanumeric())
            .flat_map(char::to_uppercase)
            .take(CHARS_MAX)
            .collect();
        let is_one_of = |words: &[&str]| words.contains(&bare.as_str());
        if is_one_of(&OPT_OUT) {
            Some(Self::OptOut)
        } else if is_one_of(&OPT_IN) {
            Some(Self::OptIn)
        } else {
            is_one_of(&HELP).then_some(Self::Help)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_word_counts_in_any_dress() {
        for text in [
            "STOP",
            "stop",
            " Stop. ",
            "\"STOP!!\"\n",
            "Stop all",
            "opt-out",
            "Opt Out",
            "UNSUBSCRIBE",
            "Alto",
        ] {
            assert_eq!(Keyword::of(text), Some(Keyword::OptOut), "{text}");
        }
        assert_eq!(Keyword::of("start"), Some(Keyword::OptIn));
        assert_eq!(Keyword::of("Un-stop"), Some(Keyword::OptIn));
        assert_eq!(Keyword::of("¿Ayuda?"), Some(Keyword::Help));
    }

    #[test]
    fn a_word_among_others_is_for_a_person_to_read() {
        for text in [
            "",
            "   ",
            "don't stop",
            "please stop the pain",
            "yes",
            "Sí",
            "stopped",
            "1",
            "cancel my appointment",
        ] {
            assert_eq!(Keyword::of(text), None, "{text}");
        }
        assert_eq!(Keyword::of(&format!("STOP{}", "x".repeat(100_000))), None);
    }

    #[test]
    fn no_word_has_two_meanings_and_none_is_cut() {
        let all = [&OPT_OUT[..], &OPT_IN, &HELP].concat();
        for (at, word) in all.iter().enumerate() {
            assert!(word.len() < CHARS_MAX && !all[at + 1..].contains(word), "{word}");
        }
    }

    proptest! {
        #[test]
        fn any_message_is_read(message in ".*") {
            let _ = Keyword::of(&message);
        }

        #[test]
        fn punctuation_around_a_word_changes_nothing(
            word in prop::sample::select(OPT_OUT.to_vec()),
            (before, after) in ("[ .,;:!?*'\"()-]{0,8}", "[ .,;:!?*'\"()-]{0,8}"),
        ) {
            prop_assert_eq!(Keyword::of(&format!("{before}{word}{after}")), Some(Keyword::OptOut));
        }
    }
}

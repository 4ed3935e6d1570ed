//! The GSM 03.38 default alphabet, in which a text message of 160 characters is
//! one message.

/// Longest text of one message, in septets.
pub(super) const MESSAGE_MAX_SEPTETS: usize = 160;

const BASIC: &str = "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?\
¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà";
/// Characters that take an escape: two septets.
const EXTENDED: &str = "^{}\\[~]|€";

/// Length in septets; `None` when a character is not in the alphabet.
pub(super) fn septets(text: &str) -> Option<usize> {
    text.chars().try_fold(0, |sum, c| {
        if c.is_ascii_alphanumeric() || c == ' ' || BASIC.contains(c) {
            Some(sum + 1)
        } else if EXTENDED.contains(c) {
            Some(sum + 2)
        } else {
            None
        }
    })
}

/// Messages that a carrier makes of a text: a longer one is split, and each part has
/// a head of seven septets.
pub(super) const fn segments(septets: usize) -> usize {
    if septets <= MESSAGE_MAX_SEPTETS { 1 } else { septets.div_ceil(MESSAGE_MAX_SEPTETS - 7) }
}

/// The same text in characters of one septet each, as near as the alphabet allows.
pub(super) fn simplify(text: &str) -> String {
    text.chars().map(nearest).collect()
}

fn nearest(c: char) -> char {
    match c {
        c if BASIC.contains(c) => c,
        'á' | 'â' | 'ã' | 'ā' => 'a',
        'Á' | 'À' | 'Â' | 'Ã' => 'A',
        'ê' | 'ë' => 'e',
        'È' | 'Ê' | 'Ë' => 'E',
        'í' | 'î' | 'ï' => 'i',
        'Í' | 'Ì' | 'Î' | 'Ï' => 'I',
        'ó' | 'ô' | 'õ' => 'o',
        'Ó' | 'Ò' | 'Ô' | 'Õ' => 'O',
        'ú' | 'û' => 'u',
        'Ú' | 'Ù' | 'Û' => 'U',
        'ç' => 'c',
        '‘' | '’' | '`' | '´' => '\'',
        '“' | '”' | '«' | '»' => '"',
        '–' | '—' | '‐' | '~' => '-',
        '[' | '{' => '(',
        ']' | '}' => ')',
        '\\' | '|' => '/',
        '\u{a0}' | '\t' | '\u{202f}' => ' ',
        'º' => 'o',
        'ª' => 'a',
        _ => '?',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_alphabet_is_counted_in_septets() {
        assert_eq!(septets("Hello, ñandú".trim_end_matches('ú')), Some(11));
        assert_eq!(septets("5 €"), Some(4));
        assert_eq!(septets("sesión"), None);
        assert_eq!(BASIC.chars().count(), 127);
    }

    #[test]
    fn a_long_text_is_split_into_shorter_parts() {
        assert_eq!([0, 160, 161, 306, 307].map(segments), [1, 1, 2, 2, 3]);
    }

    #[test]
    fn simplified_text_is_one_septet_a_character() {
        let text = "Clínica “Ángel” [2] – sesión №1";
        let simple = simplify(text);
        assert_eq!(simple, "Clinica \"Angel\" (2) - sesion ?1");
        assert_eq!(septets(&simple), Some(text.chars().count()));
    }
}

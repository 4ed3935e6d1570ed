//! `dlq show`

use std::fmt::Write as _;

use anyhow::{Context as _, Result, bail};
use jiff::Timestamp;

use crate::cli::{print, print_error};
use crate::config::Config;
use crate::decode::Decoder;
use crate::topic::dlq::{Contents, Handled, Letter, Letters, Reader, printable};

use super::{ShowOptions, away};

/// Bytes of a key or a value that are printed.
const DUMP_MAX_BYTES: usize = 64 * 1024;
/// Bytes of one line of a dump.
const LINE_BYTES: usize = 16;

/// Prints one dead letter: our headers, and its own only if it is asked for.
pub(super) async fn run(config: &Config, options: &ShowOptions) -> Result<()> {
    let mut reader = Reader::new(&config.kafka).map_err(away)?;
    let places = std::slice::from_ref(&options.place);
    let named = Letters::named(&reader, &config.kafka.topic_prefix, places).await;
    let mut letters = named.map_err(away)?;
    let Some((letter, handled)) = letters.next(&mut reader).await.map_err(away)? else {
        match letters.missing().first() {
            Some(missing) => bail!("there is no dead letter {}: {}", missing.place, missing.why),
            None => bail!("there is no dead letter {}", options.place),
        }
    };
    print(&outside(&letter, handled.as_ref()));
    if options.payload {
        print_error(
            "what follows is protected health information: do not copy it to tickets, mails or chats",
        );
        print(&inside(letter.contents.expose()));
        if let Some(payload) = &letter.contents.expose().payload {
            print(&decoded(config, payload).await?);
        }
    }
    Ok(())
}

/// What may be seen by everybody who operates the system.
fn outside(letter: &Letter, handled: Option<&Handled>) -> String {
    let contents = letter.contents.expose();
    let size = |bytes: &Option<Vec<u8>>| {
        bytes.as_ref().map_or_else(|| "none".to_owned(), |bytes| format!("{} bytes", bytes.len()))
    };
    let buried = letter.buried_ms.and_then(|ms| Timestamp::from_millisecond(ms).ok());
    let mut lines = vec![("id".to_owned(), letter.place.to_string())];
    lines.extend(letter.ours.iter().cloned());
    lines.extend(letter.published().map(|at| ("published".to_owned(), at.to_string())));
    lines.extend(buried.map(|at| ("became a dead letter".to_owned(), at.to_string())));
    let handled = handled.map_or_else(|| "not yet".to_owned(), ToString::to_string);
    lines.push(("handled".to_owned(), handled));
    lines.push(("key".to_owned(), size(&contents.key)));
    lines.push(("value".to_owned(), size(&contents.payload)));
    let names: Vec<String> = contents.headers.iter().map(|(name, _)| printable(name)).collect();
    let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    lines.push(("its own headers".to_owned(), names));
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    lines.into_iter().map(|(name, value)| format!("{name:width$}  {value}\n")).collect()
}

/// The record itself. PHI.
fn inside(contents: &Contents) -> String {
    let mut text = String::new();
    for (name, value) in &contents.headers {
        let value = value.as_deref().map_or_else(|| "null".into(), String::from_utf8_lossy);
        text.push_str(&format!("\nheader {}: {}", printable(name), printable(&value)));
    }
    for (name, bytes) in [("key", &contents.key), ("value", &contents.payload)] {
        text.push_str(&format!("\n{name}:\n"));
        text.push_str(&bytes.as_deref().map_or_else(|| "none\n".to_owned(), dump));
    }
    text
}

/// The value's fields, where the registry has its schema. PHI.
async fn decoded(config: &Config, payload: &[u8]) -> Result<String> {
    let decoder = Decoder::new(&config.registry, payload.len()).context("cannot set up a decoder")?;
    Ok(match decoder.as_written(payload).await {
        Ok(value) => format!("\nthe value by its writer's schema:\n{value:#}\n"),
        Err(error) => format!("\nthe value's fields cannot be shown: {error}\n"),
    })
}

/// Offset, bytes and printable text, 16 bytes a line.
fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    let shown = &bytes[..bytes.len().min(DUMP_MAX_BYTES)];
    for (number, line) in shown.chunks(LINE_BYTES).enumerate() {
        let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let plain = |&byte: &u8| if byte == b' ' || byte.is_ascii_graphic() { char::from(byte) } else { '.' };
        let plain: String = line.iter().map(plain).collect();
        let offset = number * LINE_BYTES;
        let width = LINE_BYTES * 3;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{offset:08x}  {:width$} |{plain}|", hex.join(" "));
    }
    if bytes.len() > shown.len() {
        let _ = writeln!(text, "… and {} bytes more", bytes.len() - shown.len());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Redacted;
    use crate::topic::dlq::Place;

    fn letter() -> Letter {
        Letter {
            place: Place { topic: "t.dlq".to_owned(), partition: 0, offset: 4 },
            buried_ms: Some(1_795_600_000_000),
            ours: vec![("dlq.reason".to_owned(), "undecodable".to_owned())],
            contents: Redacted::new(Contents {
                key: Some(b"KEY-CANARY".to_vec()),
                payload: Some(b"VALUE-CANARY".to_vec()),
                headers: vec![
                    ("lab\x1b".to_owned(), Some(b"HEADER-CANARY".to_vec())),
                    ("n".to_owned(), None),
                ],
            }),
        }
    }

    #[test]
    fn only_the_inside_has_what_is_the_patients() {
        let letter = letter();
        let outside = outside(&letter, None);
        assert!(!outside.contains("CANARY") && outside.contains("lab\u{fffd}, n"), "{outside}");
        assert!(outside.contains("dlq.reason            undecodable\n"), "{outside}");
        let inside = inside(letter.contents.expose());
        for canary in ["|KEY-CANARY|", "|VALUE-CANARY|", "HEADER-CANARY", "header n: null"] {
            assert!(inside.contains(canary), "{canary} {inside}");
        }
    }

    #[test]
    fn a_dump_is_bounded_and_steers_no_terminal() {
        assert_eq!(
            dump(b"\x00abc\x1b"),
            "00000000  00 61 62 63 1b                                   |.abc.|\n"
        );
        let long = dump(&vec![b'x'; DUMP_MAX_BYTES + 3]);
        assert!(long.ends_with("… and 3 bytes more\n"));
        assert_eq!(long.lines().count(), DUMP_MAX_BYTES / LINE_BYTES + 1);
    }
}

//! W3C Trace Context: the header `traceparent`, and what stands for it where nobody gave
//! one. Source: <https://www.w3.org/TR/trace-context/>, section 3.2.

use std::fmt;

use crate::domain::NotificationId;

/// Name of the header, on Kafka records and in gRPC metadata.
pub const TRACEPARENT: &str = "traceparent";

/// Length of the header's first version, `00-<trace id>-<parent id>-<flags>`.
const V00_CHARS: usize = 55;
/// Length that we look at: a later version may say more behind it.
const MAX_CHARS: usize = 256;
const SAMPLED: u8 = 1;

/// To which trace something belongs, and behind which span of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// Never all zeros.
    pub trace_id: [u8; 16],
    /// The span that it follows from; never all zeros.
    pub span_id: [u8; 8],
    /// Whoever began the trace wants to see all of it.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads a header's value. `None`: it is none of the known form, and the standard asks
    /// to go on as if there was none.
    #[must_use]
    pub fn parse(header: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(header).ok()?;
        if text.len() > MAX_CHARS || text.len() < V00_CHARS || !text.is_char_boundary(V00_CHARS) {
            return None;
        }
        let (known, rest) = text.split_at(V00_CHARS);
        let mut parts = known.split('-');
        let version = bytes::<1>(parts.next()?)?[0];
        let trace_id = bytes(parts.next()?)?;
        let span_id = bytes(parts.next()?)?;
        let flags = bytes::<1>(parts.next()?)?[0];
        let whole = match version {
            0 => rest.is_empty(),
            0xff => false,
            _ => rest.is_empty() || rest.starts_with('-'),
        };
        let named = trace_id != [0; 16] && span_id != [0; 8];
        (whole && named && parts.next().is_none()).then_some(Self {
            trace_id,
            span_id,
            sampled: flags & SAMPLED != 0,
        })
    }

    /// The same trace, behind another span.
    #[must_use]
    pub const fn behind(self, span_id: [u8; 8]) -> Self {
        Self { span_id, ..self }
    }

    /// The trace id as logs show it.
    #[must_use]
    pub const fn trace(&self) -> Hex<16> {
        Hex(self.trace_id)
    }
}

/// As the header's value.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", Hex(self.trace_id), Hex(self.span_id), u8::from(self.sampled))
    }
}

/// Bytes as lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hex<const N: usize>(pub [u8; N]);

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Exactly `N` bytes of lower-case hexadecimal digits.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut all = [0; N];
    for (byte, [high, low]) in all.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(all)
}

/// The span that stands for a notification: everything that is done for it follows from
/// it. Its id follows from the notification's, which is a hash, so each process knows it
/// without asking.
#[must_use]
pub fn span_of(id: NotificationId) -> [u8; 8] {
    // The upper half is the trace's id where nobody gave one; this is the other.
    let [.., a, b, c, d, e, f, g, h] = *id.0.as_bytes();
    [a, b, c, d, e, f, g, h]
}

/// The trace of a notification: the one of whoever asked for it, as the record's header or
/// the notification's row has it, or one whose id follows from the notification's.
/// `sample` decides for the latter.
#[must_use]
pub fn of_notification(
    id: NotificationId,
    given: Option<TraceContext>,
    sample: impl FnOnce(&[u8; 16]) -> bool,
) -> TraceContext {
    let span_id = span_of(id);
    match given {
        Some(given) => given.behind(span_id),
        None => {
            let trace_id = *id.0.as_bytes();
            TraceContext { trace_id, span_id, sampled: sample(&trace_id) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_header_comes_back() {
        let context = TraceContext::parse(HEADER.as_bytes()).unwrap();
        assert_eq!(context.to_string(), HEADER);
        assert_eq!(context.trace().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert!(context.sampled);
        let quiet = TraceContext::parse(HEADER.replace("-01", "-02").as_bytes()).unwrap();
        assert!(!quiet.sampled);
    }

    #[test]
    fn what_the_standard_calls_invalid_is_none() {
        let of = |text: &str| TraceContext::parse(text.as_bytes());
        assert!(of(&format!("cc{}-what-comes-later", &HEADER[2..])).is_some(), "a later version");
        for bad in [
            String::new(),
            HEADER[..54].to_owned(),
            format!("{HEADER}-more"),
            format!("{HEADER}x"),
            format!("cc{}x", &HEADER[2..]),
            format!("ff{}", &HEADER[2..]),
            HEADER.to_uppercase(),
            HEADER.replace('-', "_"),
            HEADER.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            HEADER.replace("00f067aa0ba902b7", &"0".repeat(16)),
            "ü".repeat(28),
            "0".repeat(300),
        ] {
            assert_eq!(of(&bad), None, "{bad}");
        }
    }

    #[test]
    fn a_notification_has_one_trace_whoever_asks() {
        let id = NotificationId::for_request("portal", "key-1");
        let own = of_notification(id, None, |_| true);
        assert_eq!(own, of_notification(id, None, |_| true));
        assert_eq!((own.trace_id, own.span_id), (*id.0.as_bytes(), span_of(id)));
        let given = TraceContext::parse(HEADER.as_bytes()).unwrap();
        let of_given = of_notification(id, Some(given), |_| panic!("its producer has decided"));
        assert_eq!((of_given.trace_id, of_given.span_id), (given.trace_id, span_of(id)));
        assert!(of_given.sampled);
    }
}

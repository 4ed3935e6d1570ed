//! Page tokens: where a list goes on, bound to what was asked for.

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::validate::Violations;

/// Longest token that is looked at, in characters.
const TOKEN_MAX_CHARS: usize = 512;
/// Bytes of the digest of what was asked for.
const DIGEST_BYTES: usize = 8;
/// Entries of a page where the caller does not say it, and at most.
const SIZE_DEFAULT: i32 = 50;
const SIZE_MAX: i32 = 200;

/// The token that goes on after `position` in a list of these filters. It is opaque to
/// callers and no secret: each query has its caller's bounds again.
#[must_use]
pub fn token(filters: &[&str], position: &str) -> String {
    let mut content = digest(filters).to_vec();
    content.extend_from_slice(position.as_bytes());
    URL_SAFE_NO_PAD.encode(content)
}

/// The position in a token; `None` for an empty one. A token that is not ours, or is
/// one of other filters, is noted as a fault.
pub fn position(filters: &[&str], token: &str, faults: &mut Violations) -> Option<String> {
    if token.is_empty() {
        return None;
    }
    let content = URL_SAFE_NO_PAD.decode(token).ok().filter(|_| token.len() <= TOKEN_MAX_CHARS);
    let position = content.and_then(|content| {
        let position = content.strip_prefix(digest(filters).as_slice())?;
        String::from_utf8(position.to_vec()).ok()
    });
    let known = "must be one that this service answered to a request with the same fields";
    faults.require(position.is_some(), "page_token", known);
    position
}

/// The size of a page; a faulty one is noted.
pub fn size(asked: i32, faults: &mut Violations) -> usize {
    faults.require((0..=SIZE_MAX).contains(&asked), "page_size", "must be 1 to 200, or 0 for the default");
    let size = if asked == 0 { SIZE_DEFAULT } else { asked.clamp(1, SIZE_MAX) };
    usize::try_from(size).unwrap_or_default()
}

fn digest(filters: &[&str]) -> [u8; DIGEST_BYTES] {
    let mut context = Context::new(&SHA256);
    for filter in filters {
        context.update(&(filter.len() as u64).to_be_bytes());
        context.update(filter.as_bytes());
    }
    let mut start = [0; DIGEST_BYTES];
    start.copy_from_slice(&context.finish().as_ref()[..DIGEST_BYTES]);
    start
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_belongs_to_its_filters() {
        let mut faults = Violations::default();
        let ours = token(&["pat-1", ""], "17:apt-1");
        assert_eq!(position(&["pat-1", ""], &ours, &mut faults).as_deref(), Some("17:apt-1"));
        assert_eq!(position(&["pat-1", ""], "", &mut faults), None);
        faults.finish().unwrap();
        for (filters, bad) in
            [(["pat-2", ""], ours.as_str()), (["pat-1", ""], "x"), (["pat-1", ""], &"A".repeat(600))]
        {
            let mut faults = Violations::default();
            assert_eq!(position(&filters, bad, &mut faults), None);
            assert!(faults.finish().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_have_a_default_and_a_bound() {
        let mut faults = Violations::default();
        assert_eq!([size(0, &mut faults), size(1, &mut faults), size(200, &mut faults)], [50, 1, 200]);
        faults.finish().unwrap();
        for bad in [-1, 201] {
            let mut faults = Violations::default();
            size(bad, &mut faults);
            assert!(faults.finish().is_err());
        }
    }
}

//! A holder for what must never be printed: addresses, names, payloads.

use std::fmt;

/// Holds protected health information (PHI). `Debug` and `Display` print
/// `[redacted]`; only [`Redacted::expose`] gives the value, so that each place
/// that reads it can be found by name.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Redacted<T>(T);

impl<T> Redacted<T> {
    /// Wraps a value.
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value itself. Call it only where the value leaves to a provider,
    /// to the database or to its owner.
    pub const fn expose(&self) -> &T {
        &self.0
    }

    /// Unwraps the value; the same care applies as for [`Redacted::expose`].
    pub fn into_exposed(self) -> T {
        self.0
    }
}

impl<T> From<T> for Redacted<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T> fmt::Debug for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl<T> fmt::Display for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::Redacted;

    #[test]
    fn neither_debug_nor_display_shows_the_value() {
        let held = Redacted::new("CANARY".to_owned());
        assert_eq!(format!("{held} {held:?} {:?}", Some(&held)), "[redacted] [redacted] Some([redacted])");
    }
}

//! How often a caller may call, on this replica, and how much it may ask for.

use std::num::NonZeroU32;
use std::time::Instant;

use crate::api::error::ApiError;
use crate::api::rates::{Rate, Rates};

/// What one caller may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Calls a second on this replica; `None`: as many as it likes.
    pub(super) calls_per_second: Option<NonZeroU32>,
    /// Calls at once after a pause.
    pub(super) calls_burst: u32,
    /// Notifications a day on all replicas; 0: as many as it likes.
    pub(super) notifications_per_day: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { calls_per_second: None, calls_burst: 1, notifications_per_day: 0 }
    }
}

/// Takes a call out of the caller's bucket.
///
/// # Errors
/// [`ApiError::OverQuota`] when it is empty.
pub(super) fn take(rates: &Rates, name: &str, limits: Limits, now: Instant) -> Result<(), ApiError> {
    let Some(per_second) = limits.calls_per_second else { return Ok(()) };
    let rate = Rate { per_second, burst: limits.calls_burst };
    rates.take(name, rate, now).map_err(|retry_after| ApiError::OverQuota {
        subject: name.to_owned(),
        limit: format!("{per_second} calls a second ({} at once)", limits.calls_burst),
        retry_after,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_had_its_share_is_told_which_and_when_there_is_more() {
        let (rates, now) = (Rates::default(), Instant::now());
        let limits =
            Limits { calls_per_second: NonZeroU32::new(10), calls_burst: 1, notifications_per_day: 0 };
        take(&rates, "portal", limits, now).unwrap();
        match take(&rates, "portal", limits, now).unwrap_err() {
            ApiError::OverQuota { subject, limit, retry_after } => {
                assert_eq!((subject.as_str(), limit.as_str()), ("portal", "10 calls a second (1 at once)"));
                assert!(!retry_after.is_zero());
            }
            other => panic!("{other}"),
        }
        assert!((0..100).all(|_| take(&rates, "free", Limits::default(), now).is_ok()));
    }
}

//! How many of the streams one caller may hold: one that opens and forgets must not
//! shut the others out.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

use crate::api::error::ApiError;

/// When a caller who holds all of its streams may ask again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Streams that are open, by caller.
#[derive(Debug)]
pub(super) struct Seats {
    max: usize,
    taken: Arc<Mutex<HashMap<String, usize>>>,
}

/// A stream's share of what its caller may hold. It is empty until the caller is known,
/// and given back when the last clone is dropped.
#[derive(Debug, Clone, Default)]
pub(super) struct Seat(Arc<OnceLock<Taken>>);

#[derive(Debug)]
struct Taken {
    caller: String,
    all: Arc<Mutex<HashMap<String, usize>>>,
}

impl Seats {
    /// At most so many a caller.
    pub(super) fn new(max: usize) -> Self {
        Self { max, taken: Arc::default() }
    }

    /// Takes a seat for a caller.
    ///
    /// # Errors
    /// [`ApiError::OverQuota`] when it holds all of its seats.
    pub(super) fn take(&self, seat: &Seat, caller: &str) -> Result<(), ApiError> {
        let mut all = self.taken.lock();
        let open = all.get(caller).copied().unwrap_or_default();
        if open >= self.max {
            return Err(ApiError::OverQuota {
                subject: caller.to_owned(),
                limit: format!("{} streams open at once", self.max),
                retry_after: RETRY_AFTER,
            });
        }
        all.insert(caller.to_owned(), open + 1);
        drop(all);
        let taken = Taken { caller: caller.to_owned(), all: Arc::clone(&self.taken) };
        // A second one for the same stream is given back by its drop.
        let _ = seat.0.set(taken);
        Ok(())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        match all.get_mut(&self.caller) {
            Some(open) if *open > 1 => *open -= 1,
            _ => drop(all.remove(&self.caller)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_has_its_share_and_the_others_theirs() {
        let seats = Seats::new(2);
        let take = |caller: &str| {
            let seat = Seat::default();
            seats.take(&seat, caller).map(|()| seat)
        };
        let (first, _second) = (take("eager").unwrap(), take("eager").unwrap());
        let Err(ApiError::OverQuota { subject, limit, .. }) = take("eager") else { panic!("a third one") };
        assert_eq!((subject.as_str(), limit.as_str()), ("eager", "2 streams open at once"));
        let other = take("calm").unwrap();
        drop(first.clone());
        assert!(take("eager").is_err(), "the stream is still open");
        drop(first);
        assert!(take("eager").is_ok());
        drop(other);
        assert!(!seats.taken.lock().contains_key("calm"), "nothing is kept of those who are gone");
    }
}

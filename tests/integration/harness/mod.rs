//! What every test stands on: a [`World`] of its own on the shared servers, roles
//! inside this process or as processes, and proxies that can be cut.
//!
//! Nothing here waits for a fixed time: [`eventually`] polls what a test waits for.

// Each module of tests uses another part of it.
#![allow(dead_code, unused_imports, reason = "a helper that no test uses at the moment is no fault")]

mod browser;
mod kafka;
mod last_words;
mod news;
mod people;
mod ports;
mod process;
mod proxy;
mod receiver;
mod role;
mod stack;
mod world;

pub use browser::Window;
pub use kafka::DeadLetter;
pub use news::{cancelled, consent, delivery_of, engaged, notification_of, receipt, receipt_for};
pub use people::{contact, only, patient, recipient, request, result, results, sms_only};
pub use ports::{free_address, free_port};
pub use process::{Process, spawn, tied};
pub use proxy::{BrokerProxy, Proxy};
pub use receiver::{Behaviour, Call, Receiver, new_secret};
pub use role::{RunningRole, ready, stop};
pub use stack::Addresses;
pub use world::{Seen, World};

use std::time::{Duration, Instant};

/// Pause between two looks.
const POLL: Duration = Duration::from_millis(50);

/// What a look can answer: not yet, or what was waited for.
pub trait Look {
    /// What was waited for.
    type Found;
    /// `None`: not yet.
    fn found(self) -> Option<Self::Found>;
}

impl Look for bool {
    type Found = ();
    fn found(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Look for Option<T> {
    type Found = T;
    fn found(self) -> Option<T> {
        self
    }
}

/// Looks until it is so. Panics when it is not within `deadline`.
#[track_caller]
pub fn eventually<L: Look>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> L,
) -> impl Future<Output = L::Found> {
    let place = std::panic::Location::caller();
    async move {
        let begun = Instant::now();
        loop {
            if let Some(found) = look().await.found() {
                return found;
            }
            assert!(begun.elapsed() < deadline, "not within {deadline:?}: {what} ({place})");
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Looks again and again for as long as `time`: it must be so at every look.
#[track_caller]
pub fn stays(what: &str, time: Duration, mut look: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let place = std::panic::Location::caller();
    async move {
        let begun = Instant::now();
        while begun.elapsed() < time {
            assert!(look().await, "no longer after {:?}: {what} ({place})", begun.elapsed());
            tokio::time::sleep(POLL).await;
        }
    }
}

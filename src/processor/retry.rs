//! Waiting for a dependency that is away.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tracing::{info, warn};

use super::Shared;
use crate::metrics;

/// Backs off while a dependency is away; says so once, and when it is back.
pub(super) struct Retry<'a> {
    shared: &'a Shared,
    dependency: &'static str,
    pause: Duration,
    tries: u32,
}

impl<'a> Retry<'a> {
    /// Nothing is wrong yet.
    pub(super) const fn new(shared: &'a Shared, dependency: &'static str) -> Self {
        let pause = Duration::from_millis(shared.parts.config.unavailable_backoff_initial_ms);
        Self { shared, dependency, pause, tries: 0 }
    }

    /// Waits before the next try. False when it is no longer worth it.
    pub(super) async fn again(&mut self, error: &(dyn std::fmt::Display + Sync), closing: bool) -> bool {
        metrics::unavailable(self.dependency);
        if self.tries == 0 {
            warn!(dependency = self.dependency, %error, "unavailable; records wait");
        }
        if self.tries == 0 {
            self.shared.conditions.waiting.fetch_add(1, Ordering::Relaxed);
        }
        self.tries += 1;
        if closing || self.shared.stop.is_cancelled() || self.shared.fatal.is_cancelled() {
            return false;
        }
        tokio::time::sleep(self.pause).await;
        let longest = Duration::from_millis(self.shared.parts.config.unavailable_backoff_max_ms);
        self.pause = (self.pause * 2).min(longest);
        true
    }
}

impl Drop for Retry<'_> {
    fn drop(&mut self) {
        if self.tries > 0 {
            self.shared.conditions.waiting.fetch_sub(1, Ordering::Relaxed);
            info!(dependency = self.dependency, tries = self.tries, "no longer waiting");
        }
    }
}

//! Liveness and readiness, made of checks that the rooms register.
//!
//! *Live* means that a restart would not help: work makes progress. *Ready* means
//! that new work can be taken: what this process needs can be reached, and it is
//! not stopping. A dependency that is away makes a pod not ready, never not live.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;
type Checks = RwLock<Vec<(&'static str, Check)>>;

/// Registry of checks of one process.
///
/// A check answers at once from what its room already knows; it does no I/O. Its
/// text goes to whoever can reach the probe port: no address, no identifier.
#[derive(Default)]
pub struct Health {
    liveness: Checks,
    readiness: Checks,
    stopping: AtomicBool,
}

impl Health {
    /// Without checks: live, and not yet ready.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Adds a check of progress; while it fails the process asks to be restarted.
    pub fn add_liveness(
        &self,
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.liveness.write().push((name, Arc::new(check)));
    }

    /// Adds a check of what new work needs; while it fails no new work should come.
    pub fn add_readiness(
        &self,
        name: &'static str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.readiness.write().push((name, Arc::new(check)));
    }

    /// From now on not ready: the process stops.
    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Release);
    }

    /// Does work make progress?
    ///
    /// # Errors
    /// `name: why` of each check that fails.
    pub fn live(&self) -> Result<(), Vec<String>> {
        outcome(failures(&self.liveness))
    }

    /// Can new work come? Never before the first readiness check is there: a role
    /// that has not come so far is starting.
    ///
    /// # Errors
    /// `name: why` of each check that fails.
    pub fn ready(&self) -> Result<(), Vec<String>> {
        let mut failing = failures(&self.readiness);
        if self.stopping.load(Ordering::Acquire) {
            failing.push("process: stopping".to_owned());
        } else if self.readiness.read().is_empty() {
            failing.push("process: starting".to_owned());
        }
        outcome(failing)
    }
}

/// Runs the checks without the lock, so that a check may use the registry.
fn failures(checks: &Checks) -> Vec<String> {
    let checks = checks.read().clone();
    checks.iter().filter_map(|(name, check)| check().err().map(|why| format!("{name}: {why}"))).collect()
}

fn outcome(failing: Vec<String>) -> Result<(), Vec<String>> {
    if failing.is_empty() { Ok(()) } else { Err(failing) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failing_check_is_named() {
        let health = Health::new();
        health.add_liveness("poll", || Ok(()));
        health.add_readiness("postgres", || Err("no connection".to_owned()));
        health.add_readiness("kafka", || Err("no broker".to_owned()));
        health.add_readiness("registry", || Ok(()));
        assert_eq!(health.live(), Ok(()));
        assert_eq!(
            health.ready(),
            Err(vec!["postgres: no connection".to_owned(), "kafka: no broker".to_owned()])
        );
    }

    #[test]
    fn ready_only_between_start_and_stop() {
        let health = Health::new();
        assert_eq!(health.ready(), Err(vec!["process: starting".to_owned()]));
        health.add_readiness("postgres", || Ok(()));
        assert_eq!(health.ready(), Ok(()));
        health.stopping();
        assert_eq!(health.ready(), Err(vec!["process: stopping".to_owned()]));
        assert_eq!(health.live(), Ok(()));
    }
}

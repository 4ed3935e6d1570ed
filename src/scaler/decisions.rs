//! The decisions in force, as whoever asks finds them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;

use crate::scaling::Explanation;

/// What is known of each deployment. Copies share it.
#[derive(Debug, Clone)]
pub struct Decisions {
    stale_after: Duration,
    all: Arc<RwLock<BTreeMap<&'static str, Kept>>>,
}

#[derive(Debug, Clone, Default)]
struct Kept {
    decided: Option<(Instant, Explanation)>,
    /// What was wrong with the last try.
    error: Option<String>,
}

/// What is in force for a deployment.
#[derive(Debug, Clone, PartialEq)]
pub struct InForce {
    /// The deployment.
    pub deployment: &'static str,
    /// The last decision; `None`: there was none yet.
    pub explanation: Option<Explanation>,
    /// Since the reading that it was made from.
    pub read_ago: Option<Duration>,
    /// There is none, or it is too old to go by.
    pub stale: bool,
    /// What was wrong with the last try to read; `None`: nothing.
    pub error: Option<String>,
}

impl InForce {
    /// Replicas, when they can be gone by.
    ///
    /// # Errors
    /// For people: since when nothing is known, why, and what follows.
    pub fn replicas(&self) -> Result<u32, String> {
        match (&self.explanation, self.stale) {
            (Some(explanation), false) => Ok(explanation.replicas),
            _ => Err(self.staleness()),
        }
    }

    /// Since when nothing is known, and why.
    fn staleness(&self) -> String {
        let since = match self.read_ago {
            Some(ago) => format!("its lag was last read {} s ago", ago.as_secs()),
            None => "its lag could not be read yet".to_owned(),
        };
        let why = self.error.as_deref().map(|error| format!(": {error}")).unwrap_or_default();
        format!("no decision for {}: {since}{why}; replicas stay as they are", self.deployment)
    }

    /// Why so many, or why nothing is known.
    #[must_use]
    pub fn text(&self) -> String {
        match (&self.explanation, self.stale) {
            (Some(explanation), false) => explanation.to_string(),
            (Some(explanation), true) => format!("{}. Before that: {explanation}", self.staleness()),
            (None, _) => self.staleness(),
        }
    }
}

impl Decisions {
    /// Nothing is known of these yet. A decision counts for `stale_after`.
    #[must_use]
    pub fn new(deployments: impl IntoIterator<Item = &'static str>, stale_after: Duration) -> Self {
        let all = deployments.into_iter().map(|name| (name, Kept::default())).collect();
        Self { stale_after, all: Arc::new(RwLock::new(all)) }
    }

    /// Takes a decision that was made of a reading of now.
    pub fn decided(&self, deployment: &'static str, explanation: Explanation) {
        let kept = Kept { decided: Some((Instant::now(), explanation)), error: None };
        self.all.write().insert(deployment, kept);
    }

    /// The brokers could not be read.
    pub fn failed(&self, deployment: &'static str, error: String) {
        self.all.write().entry(deployment).or_default().error = Some(error);
    }

    /// What is in force for a deployment; `None`: there is no such deployment.
    #[must_use]
    pub fn of(&self, deployment: &str) -> Option<InForce> {
        let all = self.all.read();
        let (name, kept) = all.get_key_value(deployment)?;
        Some(self.in_force(name, kept))
    }

    /// What is in force for each, by name.
    #[must_use]
    pub fn all(&self) -> Vec<InForce> {
        self.all.read().iter().map(|(name, kept)| self.in_force(name, kept)).collect()
    }

    fn in_force(&self, deployment: &'static str, kept: &Kept) -> InForce {
        let read_ago = kept.decided.as_ref().map(|(at, _)| at.elapsed());
        InForce {
            deployment,
            explanation: kept.decided.as_ref().map(|(_, explanation)| explanation.clone()),
            read_ago,
            stale: read_ago.is_none_or(|ago| ago > self.stale_after),
            error: kept.error.clone(),
        }
    }
}

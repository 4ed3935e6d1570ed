//! All configuration: one commented file of defaults, a file over it, the
//! environment over both. Every fault is reported at once.
//!
//! `config/default.toml` is the documentation: a key exists because it stands
//! there, with its default, its unit and its meaning. What a key may hold is in
//! `rules`, what keys must satisfy together in `together`. This is the only
//! room of the service that reads the environment (`dev` finds its tools by it).

mod draft;
mod fault;
mod keys;
mod kind;
mod rules;
mod show;
mod sources;
mod together;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use draft::Draft;

pub(crate) use kind::is_loopback_url;

pub use fault::{ConfigFaults, Fault, Origin};
pub use keys::{
    App, Appointments, Auth, Callbacks, Config, Cron, Email, Escalation, Kafka, Log, Metrics, Plan, Postgres,
    Processor, Push, Registry, Retry, Scaler, Secret, Shutdown, Sms, Traces, Workers,
};

/// The defaults, and with them every key that exists.
const DEFAULTS: &str = include_str!("../../config/default.toml");
/// What every environment variable of ours begins with.
const PREFIX: &str = "PATIENT_NOTIFY_";
/// Names the configuration file when no `--config` does.
const FILE_VARIABLE: &str = "PATIENT_NOTIFY_CONFIG";

impl Config {
    /// The configuration in force: defaults, then `file` (or the one that
    /// `PATIENT_NOTIFY_CONFIG` names), then `PATIENT_NOTIFY_<SECTION>__<KEY>`.
    ///
    /// A secret may also come from a file that
    /// `PATIENT_NOTIFY_<SECTION>__<KEY>_FILE` names.
    ///
    /// # Errors
    /// Every fault of every layer, and every rule between keys that does not hold.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigFaults> {
        #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
        let variables = std::env::vars_os().collect();
        Self::load_from(file, variables)
    }

    /// The defaults alone.
    #[must_use]
    pub fn from_defaults() -> Self {
        Self::load_from(None, Vec::new())
            .expect("config/default.toml is part of the program and obeys its rules")
    }

    fn load_from(file: Option<&Path>, variables: Vec<(OsString, OsString)>) -> Result<Self, ConfigFaults> {
        let named_by_variable = variables.iter().find(|(name, _)| name.as_os_str() == FILE_VARIABLE);
        let file =
            file.map(Path::to_path_buf).or_else(|| named_by_variable.map(|(_, path)| PathBuf::from(path)));

        let mut draft = Draft::default();
        sources::add_defaults(&mut draft, DEFAULTS);
        if let Some(path) = file {
            sources::add_file(&mut draft, &path);
        }
        sources::add_variables(&mut draft, variables);
        draft.finish()
    }
}

#[cfg(test)]
mod tests;

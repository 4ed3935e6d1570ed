//! A configuration in the making: layer by layer, with its faults.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use toml::{Table, Value};

use super::fault::{ConfigFaults, Fault, Origin};
use super::keys::Config;
use super::kind::Complaint;
use super::rules::{RULES, Rule};
use super::show::Loaded;
use super::together;

/// Values that passed their key's rule, and what did not.
#[derive(Default)]
pub(super) struct Draft {
    values: BTreeMap<&'static str, (Value, Origin)>,
    faults: Vec<Fault>,
    faulty_keys: BTreeSet<&'static str>,
}

impl Draft {
    /// Takes a value over the one of the layers below, if its rule allows it.
    pub(super) fn set(&mut self, rule: &Rule, value: Value, origin: Origin) {
        match rule.check(&value) {
            Ok(()) => {
                self.values.insert(rule.key, (value, origin));
            }
            Err(complaint) => self.refuse(rule, complaint, origin),
        }
    }

    /// Records that a key's value cannot be used.
    pub(super) fn refuse(&mut self, rule: &Rule, complaint: Complaint, origin: Origin) {
        self.faulty_keys.insert(rule.key);
        self.fault(rule.key, origin, complaint.wrong, complaint.allowed);
    }

    /// Records a fault that belongs to no known key.
    pub(super) fn fault(
        &mut self,
        key: impl Into<String>,
        origin: Origin,
        wrong: impl Into<String>,
        allowed: impl Into<String>,
    ) {
        self.faults.push(Fault { key: key.into(), origin, wrong: wrong.into(), allowed: allowed.into() });
    }

    /// True when the last layer has already complained about this line.
    pub(super) fn has_fault_at(&self, origin: &Origin) -> bool {
        self.faults.iter().any(|fault| fault.origin == *origin)
    }

    /// The finished configuration.
    ///
    /// A key with a fault keeps the value of the layer below, so that the rules
    /// between the other keys can still be checked; those that read it are not.
    pub(super) fn finish(mut self) -> Result<Config, ConfigFaults> {
        for rule in RULES {
            if !self.values.contains_key(rule.key) && !self.faulty_keys.contains(rule.key) {
                self.fault(
                    rule.key,
                    Origin::Default,
                    "has a rule but no default",
                    "a default in config/default.toml",
                );
            }
        }
        let config = match self.build() {
            Ok(config) => config,
            Err(error) => {
                self.fault(
                    "config/default.toml",
                    Origin::Default,
                    error.message(),
                    "the fields of config::Config",
                );
                return Err(ConfigFaults(self.faults));
            }
        };
        self.faults.extend(together::faults(&config, &self.faulty_keys));
        if self.faults.is_empty() { Ok(config) } else { Err(ConfigFaults(self.faults)) }
    }

    fn build(&self) -> Result<Config, toml::de::Error> {
        let mut sections = Table::new();
        for (key, (value, _)) in &self.values {
            let (section, name) = key.split_once('.').unwrap_or((key, ""));
            let section = sections.entry(section).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(section) = section {
                section.insert(name.to_owned(), value.clone());
            }
        }
        let mut config = Config::deserialize(sections)?;
        let origins = self.values.iter().map(|(key, (_, origin))| (*key, origin.clone())).collect();
        config.loaded = Loaded::new(&config, origins);
        Ok(config)
    }
}

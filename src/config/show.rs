//! What is in force, and where each value came from, as a TOML file.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use toml::{Table, Value};

use super::fault::Origin;
use super::keys::Config;
use super::rules::RULES;

/// The configuration as it was loaded, secrets hidden, with the origin of each key.
#[derive(Debug, Clone, Default)]
pub(super) struct Loaded(Arc<(Table, BTreeMap<&'static str, Origin>)>);

impl Loaded {
    pub(super) fn new(config: &Config, origins: BTreeMap<&'static str, Origin>) -> Self {
        Self(Arc::new((as_table(config), origins)))
    }

    /// A key's value, hidden if it is a secret, and its origin.
    pub(super) fn describe(&self, key: &str) -> String {
        let (table, origins) = &*self.0;
        let (section, name) = key.split_once('.').unwrap_or((key, ""));
        match (value_at(table, section, name), origins.get(key)) {
            (Some(value), Some(origin)) => format!("{value} ({origin})"),
            _ => "nothing".to_owned(),
        }
    }
}

fn as_table(config: &Config) -> Table {
    Table::try_from(config).expect("flags, numbers, texts and lists of texts are all TOML")
}

fn value_at<'t>(table: &'t Table, section: &str, name: &str) -> Option<&'t Value> {
    table.get(section)?.as_table()?.get(name)
}

impl Config {
    /// A TOML file of what is in force: secrets are `[redacted]`, and a comment
    /// behind each key says where its value came from.
    #[must_use]
    pub fn show(&self) -> String {
        let now = as_table(self);
        let (before, origins) = &*self.loaded.0;
        let mut text = String::new();
        let mut open_section = "";
        for rule in RULES {
            let (section, name) = rule.section_and_name();
            if section != open_section {
                let gap = if open_section.is_empty() { "" } else { "\n" };
                let _ = writeln!(text, "{gap}[{section}]");
                open_section = section;
            }
            let Some(value) = value_at(&now, section, name) else {
                continue;
            };
            let changed = value_at(before, section, name) != Some(value);
            let origin = match origins.get(rule.key) {
                Some(origin) if !changed => origin.to_string(),
                _ => "set by the program".to_owned(),
            };
            let _ = writeln!(text, "{name} = {value} # {origin}");
        }
        text
    }
}

//! What is wrong with a configuration, and where it was said.

use std::fmt;
use std::path::PathBuf;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `config/default.toml`, which is part of the program.
    Default,
    /// The configuration file; lines count from 1, and 0 stands for the file as a whole.
    File {
        /// As it was named.
        path: PathBuf,
        /// Where in it.
        line: usize,
    },
    /// An environment variable.
    Variable(String),
    /// A file that an environment variable names.
    SecretFile {
        /// The variable.
        variable: String,
        /// The file.
        path: PathBuf,
    },
    /// Several keys together, each with an origin of its own.
    Together,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: 0 } => write!(f, "{}", path.display()),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Variable(name) => f.write_str(name),
            Self::SecretFile { variable, path } => write!(f, "{variable} = {}", path.display()),
            Self::Together => f.write_str("together"),
        }
    }
}

/// One fault. None of its texts holds the value of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The key, the variable or the section that it is about.
    pub key: String,
    /// Where it was said.
    pub origin: Origin,
    /// What is wrong.
    pub wrong: String,
    /// What would be right.
    pub allowed: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, origin, wrong, allowed } = self;
        match origin {
            // The name says where already.
            Origin::Variable(name) if name == key => write!(f, "{key}: {wrong}; allowed: {allowed}"),
            Origin::Together => write!(f, "{key}: {wrong}; allowed: {allowed}"),
            Origin::Default | Origin::File { .. } | Origin::Variable(_) | Origin::SecretFile { .. } => {
                write!(f, "{key} ({origin}): {wrong}; allowed: {allowed}")
            }
        }
    }
}

/// All faults of a configuration, in the order in which they were met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFaults(pub Vec<Fault>);

impl std::error::Error for ConfigFaults {}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.0.len() == 1 { "" } else { "s" };
        write!(f, "the configuration has {} fault{plural}:", self.0.len())?;
        for fault in &self.0 {
            write!(f, "\n  - {fault}")?;
        }
        Ok(())
    }
}

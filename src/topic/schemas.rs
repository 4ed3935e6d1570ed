//! Subjects of the schema registry: what is there, what should be, and the step
//! from one to the other. An incompatible change is refused before anything is
//! registered.

use std::fmt;
use std::path::Path;

use thiserror::Error;

use crate::config::Config;
use crate::domain::contract;

use super::evolution::new_reads_old;
use super::names;
use super::registry::{Registry, RegistryError};

/// The level that every subject has: a new schema can read what the previous one wrote.
const LEVEL: &str = "BACKWARD";

/// Why subjects could not be compared or changed.
#[derive(Debug, Error)]
pub enum SchemasError {
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A schema of ours cannot follow the one that is registered.
    #[error("nothing was registered, because of incompatible changes:\n{0}")]
    Incompatible(Report),
    /// A file of the other directory.
    #[error("{path} cannot be read")]
    File {
        /// Which.
        path: String,
        /// Why.
        source: std::io::Error,
    },
}

/// How our schema stands to its subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// The newest version is ours.
    Current {
        /// Its number.
        version: u32,
    },
    /// Ours is registered and a newer one follows it: a newer release was here.
    Older {
        /// The number of ours.
        version: u32,
        /// The number of the newest.
        newest: u32,
    },
    /// The subject has no version.
    Missing,
    /// Ours differs from the newest version and can follow it.
    Changed {
        /// The number of the newest version.
        newest: u32,
    },
    /// Ours differs from the newest version and cannot follow it.
    Incompatible {
        /// The number of the newest version.
        newest: u32,
        /// What readers would stumble over.
        why: String,
    },
}

/// One subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its name.
    pub name: String,
    /// Compatibility level in force; `None`: the registry names none.
    pub level: Option<String>,
    /// How our schema stands to it.
    pub finding: Finding,
}

/// Every subject; printed as a table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// In the order of the topics.
    pub subjects: Vec<Subject>,
}

impl Report {
    /// True when `apply` would change nothing.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.subjects.iter().all(|subject| {
            subject.has_level() && matches!(subject.finding, Finding::Current { .. } | Finding::Older { .. })
        })
    }

    /// True when `apply` would refuse.
    #[must_use]
    pub fn is_incompatible(&self) -> bool {
        self.subjects.iter().any(|subject| matches!(subject.finding, Finding::Incompatible { .. }))
    }
}

impl Subject {
    fn has_level(&self) -> bool {
        self.level.as_deref() == Some(LEVEL)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for subject in &self.subjects {
            let level = subject.level.as_deref().unwrap_or("-");
            writeln!(f, "{:<42} {level:<10} {}", subject.name, subject.finding)?;
        }
        Ok(())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Current { version } => write!(f, "version {version} is ours"),
            Self::Older { version, newest } => {
                write!(f, "version {version} is ours, {newest} is newer: kept")
            }
            Self::Missing => f.write_str("not registered"),
            Self::Changed { newest } => write!(f, "ours can follow version {newest} and is not registered"),
            Self::Incompatible { newest, why } => {
                write!(f, "ours cannot follow version {newest}: {why}")
            }
        }
    }
}

/// Compares the registry with `avro/`; changes nothing.
///
/// # Errors
/// When the registry does not answer.
pub async fn check(config: &Config) -> Result<Report, SchemasError> {
    let registry = Registry::new(&config.registry)?;
    survey(&registry, &config.kafka.topic_prefix).await
}

/// Brings the registry up to `avro/`: level BACKWARD, our schema registered.
/// Gives back what it found before. Idempotent.
///
/// # Errors
/// [`SchemasError::Incompatible`] before anything is registered; or when the
/// registry does not answer.
pub async fn apply(config: &Config) -> Result<Report, SchemasError> {
    let registry = Registry::new(&config.registry)?;
    let prefix = &config.kafka.topic_prefix;
    let mut before = survey(&registry, prefix).await?;
    if before.is_incompatible() {
        return Err(SchemasError::Incompatible(before));
    }
    for subject in before.subjects.iter().filter(|subject| !subject.has_level()) {
        registry.set_level(&subject.name, LEVEL).await?;
    }
    // Now that the registry checks too, its own verdict counts as well.
    for (subject, schema) in before.subjects.iter_mut().zip(our_schemas()) {
        if let Finding::Changed { newest } = subject.finding
            && !registry.accepts(&subject.name, schema).await?
        {
            let why = "the registry says that the new schema cannot read the old one's records".to_owned();
            subject.finding = Finding::Incompatible { newest, why };
        }
    }
    if before.is_incompatible() {
        return Err(SchemasError::Incompatible(before));
    }
    for (subject, schema) in before.subjects.iter().zip(our_schemas()) {
        if matches!(subject.finding, Finding::Missing | Finding::Changed { .. }) {
            registry.register(&subject.name, schema).await?;
            // Some registries keep a level only for a subject that exists.
            registry.set_level(&subject.name, LEVEL).await?;
        }
    }
    Ok(before)
}

/// Our schemas in the order of [`names::ALL`].
fn our_schemas() -> impl Iterator<Item = &'static str> {
    names::ALL.iter().filter_map(|topic| topic.schema.and_then(contract::text_of))
}

async fn survey(registry: &Registry, prefix: &str) -> Result<Report, SchemasError> {
    let mut subjects = Vec::with_capacity(names::ALL.len());
    for (topic, schema) in names::ALL.iter().zip(our_schemas()) {
        let name = topic.subject(prefix);
        let level = registry.level(&name).await?;
        let finding = find(registry, &name, schema).await?;
        subjects.push(Subject { name, level, finding });
    }
    Ok(Report { subjects })
}

async fn find(registry: &Registry, subject: &str, schema: &str) -> Result<Finding, RegistryError> {
    let Some(newest) = registry.latest(subject).await? else {
        return Ok(Finding::Missing);
    };
    if let Some(ours) = registry.look_up(subject, schema).await? {
        return Ok(if ours.version == newest.version {
            Finding::Current { version: ours.version }
        } else {
            Finding::Older { version: ours.version, newest: newest.version }
        });
    }
    Ok(match new_reads_old(schema, &newest.schema) {
        Ok(()) => Finding::Changed { newest: newest.version },
        Err(why) => Finding::Incompatible { newest: newest.version, why },
    })
}

/// A schema file and whether it can follow its earlier state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileVerdict {
    /// Its name in `avro/`.
    pub file: &'static str,
    /// Why readers of ours could not read what theirs wrote.
    pub fault: Option<String>,
}

/// Compares `avro/` with another directory of the same shape (for example the
/// main branch's), without a registry: for each file, whether ours reads what
/// theirs wrote. A file that they do not have is new.
///
/// # Errors
/// When a file cannot be read.
pub fn compatible(against: &Path) -> Result<Vec<FileVerdict>, SchemasError> {
    contract::ALL
        .iter()
        .map(|&(file, ours)| {
            let path = against.join(file);
            match std::fs::read_to_string(&path) {
                Ok(theirs) => Ok(FileVerdict { file, fault: new_reads_old(ours, &theirs).err() }),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    Ok(FileVerdict { file, fault: None })
                }
                Err(source) => Err(SchemasError::File { path: path.display().to_string(), source }),
            }
        })
        .collect()
}

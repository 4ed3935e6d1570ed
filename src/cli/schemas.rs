//! `schemas check|apply|compatible`

use std::path::Path;

use anyhow::{Result, bail};

use crate::config::Config;
use crate::topic::schemas;

use super::print;

/// Prints how the registry's subjects differ from `avro/`.
///
/// # Errors
/// When they do differ, or the registry does not answer.
pub async fn check(config: &Config) -> Result<()> {
    let report = schemas::check(config).await?;
    print(&report.to_string());
    if report.is_incompatible() {
        bail!("our schemas cannot follow those in the registry: see avro/README.md, Changing a schema");
    }
    if !report.is_clean() {
        bail!("subjects are not as they should be: run `patient-notify schemas apply`");
    }
    print(&format!("{} subjects are as they should be\n", report.subjects.len()));
    Ok(())
}

/// Registers the schemas of `avro/`, and prints what was found before.
///
/// # Errors
/// When a change is incompatible (then nothing was registered), or the registry
/// does not answer.
pub async fn apply(config: &Config) -> Result<()> {
    let before = schemas::apply(config).await?;
    if !before.is_clean() {
        print(&format!("before:\n{before}now:\n{}", schemas::check(config).await?));
    }
    print(&format!("{} subjects are in place\n", before.subjects.len()));
    Ok(())
}

/// Compares `avro/` with a directory that holds an earlier state of it, without
/// a registry.
///
/// # Errors
/// When a schema of ours cannot read what the earlier one wrote.
pub fn compatible(against: &Path) -> Result<()> {
    if !against.is_dir() {
        bail!("{} is not a directory", against.display());
    }
    let verdicts = schemas::compatible(against)?;
    for verdict in &verdicts {
        let text =
            verdict.fault.as_deref().map_or("compatible".to_owned(), |why| format!("INCOMPATIBLE: {why}"));
        print(&format!("{}: {text}\n", verdict.file));
    }
    if verdicts.iter().any(|verdict| verdict.fault.is_some()) {
        bail!("readers of the new schemas could not read older records; see avro/README.md");
    }
    Ok(())
}

//! `topics check|apply`

use anyhow::{Result, bail};

use crate::config::Config;
use crate::topic::admin;

use super::print;

/// Prints how the brokers' topics differ from ours.
///
/// # Errors
/// When they do differ, or the brokers do not answer.
pub async fn check(config: &Config) -> Result<()> {
    let report = admin::check(config).await?;
    print(&report.to_string());
    if !report.is_clean() {
        bail!("topics are not as they should be: run `patient-notify topics apply`");
    }
    print(&format!("{} topics are as they should be\n", report.topics));
    Ok(())
}

/// Brings the brokers' topics in line with ours, and prints what was done.
///
/// # Errors
/// When the brokers do not answer, or refuse a change.
pub async fn apply(config: &Config) -> Result<()> {
    let report = admin::apply(config).await?;
    print(&report.to_string());
    print(&format!("{} topics are in place, {} changes made\n", report.topics, report.changes.len()));
    Ok(())
}

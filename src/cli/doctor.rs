//! `doctor`: is everything there that the deployments need, and what mends it if not.

mod data;
mod finding;
mod kafka;
mod outside;

use anyhow::{Result, bail};
use clap::Args;

use crate::config::Config;

use super::print;
use finding::Grade;

/// `patient-notify doctor`
#[derive(Debug, Clone, Copy, Args)]
pub struct Options {
    /// A JSON array with an object a check: `check`, `grade` (ok, warning, fault,
    /// skipped), `what`, and `mend` where something has to be done.
    #[arg(long)]
    json: bool,
}

/// Looks at brokers, topics, registry, schemas, database, clock, permissions and
/// providers, all side by side, changes nothing, and prints what it found with what
/// mends it. The configuration itself was looked at before.
///
/// # Errors
/// When one of the findings is a fault.
pub async fn run(config: &Config, options: Options) -> Result<()> {
    let (brokers, registry, database, outside) = tokio::join!(
        kafka::look(config),
        data::registry(config),
        data::database(config),
        outside::providers(config),
    );
    let findings = [brokers, registry, database, outside].concat();
    if options.json {
        print(&format!("{}\n", serde_json::to_string_pretty(&findings)?));
    } else {
        findings.iter().for_each(|finding| print(&finding.to_string()));
    }
    let count = |grade| findings.iter().filter(|finding| finding.grade == grade).count();
    let skipped = match count(Grade::Skipped) {
        0 => String::new(),
        some => format!("; {some} more could not be looked at before that is mended"),
    };
    match count(Grade::Fault) {
        0 => Ok(()),
        1 => bail!("one fault{skipped}"),
        faults => bail!("{faults} faults{skipped}"),
    }
}

//! `patient-notify simulate`: the autoscaling loop, simulated.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use super::print;
use crate::scaling::sim;

/// `patient-notify simulate …`
#[derive(Debug, Args)]
pub struct Options {
    /// Folder with autoscaling.md, whose tables are written anew; pictures go into autoscaling/
    /// in it. None: the tables are printed.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Hours of each kind. The first half looks for the best lagThreshold, the rest is told.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(2..=200))]
    seeds: u64,
}

/// Simulates, and writes or prints what came of it.
///
/// # Errors
/// When a file cannot be read or written, or the page has no place for the tables.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let comparison = sim::compare(options.seeds);
    let tables = sim::generated(&comparison);
    let Some(out) = &options.out else {
        print(&tables);
        return Ok(());
    };
    let file = out.join("autoscaling.md");
    let page = fs::read_to_string(&file).with_context(|| format!("{} cannot be read", file.display()))?;
    let page = sim::put_into(&page, &tables).with_context(|| file.display().to_string())?;
    let folder = out.join("autoscaling");
    fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
    for (name, svg) in sim::plots(&comparison) {
        let file = folder.join(name);
        fs::write(&file, svg).with_context(|| format!("{} cannot be written", file.display()))?;
    }
    fs::write(&file, page).with_context(|| format!("{} cannot be written", file.display()))?;
    print(&format!("wrote {} and the pictures in {}\n", file.display(), folder.display()));
    Ok(())
}

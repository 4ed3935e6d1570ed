//! `callbacks list|replay`

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use deadpool_postgres::Pool;
use jiff::Timestamp;
use nix::unistd::{Uid, User};

use super::columns;
use super::{Usage, print};
use crate::config::Config;
use crate::domain::ids::is_opaque;
use crate::record::callbacks::{self, Replay, ShownEndpoint};
use crate::record::{RecordError, pool};
use crate::roles::Unavailable;

/// `patient-notify callbacks …`
#[derive(Debug, Subcommand)]
pub enum CallbacksCommand {
    /// Say how each caller's end stands, what waits for it, and what is parked.
    List,
    /// Deliver what was parked once more, under the same identifiers.
    Replay(ReplayOptions),
}

/// What to replay.
#[derive(Debug, Args)]
pub struct ReplayOptions {
    /// The caller whose events are meant.
    #[arg(value_name = "CALLER")]
    caller: String,
    /// Only changes at or after this time, for example 2026-11-22T08:00:00Z.
    #[arg(long, value_name = "TIME")]
    from: Option<Timestamp>,
    /// At most so many, oldest change first.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Who does it, for the record; by default the user of this process.
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// Runs `callbacks list` or `callbacks replay`.
///
/// # Errors
/// When the database is away, or the caller has never been called back.
pub async fn run(config: &Config, command: CallbacksCommand) -> Result<()> {
    let pool = pool::pool(&config.postgres)?;
    match command {
        CallbacksCommand::List => list(&pool).await,
        CallbacksCommand::Replay(options) => replay(&pool, options).await,
    }
}

async fn list(pool: &Pool) -> Result<()> {
    let endpoints = callbacks::list(pool, None).await.map_err(away)?;
    if endpoints.is_empty() {
        print("nobody is called back\n");
        return Ok(());
    }
    let head = ["CALLER", "STATE", "PENDING", "OLDEST", "PARKED", "FAILING SINCE", "LAST FAILURE"];
    print(&columns(head.map(str::to_owned), endpoints.iter().map(row).collect()));
    Ok(())
}

fn row(endpoint: &ShownEndpoint) -> [String; 7] {
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        endpoint.caller.clone(),
        endpoint.state.as_str().to_owned(),
        endpoint.pending.to_string(),
        or_none(endpoint.oldest_pending.map(|age| format!("{} s", age.as_secs()))),
        endpoint.parked.to_string(),
        or_none(endpoint.failing_since.map(|since| since.to_string())),
        or_none(endpoint.last_failure.clone()),
    ]
}

async fn replay(pool: &Pool, options: ReplayOptions) -> Result<()> {
    let ReplayOptions { caller, from, limit, by } = options;
    let user = || User::from_uid(Uid::current()).ok().flatten().map(|user| user.name);
    let by = by.or_else(user).unwrap_or_else(|| "unknown".to_owned());
    for (name, what) in [(&caller, "CALLER"), (&by, "--by")] {
        if !is_opaque(name) {
            bail!(Usage(format!("{what} must be 1 to 64 characters of A-Z a-z 0-9 . _ : -")));
        }
    }
    let what = Replay { caller: &caller, from, limit: i64::from(limit) };
    let Some(replayed) = callbacks::replay(pool, &by, what).await.map_err(away)? else {
        bail!("{caller} has never been called back; `patient-notify callbacks list` shows who is");
    };
    let opened = if replayed.was_disabled { "; its end was disabled and is called again" } else { "" };
    print(&format!("{} replayed{opened}\n", replayed.events));
    Ok(())
}

/// The exit code says that the database is away.
fn away(error: RecordError) -> anyhow::Error {
    if error.is_unavailable() {
        anyhow::Error::from(error).context(Unavailable("postgres"))
    } else {
        error.into()
    }
}

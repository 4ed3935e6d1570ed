//! `jobs list|show|retry|cancel`

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use jiff::Timestamp;
use nix::unistd::{Uid, User};
use uuid::Uuid;

use crate::config::Config;
use crate::domain::job::{JobKind, JobState};
use crate::record::jobs::{self, JobView, ListQuery, Steered};
use crate::record::{RecordError, pool};
use crate::roles::Unavailable;

use super::{columns, print};

/// `patient-notify jobs …`
#[derive(Debug, Subcommand)]
pub enum JobsCommand {
    /// Say which jobs there are, the newest first.
    List(ListOptions),
    /// Show one job.
    Show {
        /// The job, as `jobs list` names it.
        #[arg(value_name = "ID")]
        job_id: Uuid,
    },
    /// Begin a parked job anew, with all of its attempts, where it was.
    Retry(SteerOptions),
    /// Call a job off; what it has done stays done.
    Cancel(SteerOptions),
}

/// What to list.
#[derive(Debug, Args)]
pub struct ListOptions {
    /// Only of this kind.
    #[arg(long, value_parser = kind)]
    kind: Option<JobKind>,
    /// Only in this state: queued, running, done, parked or cancelled.
    #[arg(long, value_parser = state)]
    state: Option<JobState>,
    /// Lines to show.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
}

/// Which job to steer.
#[derive(Debug, Args)]
pub struct SteerOptions {
    /// The job, as `jobs list` names it.
    #[arg(value_name = "ID")]
    job_id: Uuid,
    /// Who does it, for the audit log; the user of this machine unless it is said.
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

fn kind(word: &str) -> Result<JobKind, String> {
    let known = || JobKind::ALL.iter().map(|kind| kind.as_str()).collect::<Vec<_>>().join(", ");
    JobKind::parse(word).ok_or_else(|| format!("known kinds: {}", known()))
}

fn state(word: &str) -> Result<JobState, String> {
    let known = || JobState::ALL.iter().map(|state| state.as_str()).collect::<Vec<_>>().join(", ");
    JobState::parse(word).ok_or_else(|| format!("known states: {}", known()))
}

/// Runs one of them.
///
/// # Errors
/// When the database is away, there is no such job, or it is in another state.
pub async fn run(config: &Config, command: JobsCommand) -> Result<()> {
    let pool = pool::pool(&config.postgres)?;
    match command {
        JobsCommand::List(ListOptions { kind, state, limit }) => {
            let wanted = ListQuery { kind, state, after: None, limit: i64::from(limit) };
            let found = jobs::list(&pool, wanted).await.map_err(away)?;
            print(&table(&found));
        }
        JobsCommand::Show { job_id } => match jobs::get(&pool, job_id).await.map_err(away)? {
            Some(job) => print(&shown(&job)),
            None => bail!("there is no job {job_id}"),
        },
        JobsCommand::Retry(SteerOptions { job_id, by }) => {
            steered(jobs::retry(&pool, job_id, &caller(by)).await.map_err(away)?, job_id)?;
        }
        JobsCommand::Cancel(SteerOptions { job_id, by }) => {
            steered(jobs::cancel(&pool, job_id, &caller(by)).await.map_err(away)?, job_id)?;
        }
    }
    Ok(())
}

fn away(error: RecordError) -> anyhow::Error {
    let is_away = error.is_unavailable();
    let error = anyhow::Error::from(error);
    if is_away { error.context(Unavailable("postgres")) } else { error }
}

fn caller(by: Option<String>) -> String {
    let user = || User::from_uid(Uid::current()).ok().flatten().map(|user| user.name);
    by.or_else(user).unwrap_or_else(|| "cli".to_owned())
}

fn steered(steered: Steered, job_id: Uuid) -> Result<()> {
    match steered {
        Steered::Stored(job) => print(&format!("{job_id} is {}\n", job.state)),
        Steered::NotFound => bail!("there is no job {job_id}"),
        Steered::State(state) => bail!("the job is {state}, in which this cannot be done"),
        Steered::Replaced(other) => bail!("another job for the same has not ended: {other}"),
    }
    Ok(())
}

fn table(found: &[JobView]) -> String {
    let head = ["ID", "KIND", "STATE", "ATTEMPTS", "CREATED", "FAULT"].map(str::to_owned);
    let row = |job: &JobView| {
        [
            job.job_id.to_string(),
            job.kind.to_string(),
            job.state.to_string(),
            attempts(job),
            moment(job.created_at),
            job.fault.clone().unwrap_or_default(),
        ]
    };
    columns(head, found.iter().map(row).collect())
}

fn shown(job: &JobView) -> String {
    let due = job.look_at.map(moment);
    let (run_at, lease) = if job.state == JobState::Queued { (due, None) } else { (None, due) };
    let lines = [
        ("id", Some(job.job_id.to_string())),
        ("kind", Some(job.kind.to_string())),
        ("key", Some(job.key.clone()).filter(|key| !key.is_empty())),
        ("state", Some(job.state.to_string())),
        ("attempts", Some(attempts(job))),
        ("fault", job.fault.clone()),
        ("arguments", Some(job.arguments.to_string())),
        ("progress", Some(job.progress.to_string())),
        ("due", run_at),
        ("lease until", lease),
        ("process", job.owner.map(|owner| owner.to_string())),
        ("requested by", Some(job.requested_by.clone())),
        ("created", Some(moment(job.created_at))),
        ("first attempt", job.started_at.map(moment)),
        ("ended", job.ended_at.map(moment)),
    ];
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let line = |(name, value): (&str, Option<String>)| value.map(|value| format!("{name:width$}  {value}\n"));
    lines.into_iter().filter_map(line).collect()
}

fn attempts(job: &JobView) -> String {
    format!("{}/{}", job.attempts.0, job.attempts.1)
}

fn moment(time: Timestamp) -> String {
    format!("{time:.0}")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Cli;

    #[test]
    fn words_that_nobody_knows_are_refused() {
        let parses = |line: &str| Cli::try_parse_from(line.split(' ')).is_ok();
        let id = "0190b2c6-7d2e-7c51-a3b0-3b8f3a1d2e4f";
        for line in [
            "patient-notify jobs list --kind export --state parked --limit 5".to_owned(),
            format!("patient-notify jobs show {id}"),
            format!("patient-notify jobs retry {id} --by ann"),
            format!("patient-notify jobs cancel {id}"),
        ] {
            assert!(parses(&line), "{line}");
        }
        for line in [
            "patient-notify jobs",
            "patient-notify jobs list --kind nonsense",
            "patient-notify jobs list --state nonsense",
            "patient-notify jobs show nonsense",
            "patient-notify jobs retry",
        ] {
            assert!(!parses(line), "{line}");
        }
    }
}

//! `cron list|run|history`

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use jiff::tz::TimeZone;
use jiff::{Timestamp, Unit};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::cron::Job;
use crate::cron::jobs::{Entry, Jobs, entries};
use crate::cron::runner::{Ran, Runner};
use crate::record::ticks::TickEnd;
use crate::record::ticks_list::{TickLine, history};
use crate::record::{Owner, RecordError, Store, pool};
use crate::roles::Unavailable;
use crate::topic::encoder::Encoder;
use crate::topic::producer::Producer;

use super::columns;
use super::{Usage, print};

/// `patient-notify cron …`
#[derive(Debug, Subcommand)]
pub enum CronCommand {
    /// Say what jobs there are, when each is due, and how its last tick ended.
    List,
    /// Run a job now, in this process, whatever its schedule says. If this ends before it
    /// is done, a running `cron` goes on with it.
    Run(RunOptions),
    /// Say what ran, newest first.
    History(HistoryOptions),
}

/// What to run.
#[derive(Debug, Args)]
pub struct RunOptions {
    /// The job, as `cron list` names it.
    #[arg(value_name = "JOB")]
    job: String,
    /// Who does it, for the history; by default the user of this process.
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// What to show.
#[derive(Debug, Args)]
pub struct HistoryOptions {
    /// Only of this job.
    #[arg(value_name = "JOB")]
    job: Option<String>,
    /// Lines to show.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
}

/// Runs one of the commands.
///
/// # Errors
/// When the database does not answer, there is no such job, it is running already, or
/// it did not come to its end.
pub async fn run(config: &Config, command: CronCommand) -> Result<()> {
    let jobs = entries(config)?;
    let store = Store::new(pool::pool(&config.postgres)?, Owner::new());
    match command {
        CronCommand::List => list(config, &store, &jobs).await,
        CronCommand::Run(options) => {
            let name = known(&jobs, &options.job)?;
            let by = options.by.or_else(super::dlq::user).unwrap_or_else(|| "unknown".to_owned());
            run_now(config, store, name, &by).await
        }
        CronCommand::History(options) => {
            let job = options.job.as_deref().map(|job| known(&jobs, job)).transpose()?;
            let pool = pool::pool(&config.postgres)?;
            let ticks = history(&pool, job, options.limit).await.map_err(away)?;
            let head = ["DUE", "JOB", "END", "TOOK", "BY", "WHAT"].map(str::to_owned);
            print(&columns(head, ticks.iter().map(row).collect()));
            Ok(())
        }
    }
}

fn known(jobs: &[Entry], job: &str) -> Result<&'static str> {
    let found = jobs.iter().find(|entry| entry.name == job);
    let names: Vec<_> = jobs.iter().map(|entry| entry.name).collect();
    let usage = || Usage(format!("{job:?} is no job; there are {}", names.join(", ")));
    Ok(found.ok_or_else(usage)?.name)
}

async fn list(config: &Config, store: &Store, jobs: &[Entry]) -> Result<()> {
    let pool = pool::pool(&config.postgres)?;
    let mut rows = Vec::with_capacity(jobs.len());
    for job in jobs {
        let now = store.look_at_job(job.name).await.map_err(away)?.now;
        let zone = TimeZone::get(job.schedule.zone()).unwrap_or(TimeZone::UTC);
        let next = job.next(now).map(|due| due.to_zoned(zone).strftime("%Y-%m-%d %H:%M %Z").to_string());
        let next = next.unwrap_or_else(|| if job.enabled { "never" } else { "off" }.to_owned());
        let last = history(&pool, Some(job.name), 1).await.map_err(away)?;
        let last = last.first().map_or_else(|| "none yet".to_owned(), ended);
        let schedule = &job.schedule;
        rows.push([
            job.name.to_owned(),
            schedule.expression().to_owned(),
            schedule.zone().to_owned(),
            next,
            last,
        ]);
    }
    let head = ["JOB", "SCHEDULE", "TIME ZONE", "NEXT", "LAST TICK"].map(str::to_owned);
    print(&columns(head, rows));
    Ok(())
}

/// How a tick stands: `done 2026-06-01T01:30:00Z`.
fn ended(tick: &TickLine) -> String {
    let at = tick.ended_at.unwrap_or(tick.started_at);
    format!("{} {}", state(tick), whole_seconds(at))
}

fn state(tick: &TickLine) -> String {
    match &tick.fault {
        Some(fault) => format!("{} ({fault})", tick.state),
        None => tick.state.clone(),
    }
}

fn row(tick: &TickLine) -> [String; 6] {
    let took =
        tick.ended_at.filter(|_| tick.state != "skipped").map(|end| end.duration_since(tick.started_at));
    let mut what: Vec<_> = tick.counts.iter().map(|(word, count)| format!("{word} {count}")).collect();
    if tick.passed_over > 0 {
        what.push(format!("passed over {}", tick.passed_over));
    }
    [
        whole_seconds(tick.due_at),
        tick.job.clone(),
        state(tick),
        took.map(|took| format!("{:.1} s", took.as_secs_f64())).unwrap_or_default(),
        tick.run_by.clone().unwrap_or_default(),
        what.join(", "),
    ]
}

fn whole_seconds(at: Timestamp) -> String {
    at.round(Unit::Second).unwrap_or(at).to_string()
}

async fn run_now(config: &Config, store: Store, job: &'static str, by: &str) -> Result<()> {
    let producer = Arc::new(Producer::new(&config.kafka)?);
    let encoder = Arc::new(Encoder::new(&config.registry, &config.kafka.topic_prefix)?);
    let jobs = Jobs {
        config: Arc::new(config.clone()),
        store,
        producer: Arc::clone(&producer),
        encoder,
        stop: CancellationToken::new(),
    };
    let ran = match job {
        "digest" => one(&jobs.digest()?, by).await,
        "retention" => one(&jobs.retention()?, by).await,
        _ => one(&jobs.stale()?, by).await,
    };
    producer.flush(Duration::from_millis(config.kafka.produce_timeout_ms)).await?;
    ran
}

async fn one<J: Job>(runner: &Runner<J>, by: &str) -> Result<()> {
    let tick = runner.store.begin_manual_tick(J::NAME, by, runner.lease).await.map_err(away)?;
    let Some(tick) = tick else {
        bail!("{} is running already: `cron history {}` shows since when", J::NAME, J::NAME)
    };
    match runner.run(tick, None).await.map_err(away)? {
        Ran::Ended(TickEnd::Done) => {
            print(&format!("{} is done: `cron history {}` shows what it did\n", J::NAME, J::NAME));
            Ok(())
        }
        Ran::Ended(TickEnd::Failed(fault)) => bail!("{} has failed: {fault}", J::NAME),
        Ran::GivenBack | Ran::Lost => {
            bail!("{} could not be done now; a running `cron` goes on with it", J::NAME)
        }
    }
}

/// An error of the database, so that the exit code says whether it was away.
fn away(error: RecordError) -> anyhow::Error {
    let is_unavailable = error.is_unavailable();
    let error = anyhow::Error::from(error);
    if is_unavailable { error.context(Unavailable("postgres")) } else { error }
}

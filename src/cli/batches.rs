//! `batches list|show|check`

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Subcommand;
use deadpool_postgres::Pool;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{Usage, print};
use crate::config::Config;
use crate::domain::BatchId;
use crate::domain::batch::BatchState;
use crate::record::batch_checks::{self, CheckView};
use crate::record::batches::{self, Acted, BatchView, By, ListQuery};
use crate::record::{Owner, RecordError, Store, batch_counts, pool};
use crate::roles::Unavailable;
use crate::topic::encoder::Encoder;
use crate::topic::names::NOTIFICATIONS_BULK;
use crate::topic::producer::Producer;
use crate::workers::batches::check::BatchChecker;
use crate::workers::batches::produce::RowProducer;
use crate::workers::rounds::Worker as _;

/// Longest pause between two steps of a check that this process goes on with.
const STEP_PAUSE_MAX: Duration = Duration::from_millis(500);

/// `patient-notify batches …`
#[derive(Debug, Subcommand)]
pub enum BatchesCommand {
    /// The newest batches, and how far each is.
    List {
        /// Only those in this state.
        #[arg(long, value_parser = state)]
        state: Option<BatchState>,
        /// Lines to show.
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
    },
    /// One batch: progress, rate, what became of its messages, its newest check.
    Show {
        /// As `list` names it.
        id: Uuid,
    },
    /// Go through a batch's rows: does everything add up? Exit code 1 when it does not.
    Check {
        /// As `list` names it.
        id: Uuid,
        /// Publish again what was published and is no notification.
        #[arg(long)]
        repair: bool,
        /// Longest wait for the consumers and for the end, in seconds; the publisher's
        /// processes go on with it after that.
        #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86_400))]
        wait_s: u64,
    },
}

fn state(word: &str) -> Result<BatchState, String> {
    BatchState::parse(word).ok_or_else(|| {
        let words: Vec<&str> = BatchState::ALL.iter().map(|state| state.as_str()).collect();
        format!("there are {}", words.join(", "))
    })
}

/// Runs one of them.
///
/// # Errors
/// When something is away, there is no such batch, or one does not add up.
pub async fn run(config: &Config, command: BatchesCommand) -> Result<()> {
    let pool = pool::pool(&config.postgres)?;
    match command {
        BatchesCommand::List { state, limit } => list(&pool, state, limit).await,
        BatchesCommand::Show { id } => show(&pool, BatchId(id)).await,
        BatchesCommand::Check { id, repair, wait_s } => {
            check(config, &pool, BatchId(id), repair, Duration::from_secs(wait_s)).await
        }
    }
}

fn away(error: RecordError) -> anyhow::Error {
    match error {
        RecordError::Unavailable(_) => anyhow::Error::new(error).context(Unavailable("postgres")),
        RecordError::Bug(_) => error.into(),
    }
}

async fn list(pool: &Pool, state: Option<BatchState>, limit: u32) -> Result<()> {
    let query = ListQuery { owner: None, state, after: None, limit: i64::from(limit) };
    let mut text = String::new();
    for batch in batches::list(pool, &query).await.map_err(away)? {
        writeln!(text, "{}", line(&batch))?;
    }
    print(if text.is_empty() { "no batches\n" } else { &text });
    Ok(())
}

fn line(batch: &BatchView) -> String {
    let rate = batch.measured_per_s.map_or_else(String::new, |rate| format!(", {rate:.0}/s"));
    format!(
        "{}  {:<9}  {} of {}{rate}  {}  {}",
        batch.id,
        batch.state.as_str(),
        batch.rows_published,
        batch.rows_stored,
        batch.made.caller,
        batch.made.name
    )
}

async fn show(pool: &Pool, id: BatchId) -> Result<()> {
    let batch = batches::get(pool, id, None).await.map_err(away)?.context("there is no such batch")?;
    let mut text = format!("{}\n", line(&batch));
    writeln!(
        text,
        "uploaded: {} rows, {} stored, {} doubled, {} rejected",
        batch.rows_received, batch.rows_stored, batch.rows_doubled, batch.rows_rejected
    )?;
    let ended = batch_counts::ended(pool, id, batch.published_to).await.map_err(away)?;
    for (state, count) in ended.states {
        writeln!(
            text,
            "{:<20} {count}{}",
            state.as_str(),
            if ended.estimated { " (estimated)" } else { "" }
        )?;
    }
    if let Some(check) = batch_checks::newest(pool, id, None).await.map_err(away)? {
        text.push_str(&told(&check));
    }
    print(&text);
    Ok(())
}

/// Asks for a check and goes on with it until it is done, beside the publisher's
/// processes if there are any.
async fn check(config: &Config, pool: &Pool, id: BatchId, repair: bool, wait: Duration) -> Result<()> {
    let by = By { caller: "operator", owner: None, action: "batches check" };
    match batch_checks::ask(pool, id, repair, by).await.map_err(away)? {
        Acted::Stored(_) | Acted::Already(_) => {}
        Acted::State(state) => bail!("the batch is {state}, in which this cannot be done"),
        Acted::Expired => bail!("the batch has expired: nothing of it is published any more"),
        Acted::NotFound | Acted::Empty | Acted::SizeDiffers(_) => {
            return Err(Usage("there is no such batch; `batches list` shows them".to_owned()).into());
        }
    }
    let checker = checker(config, pool)?;
    let until = Instant::now() + wait;
    let done = loop {
        let pause = checker.turn().await.map_err(away)?;
        let check = batch_checks::newest(pool, id, None).await.map_err(away)?.context("the batch is gone")?;
        if check.finished_at.is_some() {
            break check;
        }
        if Instant::now() >= until {
            print(&told(&check));
            bail!("the check is not done after {} s; it goes on, see `batches show`", wait.as_secs());
        }
        sleep(pause.min(STEP_PAUSE_MAX)).await;
    };
    print(&told(&done));
    match done.adds_up() {
        Some(true) => Ok(()),
        _ if done.missing > 0 && done.missing == done.republished => {
            bail!("what was missing is published again; check once more when it was read")
        }
        _ => bail!(
            "the batch does not add up{}",
            if repair { "" } else { "; --repair publishes what is missing" }
        ),
    }
}

fn checker(config: &Config, pool: &Pool) -> Result<BatchChecker> {
    let rows = RowProducer {
        producer: Arc::new(Producer::new(&config.kafka)?),
        encoder: Encoder::new(&config.registry, &config.kafka.topic_prefix)?,
        topic: NOTIFICATIONS_BULK.full_name(&config.kafka.topic_prefix),
        publish_timeout: Duration::from_millis(config.kafka.produce_timeout_ms),
    };
    let store = Store::new(pool.clone(), Owner::new());
    Ok(BatchChecker { store, rows: Arc::new(rows), kafka: config.kafka.clone() })
}

/// A check in words.
fn told(check: &CheckView) -> String {
    let mut text = match (check.said, check.adds_up()) {
        (None, _) => "check: it has not begun\n".to_owned(),
        (Some((stored, published)), adds_up) => format!(
            "check: {}\n  recipients: {} of {stored}\n  published: {} of {published}\n  ended: {}\n  open: {}\n  \
             missing: {}\n  published again: {}\n",
            match adds_up {
                None => "it goes on",
                Some(true) => "everything adds up",
                Some(false) => "it does not add up",
            },
            check.rows,
            check.rows_published,
            check.ended,
            check.open,
            check.missing,
            check.republished
        ),
    };
    if !check.first_missing.is_empty() {
        let rows: Vec<String> = check.first_missing.iter().map(i64::to_string).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  first missing rows: {}", rows.join(", "));
    }
    text
}

//! The worker as its role runs it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use patient_notify::config::Config;
use patient_notify::deliver::Providers;
use patient_notify::health::Health;
use patient_notify::metrics;
use patient_notify::roles::{self, Context};
use tokio_util::sync::CancellationToken;

use crate::cpu::own_cpu;
use crate::rows::Table;

const TIMEOUT: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(20);

/// Each recorded outcome draws one number.
const RECORDED: &str = "SELECT last_value + is_called::int - 1 FROM outbox_outbox_id_seq";
const TRANSACTIONS: &str = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";

const STATEMENTS: [&str; 4] = ["due_kinds", "claim_due", "facts_by_id", "record"];

/// What a run came to.
pub struct Run {
    pub elapsed: Duration,
    /// CPU of this process.
    pub cpu: Duration,
    /// Transactions of the database meanwhile, those of this bench's looks taken off.
    pub transactions: u64,
}

/// How many connections work at once on deliveries: one claims, the others record.
pub const fn connections(config: &Config) -> usize {
    1 + config.processor.record_lanes
}

/// How many rows one claim takes at most.
pub fn batch(config: &Config) -> usize {
    config.workers.batch_max_rows.min(config.workers.in_flight_max)
}

/// Runs the role until every delivery is recorded as sent.
pub async fn run(config: &Config, table: &Table, deliveries: u64) -> anyhow::Result<Run> {
    let shutdown = CancellationToken::new();
    let context =
        Context { config: Arc::new(config.clone()), health: Health::new(), shutdown: shutdown.clone() };
    let (recorded, transactions) = (table.number(RECORDED).await?, table.number(TRANSACTIONS).await?);
    let (begun, cpu) = (Instant::now(), own_cpu()?);
    let role = tokio::spawn(roles::wrk_notifications::run_with(context, Providers::instant()));
    let mut looks = 0;
    while table.number(RECORDED).await? < recorded + deliveries {
        anyhow::ensure!(!role.is_finished(), "the worker ended by itself");
        anyhow::ensure!(begun.elapsed() < TIMEOUT, "not done within {TIMEOUT:?}");
        tokio::time::sleep(LOOK).await;
        looks += 1;
    }
    let (elapsed, cpu) = (begun.elapsed(), own_cpu()?.saturating_sub(cpu));
    shutdown.cancel();
    role.await??;
    let sent = table.count("delivery WHERE state = 'sent' AND due_at IS NULL").await?;
    anyhow::ensure!(sent == deliveries, "{sent} of {deliveries} deliveries were sent");
    let transactions = table.number(TRANSACTIONS).await? - transactions;
    Ok(Run { elapsed, cpu, transactions: transactions.saturating_sub(looks) })
}

/// What the statements of all runs took, by the process's own metrics: a line each.
pub fn statements() -> Vec<String> {
    let text = metrics::render();
    let value = |metric: &str, statement: &str| {
        let of =
            |line: &&str| line.starts_with(metric) && line.contains(&format!("statement=\"{statement}\""));
        let line = text.lines().find(of)?;
        line.rsplit_once(' ')?.1.parse::<f64>().ok()
    };
    let line = |statement: &&str| {
        let calls = value("patient_notify_statement_duration_seconds_count", statement)?;
        let seconds = value("patient_notify_statement_duration_seconds_sum", statement)?;
        let rows = value("patient_notify_statement_rows_sum", statement)?;
        let (per_call, ms) = (rows / calls, seconds * 1e3 / calls);
        Some(format!("    {statement:<14} {calls:>7.0} calls, {per_call:>6.1} rows and {ms:>6.2} ms each"))
    };
    STATEMENTS.iter().filter_map(line).collect()
}

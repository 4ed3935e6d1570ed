//! The worker as its role runs it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use patient_notify::config::Config;
use patient_notify::deliver::Providers;
use patient_notify::health::Health;
use patient_notify::roles::{self, Context};
use tokio_util::sync::CancellationToken;

use crate::rows::Table;

const TIMEOUT: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_millis(20);

/// Each recorded outcome draws one number.
const RECORDED: &str = "SELECT last_value + is_called::int - 1 FROM outbox_outbox_id_seq";
const TRANSACTIONS: &str = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()";

/// What a run came to.
pub struct Run {
    pub elapsed: Duration,
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
    let begun = Instant::now();
    let role = tokio::spawn(roles::wrk_notifications::run_with(context, Providers::instant()));
    let mut looks = 0;
    while table.number(RECORDED).await? < recorded + deliveries {
        anyhow::ensure!(!role.is_finished(), "the worker ended by itself");
        anyhow::ensure!(begun.elapsed() < TIMEOUT, "not done within {TIMEOUT:?}");
        tokio::time::sleep(LOOK).await;
        looks += 1;
    }
    let elapsed = begun.elapsed();
    shutdown.cancel();
    role.await??;
    let sent = table.count("delivery WHERE state = 'sent' AND due_at IS NULL").await?;
    anyhow::ensure!(sent == deliveries, "{sent} of {deliveries} deliveries were sent");
    let transactions = table.number(TRANSACTIONS).await? - transactions;
    Ok(Run { elapsed, transactions: transactions.saturating_sub(looks) })
}

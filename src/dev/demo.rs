//! The whole way, shown: patients are loaded; laboratories, backends and a campaign
//! publish; providers, the portal and patients answer; and what became of each message
//! is compared with what the providers were given and have said.

mod people;
mod publish;
mod report;
mod workers;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use self::people::recipients_of;
use self::publish::Publisher;
use self::report::Report;
use super::command::Options;
use super::environment::Environment;
use super::reporting::Reporting;
use crate::config::Config;
use crate::domain::State;
use crate::record::recipients::{RecipientUpsert, upsert_many};
use crate::record::{Owner, Store, pool};
use crate::topic::names::{ALL, NOTIFICATIONS, NOTIFICATIONS_BULK, TEST_RESULTS};
use crate::topic::{dlq_of, lag};

/// Longest wait until everything has come to rest.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(180);
/// What is planned for later than this is not waited for: quiet hours, far schedules.
const WAITED_FOR: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);
/// A step that takes longer than this gets a progress bar.
const PROGRESS_AFTER: Duration = Duration::from_secs(2);

/// Runs the demonstration. False when something was lost, doubled, left, or is not as
/// the receipts say.
pub(super) async fn run(environment: &Environment, options: &Options) -> anyhow::Result<bool> {
    let config = Arc::clone(&environment.config);
    let log = Arc::clone(&environment.sandbox.log);
    let pool = pool::pool(&config.postgres)?;
    let recipients: Vec<RecipientUpsert> = (1..=options.patients).flat_map(recipients_of).collect();
    upsert_many(&pool, &recipients).await.context("loading recipients")?;
    println!("Loaded {} recipients of {} patients.", recipients.len(), options.patients);

    let store = Store::new(pool, Owner::new());
    let reporting = &environment.reporting;
    let publisher = Publisher::new(&config, options)?;
    let mut published = publisher.publish().await?;
    println!(
        "Published {} test results, {} requests, {} of a campaign (and {} broken records) in {:.1} s.",
        published.count(&TEST_RESULTS),
        published.count(&NOTIFICATIONS),
        published.count(&NOTIFICATIONS_BULK),
        published.broken,
        published.elapsed.as_secs_f64()
    );
    publisher.call_off(&published.called_off).await?;
    settle(&config, &store, reporting).await?;

    let stopped = reporting.told().stopped;
    publisher.write_again(&stopped, &mut published).await?;
    println!("{} patients answered a text message with STOP; each was written to again.", stopped.len());
    settle(&config, &store, reporting).await?;
    let report = Report::gather(&config, &store, &log, &published, &reporting.told()).await?;
    println!("\n{report}");
    workers::show(&config.app.listen, &environment.sandbox, options.patients).await?;
    settle(&config, &store, reporting).await?;
    let doubled = log.by_delivery().values().filter(|&&times| times > 1).count();
    println!("  doubled              {doubled}");
    Ok(report.is_clean() && doubled == 0)
}

/// A bar that shows itself when a step takes long.
struct Progress {
    bar: ProgressBar,
    begun: Instant,
}

impl Progress {
    fn new(what: &str, count: u64) -> Self {
        let bar = ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {eta}") {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        Self { bar, begun: Instant::now() }
    }

    fn at(&self, position: u64, count: u64) {
        if self.bar.is_hidden() && self.begun.elapsed() > PROGRESS_AFTER {
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
        }
        self.bar.set_length(count);
        self.bar.set_position(position);
    }

    fn one_more(&self) {
        self.at(self.bar.position() + 1, self.bar.length().unwrap_or_default());
    }

    fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// Waits until the groups have read everything, no delivery is on its way (save those
/// that wait for hours), and everything was said of every message and taken in.
async fn settle(config: &Config, store: &Store, reporting: &Reporting) -> anyhow::Result<()> {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    let progress = Progress::new("delivering", 0);
    loop {
        let idle = reporting.is_idle()?;
        let behind = lag_of(config).await?;
        let states = store.count_states().await?;
        let moving: i64 = states
            .iter()
            .filter(|one| !one.state.is_terminal() && !matches!(one.state, State::Sent | State::Held))
            .map(|one| one.count)
            .sum();
        let count: i64 = states.iter().map(|one| one.count).sum();
        let number = |count: i64| u64::try_from(count).unwrap_or(0);
        progress.at(number(count - moving), number(count));
        let unmatched = store.unmatched_waiting().await?;
        let due = store.due_within(WAITED_FOR).await?;
        if idle && behind == 0 && moving == 0 && due == 0 && unmatched == 0 && reporting.is_idle()? {
            progress.clear();
            return Ok(());
        }
        if Instant::now() > deadline {
            progress.clear();
            bail!(
                "not at rest after {} s: lag {behind}, {moving} on their way, {due} due, {unmatched} updates unmatched",
                SETTLE_TIMEOUT.as_secs()
            );
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Records that our groups have not committed.
async fn lag_of(config: &Config) -> anyhow::Result<i64> {
    let kafka = config.kafka.clone();
    tokio::task::spawn_blocking(move || {
        let prefix = &kafka.topic_prefix;
        let mut total = 0;
        for topic in ALL {
            let Some(group) = topic.full_group(prefix) else { continue };
            let partitions = lag::read(&kafka, &group, &[topic.full_name(prefix)])?;
            total += partitions.iter().map(lag::PartitionLag::lag).sum::<i64>();
        }
        anyhow::Ok(total)
    })
    .await?
}

/// Records in the dead-letter topics.
async fn dead_letters(config: &Config) -> anyhow::Result<i64> {
    let kafka = config.kafka.clone();
    tokio::task::spawn_blocking(move || {
        let read = ALL.iter().filter(|topic| topic.group.is_some());
        let topics: Vec<String> = read.map(|topic| dlq_of(&topic.full_name(&kafka.topic_prefix))).collect();
        let partitions = lag::read(&kafka, "patient-notify-demo", &topics)?;
        anyhow::Ok(partitions.iter().map(|one| one.high - one.low).sum())
    })
    .await?
}

//! `produce`: sample records, published as laboratories, backends and providers would.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use futures::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;

use crate::config::Config;
use crate::topic::encoder::{EncodeError, Encoder};
use crate::topic::names::{NOTIFICATION_UPDATES, NOTIFICATIONS, NOTIFICATIONS_BULK, TEST_RESULTS, Topic};
use crate::topic::producer::Producer;
use crate::topic::sample::{RequestOptions, SampleOptions, sample_requests, sample_results, sample_updates};

use super::print;

/// Records that wait for their acknowledgement at a time.
const IN_FLIGHT_MAX: usize = 5_000;
/// Sends are begun in steps of this length when a rate is asked for.
const STEP: Duration = Duration::from_millis(20);
/// A run that is over sooner needs no progress bar.
const PROGRESS_AFTER: Duration = Duration::from_secs(2);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// What to publish.
#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// TestResultPublished records on pat.test-results.v1.
    TestResults(TestResults),
    /// NotificationRequested records on pat.notifications.v1: reminders, confirmations
    /// and messages to one person.
    Notifications(Sample),
    /// NotificationRequested records on pat.notifications-bulk.v1: a campaign.
    Bulk(Sample),
    /// NotificationUpdate records on pat.notification-updates.v1: what becomes known
    /// about the notifications of `produce notifications` with the same seed.
    Updates(Sample),
}

/// How many records, about whom, how fast.
#[derive(Debug, Clone, Args)]
struct Sample {
    /// Records to publish.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Patients they belong to: pat-000001, pat-000002 ...
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=999_999))]
    patients: u64,
    /// Records per second; as fast as the brokers acknowledge when left out.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: Option<u64>,
    /// The same seed publishes the same records again, which changes nothing and
    /// notifies nobody twice; when left out, every run publishes new ones.
    #[arg(long)]
    seed: Option<u64>,
}

/// A sample of test results.
#[derive(Debug, Clone, Args)]
struct TestResults {
    #[command(flatten)]
    sample: Sample,
    /// Share of critical results.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=100))]
    critical_percent: u8,
    /// Share of results that the patient may see only hours later.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    embargo_percent: u8,
}

impl Sample {
    fn seed(&self, now: Timestamp) -> u64 {
        self.seed.unwrap_or_else(|| now.as_microsecond().unsigned_abs())
    }

    fn requests(&self, is_bulk: bool) -> RequestOptions {
        let now = Timestamp::now();
        RequestOptions { seed: self.seed(now), count: self.count, patients: self.patients, is_bulk, now }
    }
}

/// Publishes what was asked for and prints what the brokers acknowledged.
///
/// # Errors
/// When a record was not acknowledged; the ones before it may have been.
pub async fn run(config: &Config, options: Options) -> Result<()> {
    let publisher = Publisher {
        encoder: Encoder::new(&config.registry, &config.kafka.topic_prefix)?,
        producer: Producer::new(&config.kafka).context("cannot set up a Kafka producer")?,
        prefix: config.kafka.topic_prefix.clone(),
    };
    let encoder = &publisher.encoder;
    match &options.what {
        What::TestResults(options) => {
            let TestResults { sample, critical_percent, embargo_percent } = options;
            let now = Timestamp::now();
            let results = sample_results(SampleOptions {
                critical_percent: *critical_percent,
                embargo_percent: *embargo_percent,
                ..SampleOptions::new(sample.seed(now), sample.count, sample.patients, now)
            });
            let records = results.map(async |result| {
                Ok((result.patient_id.as_str().to_owned(), encoder.test_result(&result).await?))
            });
            publisher.publish(&TEST_RESULTS, "test results", sample, records).await
        }
        What::Notifications(sample) => publisher.requests(&NOTIFICATIONS, sample, false).await,
        What::Bulk(sample) => publisher.requests(&NOTIFICATIONS_BULK, sample, true).await,
        What::Updates(sample) => {
            let records = sample_updates(sample.requests(false)).map(async |update| {
                let key = update.patient_id.as_ref().map_or("", |id| id.as_str()).to_owned();
                Ok((key, encoder.update(&update).await?))
            });
            publisher.publish(&NOTIFICATION_UPDATES, "updates", sample, records).await
        }
    }
}

/// A record's key and value.
type Keyed = Result<(String, Vec<u8>), EncodeError>;

struct Publisher {
    encoder: Encoder,
    producer: Producer,
    prefix: String,
}

impl Publisher {
    async fn requests(&self, topic: &Topic, sample: &Sample, is_bulk: bool) -> Result<()> {
        let records = sample_requests(sample.requests(is_bulk)).map(async |request| {
            let value = self.encoder.notification(topic, &request).await?;
            Ok((request.patient_id.as_str().to_owned(), value))
        });
        self.publish(topic, "requests", sample, records).await
    }

    /// Publishes records and says how many were acknowledged: all.
    async fn publish(
        &self,
        topic: &Topic,
        what: &str,
        sample: &Sample,
        records: impl Iterator<Item: Future<Output = Keyed>>,
    ) -> Result<()> {
        // Asked for once, so that the first records do not overtake each other.
        self.encoder.schema_id(topic).await?;
        let name = &topic.full_name(&self.prefix);
        let begin = Instant::now();
        let sends = stream::iter(records.zip(0_u64..))
            .then(|(record, number)| pace(sample.rate, begin, number, record))
            .map(async |record| {
                let (key, value) = record.await?;
                self.producer.send(name, Some(key.as_bytes()), Some(&value), &[]).await?;
                anyhow::Ok(())
            })
            .buffer_unordered(IN_FLIGHT_MAX);
        let acknowledged = count(sends, sample.count).await?;
        self.producer.flush(FLUSH_TIMEOUT).await?;
        let elapsed = begin.elapsed();
        print(&format!(
            "{acknowledged} {what} for up to {} patients acknowledged on {name} in {:.1} s ({:.0}/s)\n",
            sample.patients,
            elapsed.as_secs_f64(),
            acknowledged as f64 / elapsed.as_secs_f64().max(0.001),
        ));
        Ok(())
    }
}

/// Counts acknowledgements until the first failure, and shows how far it is when it
/// takes long.
async fn count(sends: impl futures::Stream<Item = Result<()>>, of: u64) -> Result<u64> {
    let mut sends = std::pin::pin!(sends);
    let begin = Instant::now();
    let bar = hidden_bar(of);
    let mut is_shown = false;
    let mut acknowledged = 0;
    while let Some(sent) = sends.next().await {
        if let Err(error) = sent {
            bar.finish_and_clear();
            bail!(
                error.context(format!("{acknowledged} of {of} were acknowledged before the first failure"))
            );
        }
        acknowledged += 1;
        if !is_shown && begin.elapsed() > PROGRESS_AFTER {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
            is_shown = true;
        }
        bar.set_position(acknowledged);
    }
    bar.finish_and_clear();
    Ok(acknowledged)
}

/// Holds the n-th record back until it is its turn at this rate.
async fn pace<T>(rate: Option<u64>, begin: Instant, number: u64, record: T) -> T {
    if let Some(rate) = rate {
        let due = Duration::from_secs_f64(number as f64 / rate as f64);
        let early = due.saturating_sub(begin.elapsed());
        if early > STEP {
            tokio::time::sleep(early).await;
        }
    }
    record
}

fn hidden_bar(count: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::hidden());
    let style =
        ProgressStyle::with_template("publishing {bar:40} {pos}/{len} acknowledged, {per_sec}, {eta} left");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

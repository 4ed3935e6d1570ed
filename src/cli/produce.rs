//! `produce test-results`: sample events, published as a laboratory would.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use futures::{StreamExt, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::Timestamp;

use crate::config::Config;
use crate::domain::TestResultPublished;
use crate::topic::encoder::Encoder;
use crate::topic::names::TEST_RESULTS;
use crate::topic::producer::Producer;
use crate::topic::sample::{SampleOptions, sample_results};

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
}

/// A sample of test results.
#[derive(Debug, Clone, Args)]
pub struct TestResults {
    /// Results to publish.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,
    /// Patients they belong to: pat-000001, pat-000002 ...
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=999_999))]
    pub patients: u64,
    /// Results per second; as fast as the brokers acknowledge when left out.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub rate: Option<u64>,
    /// Share of critical results.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub critical_percent: u8,
    /// Share of results that the patient may see only hours later.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub embargo_percent: u8,
    /// The same seed publishes the same results again, which notifies nobody
    /// twice; when left out, every run publishes new ones.
    #[arg(long)]
    pub seed: Option<u64>,
}

/// Publishes what was asked for and prints what the brokers acknowledged.
///
/// # Errors
/// When a record was not acknowledged; the ones before it may have been.
pub async fn run(config: &Config, options: Options) -> Result<()> {
    let What::TestResults(options) = options.what;
    let begin = Instant::now();
    let acknowledged = test_results(config, &options).await?;
    let elapsed = begin.elapsed();
    let topic = TEST_RESULTS.full_name(&config.kafka.topic_prefix);
    print(&format!(
        "{acknowledged} test results for up to {} patients acknowledged on {topic} in {:.1} s ({:.0}/s)\n",
        options.patients,
        elapsed.as_secs_f64(),
        acknowledged as f64 / elapsed.as_secs_f64().max(0.001),
    ));
    Ok(())
}

/// Publishes a sample and returns how many records were acknowledged: all.
///
/// # Errors
/// When the registry or the brokers did not take a record.
pub async fn test_results(config: &Config, options: &TestResults) -> Result<u64> {
    let encoder = Encoder::new(&config.registry, &config.kafka.topic_prefix)?;
    encoder.schema_id(&TEST_RESULTS).await?;
    let producer = Producer::new(&config.kafka).context("cannot set up a Kafka producer")?;
    let topic = TEST_RESULTS.full_name(&config.kafka.topic_prefix);

    let now = Timestamp::now();
    let sample = SampleOptions {
        seed: options.seed.unwrap_or_else(|| now.as_microsecond().unsigned_abs()),
        count: options.count,
        patients: options.patients,
        critical_percent: options.critical_percent,
        embargo_percent: options.embargo_percent,
        now,
    };
    let send = |result: TestResultPublished| {
        let (encoder, producer, topic) = (&encoder, &producer, &topic);
        async move {
            let bytes = encoder.test_result(&result).await?;
            let key = result.patient_id.as_str().as_bytes();
            producer.send(topic, Some(key), Some(&bytes), &[]).await?;
            anyhow::Ok(())
        }
    };
    let begin = Instant::now();
    let bar = hidden_bar(options.count);
    let mut is_shown = false;
    let mut acknowledged = 0;
    let mut first_error = None;
    let paced = stream::iter(sample_results(sample).zip(0_u64..))
        .then(|(result, number)| pace(options.rate, begin, number, result));
    let mut sends = std::pin::pin!(paced.map(send).buffer_unordered(IN_FLIGHT_MAX));
    while let Some(sent) = sends.next().await {
        match sent {
            Ok(()) => acknowledged += 1,
            Err(error) => {
                first_error = Some(error);
                break;
            }
        }
        if !is_shown && begin.elapsed() > PROGRESS_AFTER {
            bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
            is_shown = true;
        }
        bar.set_position(acknowledged);
    }
    bar.finish_and_clear();
    if let Some(error) = first_error {
        bail!(error.context(format!(
            "{acknowledged} of {} were acknowledged before the first failure",
            options.count
        )));
    }
    producer.flush(FLUSH_TIMEOUT).await?;
    Ok(acknowledged)
}

/// Holds the n-th result back until it is its turn at this rate.
async fn pace(
    rate: Option<u64>,
    begin: Instant,
    number: u64,
    result: TestResultPublished,
) -> TestResultPublished {
    if let Some(rate) = rate {
        let due = Duration::from_secs_f64(number as f64 / rate as f64);
        let early = due.saturating_sub(begin.elapsed());
        if early > STEP {
            tokio::time::sleep(early).await;
        }
    }
    result
}

fn hidden_bar(count: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(count), ProgressDrawTarget::hidden());
    let style =
        ProgressStyle::with_template("publishing {bar:40} {pos}/{len} acknowledged, {per_sec}, {eta} left");
    bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

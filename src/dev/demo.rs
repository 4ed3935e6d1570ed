//! The main job, shown: patients are loaded, a laboratory publishes results, and
//! what became of each is compared with what the providers were given.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures::{StreamExt as _, stream};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jiff::civil::time;
use jiff::{SignedDuration, Timestamp};

use super::command::Options;
use super::demo_report::Report;
use super::environment::Environment;
use crate::config::Config;
use crate::domain::{Channel, Purpose, QuietHours, Redacted, Relation, State};
use crate::record::recipients::{ConsentUpsert, ContactPointUpsert, RecipientUpsert, upsert_many};
use crate::record::{Owner, Store, pool};
use crate::topic::encoder::Encoder;
use crate::topic::names::{NOTIFICATIONS, NOTIFICATIONS_BULK, TEST_RESULTS};
use crate::topic::producer::Producer;
use crate::topic::sample::{SampleOptions, sample_patient, sample_results};
use crate::topic::{dlq_of, lag};

/// Results on their way to the broker at once.
const PUBLISH_IN_FLIGHT: usize = 512;
/// Share of results that may be seen only a little later, and how much later.
const EMBARGO_PERCENT: u8 = 4;
const EMBARGO: SignedDuration = SignedDuration::from_secs(4);
/// Records that no decoder can read, as a broken laboratory would send them.
const BROKEN_RECORDS: usize = 3;
/// Longest wait until everything has come to rest.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(180);
/// A step that takes longer than this gets a progress bar.
const PROGRESS_AFTER: Duration = Duration::from_secs(2);

/// What the laboratory knows: each record that the broker acknowledged.
#[derive(Debug, Default)]
pub(super) struct Published {
    pub(super) results: HashSet<(i32, i64)>,
    pub(super) broken: usize,
    pub(super) elapsed: Duration,
}

/// Runs the demonstration. False when something was lost or doubled.
pub(super) async fn run(environment: &mut Environment, options: &Options) -> anyhow::Result<bool> {
    let config = Arc::clone(&environment.config);
    let pool = pool::pool(&config.postgres)?;
    let recipients: Vec<RecipientUpsert> = (1..=options.patients).flat_map(recipients_of).collect();
    upsert_many(&pool, &recipients).await.context("loading recipients")?;
    println!("Loaded {} recipients of {} patients.", recipients.len(), options.patients);

    let published = publish(&config, options).await?;
    println!(
        "Published {} test results (and {} broken records) in {:.1} s, all acknowledged.",
        published.results.len(),
        published.broken,
        published.elapsed.as_secs_f64()
    );
    let store = Store::new(pool, Owner::new());
    settle(&config, &store, options.results).await?;
    let report = Report::gather(&config, &store, &environment.sandbox.log, &published).await?;
    println!("\n{report}");
    Ok(report.is_clean())
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

    fn at(&self, position: u64) {
        if self.bar.is_hidden() && self.begun.elapsed() > PROGRESS_AFTER {
            self.bar.set_draw_target(ProgressDrawTarget::stderr_with_hz(5));
        }
        self.bar.set_position(position);
    }
}

/// The recipients of one patient: mostly the patient alone, and now and then
/// somebody whom a portal has to get right.
fn recipients_of(number: u64) -> Vec<RecipientUpsert> {
    let patient = sample_patient(number);
    let name = patient.as_str().to_owned();
    let mut own = RecipientUpsert {
        external_id: name.clone(),
        patients: vec![(patient.clone(), Relation::Patient)],
        display_name: Some(Redacted::new(format!("Patient {number}"))),
        locale: (number.is_multiple_of(5)).then(|| "es".to_owned()),
        time_zone: None,
        quiet_hours: Some(never_quiet()),
        channel_order: match number % 20 {
            0..=9 => vec![Channel::Sms, Channel::Email],
            10..=14 => vec![Channel::Email, Channel::Sms],
            _ => vec![Channel::Push, Channel::Sms],
        },
        contact_points: contact_points(number),
        consents: Vec::new(),
    };
    match number % 100 {
        // Opted out of everything about results.
        7 => own.consents = Channel::ALL.iter().map(|&channel| refusal(channel)).collect(),
        // Reachable nowhere.
        17 => own.contact_points.clear(),
        // A number that the carrier refuses: the next channel follows.
        27 => own.contact_points.iter_mut().filter(|point| point.channel == Channel::Sms).for_each(|point| {
            point.address = Redacted::new("+15005550001".to_owned());
        }),
        // Asleep now, wherever the clock stands.
        37 => own.quiet_hours = Some(quiet_now()),
        _ => {}
    }
    let mut all = vec![own];
    if number.is_multiple_of(10) {
        all.push(RecipientUpsert {
            external_id: format!("proxy-{number:06}"),
            patients: vec![(patient, Relation::Proxy)],
            display_name: Some(Redacted::new(format!("Proxy of patient {number}"))),
            locale: None,
            time_zone: None,
            quiet_hours: Some(never_quiet()),
            channel_order: vec![Channel::Email],
            contact_points: vec![point(Channel::Email, format!("proxy-{number:06}@example.org"))],
            consents: Vec::new(),
        });
    }
    all
}

fn contact_points(number: u64) -> Vec<ContactPointUpsert> {
    vec![
        point(Channel::Sms, format!("+1555{number:07}")),
        point(Channel::Email, format!("patient-{number:06}@example.org")),
        point(Channel::Push, format!("device-{number:06}")),
    ]
}

fn point(channel: Channel, address: String) -> ContactPointUpsert {
    ContactPointUpsert { channel, address: Redacted::new(address), verified_at: Some(Timestamp::now()) }
}

fn refusal(channel: Channel) -> ConsentUpsert {
    ConsentUpsert {
        channel,
        purpose: Purpose::TestResult,
        granted: false,
        given_at: Timestamp::now(),
        recorded_by: "demo".to_owned(),
        how: "settings page".to_owned(),
    }
}

fn never_quiet() -> QuietHours {
    QuietHours { start: time(0, 0, 0, 0), end: time(0, 0, 0, 0) }
}

/// From two hours ago until six hours ahead in the default time zone.
fn quiet_now() -> QuietHours {
    let zone = Config::from_defaults().plan.default_time_zone;
    let now = Timestamp::now().in_tz(&zone).map_or(time(12, 0, 0, 0), |local| local.time());
    let hour = |shift: i64| {
        now.wrapping_add(SignedDuration::from_hours(shift))
            .with()
            .minute(0)
            .second(0)
            .subsec_nanosecond(0)
            .build()
    };
    QuietHours { start: hour(-2).unwrap_or(now), end: hour(6).unwrap_or(now) }
}

async fn publish(config: &Config, options: &Options) -> anyhow::Result<Published> {
    let encoder = Encoder::new(&config.registry, &config.kafka.topic_prefix)?;
    let producer = Producer::new(&config.kafka)?;
    let topic = TEST_RESULTS.full_name(&config.kafka.topic_prefix);
    let now = Timestamp::now();
    let seed = now.as_microsecond().unsigned_abs();
    let sample = SampleOptions {
        embargo_percent: EMBARGO_PERCENT,
        ..SampleOptions::new(seed, options.results, options.patients, now)
    };
    let begun = Instant::now();
    let progress = Progress::new("publishing", options.results);
    let mut sends = stream::iter(sample_results(sample))
        .map(|mut result| {
            if result.available_at > result.released_at {
                result.available_at = now + EMBARGO;
            }
            let (encoder, producer, topic) = (&encoder, &producer, &topic);
            async move {
                let payload = encoder.test_result(&result).await?;
                let key = result.patient_id.as_str().as_bytes();
                anyhow::Ok(producer.send(topic, Some(key), Some(&payload), &[]).await?)
            }
        })
        .buffer_unordered(PUBLISH_IN_FLIGHT);
    let mut published = Published::default();
    while let Some(position) = sends.next().await {
        published.results.insert(position.context("publishing a test result")?);
        progress.at(published.results.len() as u64);
    }
    progress.bar.finish_and_clear();
    for number in 0..BROKEN_RECORDS {
        let key = sample_patient(number as u64 + 1);
        let broken: &[u8] = b"not a record of the registry's wire format";
        producer.send(&topic, Some(key.as_str().as_bytes()), Some(broken), &[]).await?;
        published.broken += 1;
    }
    published.elapsed = begun.elapsed();
    Ok(published)
}

/// Waits until the groups have read everything and no delivery is on its way,
/// save those that sleeping patients' quiet hours hold for hours.
async fn settle(config: &Config, store: &Store, results: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    let progress = Progress::new("delivering", results);
    loop {
        let behind = lag_of(config).await?;
        let states = store.count_states().await?;
        let moving: i64 = states
            .iter()
            .filter(|one| !one.state.is_terminal() && !matches!(one.state, State::Sent | State::Held))
            .map(|one| one.count)
            .sum();
        let ended: i64 = states.iter().map(|one| one.count).sum();
        progress.at(u64::try_from(ended - moving).unwrap_or(0));
        if behind == 0 && moving == 0 && store.due_within(Duration::from_secs(60)).await? == 0 {
            progress.bar.finish_and_clear();
            return Ok(());
        }
        if Instant::now() > deadline {
            progress.bar.finish_and_clear();
            bail!("not at rest after {} s: lag {behind}, {moving} on their way", SETTLE_TIMEOUT.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Records that our groups have not committed.
pub(super) async fn lag_of(config: &Config) -> anyhow::Result<i64> {
    let kafka = config.kafka.clone();
    tokio::task::spawn_blocking(move || {
        let prefix = &kafka.topic_prefix;
        let mut total = 0;
        for topics in [&[TEST_RESULTS][..], &[NOTIFICATIONS, NOTIFICATIONS_BULK]] {
            let group = topics.iter().find_map(|topic| topic.full_group(prefix)).unwrap_or_default();
            let names: Vec<String> = topics.iter().map(|topic| topic.full_name(prefix)).collect();
            total += lag::read(&kafka, &group, &names)?.iter().map(lag::PartitionLag::lag).sum::<i64>();
        }
        anyhow::Ok(total)
    })
    .await?
}

/// Records in the dead-letter topic of the test results.
pub(super) async fn dead_letters(config: &Config) -> anyhow::Result<i64> {
    let kafka = config.kafka.clone();
    tokio::task::spawn_blocking(move || {
        let topic = dlq_of(&TEST_RESULTS.full_name(&kafka.topic_prefix));
        let partitions = lag::read(&kafka, "patient-notify-demo", &[topic])?;
        anyhow::Ok(partitions.iter().map(|one| one.high - one.low).sum())
    })
    .await?
}

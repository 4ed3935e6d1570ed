//! What the demonstration's laboratories and backends publish.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::{Stream, StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};

use super::Progress;
use crate::config::Config;
use crate::dev::command::Options;
use crate::dev::reporting::Stopped;
use crate::domain::{
    Channel, Fact, NotificationId, NotificationRequested, NotificationUpdate, Purpose, Redacted, Strategy,
    TestResultPublished, Urgency,
};
use crate::topic::encoder::Encoder;
use crate::topic::names::{NOTIFICATION_UPDATES, NOTIFICATIONS, NOTIFICATIONS_BULK, TEST_RESULTS, Topic};
use crate::topic::producer::Producer;
use crate::topic::sample::{RequestOptions, SampleOptions, sample_patient, sample_requests, sample_results};

/// Records of a topic on their way to the broker at once.
const IN_FLIGHT_MAX: usize = 512;
/// Share of results that may be seen only a little later, and how much later.
const EMBARGO_PERCENT: u8 = 4;
const EMBARGO: SignedDuration = SignedDuration::from_secs(4);
/// Every so many requests one is for a little later, and how much later.
const SCHEDULED_EVERY: u64 = 10;
const SCHEDULED: SignedDuration = SignedDuration::from_secs(5);
/// Every so many requests one is for an appointment that is called off: it is
/// scheduled, and taken back before its time.
const CALLED_OFF_EVERY: u64 = 50;
const CALLED_OFF: SignedDuration = SignedDuration::from_hours(1);
/// Records that no decoder can read, on each of the topics.
const BROKEN_RECORDS: usize = 2;
const BROKEN: &[u8] = b"not a record of the registry's wire format";

type Positions = HashSet<(i32, i64)>;

/// What the publishers know: each record that the brokers acknowledged.
#[derive(Debug, Default)]
pub(super) struct Published {
    /// Partition and offset by the topic's name without prefix.
    pub(super) records: HashMap<&'static str, Positions>,
    /// Notifications that were taken back.
    pub(super) called_off: Vec<NotificationId>,
    /// Notifications to those who have opted out of every channel that was asked for.
    pub(super) after_stop: Vec<NotificationId>,
    /// Records that are not of the wire format.
    pub(super) broken: usize,
    /// Time from the first to the last acknowledgement.
    pub(super) elapsed: Duration,
}

impl Published {
    pub(super) fn count(&self, topic: &Topic) -> usize {
        self.records.get(topic.name).map_or(0, HashSet::len)
    }
}

/// Encodes and sends; waits for each acknowledgement.
pub(super) struct Publisher {
    encoder: Encoder,
    producer: Producer,
    prefix: String,
    options: RequestOptions,
    results: u64,
    bulk: u64,
}

impl Publisher {
    pub(super) fn new(config: &Config, options: &Options) -> anyhow::Result<Self> {
        let now = Timestamp::now();
        Ok(Self {
            encoder: Encoder::new(&config.registry, &config.kafka.topic_prefix)?,
            producer: Producer::new(&config.kafka)?,
            prefix: config.kafka.topic_prefix.clone(),
            options: RequestOptions {
                seed: now.as_microsecond().unsigned_abs(),
                count: options.requests,
                patients: options.patients,
                is_bulk: false,
                now,
            },
            results: options.results,
            bulk: options.bulk,
        })
    }

    /// Results, requests and a campaign side by side, and broken records among them.
    pub(super) async fn publish(&self) -> anyhow::Result<Published> {
        let begun = Instant::now();
        let progress = Progress::new("publishing", self.results + self.options.count + self.bulk);
        let mut called_off = Vec::new();
        let requests: Vec<NotificationRequested> =
            sample_requests(self.options).zip(1..).map(|(one, number)| self.timed(one, number)).collect();
        for (request, number) in requests.iter().zip(1_u64..) {
            if number.is_multiple_of(CALLED_OFF_EVERY) {
                called_off.push(NotificationId::for_request(&request.caller, &request.idempotency_key));
            }
        }
        let campaign = sample_requests(RequestOptions { is_bulk: true, count: self.bulk, ..self.options });
        let (results, requests, bulk) = tokio::try_join!(
            collect(self.results().map(|result| self.send_result(result)), &progress),
            collect(requests.into_iter().map(|one| self.send_request(&NOTIFICATIONS, one)), &progress),
            collect(campaign.map(|one| self.send_request(&NOTIFICATIONS_BULK, one)), &progress),
        )?;
        progress.clear();
        let broken = self.publish_broken().await?;
        let records = [(TEST_RESULTS, results), (NOTIFICATIONS, requests), (NOTIFICATIONS_BULK, bulk)];
        Ok(Published {
            records: records.into_iter().map(|(topic, positions)| (topic.name, positions)).collect(),
            called_off,
            after_stop: Vec::new(),
            broken,
            elapsed: begun.elapsed(),
        })
    }

    fn results(&self) -> impl Iterator<Item = TestResultPublished> + use<> {
        let RequestOptions { seed, patients, now, .. } = self.options;
        let sample = SampleOptions {
            embargo_percent: EMBARGO_PERCENT,
            ..SampleOptions::new(seed, self.results, patients, now)
        };
        sample_results(sample).map(move |mut result| {
            if result.available_at > result.released_at {
                result.available_at = now + EMBARGO;
            }
            result
        })
    }

    fn timed(&self, mut request: NotificationRequested, number: u64) -> NotificationRequested {
        if number.is_multiple_of(CALLED_OFF_EVERY) {
            request.send_at = Some(self.options.now + CALLED_OFF);
        } else if number.is_multiple_of(SCHEDULED_EVERY) {
            request.send_at = Some(self.options.now + SCHEDULED);
        }
        request
    }

    /// The callers of these notifications take them back.
    pub(super) async fn call_off(&self, notifications: &[NotificationId]) -> anyhow::Result<()> {
        let topic = NOTIFICATION_UPDATES.full_name(&self.prefix);
        for &notification_id in notifications {
            let update = NotificationUpdate {
                update_id: format!("scheduling:{notification_id}"),
                occurred_at: Timestamp::now(),
                source: "scheduling".to_owned(),
                patient_id: None,
                fact: Fact::Cancelled { notification_id, caller: None },
            };
            let payload = self.encoder.update(&update).await?;
            let key = notification_id.to_string();
            self.producer.send(&topic, Some(key.as_bytes()), Some(&payload), &[]).await?;
        }
        Ok(())
    }

    /// One more text message to each who has asked for no more.
    pub(super) async fn write_again(
        &self,
        stopped: &[Stopped],
        published: &mut Published,
    ) -> anyhow::Result<()> {
        for (one, number) in stopped.iter().zip(1_u64..) {
            let now = Timestamp::now();
            let request = NotificationRequested {
                caller: "demo".to_owned(),
                idempotency_key: format!("after-stop-{:x}-{number}", self.options.seed),
                patient_id: one.patient_id.clone(),
                recipient: Some(one.recipient.clone()),
                purpose: Purpose::General,
                urgency: Urgency::Normal,
                channels: vec![Channel::Sms],
                strategy: Strategy::InOrder,
                send_at: None,
                expires_at: None,
                variables: Redacted::default(),
                requested_at: now,
            };
            published.after_stop.push(NotificationId::for_request(&request.caller, &request.idempotency_key));
            let position = self.send_request(&NOTIFICATIONS, request).await?;
            published.records.entry(NOTIFICATIONS.name).or_default().insert(position);
        }
        Ok(())
    }

    async fn publish_broken(&self) -> anyhow::Result<usize> {
        let mut broken = 0;
        for topic in [TEST_RESULTS, NOTIFICATIONS, NOTIFICATIONS_BULK, NOTIFICATION_UPDATES] {
            let topic = topic.full_name(&self.prefix);
            for number in 0..BROKEN_RECORDS {
                let key = sample_patient(number as u64 + 1);
                self.producer.send(&topic, Some(key.as_str().as_bytes()), Some(BROKEN), &[]).await?;
                broken += 1;
            }
        }
        Ok(broken)
    }

    async fn send_result(&self, result: TestResultPublished) -> anyhow::Result<(i32, i64)> {
        let payload = self.encoder.test_result(&result).await?;
        self.send(&TEST_RESULTS, result.patient_id.as_str(), &payload)
            .await
            .context("publishing a test result")
    }

    async fn send_request(
        &self,
        topic: &Topic,
        request: NotificationRequested,
    ) -> anyhow::Result<(i32, i64)> {
        let payload = self.encoder.notification(topic, &request).await?;
        self.send(topic, request.patient_id.as_str(), &payload).await.context("publishing a request")
    }

    async fn send(&self, topic: &Topic, key: &str, payload: &[u8]) -> anyhow::Result<(i32, i64)> {
        let topic = topic.full_name(&self.prefix);
        Ok(self.producer.send(&topic, Some(key.as_bytes()), Some(payload), &[]).await?)
    }
}

async fn collect(
    sends: impl Iterator<Item: Future<Output = anyhow::Result<(i32, i64)>>>,
    progress: &Progress,
) -> anyhow::Result<Positions> {
    let mut acknowledged = std::pin::pin!(in_flight(sends));
    let mut positions = Positions::new();
    while let Some(position) = acknowledged.next().await {
        positions.insert(position?);
        progress.one_more();
    }
    Ok(positions)
}

fn in_flight<F: Future>(sends: impl Iterator<Item = F>) -> impl Stream<Item = F::Output> {
    stream::iter(sends).buffer_unordered(IN_FLIGHT_MAX)
}

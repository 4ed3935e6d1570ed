//! A database and topics of the bench's own, filled once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use deadpool_postgres::Pool;
use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use jiff::civil::time;
use patient_notify::config::Config;
use patient_notify::decode::RecordKind;
use patient_notify::deliver::Providers;
use patient_notify::domain::{Channel, QuietHours, Redacted, Relation};
use patient_notify::health::Health;
use patient_notify::record::pool;
use patient_notify::record::recipients::{ContactPointUpsert, RecipientUpsert, upsert_many};
use patient_notify::roles::{self, Context};
use patient_notify::topic::encoder::Encoder;
use patient_notify::topic::lag;
use patient_notify::topic::names::TEST_RESULTS;
use patient_notify::topic::producer::Producer;
use patient_notify::topic::sample::{SampleOptions, sample_patient, sample_results};
use tokio_util::sync::CancellationToken;

use crate::cpu::own_cpu;
use crate::stack;

/// Patients that the results are spread over.
const PATIENTS: u64 = 50_000;
const PUBLISH_IN_FLIGHT: usize = 2_000;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(600);

/// A filled topic, loaded recipients, an empty notification table.
pub struct World {
    pub config: Config,
    pub pool: Pool,
    pub topic: String,
    pub results: u64,
}

/// A drain that has ended.
pub struct Drained {
    pub elapsed: Duration,
    /// CPU of this process, the stub's included where there is one.
    pub cpu: Duration,
}

impl World {
    pub async fn new(results: u64) -> anyhow::Result<Self> {
        let mut config = stack::prepare().await?;
        config.sms.concurrency = 1_024;
        let world = Self {
            pool: pool::pool(&config.postgres)?,
            topic: TEST_RESULTS.full_name(&config.kafka.topic_prefix),
            config,
            results,
        };
        world.fill().await?;
        Ok(world)
    }

    async fn fill(&self) -> anyhow::Result<()> {
        let recipients: Vec<RecipientUpsert> = (1..=PATIENTS).map(recipient).collect();
        upsert_many(&self.pool, &recipients).await?;
        self.pool.get().await?.batch_execute("ANALYZE").await?;
        let encoder = Encoder::new(&self.config.registry, &self.config.kafka.topic_prefix)?;
        let producer = Producer::new(&self.config.kafka)?;
        let sample = SampleOptions::new(1, self.results, PATIENTS, Timestamp::now());
        let mut sends = stream::iter(sample_results(sample))
            .map(|result| {
                let (encoder, producer, topic) = (&encoder, &producer, &self.topic);
                async move {
                    let payload = encoder.test_result(&result).await?;
                    let key = result.patient_id.as_str().as_bytes();
                    anyhow::Ok(producer.send(topic, Some(key), Some(&payload), &[]).await?)
                }
            })
            .buffer_unordered(PUBLISH_IN_FLIGHT);
        while let Some(sent) = sends.next().await {
            sent?;
        }
        Ok(())
    }

    /// Runs the consumer until the group has committed everything.
    pub async fn drain(&self, providers: Providers) -> anyhow::Result<Drained> {
        let shutdown = CancellationToken::new();
        let context = Context {
            config: Arc::new(self.config.clone()),
            health: Health::new(),
            shutdown: shutdown.clone(),
        };
        let (begun, cpu) = (Instant::now(), own_cpu()?);
        let role = tokio::spawn(roles::consumer::run_with(
            context,
            &[TEST_RESULTS],
            RecordKind::TestResult,
            providers,
        ));
        while self.lag().await? > 0 {
            anyhow::ensure!(!role.is_finished(), "the consumer ended by itself");
            anyhow::ensure!(begun.elapsed() < DRAIN_TIMEOUT, "not drained within {DRAIN_TIMEOUT:?}");
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        let drained = Drained { elapsed: begun.elapsed(), cpu: own_cpu()?.saturating_sub(cpu) };
        shutdown.cancel();
        role.await??;
        Ok(drained)
    }

    async fn lag(&self) -> anyhow::Result<i64> {
        let (kafka, topic) = (self.config.kafka.clone(), self.topic.clone());
        let group = TEST_RESULTS.full_group(&kafka.topic_prefix).unwrap_or_default();
        let partitions = tokio::task::spawn_blocking(move || lag::read(&kafka, &group, &[topic])).await??;
        Ok(partitions.iter().map(lag::PartitionLag::lag).sum())
    }
}

fn recipient(number: u64) -> RecipientUpsert {
    let patient = sample_patient(number);
    let never = time(0, 0, 0, 0);
    RecipientUpsert {
        external_id: patient.as_str().to_owned(),
        patients: vec![(patient, Relation::Patient)],
        display_name: None,
        locale: None,
        time_zone: None,
        quiet_hours: Some(QuietHours { start: never, end: never }),
        channel_order: vec![Channel::Sms],
        contact_points: vec![ContactPointUpsert {
            channel: Channel::Sms,
            address: Redacted::new(format!("+1555{number:07}")),
            verified_at: Some(Timestamp::UNIX_EPOCH),
        }],
        consents: Vec::new(),
    }
}

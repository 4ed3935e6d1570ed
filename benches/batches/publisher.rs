//! The publisher as its role runs it, with its rate out of the way.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use deadpool_postgres::Pool;
use jiff::{SignedDuration, Timestamp};
use patient_notify::config::Config;
use patient_notify::domain::batch::{BatchAction, BatchState};
use patient_notify::domain::{BatchId, NotificationRequested, PatientId, Purpose, Redacted};
use patient_notify::domain::{Strategy, Urgency};
use patient_notify::health::Health;
use patient_notify::record::batch_rows::{self, Added, Chunk, Form, NewRow};
use patient_notify::record::batches::{self, Acted, By, NewBatch};
use patient_notify::record::{Owner, Store, pool};
use patient_notify::roles::{self, Context};
use patient_notify::topic::encoder::Encoder;
use patient_notify::topic::names::NOTIFICATIONS_BULK;
use tokio_util::sync::CancellationToken;

const CHUNK: usize = 5000;
const TIMEOUT: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(5);

/// A role and its database.
pub struct Publisher {
    config: Config,
    pool: Pool,
    encoder: Encoder,
}

impl Publisher {
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            config: config.clone(),
            pool: pool::pool(&config.postgres)?,
            encoder: Encoder::new(&config.registry, &config.kafka.topic_prefix)?,
        })
    }

    /// A batch that can be started.
    pub async fn prepare(&self, key: &str, recipients: i64) -> anyhow::Result<BatchId> {
        let made = NewBatch {
            caller: "bench".to_owned(),
            idempotency_key: key.to_owned(),
            name: key.to_owned(),
            purpose: Purpose::Campaign,
            channels: Vec::new(),
            variables: Redacted::default(),
            rate_per_s: i32::MAX,
            window: None,
            expires_at: Timestamp::now() + SignedDuration::from_hours(24),
        };
        let id = batches::create(&self.pool, &made).await?.id;
        let numbers: Vec<i64> = (1..=recipients).collect();
        for some in numbers.chunks(CHUNK) {
            let row = |n: &i64| {
                let patient_id = PatientId::parse(&format!("pat-{n:07}")).ok_or("patient")?;
                let variables = [("topic".to_owned(), "survey".to_owned())].into();
                Ok(NewRow { patient_id, recipient: None, variables: Redacted::new(variables) })
            };
            let chunk = Chunk {
                first_row: some[0],
                rows: some.iter().map(|n| row(n).map_err(|what: &str| what.to_owned())).collect(),
                form: Some(Form::Rows),
                begins: false,
                last: some.last() == numbers.last(),
            };
            let added = batch_rows::add(&self.pool, id, &chunk, by()).await?;
            ensure!(matches!(added, Added::Stored(..)), "the batch could not be filled: {added:?}");
        }
        self.pool.get().await?.batch_execute("ANALYZE batch_recipient").await?;
        Ok(id)
    }

    /// Keys and values of a batch's records.
    pub async fn payloads(&self, batch: BatchId) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
        let store = Store::new(self.pool.clone(), Owner::new());
        let view = batches::get(&self.pool, batch, None).await?;
        let made = view.ok_or_else(|| anyhow::anyhow!("the batch is gone"))?.made;
        let mut payloads = Vec::new();
        for row in store.next_rows(batch, 0, i64::MAX).await? {
            let event = NotificationRequested {
                caller: made.caller.clone(),
                idempotency_key: batch.key(row.patient_id.as_str(), row.recipient.as_deref()),
                patient_id: row.patient_id.clone(),
                recipient: None,
                purpose: made.purpose,
                urgency: Urgency::Bulk,
                channels: Vec::new(),
                strategy: Strategy::InOrder,
                send_at: None,
                expires_at: Some(made.expires_at),
                variables: Redacted::new(row.variables.expose().clone().into_iter().collect()),
                requested_at: Timestamp::now(),
            };
            let payload = self.encoder.notification(&NOTIFICATIONS_BULK, &event).await?;
            payloads.push((row.patient_id.as_str().to_owned(), payload));
        }
        Ok(payloads)
    }

    /// Starts the role, then the batch; the time from its start to its end.
    pub async fn publish(&self, batch: BatchId) -> anyhow::Result<Duration> {
        let shutdown = CancellationToken::new();
        let context = Context {
            config: Arc::new(self.config.clone()),
            health: Health::new(),
            shutdown: shutdown.clone(),
        };
        let role = tokio::spawn(roles::wrk_batch_publisher::run(context));
        let started = batches::act(&self.pool, batch, BatchAction::Start, None, by()).await?;
        ensure!(matches!(started, Acted::Stored(_)), "the batch could not be started: {started:?}");
        let begun = Instant::now();
        while batches::get(&self.pool, batch, None).await?.map(|view| view.state) != Some(BatchState::Done) {
            ensure!(!role.is_finished(), "the publisher ended by itself");
            ensure!(begun.elapsed() < TIMEOUT, "not published within {TIMEOUT:?}");
            tokio::time::sleep(LOOK).await;
        }
        let elapsed = begun.elapsed();
        shutdown.cancel();
        role.await??;
        Ok(elapsed)
    }
}

const fn by() -> By<'static> {
    By { caller: "bench", owner: None, action: "bench" }
}

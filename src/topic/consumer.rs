//! The poll thread: one OS thread owns the Kafka consumer and does everything
//! with it: poll, pause, resume, commit, rebalance, leave.
//!
//! Records go to bounded queues ([`Partition`]); claim loops take them through
//! the [`Intake`]. A revocation is handled inside the rebalance callback, on the
//! same thread: stop the intake, wait for what was begun, commit, forget.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;

use super::client::QuietContext;
use super::group::{GroupContext, Shared, group_config};
use super::intake::Intake;
use super::partition::Partition;
use super::poll::poll_loop;
use crate::config;

/// A poll loop that has not turned for this long, beyond a drain, is stuck.
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(30);

/// What can go wrong with the consumer as a whole.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    /// librdkafka refuses the configuration.
    #[error("the Kafka consumer cannot be made (check the [kafka] section): {0}")]
    Configuration(#[source] KafkaError),
    /// The thread could not be started.
    #[error("the poll thread cannot be started: {0}")]
    Thread(#[source] std::io::Error),
    /// Fatal to librdkafka: fenced, unsupported, authorisation.
    #[error("the Kafka consumer gave up: {0}; restart it after mending the cause")]
    Fatal(String),
    /// Leaving the group took too long.
    #[error(
        "the Kafka consumer did not close within {close_timeout_ms} ms after its drain; leaving without it"
    )]
    CloseStuck {
        /// `processor.close_timeout_ms`.
        close_timeout_ms: u64,
    },
}

/// What to consume, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Full name of the group.
    pub group: String,
    /// Full names of the topics.
    pub topics: Vec<String>,
    /// Full names of those of them that are read with what urgent work leaves.
    pub bulk_topics: Vec<String>,
    /// `[kafka]`.
    pub kafka: config::Kafka,
    /// `[processor]`.
    pub processor: config::Processor,
}

/// A running consumer.
#[derive(Debug)]
pub struct Consumer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
    ended: tokio::sync::watch::Receiver<bool>,
}

impl Consumer {
    /// Joins the group on a thread of its own. The broker may be away: the
    /// thread keeps trying.
    ///
    /// # Errors
    /// When librdkafka refuses the configuration, or the thread cannot start.
    pub fn start(options: Options) -> Result<Self, ConsumerError> {
        let processor = &options.processor;
        let intake =
            Intake::new(processor.claim_shards, processor.in_flight_max, processor.bulk_in_flight_max);
        let shared = Arc::new(Shared {
            intake: Arc::new(intake),
            assigned: Mutex::default(),
            epoch: AtomicU64::new(0),
            completed: Arc::default(),
            stopping: AtomicBool::new(false),
            joined: AtomicBool::new(false),
            started: Instant::now(),
            heartbeat_ms: AtomicU64::new(0),
            fatal: Mutex::default(),
            options,
        });
        let context = GroupContext { shared: Arc::clone(&shared), quiet: QuietContext::default() };
        let consumer: BaseConsumer<GroupContext> = group_config(&shared.options)
            .create_with_context(context)
            .map_err(ConsumerError::Configuration)?;
        let topics: Vec<&str> = shared.options.topics.iter().map(String::as_str).collect();
        consumer.subscribe(&topics).map_err(ConsumerError::Configuration)?;

        let (ended_sender, ended) = tokio::sync::watch::channel(false);
        let of_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("kafka-poll".to_owned())
            .spawn(move || {
                poll_loop(&of_thread, consumer);
                ended_sender.send_replace(true);
            })
            .map_err(ConsumerError::Thread)?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)), ended })
    }

    /// Where claim loops take their records.
    #[must_use]
    pub fn intake(&self) -> Arc<Intake> {
        Arc::clone(&self.shared.intake)
    }

    /// Partitions that are assigned now.
    #[must_use]
    pub fn partitions(&self) -> Vec<Arc<Partition>> {
        self.shared.partitions()
    }

    /// Whether this partition of this topic (full name) is assigned now.
    #[must_use]
    pub fn owns(&self, topic: &str, partition: i32) -> bool {
        let assigned = self.shared.assigned.lock();
        assigned.values().any(|one| one.partition == partition && *one.topic == *topic)
    }

    /// What it reads and how.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.shared.options
    }

    /// True while it is a member of the group and a broker answers.
    #[must_use]
    pub fn is_joined(&self) -> bool {
        self.shared.joined.load(Ordering::Relaxed)
    }

    /// Fails when the poll loop has not turned for longer than a drain may take.
    ///
    /// # Errors
    /// A sentence for the liveness probe.
    pub fn check_heartbeat(&self) -> Result<(), String> {
        let now_ms = u64::try_from(self.shared.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let silent_ms = now_ms.saturating_sub(self.shared.heartbeat_ms.load(Ordering::Relaxed));
        let limit_ms = u64::try_from(HEARTBEAT_LIMIT.as_millis()).unwrap_or(u64::MAX)
            + self.shared.options.processor.drain_timeout_ms;
        if silent_ms > limit_ms {
            return Err(format!("the Kafka poll loop has not turned for {silent_ms} ms"));
        }
        Ok(())
    }

    /// Asks the poll thread to drain, commit and leave.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
    }

    /// Waits until the poll thread has left, or must be given up.
    ///
    /// # Errors
    /// [`ConsumerError::CloseStuck`] when leaving took too long after
    /// [`Consumer::stop`]; [`ConsumerError::Fatal`] when librdkafka gave up.
    pub async fn ended(&self) -> Result<(), ConsumerError> {
        let mut ended = self.ended.clone();
        let stopped = async {
            while !self.shared.stopping.load(Ordering::Acquire) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            let processor = &self.shared.options.processor;
            let limit_ms = processor.drain_timeout_ms + processor.close_timeout_ms;
            tokio::time::sleep(Duration::from_millis(limit_ms)).await;
        };
        tokio::select! {
            _ = ended.wait_for(|ended| *ended) => {}
            () = stopped => {
                let close_timeout_ms = self.shared.options.processor.close_timeout_ms;
                return Err(ConsumerError::CloseStuck { close_timeout_ms });
            }
        }
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            return Err(ConsumerError::Fatal("the poll thread panicked".to_owned()));
        }
        match self.shared.fatal.lock().take() {
            Some(reason) => Err(ConsumerError::Fatal(reason)),
            None => Ok(()),
        }
    }
}

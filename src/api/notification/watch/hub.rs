//! The one tail of a process, which all streams share. It is started by the first
//! stream, and ends when the brokers or the registry are away: then its streams end as
//! well, and the next one starts it again.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, broadcast};
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::WatchError;
use super::catch_up::CatchUp;
use crate::config;
use crate::decode::Decoder;
use crate::domain::StatusChanged;
use crate::topic::names::NOTIFICATION_STATUS;
use crate::topic::tail::{Step, Tail, TailError, Tailed};

/// Changes that a stream may be behind the tail.
const BEHIND_MAX: usize = 16_384;
/// Streams that catch up at once.
const CATCH_UPS_MAX: usize = 8;
/// How often it is asked whether the brokers are there.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// How long the registry may be away before the streams are told.
const REGISTRY_PATIENCE: Duration = Duration::from_secs(5);
const REGISTRY_PAUSE: Duration = Duration::from_millis(200);

/// A record of the topic.
#[derive(Debug, Clone)]
pub(in crate::api::notification) struct Event {
    pub(super) partition: usize,
    pub(super) offset: i64,
    /// `None`: one that this version cannot read.
    pub(super) change: Option<Arc<StatusChanged>>,
}

/// Why the tail ended.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    Broker(String),
    Registry(String),
}

/// Where the tail leaves word when it ends.
#[derive(Debug, Clone, Default)]
pub(super) struct Faults(Arc<Mutex<Option<Fault>>>);

impl Faults {
    pub(super) fn last(&self) -> Fault {
        self.0.lock().clone().unwrap_or_else(|| Fault::Broker("reading has ended".to_owned()))
    }
}

/// A place in the tail.
pub(super) struct Joined {
    /// The next offset of each partition that `live` gives.
    pub(super) next: Vec<i64>,
    pub(super) live: broadcast::Receiver<Event>,
    pub(super) faults: Faults,
}

/// Where the tail is, and who listens. Both change under one lock, so that whoever
/// joins misses nothing and gets nothing twice.
struct Line {
    next: Vec<i64>,
    /// `None`: the tail has ended.
    listeners: Option<broadcast::Sender<Event>>,
}

struct Running {
    line: Arc<Mutex<Line>>,
    faults: Faults,
    _task: AbortOnDropHandle<()>,
}

impl Running {
    /// `None`: the tail has ended.
    fn join(&self) -> Option<Joined> {
        let line = self.line.lock();
        let live = line.listeners.as_ref()?.subscribe();
        Some(Joined { next: line.next.clone(), live, faults: self.faults.clone() })
    }
}

/// See the module.
pub struct Hub {
    kafka: config::Kafka,
    topic: String,
    decoder: Arc<Decoder>,
    running: tokio::sync::Mutex<Option<Running>>,
    catch_ups: Arc<Semaphore>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Hub")
    }
}

impl Hub {
    /// A hub that connects when it is asked for the first time.
    #[must_use]
    pub fn new(kafka: &config::Kafka, decoder: Decoder) -> Self {
        Self {
            kafka: kafka.clone(),
            topic: NOTIFICATION_STATUS.full_name(&kafka.topic_prefix),
            decoder: Arc::new(decoder),
            running: tokio::sync::Mutex::default(),
            catch_ups: Arc::new(Semaphore::new(CATCH_UPS_MAX)),
        }
    }

    /// Joins the tail, which is started if need be.
    pub(super) async fn join(&self) -> Result<Joined, WatchError> {
        let mut running = self.running.lock().await;
        if let Some(joined) = running.as_ref().and_then(Running::join) {
            return Ok(joined);
        }
        let started = running.insert(self.start().await?);
        started.join().ok_or_else(|| started.faults.last().into())
    }

    async fn start(&self) -> Result<Running, WatchError> {
        let tail = Tail::new(&self.kafka, &self.topic).map_err(|error| broker(&error))?;
        let next = tail.extent().await.map_err(|error| broker(&error))?.high;
        tail.read_from(next.iter().copied().enumerate()).map_err(|error| broker(&error))?;
        let (listeners, _) = broadcast::channel(BEHIND_MAX);
        let partitions = next.len();
        let line = Arc::new(Mutex::new(Line { next, listeners: Some(listeners) }));
        let faults = Faults::default();
        let (of_task, told, decoder) = (Arc::clone(&line), faults.clone(), Arc::clone(&self.decoder));
        let task = async move {
            let fault = tokio::select! {
                fault = read(&tail, &decoder, &of_task) => fault,
                fault = probe(&tail, partitions) => fault,
            };
            tracing::warn!(?fault, "watching has ended; streams are told to resume");
            *told.0.lock() = Some(fault);
            // Nobody joins any more, and those who listen are told.
            of_task.lock().listeners = None;
        };
        Ok(Running { line, faults, _task: AbortOnDropHandle::new(tokio::spawn(task)) })
    }

    /// A reader of what lies between two places; `None`: there is nothing.
    pub(super) async fn catch_up(&self, from: &[i64], to: &[i64]) -> Result<Option<CatchUp>, WatchError> {
        let ahead = from.len() == to.len() && from.iter().zip(to).all(|(from, to)| from == to);
        if ahead {
            return Ok(None);
        }
        let place = Arc::clone(&self.catch_ups).acquire_owned().await;
        let place = place.map_err(|_| WatchError::Broker("the service is stopping".to_owned()))?;
        let tail = Tail::new(&self.kafka, &self.topic).map_err(|error| broker(&error))?;
        CatchUp::open(tail, Arc::clone(&self.decoder), from, to, place).await
    }
}

pub(super) fn broker(error: &TailError) -> WatchError {
    WatchError::Broker(error.to_string())
}

/// Reads and passes on, for as long as it can.
async fn read(tail: &Tail, decoder: &Decoder, line: &Mutex<Line>) -> Fault {
    loop {
        let record = match tail.next().await {
            Ok(Step::Record(record)) => record,
            Ok(Step::End(..)) => continue,
            Err(error) => return Fault::Broker(error.to_string()),
        };
        let event = match change_of(decoder, &record).await {
            Ok(event) => event,
            Err(WatchError::Registry(why)) => return Fault::Registry(why),
            Err(error) => return Fault::Broker(error.to_string()),
        };
        let mut line = line.lock();
        if let Some(next) = line.next.get_mut(event.partition) {
            *next = event.offset + 1;
        }
        if let Some(listeners) = &line.listeners {
            // Nobody may be listening.
            let _ = listeners.send(event);
        }
    }
}

/// Ends when the brokers do not answer, or the topic has grown partitions.
async fn probe(tail: &Tail, partitions: usize) -> Fault {
    loop {
        sleep(PROBE_EVERY).await;
        match tail.partitions().await {
            Ok(now) if now == partitions => {}
            Ok(now) => return Fault::Broker(format!("the topic has {now} partitions, and had {partitions}")),
            Err(error) => return Fault::Broker(error.to_string()),
        }
    }
}

/// What a record says. The registry is waited for, for a while.
pub(super) async fn change_of(decoder: &Decoder, record: &Tailed) -> Result<Event, WatchError> {
    let begun = Instant::now();
    let payload = record.payload.as_deref();
    while let Err(error) = decoder.prepare(payload.into_iter()).await {
        if begun.elapsed() > REGISTRY_PATIENCE {
            return Err(WatchError::Registry(error.to_string()));
        }
        sleep(REGISTRY_PAUSE).await;
    }
    let change = decoder.decode_status(payload).unwrap_or_else(|error| {
        tracing::warn!(%error, offset = record.offset, "a status change cannot be read; watchers do not see it");
        None
    });
    Ok(Event { partition: record.partition, offset: record.offset, change: change.map(Arc::new) })
}

//! Signed callbacks to other backends: claim due events → call → record.
//!
//! Each end has places of its own in this process, so one that answers slowly holds up no
//! other; an end that fails is tried with one event at a time, by one of all processes. An
//! event is told at least once, always under the same `webhook-id`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rand::seq::SliceRandom as _;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use super::rounds::{UNAVAILABLE_PAUSE, Worker};
use crate::config;
use crate::deliver::callback::{Answer, Endpoint};
use crate::metrics;
use crate::record::callbacks::{CallbackEvent, KnownEndpoint, Retry, Room, Wanted};
use crate::record::{RecordError, Store};

/// Pause between looks when nothing was due and no call ended.
const PAUSE: Duration = Duration::from_millis(250);
/// How long calls that end together are waited for, before the next look.
const LINGER: Duration = Duration::from_millis(5);
/// What is left of a claim after the longest call: to record what came of it.
const RECORD_TIME: Duration = Duration::from_secs(15);
/// Tries to record what came of a call, while the database is away.
const RECORD_TRIES: u32 = 5;
/// How often overdue events are parked, and how many at once.
const PARK_INTERVAL: Duration = Duration::from_secs(1);
const PARK_LIMIT: i64 = 1_000;
/// How often ended events are forgotten, and how many at once.
const PRUNE_INTERVAL: Duration = Duration::from_secs(10);
const PRUNE_LIMIT: i64 = 5_000;
/// How long an event is kept after its end, for people and for replays.
const DELIVERED_KEPT: Duration = Duration::from_secs(7 * 24 * 60 * 60);
const PARKED_KEPT: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How long what was cut short may take to give its claim back.
const RELEASE_TIME: Duration = Duration::from_secs(3);

/// The ends as this process has last read them.
#[derive(Clone, Default)]
pub struct Endpoints(Arc<Mutex<Read>>);

#[derive(Default)]
struct Read {
    /// Grows with each change.
    version: u64,
    lines: Arc<HashMap<String, Arc<Line>>>,
    wanted: Arc<Wanted>,
}

/// An end, and the client that calls it.
struct Line {
    endpoint: Endpoint,
    client: reqwest::Client,
    caller: Arc<str>,
}

impl Endpoints {
    /// Takes over what was read. False: it is as before.
    ///
    /// # Errors
    /// When a client cannot be made; then everything stays as it was.
    pub fn replace(&self, read: Vec<Endpoint>, config: &config::Callbacks) -> reqwest::Result<bool> {
        let before = Arc::clone(&self.0.lock().lines);
        let is_same = |one: &Endpoint| before.get(&one.caller).is_some_and(|line| line.endpoint == *one);
        if read.len() == before.len() && read.iter().all(is_same) {
            return Ok(false);
        }
        let (mut lines, mut wanted) = (HashMap::with_capacity(read.len()), Wanted::default());
        for endpoint in read {
            wanted.add(&endpoint.caller, endpoint.states.iter().copied());
            let timeout = Duration::from_millis(config.timeout_ms);
            let client = endpoint.client(timeout, config.in_flight_per_endpoint_max)?;
            let caller = Arc::from(endpoint.caller.as_str());
            lines.insert(endpoint.caller.clone(), Arc::new(Line { endpoint, client, caller }));
        }
        let mut here = self.0.lock();
        *here = Read { version: here.version + 1, lines: Arc::new(lines), wanted: Arc::new(wanted) };
        Ok(true)
    }

    /// Which changes become events.
    #[must_use]
    pub fn wanted(&self) -> Arc<Wanted> {
        Arc::clone(&self.0.lock().wanted)
    }

    fn lines(&self) -> (u64, Arc<HashMap<String, Arc<Line>>>) {
        let here = self.0.lock();
        (here.version, Arc::clone(&here.lines))
    }
}

/// Calls back; any number of processes may. Clones are the same worker.
#[derive(Clone)]
pub struct CallbackWorker(Arc<Shared>);

struct Shared {
    config: config::Callbacks,
    store: Store,
    endpoints: Endpoints,
    tasks: TaskTracker,
    /// Cuts calls short.
    cut: CancellationToken,
    /// A call has ended.
    ended: Notify,
    rounds: Mutex<Rounds>,
}

#[derive(Default)]
struct Rounds {
    /// Calls that are under way, by caller.
    in_flight: HashMap<String, usize>,
    /// Version of the ends that the database knows.
    known: u64,
    parked: Option<Instant>,
    pruned: Option<Instant>,
}

impl Worker for CallbackWorker {
    const NAME: &'static str = "callbacks";

    async fn turn(&self) -> Result<Duration, RecordError> {
        let shared = &self.0;
        let (version, lines) = shared.endpoints.lines();
        shared.make_known(version, &lines).await?;
        shared.clean().await?;
        let rooms = shared.rooms(&lines);
        let limit = shared.config.in_flight_max.saturating_sub(shared.tasks.len());
        let events = if rooms.is_empty() || limit == 0 {
            Vec::new()
        } else {
            shared.store.claim_callbacks(&rooms, limit, shared.lease()).await?
        };
        let taken = events.len();
        for event in events {
            self.begin(event, &lines);
        }
        if taken == 0 && timeout(PAUSE, shared.ended.notified()).await.is_ok() {
            sleep(LINGER).await;
        }
        Ok(Duration::ZERO)
    }
}

impl CallbackWorker {
    /// For these ends.
    #[must_use]
    pub fn new(config: config::Callbacks, store: Store, endpoints: Endpoints) -> Self {
        Self(Arc::new(Shared {
            config,
            store,
            endpoints,
            tasks: TaskTracker::new(),
            cut: CancellationToken::new(),
            ended: Notify::new(),
            rounds: Mutex::default(),
        }))
    }

    /// Waits until calls have ended, after the last turn. Those that last longer than
    /// `grace` are cut short: their events go to whoever looks next, under the same id.
    pub async fn drain(&self, grace: Duration) {
        let shared = &self.0;
        shared.tasks.close();
        if timeout(grace, shared.tasks.wait()).await.is_ok() {
            return;
        }
        shared.cut.cancel();
        if timeout(RELEASE_TIME, shared.tasks.wait()).await.is_err() {
            warn!("callbacks could not be given back before the end; their claims run out");
        }
    }

    fn begin(&self, event: CallbackEvent, lines: &HashMap<String, Arc<Line>>) {
        // Only ends that have a line were asked for.
        let Some(line) = lines.get(&event.caller).cloned() else { return };
        *self.0.rounds.lock().in_flight.entry(event.caller.clone()).or_default() += 1;
        let shared = Arc::clone(&self.0);
        self.0.tasks.spawn(async move {
            shared.call(&event, &line).await;
            if let Some(count) = shared.rounds.lock().in_flight.get_mut(&event.caller) {
                *count = count.saturating_sub(1);
            }
            shared.ended.notify_one();
        });
    }
}

impl Shared {
    const fn lease(&self) -> Duration {
        Duration::from_millis(self.config.timeout_ms).saturating_add(RECORD_TIME)
    }

    /// Tells the database of ends that are new or have changed.
    async fn make_known(&self, version: u64, lines: &HashMap<String, Arc<Line>>) -> Result<(), RecordError> {
        if self.rounds.lock().known == version + 1 {
            return Ok(());
        }
        let known = |line: &Arc<Line>| KnownEndpoint {
            caller: line.endpoint.caller.clone(),
            url_digest: line.endpoint.url_digest(),
        };
        let known: Vec<KnownEndpoint> = lines.values().map(known).collect();
        self.store.keep_callback_endpoints(&known).await?;
        let mut rounds = self.rounds.lock();
        rounds.known = version + 1;
        rounds.in_flight.retain(|caller, count| *count > 0 || lines.contains_key(caller));
        Ok(())
    }

    /// Ends with room for more calls, in any order.
    fn rooms(&self, lines: &HashMap<String, Arc<Line>>) -> Vec<Room> {
        let rounds = self.rounds.lock();
        let room = |caller: &String| {
            let taken = rounds.in_flight.get(caller).copied().unwrap_or(0);
            let events = self.config.in_flight_per_endpoint_max.saturating_sub(taken);
            (events > 0).then(|| Room { caller: caller.clone(), events })
        };
        let mut rooms: Vec<Room> = lines.keys().filter_map(room).collect();
        rooms.shuffle(&mut rand::rng());
        rooms
    }

    /// Parks what is overdue, forgets what has ended long ago.
    async fn clean(&self) -> Result<(), RecordError> {
        let is_due = |last: &mut Option<Instant>, interval| {
            let due = last.is_none_or(|at| at.elapsed() >= interval);
            if due {
                *last = Some(Instant::now());
            }
            due
        };
        if is_due(&mut self.rounds.lock().parked, PARK_INTERVAL) {
            let give_up_after = Duration::from_millis(self.config.give_up_after_ms);
            for of in self.store.park_callbacks(give_up_after, PARK_LIMIT).await? {
                warn!(caller = of.caller, events = of.events, "callbacks are parked: nobody takes them");
                metrics::callback(&Arc::from(of.caller.as_str()), "parked", of.events);
            }
        }
        if is_due(&mut self.rounds.lock().pruned, PRUNE_INTERVAL) {
            self.store.prune_callbacks(DELIVERED_KEPT, PARKED_KEPT, PRUNE_LIMIT).await?;
        }
        Ok(())
    }

    async fn call(&self, event: &CallbackEvent, line: &Line) {
        let called = line.endpoint.call(&line.client, &event.change);
        let Some(answer) = self.cut.run_until_cancelled(called).await else {
            if let Err(error) = self.store.release_callback(event).await {
                warn!(%error, "a callback could not be given back; its claim runs out");
            }
            return;
        };
        for _ in 0..RECORD_TRIES {
            match self.record(event, &answer).await {
                Ok(ours) => return self.tell(event, line, &answer, ours),
                Err(error @ RecordError::Unavailable(_)) => {
                    metrics::unavailable("postgres");
                    warn!(%error, "what came of a callback waits for the database");
                }
                Err(error @ RecordError::Bug(_)) => {
                    error!(%error, "what came of a callback cannot be written down");
                    break;
                }
            }
            sleep(UNAVAILABLE_PAUSE).await;
        }
        warn!("what came of a callback is lost: it is called again");
    }

    async fn record(&self, event: &CallbackEvent, answer: &Answer) -> Result<bool, RecordError> {
        match answer {
            Answer::Taken => self.store.callback_delivered(event).await,
            Answer::Gone => self.store.callback_gone(event).await,
            Answer::Refused { why, after } => {
                let retry = Retry {
                    initial: Duration::from_millis(self.config.retry_initial_ms),
                    max: Duration::from_millis(self.config.retry_max_ms),
                };
                self.store.callback_failed(event, why, *after, retry).await
            }
        }
    }

    fn tell(&self, event: &CallbackEvent, line: &Line, answer: &Answer, ours: bool) {
        if !ours {
            metrics::lease_lost(1);
            warn!(caller = %line.caller, "the claim of a callback ran out during its call");
            return;
        }
        match answer {
            Answer::Taken => metrics::callback(&line.caller, "delivered", 1),
            Answer::Gone => {
                metrics::callback(&line.caller, "gone", 1);
                warn!(caller = %line.caller, "a callback was answered with 410: its address is disabled, and \
                      its events are parked until they are replayed or the address changes");
            }
            Answer::Refused { why, .. } => {
                metrics::callback(&line.caller, "failed", 1);
                info!(caller = %line.caller, why, attempt = event.attempt, "a callback was not taken");
            }
        }
    }
}

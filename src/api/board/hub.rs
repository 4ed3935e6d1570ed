//! Reads for all viewers, while there are any.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use deadpool_postgres::Pool;
use jiff::Timestamp;
use parking_lot::RwLock;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use super::snapshot::{Panel, Panels, Snapshot};
use super::verdict::verdict;
use super::{VIEWERS_MAX, panels};
use crate::api::operations;
use crate::topic::names;

/// How often viewers get news.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// Longest time of a try.
const GIVE_UP: Duration = Duration::from_secs(30);

/// The newest snapshot, and who looks.
pub(super) struct Hub {
    news: watch::Sender<Arc<str>>,
    panels: RwLock<Panels>,
    viewers: AtomicUsize,
    /// Somebody has come.
    come: Notify,
    /// One statement at a time: the board never takes more than one connection from the front.
    database: Semaphore,
}

/// A place; dropping it gives it back.
pub(super) struct Viewer {
    hub: Arc<Hub>,
    /// Snapshots as JSON; empty before the first.
    pub(super) news: watch::Receiver<Arc<str>>,
}

impl Drop for Viewer {
    fn drop(&mut self) {
        self.hub.viewers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hub {
    /// Starts what reads; it sleeps until somebody looks.
    pub(super) fn start(pool: Pool, setup: operations::Setup, shutdown: CancellationToken) -> Arc<Self> {
        let (news, _) = watch::channel(Arc::from(""));
        let hub = Arc::new(Self {
            news,
            panels: RwLock::default(),
            viewers: AtomicUsize::new(0),
            come: Notify::new(),
            database: Semaphore::new(1),
        });
        for group in names::groups(&setup.kafka.topic_prefix).into_keys() {
            hub.note(|panels| drop(panels.groups.insert(group, Panel::default())));
        }
        for (group, topics) in names::groups(&setup.kafka.topic_prefix) {
            panels::watch_group(&hub, &setup.kafka, group, topics, &shutdown);
        }
        panels::watch_database(&hub, &pool, &setup, &shutdown);
        panels::watch_letters(&hub, &setup.kafka, &shutdown);
        if !setup.scaler_url.is_empty() {
            panels::watch_scaler(&hub, &setup.scaler_url, &shutdown);
        }
        tokio::spawn(Arc::clone(&hub).tell(shutdown));
        hub
    }

    /// A place for one more; `None`: there is none.
    pub(super) fn view(self: &Arc<Self>) -> Option<Viewer> {
        let place = |count: usize| (count < VIEWERS_MAX).then_some(count + 1);
        self.viewers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, place).ok()?;
        self.come.notify_waiters();
        Some(Viewer { hub: Arc::clone(self), news: self.news.subscribe() })
    }

    fn is_watched(&self) -> bool {
        self.viewers.load(Ordering::Relaxed) > 0
    }

    /// Returns when somebody looks.
    async fn watched(&self) {
        loop {
            let come = self.come.notified();
            tokio::pin!(come);
            // From here on nobody who comes is missed.
            come.as_mut().enable();
            if self.is_watched() {
                return;
            }
            come.await;
        }
    }

    /// Reads a panel again and again while somebody looks. Of a try that takes longer than
    /// `longest` it is said that there is no answer, while what was read before stays; the try
    /// goes on, because another one beside it would only make both slower.
    pub(super) async fn keep<T: Send>(
        self: Arc<Self>,
        (every, longest): (Duration, Duration),
        shutdown: CancellationToken,
        mut read: impl AsyncFnMut() -> Result<T, String>,
        panel: impl Fn(&mut Panels) -> &mut Panel<T>,
    ) {
        let mut tick = interval(every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while shutdown
            .run_until_cancelled(async { tokio::join!(tick.tick(), self.watched()) })
            .await
            .is_some()
        {
            let tried = async {
                let reading = read();
                tokio::pin!(reading);
                if let Ok(read) = timeout(longest, reading.as_mut()).await {
                    return read;
                }
                let late = Err(format!("no answer within {} s", longest.as_secs()));
                panel(&mut self.panels.write()).take(late);
                let given_up = || Err(format!("no answer within {} s", GIVE_UP.as_secs()));
                timeout(GIVE_UP, reading).await.unwrap_or_else(|_| given_up())
            };
            let Some(read) = shutdown.run_until_cancelled(tried).await else { return };
            panel(&mut self.panels.write()).take(read);
        }
    }

    /// Puts something into the panels.
    pub(super) fn note(&self, change: impl FnOnce(&mut Panels)) {
        change(&mut self.panels.write());
    }

    /// The place of a statement; the board has one at a time.
    pub(super) async fn database(&self) -> tokio::sync::SemaphorePermit<'_> {
        // It is never closed.
        self.database.acquire().await.unwrap_or_else(|_| unreachable!("the semaphore stays open"))
    }

    async fn tell(self: Arc<Self>, shutdown: CancellationToken) {
        let mut tick = interval(TELL_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while shutdown
            .run_until_cancelled(async { tokio::join!(tick.tick(), self.watched()) })
            .await
            .is_some()
        {
            let text = serde_json::to_string(&self.snapshot());
            match text {
                Ok(text) => drop(self.news.send_replace(text.into())),
                Err(error) => tracing::error!(%error, "the board's snapshot cannot be written"),
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        let panels = self.panels.read();
        Snapshot {
            at_ms: Timestamp::now().as_millisecond(),
            verdict: verdict(&panels),
            groups: panels.groups.iter().map(|(name, panel)| (name.clone(), panel.shown())).collect(),
            queues: panels.queues.shown(),
            providers: panels.providers.shown(),
            funnel: panels.funnel.shown(),
            batches: panels.batches.shown(),
            cron: panels.cron.shown(),
            letters: panels.letters.shown(),
            wanted: panels.wanted.shown(),
        }
    }
}

//! How many notifications a caller may ask for a day, over all replicas.
//!
//! What is counted here is added to the database about once a second, off the way of
//! the calls, and comes back as what all replicas have counted. So a caller may get
//! through, beyond its quota, what it asks other replicas for within that second; and
//! more while the database is away. What was added without an answer is added again, so
//! it may count twice, never less than once; a restart forgets at most a second. A repeat
//! of an idempotency key counts again: the front does not know it.

use std::collections::HashMap;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic::Request;

use crate::api::error::ApiError;
use crate::record::quota::{self, Asked};

/// How often counts go to the database.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// Callers that are counted by themselves; those beyond share a count.
const COUNTED_MAX: usize = 10_000;
/// Name of the count of the others; no caller's.
const SHARED: &str = "*";
/// How long counts are kept.
const KEPT_DAYS: i32 = 35;

struct Count {
    day: Date,
    /// What all replicas have counted, as far as it is known here, with what is on its
    /// way to the database.
    known: i64,
    /// What the database has not been told.
    new: i64,
    /// It has refused since the database was last asked: others may have given back.
    refused: bool,
}

impl Count {
    const fn of(day: Date) -> Self {
        Self { day, known: 0, new: 0, refused: false }
    }
}

#[derive(Default)]
struct State {
    counts: HashMap<String, Count>,
    /// What is left of days that have ended.
    late: Vec<Asked>,
}

/// The counts of all callers who have a quota.
#[derive(Default)]
pub(super) struct Quotas(Mutex<State>);

impl Quotas {
    fn take(&self, caller: &str, per_day: u64, wanted: u32, now: Timestamp) -> Result<(), ApiError> {
        let now = now.to_zoned(TimeZone::UTC);
        let mut state = self.0.lock();
        let count = state.count(caller, now.date());
        let asked = count.known + count.new + i64::from(wanted);
        if u64::try_from(asked).unwrap_or(0) <= per_day {
            count.new += i64::from(wanted);
            return Ok(());
        }
        count.refused = true;
        let midnight = now.date().tomorrow().and_then(|day| day.to_zoned(TimeZone::UTC));
        let left = midnight.map(|midnight| now.duration_until(&midnight)).unwrap_or_default();
        Err(ApiError::OverQuota {
            subject: caller.to_owned(),
            limit: format!("{per_day} notifications a day (UTC)"),
            retry_after: Duration::try_from(left).unwrap_or(WRITE_INTERVAL),
        })
    }

    fn give_back(&self, caller: &str, taken: u32, now: Timestamp) {
        self.0.lock().count(caller, now.to_zoned(TimeZone::UTC).date()).new -= i64::from(taken);
    }

    /// What the database has not been told; from here on it counts as told. A count that
    /// refused is told with nothing new too: only the answer shows what others gave back.
    fn drain(&self) -> Vec<Asked> {
        let mut state = self.0.lock();
        let mut drained = mem::take(&mut state.late);
        for (caller, count) in &mut state.counts {
            if mem::take(&mut count.refused) || count.new != 0 {
                drained.push(Asked { day: count.day, caller: caller.clone(), notifications: count.new });
                count.known += mem::take(&mut count.new);
            }
        }
        drained
    }

    /// The database did not take it.
    fn undo(&self, drained: Vec<Asked>) {
        let mut state = self.0.lock();
        for asked in drained {
            match state.counts.get_mut(&asked.caller).filter(|count| count.day == asked.day) {
                Some(count) => {
                    count.known -= asked.notifications;
                    count.new += asked.notifications;
                    count.refused |= asked.notifications == 0;
                }
                None => state.late(asked),
            }
        }
    }

    fn learn(&self, totals: Vec<Asked>) {
        let mut state = self.0.lock();
        for total in totals {
            if let Some(count) = state.counts.get_mut(&total.caller).filter(|count| count.day == total.day) {
                count.known = total.notifications;
            }
        }
    }

    /// Tells the database what was counted, and learns what others have.
    pub(super) async fn write(&self, pool: &Pool) {
        let drained = self.drain();
        if drained.is_empty() {
            return;
        }
        match quota::add(pool, &drained).await {
            Ok(totals) => self.learn(totals),
            Err(error) => {
                tracing::warn!(%error, callers = drained.len(), "quotas could not be written; counting goes on");
                self.undo(drained);
            }
        }
    }

    /// Writes until `shutdown`, and forgets what is old once a day.
    pub(super) async fn run(self: Arc<Self>, pool: Pool, shutdown: CancellationToken) {
        let mut ticks = interval(WRITE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut forgot_on: Option<Date> = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ticks.tick() => {}
            }
            self.write(&pool).await;
            let today = Timestamp::now().to_zoned(TimeZone::UTC).date();
            if forgot_on != Some(today) {
                let before = today.saturating_sub(jiff::Span::new().days(KEPT_DAYS));
                // When the database is away, tomorrow will do.
                drop(quota::forget(&pool, before).await);
                forgot_on = Some(today);
            }
        }
    }
}

impl State {
    fn count(&mut self, caller: &str, today: Date) -> &mut Count {
        let known = self.counts.contains_key(caller);
        let name = if known || self.has_room(today) { caller } else { SHARED };
        if !self.counts.contains_key(name) {
            self.counts.insert(name.to_owned(), Count::of(today));
        }
        let count = self.counts.get_mut(name).expect("it was there, or has just been put in");
        if count.day < today {
            let ended = mem::replace(count, Count::of(today));
            if ended.new != 0 {
                self.late(Asked { day: ended.day, caller: name.to_owned(), notifications: ended.new });
            }
        }
        self.counts.get_mut(name).expect("it has just been there")
    }

    fn has_room(&mut self, today: Date) -> bool {
        if self.counts.len() >= COUNTED_MAX {
            self.counts.retain(|_, count| count.day == today || count.new != 0);
        }
        self.counts.len() < COUNTED_MAX
    }

    /// The same day and caller must stand in a statement once.
    fn late(&mut self, asked: Asked) {
        let same = |late: &&mut Asked| (late.day, &late.caller) == (asked.day, &asked.caller);
        if let Some(late) = self.late.iter_mut().find(same) {
            late.notifications += asked.notifications;
        } else if self.late.len() < COUNTED_MAX {
            self.late.push(asked);
        }
    }
}

/// A caller's quota of notifications.
#[derive(Clone)]
struct Quota {
    quotas: Arc<Quotas>,
    caller: String,
    per_day: u64,
}

/// How many notifications the caller of a request may still ask for today.
#[derive(Clone, Default)]
pub struct Allowance(Option<Quota>);

impl Allowance {
    pub(super) const fn new(quotas: Arc<Quotas>, caller: String, per_day: u64) -> Self {
        Self(Some(Quota { quotas, caller, per_day }))
    }

    /// The allowance of whoever makes this call; without bound where there is no quota.
    #[must_use]
    pub fn of<T>(request: &Request<T>) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// Takes so many notifications out of it. They come back when [`Taken`] is dropped
    /// without [`Taken::keep`].
    ///
    /// # Errors
    /// [`ApiError::OverQuota`] when fewer are left; then none is taken.
    pub fn take(&self, notifications: u32) -> Result<Taken, ApiError> {
        if let Some(Quota { quotas, caller, per_day }) = &self.0 {
            quotas.take(caller, *per_day, notifications, Timestamp::now())?;
        }
        Ok(Taken { from: self.clone(), notifications })
    }
}

/// Notifications that count against a quota.
#[must_use = "they come back when this is dropped"]
pub struct Taken {
    from: Allowance,
    notifications: u32,
}

impl Taken {
    /// They were taken over: they count.
    pub fn keep(mut self) {
        self.from = Allowance::default();
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if let Some(Quota { quotas, caller, .. }) = &self.from.0 {
            quotas.give_back(caller, self.notifications, Timestamp::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_days_quota_is_over_at_the_quota_and_new_at_midnight() {
        let quotas = Quotas::default();
        let evening = at("2026-11-22T23:59:00Z");
        quotas.take("portal", 3, 2, evening).unwrap();
        match quotas.take("portal", 3, 2, evening).unwrap_err() {
            ApiError::OverQuota { subject, limit, retry_after } => {
                assert_eq!((subject.as_str(), limit.as_str()), ("portal", "3 notifications a day (UTC)"));
                assert_eq!(retry_after, Duration::from_secs(60));
            }
            other => panic!("{other}"),
        }
        quotas.take("portal", 3, 1, evening).unwrap();
        quotas.take("laboratory", 3, 3, evening).unwrap();
        quotas.take("portal", 3, 3, at("2026-11-23T00:00:00Z")).unwrap();
        let mut told = quotas.drain();
        told.sort_by(|a, b| (a.day, &a.caller).cmp(&(b.day, &b.caller)));
        let told: Vec<_> =
            told.iter().map(|one| (one.day.day(), one.caller.as_str(), one.notifications)).collect();
        assert_eq!(told, [(22, "laboratory", 3), (22, "portal", 3), (23, "portal", 3)]);
        assert!(quotas.drain().is_empty());
    }

    #[test]
    fn what_other_replicas_counted_counts_and_what_was_not_written_stays() {
        let quotas = Quotas::default();
        let now = at("2026-11-22T12:00:00Z");
        quotas.take("portal", 10, 4, now).unwrap();
        let drained = quotas.drain();
        quotas.undo(drained);
        assert!(quotas.take("portal", 10, 7, now).is_err(), "it is still counted here");
        let mut total = quotas.drain();
        assert_eq!(total[0].notifications, 4);
        total[0].notifications = 9;
        quotas.take("portal", 10, 1, now).unwrap();
        quotas.learn(total);
        assert!(quotas.take("portal", 10, 1, now).is_err(), "9 elsewhere and 1 here");
    }

    #[test]
    fn what_others_gave_back_ends_a_refusal() {
        let quotas = Quotas::default();
        let now = at("2026-11-22T12:00:00Z");
        let total = |notifications| Asked {
            day: "2026-11-22".parse().unwrap(),
            caller: "portal".into(),
            notifications,
        };
        quotas.take("portal", 10, 1, now).unwrap();
        quotas.drain();
        quotas.learn(vec![total(10)]);
        assert!(quotas.take("portal", 10, 1, now).is_err());
        let asked = quotas.drain();
        assert_eq!(asked, [total(0)], "nothing is added, and the answer tells");
        quotas.undo(asked);
        assert_eq!(quotas.drain(), [total(0)], "asked again when the database was away");
        quotas.learn(vec![total(1)]);
        quotas.take("portal", 10, 9, now).unwrap();
    }

    #[test]
    fn what_was_not_taken_over_comes_back() {
        let quotas = Arc::new(Quotas::default());
        let allowance = Allowance::new(Arc::clone(&quotas), "portal".to_owned(), 2);
        drop(allowance.take(2).unwrap());
        allowance.take(2).unwrap().keep();
        assert!(allowance.take(1).is_err());
        assert!(Allowance::default().take(u32::MAX).is_ok(), "no quota");
    }
}

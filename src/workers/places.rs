//! Deliveries that a worker may have in flight. Each channel has places of its own, the
//! rest is for whoever comes first: providers that hang, however many, leave each other
//! channel what is its own.

use std::sync::Arc;
use std::time::Duration;

use futures::future::select_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::{Channel, Urgency};

/// Which part of all places is one channel's own.
const OWN_PART: usize = 6;
/// How long a claim waits for more places while few are free: one statement for many rows
/// costs little more than one for a few.
const COMPANY: Duration = Duration::from_millis(10);
/// Which part of the shared places is worth a claim at once.
const WORTH_PART: usize = 2;

/// Places of one worker.
pub(super) struct Places {
    shared: Pool,
    own: [(Channel, Pool); Channel::ALL.len()],
}

/// Places of one kind; bulk has at most half of them.
struct Pool {
    count: usize,
    all: Arc<Semaphore>,
    bulk: Arc<Semaphore>,
}

/// Places that were taken together, with those of bulk among them.
struct Taken {
    all: OwnedSemaphorePermit,
    bulk: Option<OwnedSemaphorePermit>,
}

/// One delivery's place, given back when it is dropped.
pub(super) struct Place {
    _taken: Taken,
}

/// Places of some channels, which are set aside while rows for them are looked for.
pub(super) struct Shares(Vec<Share>);

struct Share {
    channel: Channel,
    own: Taken,
    shared: Taken,
}

impl Places {
    /// `in_flight_max` places. Of fewer than twice [`OWN_PART`] bulk has no place that is a
    /// channel's own, and of fewer than [`OWN_PART`] no channel has any.
    pub(super) fn new(in_flight_max: usize) -> Self {
        let own = in_flight_max / OWN_PART;
        let shared = in_flight_max - own * Channel::ALL.len();
        Self {
            shared: Pool::new(shared, (shared / 2).max(1)),
            own: std::array::from_fn(|at| (Channel::ALL[at], Pool::new(own, own / 2))),
        }
    }

    fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.own.iter().map(|(_, pool)| pool).chain([&self.shared])
    }

    /// Waits until one place or more is free, and for a moment for a claim's worth of them.
    pub(super) async fn some_free(&self) {
        if self.pools().all(|pool| pool.all.available_permits() == 0) {
            first_freed(self.pools().filter(|pool| pool.count > 0).map(|pool| &pool.all)).await;
        }
        let worth = self.shared.count / WORTH_PART;
        if self.shared.all.available_permits() < worth {
            let gathered = self.shared.all.acquire_many(u32::try_from(worth).unwrap_or(u32::MAX));
            let _ = tokio::time::timeout(COMPANY, gathered).await;
        }
    }

    /// Waits until all are free again.
    pub(super) async fn all_free(&self) {
        for pool in self.pools() {
            drop(pool.all.acquire_many(u32::try_from(pool.count).unwrap_or(u32::MAX)).await);
        }
    }

    /// Divides at most `max` places over channels, without waiting; a channel that has no
    /// place gets none.
    pub(super) fn shares(&self, urgency: Urgency, channels: &[Channel], max: usize) -> Shares {
        let fair = |count: usize| count.div_ceil(channels.len().max(1));
        let of_shared = fair(self.shared.free(urgency));
        let mut left = max;
        let mut shares = Vec::new();
        for (channel, pool) in self.own.iter().filter(|(channel, _)| channels.contains(channel)) {
            let most = fair(max).min(left);
            let own = pool.take(urgency, most);
            let shared = self.shared.take(urgency, of_shared.min(most - own.count()));
            let share = Share { channel: *channel, own, shared };
            left -= share.count();
            if share.count() > 0 {
                shares.push(share);
            }
        }
        Shares(shares)
    }

    /// When a channel or bulk has all that it may have of some places: waits until one of
    /// them is free. Otherwise for ever.
    pub(super) async fn share_freed(&self) {
        let counted = self.pools().filter(|pool| pool.count > 0).flat_map(|pool| [&pool.all, &pool.bulk]);
        first_freed(counted).await;
    }
}

/// Waits for a place where there is none; for ever where there are some everywhere.
async fn first_freed(places: impl Iterator<Item = &Arc<Semaphore>>) {
    let full: Vec<_> = places.filter(|places| places.available_permits() == 0).collect();
    if full.is_empty() {
        return std::future::pending().await;
    }
    let freed = full.into_iter().map(|places| Box::pin(async { drop(places.acquire().await) }));
    select_all(freed).await;
}

impl Pool {
    fn new(count: usize, bulk: usize) -> Self {
        Self { count, all: Arc::new(Semaphore::new(count)), bulk: Arc::new(Semaphore::new(bulk)) }
    }

    fn free(&self, urgency: Urgency) -> usize {
        let all = self.all.available_permits();
        if urgency == Urgency::Bulk { all.min(self.bulk.available_permits()) } else { all }
    }

    /// Up to `max` of those that are free.
    fn take(&self, urgency: Urgency, max: usize) -> Taken {
        let bulk = (urgency == Urgency::Bulk).then(|| take(&self.bulk, max));
        let max = bulk.as_ref().map_or(max, OwnedSemaphorePermit::num_permits);
        Taken { all: take(&self.all, max), bulk }
    }
}

/// Up to `max` of those that are free.
fn take(places: &Arc<Semaphore>, max: usize) -> OwnedSemaphorePermit {
    let mut count = u32::try_from(max.min(places.available_permits())).unwrap_or(u32::MAX);
    loop {
        match Arc::clone(places).try_acquire_many_owned(count) {
            Ok(permit) => return permit,
            // Somebody else was faster. None can always be had.
            Err(_) => count /= 2,
        }
    }
}

impl Taken {
    fn count(&self) -> usize {
        self.all.num_permits()
    }

    fn split(&mut self) -> Option<Self> {
        let bulk = match &mut self.bulk {
            Some(bulk) => Some(bulk.split(1)?),
            None => None,
        };
        Some(Self { all: self.all.split(1)?, bulk })
    }
}

impl Share {
    fn count(&self) -> usize {
        self.own.count() + self.shared.count()
    }
}

impl Shares {
    /// How many rows of which channel there is place for.
    pub(super) fn wanted(&self) -> Vec<(Channel, usize)> {
        self.0.iter().map(|share| (share.channel, share.count())).collect()
    }

    /// A place for a row of this channel, while there is one.
    pub(super) fn place(&mut self, channel: Channel) -> Option<Place> {
        let share = self.0.iter_mut().find(|share| share.channel == channel)?;
        let taken = share.own.split().or_else(|| share.shared.split())?;
        Some(Place { _taken: taken })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: &[Channel] = Channel::ALL;

    fn total(shares: &Shares) -> usize {
        shares.wanted().iter().map(|(_, places)| places).sum()
    }

    /// All the places that these channels can have, one turn after the other.
    fn hang(places: &Places, urgency: Urgency, channels: &[Channel]) -> Vec<Place> {
        let mut held = Vec::new();
        loop {
            let mut shares = places.shares(urgency, channels, 1000);
            let wanted = shares.wanted();
            if wanted.is_empty() {
                return held;
            }
            for (channel, count) in wanted {
                held.extend((0..count).filter_map(|_| shares.place(channel)));
                assert!(shares.place(channel).is_none());
            }
        }
    }

    #[tokio::test]
    async fn channels_that_hang_leave_each_other_one_its_own_places() {
        let places = Places::new(16);
        let texts = hang(&places, Urgency::Critical, &[Channel::Sms]);
        assert_eq!(texts.len(), 12, "its own two, and the ten that are shared");
        let mails = hang(&places, Urgency::Critical, &[Channel::Email]);
        assert_eq!(mails.len(), 2);
        assert_eq!(places.shares(Urgency::Normal, ALL, 500).wanted(), [(Channel::Push, 2)]);
        tokio::select! {
            biased;
            () = places.share_freed() => panic!("nothing was given back"),
            () = places.some_free() => {}
        }
        drop(texts);
        drop(mails);
        places.all_free().await;
    }

    #[tokio::test]
    async fn bulk_has_half_of_what_its_channel_may_have() {
        let places = Places::new(16);
        let texts = hang(&places, Urgency::Bulk, &[Channel::Sms]);
        assert_eq!(texts.len(), 6);
        let mails = hang(&places, Urgency::Bulk, &[Channel::Email]);
        assert_eq!(mails.len(), 1);
        assert_eq!(places.shares(Urgency::Bulk, ALL, 500).wanted(), [(Channel::Push, 1)]);
        assert_eq!(hang(&places, Urgency::Normal, ALL).len(), 16 - 7);
    }

    #[tokio::test]
    async fn a_worker_with_every_place_taken_waits_for_one() {
        let places = Places::new(8);
        let mut held = hang(&places, Urgency::Normal, ALL);
        assert_eq!(held.len(), 8);
        tokio::select! {
            biased;
            () = places.some_free() => panic!("all places are taken"),
            () = std::future::ready(()) => {}
        }
        held.pop();
        places.some_free().await;
        assert_eq!(total(&places.shares(Urgency::Normal, ALL, 500)), 1);
    }

    proptest! {
        #[test]
        fn no_more_is_given_out_than_there_is_and_each_channel_keeps_its_own(
            count in 1_usize..200,
            turns in prop::collection::vec((0_usize..4, 0_usize..3, 0_usize..40), 0..40),
        ) {
            let places = Places::new(count);
            let mut held: Vec<(Channel, Urgency, Place)> = Vec::new();
            for (urgency, hangs, max) in turns {
                // Two channels hang, the third one gives back at once.
                let urgency = Urgency::ALL[urgency];
                let open: Vec<Channel> =
                    ALL.iter().copied().filter(|channel| *channel != ALL[hangs]).collect();
                let mut shares = places.shares(urgency, &open, max);
                prop_assert!(total(&shares) <= max);
                for (channel, wanted) in shares.wanted() {
                    for _ in 0..wanted {
                        held.extend(shares.place(channel).map(|place| (channel, urgency, place)));
                    }
                }
                drop(shares);
                prop_assert!(held.len() <= count);
                let bulk = held.iter().filter(|(_, urgency, _)| *urgency == Urgency::Bulk).count();
                prop_assert!(bulk <= (count / 2).max(1));
                for (channel, _) in &places.own {
                    let of_it = held.iter().filter(|(of, _, _)| of == channel).count();
                    prop_assert!(of_it <= count - 2 * (count / OWN_PART));
                }
            }
            let held_count = held.len();
            drop(held);
            prop_assert!(held_count <= count);
            prop_assert_eq!(hang(&places, Urgency::Normal, ALL).len(), count, "all came back");
        }
    }
}

//! Deliveries that a worker may have in flight: in all, of bulk, and a channel. Whoever
//! is slow has its share, and the others theirs.

use std::sync::Arc;

use futures::future::select_all;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::domain::{Channel, Urgency};

/// Places of one worker.
pub(super) struct Places {
    all: Arc<Semaphore>,
    /// Half of them, at least one.
    bulk: Arc<Semaphore>,
    /// Three quarters of them, at least one: a provider that hangs leaves the rest to the
    /// others.
    channels: [(Channel, Arc<Semaphore>); Channel::ALL.len()],
}

/// One delivery's place, given back when it is dropped.
pub(super) struct Place {
    _any: OwnedSemaphorePermit,
    _channel: OwnedSemaphorePermit,
    _bulk: Option<OwnedSemaphorePermit>,
}

/// Places of some channels, which are set aside while rows for them are looked for.
pub(super) struct Shares {
    channels: Vec<(Channel, OwnedSemaphorePermit)>,
    bulk: Option<OwnedSemaphorePermit>,
}

impl Places {
    pub(super) fn new(in_flight_max: usize) -> Self {
        let share = |count: usize| Arc::new(Semaphore::new(count.max(1)));
        Self {
            all: Arc::new(Semaphore::new(in_flight_max)),
            bulk: share(in_flight_max / 2),
            channels: std::array::from_fn(|at| (Channel::ALL[at], share(in_flight_max * 3 / 4))),
        }
    }

    /// Waits for one place or more; takes up to `max` that are free.
    pub(super) async fn some(&self, max: usize) -> Option<OwnedSemaphorePermit> {
        let count = max.min(self.all.available_permits()).max(1);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        Arc::clone(&self.all).acquire_many_owned(count).await.ok()
    }

    /// Waits until all are free again.
    pub(super) async fn all_free(&self, in_flight_max: u32) {
        drop(self.all.acquire_many(in_flight_max).await);
    }

    /// Divides `max` places over channels, without waiting; a channel that has no place
    /// gets none.
    pub(super) fn shares(&self, urgency: Urgency, channels: &[Channel], max: usize) -> Shares {
        let bulk = (urgency == Urgency::Bulk).then(|| take(&self.bulk, max));
        let max = bulk.as_ref().map_or(max, OwnedSemaphorePermit::num_permits);
        let mut left = max;
        let open = self.channels.iter().filter(|(channel, _)| channels.contains(channel));
        let mut shares = Vec::new();
        for (channel, places) in open {
            let share = take(places, max.div_ceil(channels.len()).min(left));
            left -= share.num_permits();
            if share.num_permits() > 0 {
                shares.push((*channel, share));
            }
        }
        Shares { channels: shares, bulk }
    }

    /// When bulk or a channel has all of its places: waits until one of them is free.
    /// Otherwise for ever.
    pub(super) async fn share_freed(&self) {
        let shares = self.channels.iter().map(|(_, places)| places).chain([&self.bulk]);
        let full: Vec<_> = shares.filter(|places| places.available_permits() == 0).collect();
        if full.is_empty() {
            return std::future::pending().await;
        }
        let freed = full.into_iter().map(|places| Box::pin(async { drop(places.acquire().await) }));
        select_all(freed).await;
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

impl Shares {
    /// How many rows of which channel there is place for.
    pub(super) fn wanted(&self) -> Vec<(Channel, usize)> {
        self.channels.iter().map(|(channel, share)| (*channel, share.num_permits())).collect()
    }

    /// A place for a row of this channel, while there is one.
    pub(super) fn place(&mut self, channel: Channel, any: &mut OwnedSemaphorePermit) -> Option<Place> {
        let (_, share) = self.channels.iter_mut().find(|(of, _)| *of == channel)?;
        let channel = share.split(1)?;
        let bulk = match &mut self.bulk {
            Some(bulk) => Some(bulk.split(1)?),
            None => None,
        };
        Some(Place { _any: any.split(1)?, _channel: channel, _bulk: bulk })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[Channel] = Channel::ALL;

    fn total(shares: &Shares) -> usize {
        shares.wanted().iter().map(|(_, places)| places).sum()
    }

    #[tokio::test]
    async fn a_channel_that_hangs_leaves_places_to_the_others_and_bulk_has_half() {
        let places = Places::new(16);
        let mut any = places.some(16).await.unwrap();
        let mut texts = places.shares(Urgency::Critical, &[Channel::Sms], any.num_permits());
        assert_eq!(texts.wanted(), [(Channel::Sms, 12)]);
        let held: Vec<Place> = (0..12).filter_map(|_| texts.place(Channel::Sms, &mut any)).collect();
        assert_eq!(held.len(), 12);
        assert!(texts.place(Channel::Sms, &mut any).is_none());
        let others = places.shares(Urgency::Normal, ALL, any.num_permits());
        assert!(others.wanted().iter().all(|(channel, _)| *channel != Channel::Sms));
        assert_eq!(total(&others), 4);
        drop((others, texts));

        let bulk = places.shares(Urgency::Bulk, ALL, 16);
        assert!(total(&bulk) <= 8);
        drop(bulk);
        tokio::select! {
            biased;
            () = places.share_freed() => panic!("text messages have no place"),
            () = std::future::ready(()) => {}
        }
        drop(held);
        drop(any);
        places.all_free(16).await;
    }

    #[tokio::test]
    async fn what_is_divided_is_never_more_than_there_is() {
        let places = Places::new(4);
        let shares = places.shares(Urgency::Normal, ALL, 4);
        assert_eq!(total(&shares), 4);
        assert_eq!(total(&places.shares(Urgency::Bulk, ALL, 1)), 1);
        assert_eq!(total(&places.shares(Urgency::Normal, ALL, 0)), 0);
    }
}

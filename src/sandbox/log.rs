//! What the sandbox providers received: the truth against which "none lost,
//! none doubled" is checked, and the patients' inbox in a demo.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use uuid::Uuid;

use crate::domain::{Channel, DeliveryId, Redacted};

/// Messages that a log keeps unless told otherwise; the oldest go first.
pub const DEFAULT_CAPACITY: usize = 500_000;
/// Characters of a body that are kept.
const BODY_MAX_CHARS: usize = 2048;
/// Messages that a search goes through, newest first.
const SEARCH_MAX: usize = 200_000;
/// Length of a delivery's short code.
const SHORT_CODE_CHARS: usize = 11;

/// One message that a provider took.
#[derive(Debug, Clone)]
pub struct Received {
    /// How it came.
    pub channel: Channel,
    /// The id that the provider gave to it.
    pub provider_message_id: String,
    /// From a header, the payload or the callback's address, where there is one.
    pub delivery_id: Option<Uuid>,
    /// From the delivery id, else from the link in the body.
    pub short_code: Option<String>,
    /// Number, mailbox or token.
    pub to: Redacted<String>,
    /// Where a click ends e-mails of its kind, from its headers; with anything else `None`.
    pub unsubscribe: Option<Redacted<String>>,
    /// When it came in, before any latency that was set.
    pub received_at: Timestamp,
    /// Subject or title; empty for a text message.
    pub subject: Redacted<String>,
    /// At most 2,048 characters.
    pub body: Redacted<String>,
}

impl Received {
    /// A message that comes in now.
    #[must_use]
    pub fn new(
        channel: Channel,
        provider_message_id: String,
        to: String,
        subject: String,
        body: &str,
    ) -> Self {
        Self {
            channel,
            provider_message_id,
            delivery_id: None,
            short_code: short_code_in(body),
            to: to.into(),
            unsubscribe: None,
            received_at: Timestamp::now(),
            subject: subject.into(),
            body: body.chars().take(BODY_MAX_CHARS).collect::<String>().into(),
        }
    }

    /// The same, of a known delivery.
    #[must_use]
    pub fn of_delivery(mut self, delivery_id: Option<Uuid>) -> Self {
        if let Some(id) = delivery_id {
            self.delivery_id = Some(id);
            self.short_code = Some(DeliveryId(id).short_code());
        }
        self
    }
}

/// The code of a link `…/n/{code}` in a text.
fn short_code_in(text: &str) -> Option<String> {
    text.match_indices("/n/").find_map(|(at, mark)| {
        let rest = &text[at + mark.len()..];
        let code: String = rest.chars().take_while(char::is_ascii_alphanumeric).collect();
        (code.len() == SHORT_CODE_CHARS).then_some(code)
    })
}

/// Counts of a log.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Stats {
    /// Everything that was ever received.
    pub total: u64,
    /// By channel.
    pub sms: u64,
    /// By channel.
    pub email: u64,
    /// By channel.
    pub push: u64,
    /// Deliveries among the kept messages.
    pub deliveries: usize,
    /// Messages beyond the first of their delivery, among those kept.
    pub duplicates: u64,
    /// Messages that carry no mark of a delivery.
    pub unmarked: u64,
    /// Messages that were given up for newer ones; while it is 0 the counts of
    /// deliveries and duplicates are complete.
    pub evicted: u64,
}

#[derive(Default)]
struct Inner {
    messages: VecDeque<Arc<Received>>,
    by_code: HashMap<String, u32>,
    stats: Stats,
}

/// A bounded log of messages, shared by the sandbox's servers.
pub struct MessageLog {
    capacity: usize,
    inner: Mutex<Inner>,
}

impl std::fmt::Debug for MessageLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MessageLog").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Default for MessageLog {
    fn default() -> Self {
        Self::new(DEFAULT_CAPACITY)
    }
}

impl MessageLog {
    /// A log that keeps at most `capacity` messages (at least one).
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), inner: Mutex::default() }
    }

    /// Adds a message; the oldest goes when the log is full.
    pub fn push(&self, message: Received) {
        let mut inner = self.inner.lock();
        inner.stats.total += 1;
        match message.channel {
            Channel::Sms => inner.stats.sms += 1,
            Channel::Email => inner.stats.email += 1,
            Channel::Push => inner.stats.push += 1,
        }
        match &message.short_code {
            Some(code) => *inner.by_code.entry(code.clone()).or_default() += 1,
            None => inner.stats.unmarked += 1,
        }
        if inner.messages.len() == self.capacity {
            inner.evict();
        }
        inner.messages.push_back(Arc::new(message));
    }

    /// Messages that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.lock().messages.len()
    }

    /// True before the first message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Messages of a channel that were ever received.
    #[must_use]
    pub fn count(&self, channel: Channel) -> u64 {
        let inner = self.inner.lock();
        match channel {
            Channel::Sms => inner.stats.sms,
            Channel::Email => inner.stats.email,
            Channel::Push => inner.stats.push,
        }
    }

    /// Counts of the log. The duplicates are counted here, over all deliveries.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let inner = self.inner.lock();
        let mut stats = inner.stats.clone();
        stats.deliveries = inner.by_code.len();
        stats.duplicates = inner.by_code.values().map(|&count| u64::from(count.saturating_sub(1))).sum();
        stats
    }

    /// How often each delivery was received, by its short code
    /// ([`DeliveryId::short_code`]).
    #[must_use]
    pub fn by_delivery(&self) -> HashMap<String, u32> {
        self.inner.lock().by_code.clone()
    }

    /// The newest `limit` messages, newest first, whose address contains
    /// `address` (empty: all).
    #[must_use]
    pub fn latest(&self, limit: usize, address: &str) -> Vec<Arc<Received>> {
        self.find(limit, |message| address.is_empty() || message.to.expose().contains(address))
    }

    /// The newest `limit` messages, newest first, that a condition holds for,
    /// among the newest 200,000.
    pub fn find(&self, limit: usize, mut wanted: impl FnMut(&Received) -> bool) -> Vec<Arc<Received>> {
        let inner = self.inner.lock();
        inner.messages.iter().rev().take(SEARCH_MAX).filter(|m| wanted(m)).take(limit).cloned().collect()
    }

    /// Every message that is kept, oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Received>> {
        self.inner.lock().messages.iter().cloned().collect()
    }

    /// What has come in since a place in the sequence of all messages (0: the first),
    /// oldest first, and the place after it. Messages that were given up are not among
    /// them; a place beyond the newest one (the log was cleared) counts as 0.
    #[must_use]
    pub fn since(&self, place: u64) -> (u64, Vec<Arc<Received>>) {
        let inner = self.inner.lock();
        let place = if place > inner.stats.total { 0 } else { place };
        let known = usize::try_from(place.saturating_sub(inner.stats.evicted)).unwrap_or(usize::MAX);
        (inner.stats.total, inner.messages.iter().skip(known).cloned().collect())
    }

    /// Forgets everything, the counts too.
    pub fn clear(&self) {
        *self.inner.lock() = Inner::default();
    }
}

impl Inner {
    fn evict(&mut self) {
        let Some(oldest) = self.messages.pop_front() else {
            return;
        };
        self.stats.evicted += 1;
        let Some(code) = &oldest.short_code else { return };
        if let Some(count) = self.by_code.get_mut(code) {
            *count -= 1;
            if *count == 0 {
                self.by_code.remove(code);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(number: u128) -> Received {
        let id = Uuid::from_u128(number << 64);
        Received::new(Channel::Sms, "SM1".to_owned(), "+15550100001".to_owned(), String::new(), "hello")
            .of_delivery(Some(id))
    }

    #[test]
    fn doubles_are_counted_by_delivery() {
        let log = MessageLog::default();
        for number in [1, 2, 2, 3, 3, 3] {
            log.push(message(number));
        }
        let stats = log.stats();
        assert_eq!((stats.total, stats.deliveries, stats.duplicates), (6, 3, 3));
        let code = DeliveryId(Uuid::from_u128(2 << 64)).short_code();
        assert_eq!(log.by_delivery()[&code], 2);
    }

    #[test]
    fn a_full_log_gives_up_its_oldest() {
        let log = MessageLog::new(2);
        for number in 1..=5 {
            log.push(message(number));
        }
        let stats = log.stats();
        assert_eq!((log.len(), stats.total, stats.evicted, stats.deliveries), (2, 5, 3, 2));
    }

    #[test]
    fn what_is_new_is_given_once() {
        let log = MessageLog::new(2);
        assert_eq!(log.since(0).0, 0);
        log.push(message(1));
        let (place, new) = log.since(0);
        assert_eq!((place, new.len()), (1, 1));
        for number in 2..=4 {
            log.push(message(number));
        }
        let (place, new) = log.since(place);
        assert_eq!((place, new.len()), (4, 2), "the second message was given up");
        assert!(log.since(place).1.is_empty());
        log.clear();
        log.push(message(5));
        assert_eq!(log.since(place).1.len(), 1);
    }

    #[test]
    fn the_code_is_found_in_the_link() {
        assert_eq!(short_code_in("see https://p.org/n/0123456789A Call"), Some("0123456789A".to_owned()));
        assert_eq!(short_code_in("https://p.org/n/short"), None);
        assert_eq!(short_code_in("/n/x /n/0123456789B"), Some("0123456789B".to_owned()));
    }

    #[test]
    fn neither_address_nor_words_are_printed() {
        let log = MessageLog::default();
        let canary = |word: &str| format!("CANARY-{word}");
        log.push(Received::new(
            Channel::Email,
            "1".to_owned(),
            canary("to"),
            canary("subject"),
            &canary("body"),
        ));
        assert!(!format!("{log:?} {:?}", log.all()).contains("CANARY"));
    }
}

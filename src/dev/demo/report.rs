//! The tables at the end of the demonstration: what the database says, beside what
//! the providers were given and have said.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use hdrhistogram::Histogram;
use jiff::Timestamp;

use super::publish::Published;
use super::{dead_letters, lag_of};
use crate::config::Config;
use crate::dev::reporting::Told;
use crate::domain::{NotificationId, Reason, ReceiptStatus, State};
use crate::record::Store;
use crate::record::report::{DeliveryLine, SourceCount};
use crate::sandbox::MessageLog;
use crate::topic::names::{NOTIFICATIONS, NOTIFICATIONS_BULK, TEST_RESULTS, Topic};

/// Longest latency that is told apart from a longer one: a day.
const LATENCY_MAX_MS: u64 = 24 * 60 * 60 * 1000;
/// What the columns are about.
const FLOWS: [(&str, Topic); 3] =
    [("results", TEST_RESULTS), ("requests", NOTIFICATIONS), ("campaign", NOTIFICATIONS_BULK)];

/// One number a flow.
type Row = [i64; FLOWS.len()];

/// What became of the demonstration's messages.
#[derive(Debug)]
pub(super) struct Report {
    accepted: Row,
    notifications: Row,
    /// By state and reason, in the order of states.
    ended: BTreeMap<(State, &'static str), Row>,
    by_next_channel: Row,
    engaged: Row,
    /// Publish to provider, of what was due at once.
    latency_ms: [Histogram<u64>; FLOWS.len()],
    told: Told,
    called_off: usize,
    after_stop: usize,
    broken: usize,
    dead_letters: i64,
    lag: i64,
    lost: usize,
    doubled: usize,
    not_as_told: usize,
}

impl Report {
    pub(super) async fn gather(
        config: &Config,
        store: &Store,
        log: &MessageLog,
        published: &Published,
        told: &Told,
    ) -> anyhow::Result<Self> {
        let prefix = &config.kafka.topic_prefix;
        let topics = FLOWS.map(|(_, topic)| topic.full_name(prefix));
        let mut lost = 0;
        for (topic, name) in FLOWS.iter().map(|(_, topic)| topic).zip(&topics) {
            let became: HashSet<(i32, i64)> = store.sources(name).await?.into_iter().collect();
            lost += published.records.get(topic.name).map_or(0, |sent| sent.difference(&became).count());
        }
        let given = log.by_delivery();
        let mut report = Self {
            accepted: FLOWS.map(|(_, topic)| i64::try_from(published.count(&topic)).unwrap_or(i64::MAX)),
            notifications: Row::default(),
            ended: BTreeMap::new(),
            by_next_channel: Row::default(),
            engaged: Row::default(),
            // With a bound: one that resizes itself clamps what is recorded to its first size.
            latency_ms: [latencies()?, latencies()?, latencies()?],
            called_off: published.called_off.len(),
            after_stop: published.after_stop.len(),
            broken: published.broken,
            dead_letters: dead_letters(config).await?,
            lag: lag_of(config).await?,
            lost,
            doubled: given.values().filter(|&&times| times > 1).count(),
            not_as_told: 0,
            told: told.clone(),
        };
        report.count_ends(&store.count_by_source().await?, &topics);
        report.compare(&store.all_deliveries().await?, log, &topics);
        report.not_as_told += wrong(store, &published.called_off, |state, _| {
            matches!(state, State::Cancelled | State::Suppressed)
        })
        .await?;
        report.not_as_told += wrong(store, &published.after_stop, |state, reason| {
            (state, reason) == (State::Suppressed, Reason::NoConsent)
        })
        .await?;
        Ok(report)
    }

    fn count_ends(&mut self, counts: &[SourceCount], topics: &[String]) {
        for one in counts {
            let Some(flow) = topics.iter().position(|topic| *topic == one.source_topic) else { continue };
            let why = match one.state {
                State::Delivered | State::Sent => "",
                _ => one.reason.as_str(),
            };
            self.notifications[flow] += one.count;
            self.ended.entry((one.state, why)).or_default()[flow] += one.count;
            if one.engagement.is_some() {
                self.engaged[flow] += one.count;
            }
        }
    }

    /// Compares each delivery with what its provider was given and has said.
    fn compare(&mut self, deliveries: &[DeliveryLine], log: &MessageLog, topics: &[String]) {
        let received_at: HashMap<String, Timestamp> = log
            .all()
            .iter()
            .filter_map(|message| Some((message.short_code.clone()?, message.received_at)))
            .collect();
        let failed: HashSet<NotificationId> = deliveries
            .iter()
            .filter(|one| one.state == State::PermanentFailure)
            .map(|one| one.notification_id)
            .collect();
        for one in deliveries {
            let Some(flow) = topics.iter().position(|topic| *topic == one.source_topic) else { continue };
            let code = one.delivery_id.short_code();
            let is_reached = matches!(one.state, State::Sent | State::Delivered);
            match received_at.get(&code) {
                // Said to be sent, and the provider knows nothing of it.
                None if is_reached => self.lost += 1,
                None => {}
                Some(at) => {
                    self.not_as_told += usize::from(one.state != end(self.told.ends.get(&code)));
                    if !one.was_held && one.position == 0 {
                        let ms = at.as_millisecond() - one.published_at.as_millisecond();
                        self.latency_ms[flow].saturating_record(u64::try_from(ms).unwrap_or(0));
                    }
                }
            }
            if is_reached && one.position > 0 && failed.contains(&one.notification_id) {
                self.by_next_channel[flow] += 1;
            }
            let said = self.told.engaged.get(&one.notification_id).copied();
            self.not_as_told += usize::from(one.position == 0 && one.engagement != said);
        }
    }

    /// Nothing lost, doubled or left, everything as it was told, every broken record kept.
    pub(super) fn is_clean(&self) -> bool {
        self.lost == 0
            && self.doubled == 0
            && self.lag == 0
            && self.not_as_told == 0
            && self.told.unresolved == 0
            && usize::try_from(self.dead_letters).is_ok_and(|kept| kept == self.broken)
    }
}

fn latencies() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_max(LATENCY_MAX_MS, 3)?)
}

/// The state that a provider's last word means; it has the message in any case.
const fn end(last: Option<&ReceiptStatus>) -> State {
    match last {
        None | Some(ReceiptStatus::Accepted | ReceiptStatus::Sent) => State::Sent,
        Some(ReceiptStatus::Delivered | ReceiptStatus::Complained) => State::Delivered,
        Some(
            ReceiptStatus::Undelivered
            | ReceiptStatus::Failed
            | ReceiptStatus::Bounced
            | ReceiptStatus::TokenInvalid,
        ) => State::PermanentFailure,
    }
}

/// Notifications that do not stand where they should.
async fn wrong(
    store: &Store,
    notifications: &[NotificationId],
    is_right: impl Fn(State, Reason) -> bool,
) -> anyhow::Result<usize> {
    let found = store.states_of(notifications).await?;
    let right = found.iter().filter(|(_, state, reason)| is_right(*state, *reason)).count();
    Ok(notifications.len().saturating_sub(right))
}

const NAME: usize = 44;
const COLUMN: usize = 11;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = "─".repeat(NAME + COLUMN * FLOWS.len());
        let columns = |f: &mut fmt::Formatter<'_>, name: &str, values: [String; FLOWS.len()]| {
            write!(f, "{name:<NAME$}")?;
            values.iter().try_for_each(|value| write!(f, "{value:>COLUMN$}"))?;
            writeln!(f)
        };
        let counts = |row: &Row| row.map(|count| if count == 0 { "·".to_owned() } else { count.to_string() });
        columns(f, "", FLOWS.map(|(name, _)| name.to_owned()))?;
        columns(f, "accepted (acknowledged records)", counts(&self.accepted))?;
        columns(f, "notifications (patients and proxies)", counts(&self.notifications))?;
        writeln!(f, "{rule}")?;
        for ((state, why), row) in &self.ended {
            let name = match (state, *why) {
                (State::Sent, _) => "sent (its provider sends no receipts)".to_owned(),
                (state, "") => state.to_string(),
                (state, why) if state.as_str() == why => why.to_owned(),
                (state, why) => format!("{state}: {why}"),
            };
            columns(f, &name, counts(row))?;
        }
        columns(f, "of these by the next channel", counts(&self.by_next_channel))?;
        columns(f, "of these seen or read", counts(&self.engaged))?;
        writeln!(f, "{rule}")?;
        let at = |quantile: f64| {
            self.latency_ms.each_ref().map(|flow| format!("{} ms", flow.value_at_quantile(quantile)))
        };
        columns(f, "publish → provider, p50", at(0.50))?;
        columns(f, "publish → provider, p99", at(0.99))?;
        writeln!(f, "{rule}")?;
        let width = COLUMN * FLOWS.len();
        let mut line = |name: &str, value: &dyn fmt::Display| writeln!(f, "{name:<NAME$}{value:>width$}");
        line("receipts, readings and answers published", &self.told.records)?;
        line("  of these told twice", &self.told.repeats)?;
        line("called off before their time, none sent", &self.called_off)?;
        line("written to again after STOP, none sent", &self.after_stop)?;
        line(&format!("dead letters (of {} broken records)", self.broken), &self.dead_letters)?;
        line("not as callers, providers and patients said", &self.not_as_told)?;
        line("lag", &self.lag)?;
        line("lost", &self.lost)?;
        line("doubled", &self.doubled)
    }
}

//! The table at the end of the demonstration: what the database says, beside what
//! the providers were given.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use hdrhistogram::Histogram;

use super::demo::{Published, dead_letters, lag_of};
use crate::config::Config;
use crate::domain::{Channel, State};
use crate::record::Store;
use crate::sandbox::MessageLog;
use crate::topic::names::TEST_RESULTS;

/// Longest latency that is told apart from a longer one: a day.
const LATENCY_MAX_MS: u64 = 24 * 60 * 60 * 1000;

/// What became of the demonstration's results.
#[derive(Debug)]
pub(super) struct Report {
    accepted: usize,
    notifications: i64,
    delivered: BTreeMap<Channel, usize>,
    by_next_channel: usize,
    suppressed: BTreeMap<&'static str, i64>,
    other: BTreeMap<String, i64>,
    dead_letters: i64,
    broken: usize,
    lag: i64,
    lost: usize,
    doubled: usize,
    latency_ms: Histogram<u64>,
}

impl Report {
    pub(super) async fn gather(
        config: &Config,
        store: &Store,
        log: &MessageLog,
        published: &Published,
    ) -> anyhow::Result<Self> {
        let topic = TEST_RESULTS.full_name(&config.kafka.topic_prefix);
        let became: HashSet<(i32, i64)> = store.sources(&topic).await?.into_iter().collect();
        let deliveries = store.all_deliveries().await?;
        let given = log.by_delivery();
        let received_at: HashMap<String, jiff::Timestamp> = log
            .all()
            .iter()
            .filter_map(|message| Some((message.short_code.clone()?, message.received_at)))
            .collect();
        let mut report = Self {
            accepted: published.results.len(),
            notifications: 0,
            delivered: BTreeMap::new(),
            by_next_channel: 0,
            suppressed: BTreeMap::new(),
            other: BTreeMap::new(),
            dead_letters: dead_letters(config).await?,
            broken: published.broken,
            lag: lag_of(config).await?,
            lost: published.results.difference(&became).count(),
            doubled: given.values().filter(|&&times| times > 1).count(),
            // With a bound: one that resizes itself clamps what is recorded to its first size.
            latency_ms: Histogram::new_with_max(LATENCY_MAX_MS, 3)?,
        };
        for one in &deliveries {
            let code = one.delivery_id.short_code();
            let has = given.contains_key(&code);
            match one.state {
                // Said to be sent, and the provider knows nothing of it.
                State::Sent | State::Delivered if !has => report.lost += 1,
                State::Sent | State::Delivered => {
                    *report.delivered.entry(one.channel).or_default() += 1;
                    if let Some(at) = received_at.get(&code).filter(|_| !one.was_held) {
                        let ms = at.as_millisecond() - one.published_at.as_millisecond();
                        report.latency_ms.saturating_record(u64::try_from(ms).unwrap_or(0));
                    }
                }
                State::PermanentFailure => report.by_next_channel += 1,
                _ => {}
            }
        }
        report.count_states(store).await?;
        Ok(report)
    }

    async fn count_states(&mut self, store: &Store) -> anyhow::Result<()> {
        for one in store.count_states().await? {
            self.notifications += one.count;
            match one.state {
                State::Sent | State::Delivered => {}
                State::Suppressed => *self.suppressed.entry(one.reason.as_str()).or_default() += one.count,
                state => {
                    let label = format!("{state} ({})", one.reason);
                    *self.other.entry(label).or_default() += one.count;
                }
            }
        }
        Ok(())
    }

    /// Nothing lost, nothing doubled, nothing left, every broken record kept.
    pub(super) fn is_clean(&self) -> bool {
        self.lost == 0
            && self.doubled == 0
            && self.lag == 0
            && usize::try_from(self.dead_letters).is_ok_and(|kept| kept == self.broken)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rule = "─".repeat(58);
        let mut line = |name: &str, value: &dyn fmt::Display| writeln!(f, "{name:<44}{value:>14}");
        line("accepted (acknowledged test results)", &self.accepted)?;
        line("notifications (patients and proxies)", &self.notifications)?;
        line(&rule, &"")?;
        for (channel, count) in &self.delivered {
            line(&format!("delivered by {channel}"), count)?;
        }
        line("  of these after another channel had failed", &self.by_next_channel)?;
        for (reason, count) in &self.suppressed {
            line(&format!("suppressed: {reason}"), count)?;
        }
        for (state, count) in &self.other {
            line(state, count)?;
        }
        line(&format!("dead letters (of {} broken records)", self.broken), &self.dead_letters)?;
        line(&rule, &"")?;
        let at = |quantile| format!("{} ms", self.latency_ms.value_at_quantile(quantile));
        line("publish → provider, p50", &at(0.50))?;
        line("publish → provider, p99", &at(0.99))?;
        line("lag", &self.lag)?;
        line("lost", &self.lost)?;
        line("doubled", &self.doubled)
    }
}

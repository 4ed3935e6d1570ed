//! What can go wrong at a provider, settable while the sandbox runs.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::domain::Channel;

/// Longest latency that can be set.
const LATENCY_MAX: Duration = Duration::from_secs(120);

/// Faults of one channel. All zero: a provider that takes everything at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChannelFaults {
    /// Pause between receiving a message and answering, at most two minutes.
    pub latency_ms: u64,
    /// Share of messages that are refused with `fail_status`.
    pub fail_percent: u8,
    /// HTTP status of refusals; on SMTP a reply code (429 becomes 450 4.7.1, the
    /// statuses 500 and 502 to 504 become 451). 0: 500.
    pub fail_status: u16,
    /// `Retry-After` of refusals; 0: none.
    pub retry_after_s: u32,
    /// Share of messages that are taken in but neither kept nor answered.
    pub hang_percent: u8,
    /// Share of messages that are kept, and then the connection is closed
    /// without an answer: the sender cannot know.
    pub drop_after_receive_percent: u8,
    /// Nobody listens, and open connections are closed.
    pub refuse: bool,
}

/// What to do with one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Treatment {
    Serve,
    Fail { status: u16, retry_after_s: u32 },
    Hang,
    DropAfterReceive,
}

/// The faults of all channels.
#[derive(Debug)]
pub struct Faults {
    channels: [watch::Sender<ChannelFaults>; Channel::ALL.len()],
}

impl Default for Faults {
    fn default() -> Self {
        Self { channels: std::array::from_fn(|_| watch::Sender::new(ChannelFaults::default())) }
    }
}

impl Faults {
    /// What is in force on a channel.
    #[must_use]
    pub fn get(&self, channel: Channel) -> ChannelFaults {
        *self.sender(channel).borrow()
    }

    /// Replaces what is in force on a channel, for every message from now on.
    pub fn set(&self, channel: Channel, faults: ChannelFaults) {
        self.sender(channel).send_replace(faults);
    }

    /// Sets every channel back to no fault at all.
    pub fn clear(&self) {
        for &channel in Channel::ALL {
            self.set(channel, ChannelFaults::default());
        }
    }

    pub(super) fn watch(&self, channel: Channel) -> watch::Receiver<ChannelFaults> {
        self.sender(channel).subscribe()
    }

    /// Draws the fate of one message.
    pub(super) fn treatment(&self, channel: Channel) -> Treatment {
        let faults = self.get(channel);
        if hits(faults.fail_percent) {
            let status = if faults.fail_status == 0 { 500 } else { faults.fail_status };
            return Treatment::Fail { status, retry_after_s: faults.retry_after_s };
        }
        if hits(faults.hang_percent) {
            return Treatment::Hang;
        }
        if hits(faults.drop_after_receive_percent) {
            return Treatment::DropAfterReceive;
        }
        Treatment::Serve
    }

    /// Waits as long as the channel's latency says.
    pub(super) async fn latency(&self, channel: Channel) {
        let latency = Duration::from_millis(self.get(channel).latency_ms).min(LATENCY_MAX);
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
    }

    const fn sender(&self, channel: Channel) -> &watch::Sender<ChannelFaults> {
        match channel {
            Channel::Sms => &self.channels[0],
            Channel::Email => &self.channels[1],
            Channel::Push => &self.channels[2],
        }
    }
}

fn hits(percent: u8) -> bool {
    percent > 0 && rand::random_range(0..100) < percent
}

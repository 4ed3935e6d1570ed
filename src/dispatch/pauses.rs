//! Channels that operators have paused, as this process last saw them.

use std::time::Duration;

use tokio::sync::watch;

use crate::domain::{Channel, Urgency};
use crate::record::pauses::ChannelPause;

/// Longest wait for the first look at the database, which has just given a claim.
const FIRST_LOOK_MAX: Duration = Duration::from_secs(5);

/// May a message go out?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Yes.
    Open,
    /// Its channel is paused.
    Paused,
    /// It is not known yet.
    Unknown,
}

/// Tells senders about pauses.
pub type Teller = watch::Sender<Option<Vec<ChannelPause>>>;

/// What is paused; `None` until the database was first looked at. While the database is
/// away, what was last seen stands.
#[derive(Debug, Clone)]
pub struct Pauses(watch::Receiver<Option<Vec<ChannelPause>>>);

impl Pauses {
    /// Pauses, and who tells of them.
    #[must_use]
    pub fn new() -> (Teller, Self) {
        let (teller, seen) = watch::channel(None);
        (teller, Self(seen))
    }

    /// May a message of this urgency go out on this channel? Waits for the first look.
    pub async fn gate(&self, channel: Channel, urgency: Urgency) -> Gate {
        let gate = |pauses: &[ChannelPause]| {
            if pauses.iter().any(|pause| pause.holds(channel, urgency)) { Gate::Paused } else { Gate::Open }
        };
        if let Some(pauses) = self.0.borrow().as_deref() {
            return gate(pauses);
        }
        let mut seen = self.0.clone();
        match tokio::time::timeout(FIRST_LOOK_MAX, seen.wait_for(Option::is_some)).await {
            Ok(Ok(pauses)) => pauses.as_deref().map_or(Gate::Unknown, gate),
            Ok(Err(_)) | Err(_) => Gate::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn pause(channel: Channel, except_critical: bool) -> ChannelPause {
        ChannelPause {
            channel,
            except_critical,
            why: "provider change".to_owned(),
            paused_by: "ops".to_owned(),
            paused_at: Timestamp::UNIX_EPOCH,
        }
    }

    #[tokio::test]
    async fn the_first_look_is_waited_for_and_what_is_paused_does_not_go_out() {
        let (teller, pauses) = Pauses::new();
        let told = async {
            tokio::task::yield_now().await;
            teller.send_replace(Some(vec![pause(Channel::Sms, false), pause(Channel::Email, true)]));
        };
        let (first, ()) = tokio::join!(pauses.gate(Channel::Sms, Urgency::Normal), told);
        assert_eq!(first, Gate::Paused);
        for (channel, urgency, expected) in [
            (Channel::Sms, Urgency::Critical, Gate::Paused),
            (Channel::Email, Urgency::High, Gate::Paused),
            (Channel::Email, Urgency::Critical, Gate::Open),
            (Channel::Push, Urgency::Bulk, Gate::Open),
        ] {
            assert_eq!(pauses.gate(channel, urgency).await, expected, "{channel} {urgency}");
        }
        teller.send_replace(Some(Vec::new()));
        drop(teller);
        assert_eq!(pauses.gate(Channel::Sms, Urgency::Normal).await, Gate::Open, "what was last seen stands");
        let (teller, pauses) = Pauses::new();
        drop(teller);
        assert_eq!(pauses.gate(Channel::Sms, Urgency::Normal).await, Gate::Unknown);
    }
}

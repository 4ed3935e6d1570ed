//! Providers, and pauses of their channels.

use super::{ApiError, Operations, Violations, proto};
use crate::api::convert::{channel_from, channel_to, timestamp_to};
use crate::deliver::provider_name;
use crate::domain::Channel;
use crate::record::pauses::{self, ChannelPause};

/// Longest reason of a pause, in characters.
const WHY_MAX_CHARS: usize = 200;

impl Operations {
    pub(super) async fn providers(&self) -> Result<proto::OperationsServiceListProvidersResponse, ApiError> {
        let paused = pauses::pauses(&self.pool).await?;
        let senders = pauses::senders(&self.pool).await?;
        let held = pauses::held_by_pause(&self.pool).await?;
        let provider = |channel: Channel| proto::ProviderState {
            channel: channel_to(channel).into(),
            provider: provider_name(channel).to_owned(),
            enabled: self.setup.enabled.contains(&channel),
            pause: paused.iter().find(|pause| pause.channel == channel).map(shown),
            breaker_open_at: senders
                .iter()
                .filter(|sender| sender.breakers_open.contains(&channel))
                .map(|sender| sender.owner.to_string())
                .collect(),
            held_by_pause: held.iter().find(|(of, _)| *of == channel).map_or(0, |(_, held)| *held),
        };
        let providers = Channel::ALL.iter().copied().map(provider).collect();
        Ok(proto::OperationsServiceListProvidersResponse { providers })
    }

    pub(super) async fn pause(
        &self,
        caller: &str,
        message: &proto::OperationsServicePauseChannelRequest,
    ) -> Result<proto::OperationsServicePauseChannelResponse, ApiError> {
        let mut faults = Violations::default();
        let channel = faults.required_word("channel", message.channel, channel_from);
        let is_line = (1..=WHY_MAX_CHARS).contains(&message.why.chars().count())
            && !message.why.chars().any(char::is_control);
        faults.require(is_line, "why", "must be 1 to 200 characters on one line");
        faults.finish()?;
        let Some(channel) = channel else { return Err(ApiError::invalid("channel", "is required")) };
        let pause = pauses::pause(&self.pool, caller, channel, message.except_critical, &message.why).await?;
        tracing::warn!(%channel, caller, except_critical = pause.except_critical, "a channel is paused");
        Ok(proto::OperationsServicePauseChannelResponse { pause: Some(shown(&pause)) })
    }

    pub(super) async fn resume(
        &self,
        caller: &str,
        message: &proto::OperationsServiceResumeChannelRequest,
    ) -> Result<proto::OperationsServiceResumeChannelResponse, ApiError> {
        let mut faults = Violations::default();
        let channel = faults.required_word("channel", message.channel, channel_from);
        faults.finish()?;
        let Some(channel) = channel else { return Err(ApiError::invalid("channel", "is required")) };
        let was_paused = pauses::resume(&self.pool, caller, channel).await?;
        if was_paused {
            tracing::warn!(%channel, caller, "a channel is no longer paused");
        }
        Ok(proto::OperationsServiceResumeChannelResponse { was_paused })
    }
}

fn shown(pause: &ChannelPause) -> proto::ChannelPause {
    proto::ChannelPause {
        except_critical: pause.except_critical,
        why: pause.why.clone(),
        paused_by: pause.paused_by.clone(),
        paused_at: Some(timestamp_to(pause.paused_at)),
    }
}

//! Callbacks to other backends.

use std::time::Duration;

use super::{ApiError, Operations, Violations, proto};
use crate::api::convert::timestamp_to;
use crate::record::callbacks::{self, EndpointState, Replay, ShownEndpoint};

/// Events of one replay.
const REPLAY_MAX: i32 = 10_000;

impl Operations {
    pub(super) async fn callbacks(
        &self,
        message: &proto::OperationsServiceListCallbacksRequest,
    ) -> Result<proto::OperationsServiceListCallbacksResponse, ApiError> {
        let caller = (!message.caller.is_empty()).then_some(message.caller.as_str());
        let mut faults = Violations::default();
        if let Some(caller) = caller {
            faults.opaque("caller", caller);
        }
        faults.finish()?;
        let endpoints = callbacks::list(&self.pool, caller).await?;
        Ok(proto::OperationsServiceListCallbacksResponse {
            endpoints: endpoints.into_iter().map(shown).collect(),
        })
    }

    pub(super) async fn replay_parked(
        &self,
        by: &str,
        message: &proto::OperationsServiceReplayCallbacksRequest,
    ) -> Result<proto::OperationsServiceReplayCallbacksResponse, ApiError> {
        let mut faults = Violations::default();
        faults.opaque("caller", &message.caller);
        let from = faults.timestamp("from", message.from);
        faults.require((0..=REPLAY_MAX).contains(&message.limit), "limit", "must be 0 to 10000");
        faults.finish()?;
        let limit = if message.limit == 0 { REPLAY_MAX } else { message.limit };
        let what = Replay { caller: &message.caller, from, limit: i64::from(limit) };
        let replayed = callbacks::replay(&self.pool, by, what).await?.ok_or(ApiError::NotFound("caller"))?;
        tracing::warn!(by, caller = message.caller, events = replayed.events, "callbacks are replayed");
        Ok(proto::OperationsServiceReplayCallbacksResponse {
            replayed: i64::try_from(replayed.events).unwrap_or(i64::MAX),
            was_disabled: replayed.was_disabled,
        })
    }
}

const fn state_to(state: EndpointState) -> proto::CallbackEndpointState {
    match state {
        EndpointState::Open => proto::CallbackEndpointState::Open,
        EndpointState::Failing => proto::CallbackEndpointState::Failing,
        EndpointState::Disabled => proto::CallbackEndpointState::Disabled,
        EndpointState::Removed => proto::CallbackEndpointState::Removed,
    }
}

fn duration_to(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

fn shown(endpoint: ShownEndpoint) -> proto::CallbackEndpoint {
    proto::CallbackEndpoint {
        state: state_to(endpoint.state).into(),
        caller: endpoint.caller,
        pending: endpoint.pending,
        oldest_pending: endpoint.oldest_pending.map(duration_to),
        parked: endpoint.parked,
        failing_since: endpoint.failing_since.map(timestamp_to),
        last_failure: endpoint.last_failure.unwrap_or_default(),
    }
}

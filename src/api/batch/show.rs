//! Batches as callers see them.

use deadpool_postgres::Pool;
use futures::future::try_join3;
use jiff::Timestamp;

use super::{checked_id, owner};
use crate::api::auth::Caller;
use crate::api::convert::{batch_state_to, channel_to, minute_to, purpose_to, state_to, timestamp_to};
use crate::api::error::ApiError;
use crate::api::proto;
use crate::domain::batch::{BatchState, eta};
use crate::record::batch_checks::{self, CheckView};
use crate::record::batch_counts;
use crate::record::batches::{self, BatchView, FaultView};

/// A batch, its progress, and what became of its messages.
pub(super) async fn get(
    pool: &Pool,
    caller: &Caller,
    batch_id: &str,
) -> Result<proto::BatchServiceGetResponse, ApiError> {
    let (id, owner) = (checked_id(batch_id)?, owner(caller));
    let view = batches::get(pool, id, owner).await?.ok_or(ApiError::NotFound("batch"))?;
    let (ended, faults, check) = try_join3(
        batch_counts::ended(pool, id, view.published_to),
        batches::faults(pool, id),
        batch_checks::newest(pool, id, owner),
    )
    .await?;
    let end = |(state, count)| proto::BatchEnd { state: state_to(state).into(), count };
    Ok(proto::BatchServiceGetResponse {
        ended: ended.states.into_iter().map(end).collect(),
        estimated: ended.estimated,
        counted_at: ended.counted_at.map(timestamp_to),
        eta: finish(&view, Timestamp::now()).map(timestamp_to),
        published_per_second: view.measured_per_s,
        progress: view.rows_published as f64 / view.rows_stored.max(1) as f64,
        check: check.map(check_to),
        faults: faults.into_iter().map(fault_to).collect(),
        batch: Some(batch_to(view)),
    })
}

/// When it will be done.
fn finish(view: &BatchView, now: Timestamp) -> Option<Timestamp> {
    if view.state != BatchState::Running {
        return None;
    }
    let window = view.made.window.as_ref();
    // What is measured while the window is closed says nothing.
    let is_open = window.is_none_or(|window| window.opens_at(now).is_none());
    let rate = view.measured_per_s.filter(|_| is_open).unwrap_or(f64::from(view.made.rate_per_s));
    eta(view.rows_stored - view.rows_published, rate, window, now)
}

pub(super) fn check_to(view: CheckView) -> proto::BatchCheck {
    let (said_stored, said_published) = view.said.unwrap_or_default();
    proto::BatchCheck {
        repair: view.repair,
        asked_at: Some(timestamp_to(view.asked_at)),
        finished_at: view.finished_at.map(timestamp_to),
        adds_up: view.adds_up() == Some(true),
        said_stored,
        said_published,
        rows: view.rows,
        published: view.rows_published,
        ended: view.ended,
        open: view.open,
        missing: view.missing,
        republished: view.republished,
        first_missing: view.first_missing,
    }
}

pub(super) fn batch_to(view: BatchView) -> proto::Batch {
    let made = view.made;
    let window = made.window.map(|window| proto::SendWindow {
        start: minute_to(window.start),
        end: minute_to(window.end),
        time_zone: window.time_zone,
    });
    proto::Batch {
        batch_id: view.id.to_string(),
        caller: made.caller,
        name: made.name,
        purpose: purpose_to(made.purpose).into(),
        channels: made.channels.into_iter().map(|channel| channel_to(channel).into()).collect(),
        rate_per_second: made.rate_per_s,
        window,
        expires_at: Some(timestamp_to(made.expires_at)),
        state: batch_state_to(view.state).into(),
        rows_received: view.rows_received,
        rows_stored: view.rows_stored,
        rows_doubled: view.rows_doubled,
        rows_rejected: view.rows_rejected,
        bytes_received: view.bytes_received,
        published: view.rows_published,
        created_at: Some(timestamp_to(view.created_at)),
        started_at: view.started_at.map(timestamp_to),
        ended_at: view.ended_at.map(timestamp_to),
        updated_at: Some(timestamp_to(view.updated_at)),
    }
}

pub(super) fn fault_to(view: FaultView) -> proto::BatchFault {
    proto::BatchFault { row: view.row, doubled: view.doubled, reason: view.reason }
}

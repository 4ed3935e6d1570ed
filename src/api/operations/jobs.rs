//! Jobs of the general queue: started, listed and steered.

use serde_json::Value;
use uuid::Uuid;

use super::{ApiError, Operations, Violations, proto};
use crate::api::convert::{job_state_from, job_state_to, timestamp_to};
use crate::api::page;
use crate::domain::job::{JobKind, JobState};
use crate::record::jobs::{self, JobView, ListQuery, Steered};
use crate::record::replays::{self, ReplayOrder};
use crate::topic::dlq;

/// Dead letters that a replay writes a second, where it is not said, and at most.
const RATE_DEFAULT: u32 = 50;
const RATE_MAX: u32 = 1_000;
/// Longest reason, in characters.
const REASON_MAX_CHARS: usize = 64;

impl Operations {
    pub(super) async fn start(
        &self,
        caller: &str,
        message: &proto::OperationsServiceStartReplayRequest,
    ) -> Result<proto::OperationsServiceStartReplayResponse, ApiError> {
        let order = self.order(message)?;
        let asked = replays::ask(&self.pool, &order, caller).await?;
        if !asked.is_new && asked.arguments != serde_json::to_value(&order).unwrap_or(Value::Null) {
            let message = format!(
                "another replay of this topic is under way: job {}; wait for its end, or cancel it",
                asked.job_id
            );
            return Err(ApiError::Precondition { reason: "REPLAY_UNDER_WAY", message });
        }
        let job = jobs::get(&self.pool, asked.job_id).await?.ok_or(ApiError::NotFound("job"))?;
        if asked.is_new {
            tracing::warn!(caller, job_id = %asked.job_id, topic = order.topic, "a replay of dead letters is asked for");
        }
        Ok(proto::OperationsServiceStartReplayResponse { job: Some(job_to(job)), created: asked.is_new })
    }

    fn order(&self, message: &proto::OperationsServiceStartReplayRequest) -> Result<ReplayOrder, ApiError> {
        let mut faults = Violations::default();
        let topic = dlq::topic_meant(&self.setup.kafka.topic_prefix, &message.topic);
        faults.require(topic.is_some(), "topic", "must be a topic that our consumers read");
        let is_short = message.reason.chars().count() <= REASON_MAX_CHARS;
        faults.require(is_short, "reason", "must be at most 64 characters");
        faults.require(message.partition.is_none_or(|it| it >= 0), "partition", "must not be negative");
        let limit = u64::try_from(message.limit);
        faults.require(limit.is_ok(), "limit", "must not be negative");
        let rate = u32::try_from(message.rate_per_second).ok().filter(|rate| *rate <= RATE_MAX);
        faults.require(rate.is_some(), "rate_per_second", "must be 0 to 1,000");
        faults.finish()?;
        Ok(ReplayOrder {
            topic: topic.unwrap_or_default(),
            reason: Some(message.reason.clone()).filter(|reason| !reason.is_empty()),
            partition: message.partition,
            limit: limit.ok().filter(|limit| *limit > 0),
            rate_per_s: rate.filter(|rate| *rate > 0).unwrap_or(RATE_DEFAULT),
        })
    }

    pub(super) async fn jobs(
        &self,
        message: &proto::OperationsServiceListJobsRequest,
    ) -> Result<proto::OperationsServiceListJobsResponse, ApiError> {
        let mut faults = Violations::default();
        let kind = JobKind::parse(&message.kind);
        faults.require(
            kind.is_some() || message.kind.is_empty(),
            "kind",
            "must be one that the service knows",
        );
        let state = faults.word("state", message.state, job_state_from);
        let size = page::size(message.page_size, &mut faults);
        let filters = [kind.map_or("", JobKind::as_str), state.map_or("", JobState::as_str)];
        let position = page::position(&filters, &message.page_token, &mut faults);
        faults.finish()?;
        let after = position.and_then(|position| Uuid::try_parse(&position).ok());
        // One more than asked for tells whether there is another page.
        let limit = i64::try_from(size + 1).unwrap_or(i64::MAX);
        let mut found = jobs::list(&self.pool, ListQuery { kind, state, after, limit }).await?;
        let more = found.len() > size;
        found.truncate(size);
        let last = found.last().filter(|_| more);
        let next_page_token =
            last.map(|last| page::token(&filters, &last.job_id.to_string())).unwrap_or_default();
        Ok(proto::OperationsServiceListJobsResponse {
            jobs: found.into_iter().map(job_to).collect(),
            next_page_token,
        })
    }

    pub(super) async fn job(&self, job_id: &str) -> Result<proto::Job, ApiError> {
        let view = jobs::get(&self.pool, checked(job_id)?).await?;
        view.map(job_to).ok_or(ApiError::NotFound("job"))
    }

    pub(super) async fn cancel(&self, caller: &str, job_id: &str) -> Result<proto::Job, ApiError> {
        steered(jobs::cancel(&self.pool, checked(job_id)?, caller).await?)
    }

    pub(super) async fn retry(&self, caller: &str, job_id: &str) -> Result<proto::Job, ApiError> {
        steered(jobs::retry(&self.pool, checked(job_id)?, caller).await?)
    }
}

fn checked(job_id: &str) -> Result<Uuid, ApiError> {
    Uuid::try_parse(job_id).map_err(|_| ApiError::invalid("job_id", "must be a UUID"))
}

fn steered(steered: Steered) -> Result<proto::Job, ApiError> {
    match steered {
        Steered::Stored(view) => Ok(job_to(*view)),
        Steered::NotFound => Err(ApiError::NotFound("job")),
        Steered::State(state) => Err(ApiError::Precondition {
            reason: "JOB_STATE",
            message: format!("the job is {state}, in which this cannot be done"),
        }),
        Steered::Replaced(other) => Err(ApiError::Precondition {
            reason: "JOB_REPLACED",
            message: format!("another job for the same has not ended: {other}"),
        }),
    }
}

fn job_to(view: JobView) -> proto::Job {
    let timeout = prost_types::Duration::try_from(view.timeout).unwrap_or_default();
    proto::Job {
        job_id: view.job_id.to_string(),
        kind: view.kind.as_str().to_owned(),
        key: view.key,
        state: job_state_to(view.state).into(),
        priority: view.priority.into(),
        attempts: view.attempts.0,
        attempts_max: view.attempts.1,
        timeout: Some(timeout),
        arguments: view.arguments.to_string(),
        progress: view.progress.to_string(),
        fault: view.fault.unwrap_or_default(),
        requested_by: view.requested_by,
        run_at: view.look_at.filter(|_| view.state == JobState::Queued).map(timestamp_to),
        created_at: Some(timestamp_to(view.created_at)),
        started_at: view.started_at.map(timestamp_to),
        ended_at: view.ended_at.map(timestamp_to),
    }
}

//! `BatchService`: the calls; a new batch is checked in `create`, uploads are taken apart
//! in `upload` and `csv`.

mod create;
mod csv;
mod upload;

use std::sync::Arc;

use deadpool_postgres::Pool;
use futures::future::try_join;
use jiff::Timestamp;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::auth::{Caller, Scope};
use super::convert::{
    batch_state_from, batch_state_to, channel_to, minute_to, purpose_to, state_to, timestamp_to,
};
use super::error::ApiError;
use super::guard::stream::Stopping;
use super::page;
use super::proto;
use super::validate::Violations;
use crate::deliver::Renderer;
use crate::domain::BatchId;
use crate::domain::batch::{BatchAction, BatchState, eta};
use crate::record::batches::{self, Acted, BatchView, By, FaultView, ListQuery, Owner};

/// Keeps batches.
#[derive(Debug)]
pub struct Batches {
    /// To the database.
    pub pool: Pool,
    /// Knows what templates take.
    pub renderer: Arc<Renderer>,
}

impl Batches {
    async fn act(
        &self,
        caller: &Caller,
        batch_id: &str,
        action: BatchAction,
        recipients: Option<i64>,
    ) -> Result<proto::Batch, ApiError> {
        let id = checked_id(batch_id)?;
        let name = match action {
            BatchAction::Start => "BatchService/Start",
            BatchAction::Pause => "BatchService/Pause",
            BatchAction::Resume => "BatchService/Resume",
            BatchAction::Cancel => "BatchService/Cancel",
            BatchAction::Upload | BatchAction::Complete | BatchAction::Finish => UPLOAD,
        };
        let acted = batches::act(&self.pool, id, action, recipients, by(caller, name)).await?;
        let refusal = |reason, message| Err(ApiError::Precondition { reason, message });
        match acted {
            Acted::Stored(view) => Ok(batch_to(*view)),
            Acted::NotFound => Err(ApiError::NotFound("batch")),
            Acted::State(state) => Err(wrong_state(state)),
            Acted::Expired => refusal("BATCH_EXPIRED", "the batch has expired; make a new one".to_owned()),
            Acted::Empty => refusal("BATCH_EMPTY", "the batch has no recipients".to_owned()),
            Acted::SizeDiffers(stored) => refusal(
                "BATCH_SIZE_DIFFERS",
                format!("the batch has {stored} recipients; look at its faults, then say this number"),
            ),
        }
    }
}

/// The upload's name in the audit log.
const UPLOAD: &str = "BatchService/UploadRecipients";

fn by<'a>(caller: &'a Caller, action: &'static str) -> By<'a> {
    By { caller: &caller.name, owner: owner(caller), action }
}

fn owner(caller: &Caller) -> Owner<'_> {
    (!caller.may(Scope::NotificationsAll)).then_some(&caller.name)
}

fn wrong_state(state: BatchState) -> ApiError {
    ApiError::Precondition {
        reason: "BATCH_STATE",
        message: format!("the batch is {state}, in which this cannot be done"),
    }
}

fn checked_id(text: &str) -> Result<BatchId, ApiError> {
    Uuid::try_parse(text)
        .map(BatchId)
        .map_err(|_| ApiError::invalid("batch_id", "must be a UUID, as Create answered it"))
}

#[tonic::async_trait]
impl proto::batch_service_server::BatchService for Batches {
    async fn create(
        &self,
        request: Request<proto::BatchServiceCreateRequest>,
    ) -> Result<Response<proto::BatchServiceCreateResponse>, Status> {
        let caller = Caller::of(&request)?;
        let batch = create::new_batch(request.into_inner(), caller.name, &self.renderer, Timestamp::now())?;
        let stored = batches::create(&self.pool, &batch).await.map_err(ApiError::from)?;
        if stored.made != batch {
            return Err(ApiError::Exists {
                reason: "BATCH_KEY_TAKEN",
                message: "the idempotency key belongs to a batch with another content".to_owned(),
                metadata: vec![("batch_id", stored.id.to_string())],
            }
            .into());
        }
        Ok(Response::new(proto::BatchServiceCreateResponse { batch: Some(batch_to(stored)) }))
    }

    async fn upload_recipients(
        &self,
        request: Request<Streaming<proto::BatchServiceUploadRecipientsRequest>>,
    ) -> Result<Response<proto::BatchServiceUploadRecipientsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let stopping = Stopping::of(&request);
        let answer = upload::run(self, &caller, request.into_inner(), stopping).await?;
        Ok(Response::new(answer))
    }

    async fn start(
        &self,
        request: Request<proto::BatchServiceStartRequest>,
    ) -> Result<Response<proto::BatchServiceStartResponse>, Status> {
        let caller = Caller::of(&request)?;
        let message = request.into_inner();
        let recipients = Some(message.recipients);
        let batch = self.act(&caller, &message.batch_id, BatchAction::Start, recipients).await?;
        Ok(Response::new(proto::BatchServiceStartResponse { batch: Some(batch) }))
    }

    async fn pause(
        &self,
        request: Request<proto::BatchServicePauseRequest>,
    ) -> Result<Response<proto::BatchServicePauseResponse>, Status> {
        let caller = Caller::of(&request)?;
        let batch = self.act(&caller, &request.get_ref().batch_id, BatchAction::Pause, None).await?;
        Ok(Response::new(proto::BatchServicePauseResponse { batch: Some(batch) }))
    }

    async fn resume(
        &self,
        request: Request<proto::BatchServiceResumeRequest>,
    ) -> Result<Response<proto::BatchServiceResumeResponse>, Status> {
        let caller = Caller::of(&request)?;
        let batch = self.act(&caller, &request.get_ref().batch_id, BatchAction::Resume, None).await?;
        Ok(Response::new(proto::BatchServiceResumeResponse { batch: Some(batch) }))
    }

    async fn cancel(
        &self,
        request: Request<proto::BatchServiceCancelRequest>,
    ) -> Result<Response<proto::BatchServiceCancelResponse>, Status> {
        let caller = Caller::of(&request)?;
        let batch = self.act(&caller, &request.get_ref().batch_id, BatchAction::Cancel, None).await?;
        Ok(Response::new(proto::BatchServiceCancelResponse { batch: Some(batch) }))
    }

    async fn get(
        &self,
        request: Request<proto::BatchServiceGetRequest>,
    ) -> Result<Response<proto::BatchServiceGetResponse>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(get(&self.pool, &caller, &request.get_ref().batch_id).await?))
    }

    async fn list(
        &self,
        request: Request<proto::BatchServiceListRequest>,
    ) -> Result<Response<proto::BatchServiceListResponse>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(list(&self.pool, &caller, request.get_ref()).await?))
    }
}

async fn get(
    pool: &Pool,
    caller: &Caller,
    batch_id: &str,
) -> Result<proto::BatchServiceGetResponse, ApiError> {
    let id = checked_id(batch_id)?;
    let view = batches::get(pool, id, owner(caller)).await?.ok_or(ApiError::NotFound("batch"))?;
    let ((ended, estimated), faults) =
        try_join(batches::ended(pool, id, view.published_to), batches::faults(pool, id)).await?;
    let remaining = view.rows_stored - view.rows_published;
    let (rate, window) = (view.made.rate_per_s, view.made.window.as_ref());
    let eta = match view.state {
        BatchState::Running => eta(remaining, rate, window, Timestamp::now()),
        _ => None,
    };
    let end = |(state, count)| proto::BatchEnd { state: state_to(state).into(), count };
    Ok(proto::BatchServiceGetResponse {
        ended: ended.into_iter().map(end).collect(),
        estimated,
        eta: eta.map(timestamp_to),
        faults: faults.into_iter().map(fault_to).collect(),
        batch: Some(batch_to(view)),
    })
}

async fn list(
    pool: &Pool,
    caller: &Caller,
    message: &proto::BatchServiceListRequest,
) -> Result<proto::BatchServiceListResponse, ApiError> {
    let mut faults = Violations::default();
    let state = faults.word("state", message.state, batch_state_from);
    let size = page::size(message.page_size, &mut faults);
    let owner = owner(caller);
    let filters = [owner.unwrap_or_default(), state.map_or("", BatchState::as_str)];
    let position = page::position(&filters, &message.page_token, &mut faults);
    faults.finish()?;
    let after = position.as_deref().and_then(|position| {
        let (micros, id) = position.split_once(':')?;
        let made = Timestamp::from_microsecond(micros.parse().ok()?).ok()?;
        Some((made, BatchId(Uuid::try_parse(id).ok()?)))
    });
    // One more than asked for tells whether there is another page.
    let limit = i64::try_from(size + 1).unwrap_or(i64::MAX);
    let mut found = batches::list(pool, &ListQuery { owner, state, after, limit }).await?;
    let more = found.len() > size;
    found.truncate(size);
    let last = found.last().filter(|_| more);
    let next =
        last.map(|last| page::token(&filters, &format!("{}:{}", last.created_at.as_microsecond(), last.id)));
    Ok(proto::BatchServiceListResponse {
        next_page_token: next.unwrap_or_default(),
        batches: found.into_iter().map(batch_to).collect(),
    })
}

fn batch_to(view: BatchView) -> proto::Batch {
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

fn fault_to(view: FaultView) -> proto::BatchFault {
    proto::BatchFault { row: view.row, doubled: view.doubled, reason: view.reason }
}

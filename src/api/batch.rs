//! `BatchService`: the calls; a new batch is checked in `create`, uploads are taken apart
//! in `upload` and `csv`.

mod create;
mod csv;
mod show;
mod upload;

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use jiff::Timestamp;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::auth::{Allowance, Caller, Scope};
use super::convert::batch_state_from;
use super::error::ApiError;
use super::guard::stream::Stopping;
use super::page;
use super::proto;
use super::validate::Violations;
use crate::deliver::Renderer;
use crate::domain::BatchId;
use crate::domain::batch::{BatchAction, BatchState};
use crate::record::batch_checks;
use crate::record::batches::{self, Acted, By, ListQuery, Owner};
use show::{batch_to, fault_to};

/// Keeps batches.
#[derive(Debug)]
pub struct Batches {
    /// To the database.
    pub pool: Pool,
    /// Knows what templates take.
    pub renderer: Arc<Renderer>,
    /// Longest silence of who uploads.
    pub stream_idle: Duration,
}

impl Batches {
    async fn act(
        &self,
        caller: &Caller,
        batch_id: &str,
        action: BatchAction,
        recipients: Option<i64>,
    ) -> Result<Acted, ApiError> {
        let id = checked_id(batch_id)?;
        let name = match action {
            BatchAction::Start => "BatchService/Start",
            BatchAction::Pause => "BatchService/Pause",
            BatchAction::Resume => "BatchService/Resume",
            BatchAction::Cancel => "BatchService/Cancel",
            BatchAction::Upload | BatchAction::Complete | BatchAction::Finish => UPLOAD,
        };
        Ok(batches::act(&self.pool, id, action, recipients, by(caller, name)).await?)
    }

    /// Releases a batch. Its recipients count against the caller's quota, once.
    async fn release(
        &self,
        caller: &Caller,
        allowance: &Allowance,
        message: &proto::BatchServiceStartRequest,
    ) -> Result<proto::Batch, ApiError> {
        let id = checked_id(&message.batch_id)?;
        let found = batches::get(&self.pool, id, owner(caller)).await?.ok_or(ApiError::NotFound("batch"))?;
        // What is refused for another reason is not refused for its size.
        let counts = found.state == BatchState::Ready && found.rows_stored == message.recipients;
        let taken =
            allowance.take(if counts { u32::try_from(found.rows_stored).unwrap_or(u32::MAX) } else { 0 })?;
        let recipients = Some(message.recipients);
        let acted = self.act(caller, &message.batch_id, BatchAction::Start, recipients).await?;
        if matches!(acted, Acted::Stored(_)) {
            taken.keep();
        }
        stored(acted)
    }
}

fn stored(acted: Acted) -> Result<proto::Batch, ApiError> {
    let refusal = |reason, message| Err(ApiError::Precondition { reason, message });
    match acted {
        Acted::Stored(view) | Acted::Already(view) => Ok(batch_to(*view)),
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
        let (caller, allowance) = (Caller::of(&request)?, Allowance::of(&request));
        let batch = self.release(&caller, &allowance, request.get_ref()).await?;
        Ok(Response::new(proto::BatchServiceStartResponse { batch: Some(batch) }))
    }

    async fn pause(
        &self,
        request: Request<proto::BatchServicePauseRequest>,
    ) -> Result<Response<proto::BatchServicePauseResponse>, Status> {
        let caller = Caller::of(&request)?;
        let batch = stored(self.act(&caller, &request.get_ref().batch_id, BatchAction::Pause, None).await?)?;
        Ok(Response::new(proto::BatchServicePauseResponse { batch: Some(batch) }))
    }

    async fn resume(
        &self,
        request: Request<proto::BatchServiceResumeRequest>,
    ) -> Result<Response<proto::BatchServiceResumeResponse>, Status> {
        let caller = Caller::of(&request)?;
        let batch = stored(self.act(&caller, &request.get_ref().batch_id, BatchAction::Resume, None).await?)?;
        Ok(Response::new(proto::BatchServiceResumeResponse { batch: Some(batch) }))
    }

    async fn cancel(
        &self,
        request: Request<proto::BatchServiceCancelRequest>,
    ) -> Result<Response<proto::BatchServiceCancelResponse>, Status> {
        let caller = Caller::of(&request)?;
        let batch = stored(self.act(&caller, &request.get_ref().batch_id, BatchAction::Cancel, None).await?)?;
        Ok(Response::new(proto::BatchServiceCancelResponse { batch: Some(batch) }))
    }

    async fn get(
        &self,
        request: Request<proto::BatchServiceGetRequest>,
    ) -> Result<Response<proto::BatchServiceGetResponse>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(show::get(&self.pool, &caller, &request.get_ref().batch_id).await?))
    }

    async fn check(
        &self,
        request: Request<proto::BatchServiceCheckRequest>,
    ) -> Result<Response<proto::BatchServiceCheckResponse>, Status> {
        let caller = Caller::of(&request)?;
        let message = request.get_ref();
        let id = checked_id(&message.batch_id)?;
        let asked =
            batch_checks::ask(&self.pool, id, message.repair, by(&caller, "BatchService/Check")).await;
        stored(asked.map_err(ApiError::from)?)?;
        let check = batch_checks::newest(&self.pool, id, owner(&caller)).await.map_err(ApiError::from)?;
        Ok(Response::new(proto::BatchServiceCheckResponse { check: check.map(show::check_to) }))
    }

    async fn list(
        &self,
        request: Request<proto::BatchServiceListRequest>,
    ) -> Result<Response<proto::BatchServiceListResponse>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(list(&self.pool, &caller, request.get_ref()).await?))
    }
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

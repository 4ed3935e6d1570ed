//! `NotificationService`: the calls. What each checks and says is beside them, one
//! file a concern.

mod get;
mod send;
mod update;

use deadpool_postgres::Pool;
use jiff::{SignedDuration, Timestamp};
use tonic::{Request, Response, Status};

use super::auth::{Allowance, Caller};
use super::error::ApiError;
use super::guard::Deadline;
use super::proto;
use super::publisher::Publisher;
use super::token::{Awaited, Token};
use crate::domain::NotificationId;
use crate::record::read;

/// Takes requests over and tells what became of them.
#[derive(Debug)]
pub struct Notifications {
    /// To the broker.
    pub publisher: Publisher,
    /// To the database.
    pub pool: Pool,
    /// How far ahead a message may be scheduled: `plan.schedule_max_ms`.
    pub schedule_max: SignedDuration,
}

#[tonic::async_trait]
impl proto::notification_service_server::NotificationService for Notifications {
    async fn send(
        &self,
        request: Request<proto::NotificationServiceSendRequest>,
    ) -> Result<Response<proto::NotificationServiceSendResponse>, Status> {
        let deadline = Deadline::of(&request);
        let (caller, allowance) = (Caller::of(&request)?.name, Allowance::of(&request));
        let requested = send::requested(request.into_inner(), caller, Timestamp::now(), self.schedule_max)?;
        let id = NotificationId::for_request(&requested.caller, &requested.idempotency_key);
        let taken = allowance.take(1)?;
        let position =
            self.publisher.publish(requested, deadline.for_work()).await.map_err(ApiError::from)?;
        taken.keep();
        Ok(Response::new(proto::NotificationServiceSendResponse {
            notification_id: id.to_string(),
            consistency_token: Token { position, awaited: Awaited::Notification }.to_text(),
        }))
    }

    async fn get(
        &self,
        request: Request<proto::NotificationServiceGetRequest>,
    ) -> Result<Response<proto::NotificationServiceGetResponse>, Status> {
        let deadline = Deadline::of(&request);
        let (id, awaited) = get::wanted(&request.into_inner())?;
        let view = match awaited {
            Some(awaited) => get::read_when_there(&self.pool, id, awaited, deadline.for_work())
                .await?
                .ok_or(ApiError::NotYetProcessed)?,
            None => read::notification(&self.pool, id)
                .await
                .map_err(ApiError::from)?
                .ok_or(ApiError::NotFound("notification"))?,
        };
        Ok(Response::new(get::answer(view)))
    }

    async fn cancel(
        &self,
        request: Request<proto::NotificationServiceCancelRequest>,
    ) -> Result<Response<proto::NotificationServiceCancelResponse>, Status> {
        let deadline = Deadline::of(&request);
        let caller = Caller::of(&request)?.name;
        let update = update::cancelled(request.get_ref(), caller, Timestamp::now())?;
        let position = self.publisher.publish(update, deadline.for_work()).await.map_err(ApiError::from)?;
        Ok(Response::new(proto::NotificationServiceCancelResponse {
            consistency_token: Token { position, awaited: Awaited::Cancelled }.to_text(),
        }))
    }

    async fn mark_read(
        &self,
        request: Request<proto::NotificationServiceMarkReadRequest>,
    ) -> Result<Response<proto::NotificationServiceMarkReadResponse>, Status> {
        let deadline = Deadline::of(&request);
        let caller = Caller::of(&request)?.name;
        let (update, engagement) = update::engaged(request.get_ref(), caller, Timestamp::now())?;
        let position = self.publisher.publish(update, deadline.for_work()).await.map_err(ApiError::from)?;
        Ok(Response::new(proto::NotificationServiceMarkReadResponse {
            consistency_token: Token { position, awaited: Awaited::Engaged(engagement) }.to_text(),
        }))
    }
}

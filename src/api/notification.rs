//! `NotificationService`: the calls. What each checks and says is beside them, one
//! file a concern.

mod explain;
mod get;
mod list;
mod recent;
mod send;
mod send_many;
mod update;
mod wait;
mod watch;
mod words;

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::Pool;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::auth::{Allowance, Caller};
use super::error::ApiError;
use super::guard::Deadline;
use super::guard::stream::Stopping;
use super::proto;
use super::publisher::{Publisher, Until};
use super::token::{Awaited, Position, Token};
use crate::domain::NotificationId;
use crate::record::read::{self, NotificationView};
use crate::topic::progress::Progress;
use recent::Recent;
use wait::Wait;

pub use explain::QuietDefaults;
pub use watch::WatchError;
pub use watch::hub::Hub;

/// What the service needs besides broker and database.
#[derive(Debug)]
pub struct Means {
    /// How far the groups are.
    pub progress: Progress,
    /// Status changes as they happen.
    pub hub: Hub,
    /// Quiet hours where the recipient chose none.
    pub quiet_hours: QuietDefaults,
    /// Longest silence of a watch: `app.watch_heartbeat_ms`.
    pub heartbeat: Duration,
    /// Longest silence of who sends many: `app.stream_idle_ms`.
    pub stream_idle: Duration,
    /// Idempotency keys that are remembered: `app.recent_keys_max`.
    pub recent_keys_max: usize,
}

/// Takes requests over and tells what became of them.
#[derive(Debug)]
pub struct Notifications {
    publisher: Publisher,
    pool: Pool,
    schedule_max: SignedDuration,
    recent: Recent,
    means: Arc<Means>,
}

impl Notifications {
    /// `schedule_max`: how far ahead a message may be scheduled.
    #[must_use]
    pub fn new(publisher: Publisher, pool: Pool, schedule_max: SignedDuration, means: Arc<Means>) -> Self {
        let recent = Recent::new(means.recent_keys_max);
        Self { publisher, pool, schedule_max, recent, means }
    }

    /// One request, whichever way it came.
    async fn take_over(
        &self,
        message: proto::NotificationServiceSendRequest,
        caller: String,
        allowance: &Allowance,
        until: impl Into<Until<'_>>,
    ) -> Result<proto::NotificationServiceSendResponse, ApiError> {
        let requested = send::requested(message, caller, Timestamp::now(), self.schedule_max)?;
        let id = NotificationId::for_request(&requested.caller, &requested.idempotency_key);
        let print = self.recent.print(&requested);
        self.recent.check(id, &print)?;
        let taken = allowance.take(1)?;
        let position = self.publisher.publish(requested, until).await?;
        taken.keep();
        self.recent.remember(id, print);
        Ok(proto::NotificationServiceSendResponse {
            notification_id: id.to_string(),
            consistency_token: token(position, Awaited::Notification, id),
        })
    }

    /// A notification that this caller may see, once a token's record was processed.
    async fn find(
        &self,
        caller: &Caller,
        id: NotificationId,
        token: Option<&str>,
        until: Instant,
    ) -> Result<NotificationView, ApiError> {
        let view = match wait::token(token, Some(id), &self.means.progress)? {
            Some(token) => {
                Wait::new(&self.pool, &self.means.progress, &token, until).notification(id).await?
            }
            None => read::notification(&self.pool, id).await?.ok_or(ApiError::NotFound("notification"))?,
        };
        get::seen_by(caller, view)
    }
}

fn token(position: Position, awaited: Awaited, id: NotificationId) -> String {
    Token { position, awaited, about: Some(id) }.to_text()
}

#[tonic::async_trait]
impl proto::notification_service_server::NotificationService for Notifications {
    type WatchStream = watch::Changes;

    async fn send(
        &self,
        request: Request<proto::NotificationServiceSendRequest>,
    ) -> Result<Response<proto::NotificationServiceSendResponse>, Status> {
        let deadline = Deadline::of(&request);
        let (caller, allowance) = (Caller::of(&request)?.name, Allowance::of(&request));
        let sent = self.take_over(request.into_inner(), caller, &allowance, &deadline).await?;
        Ok(Response::new(sent))
    }

    async fn send_many(
        &self,
        request: Request<Streaming<proto::NotificationServiceSendManyRequest>>,
    ) -> Result<Response<proto::NotificationServiceSendManyResponse>, Status> {
        let (deadline, stopping) = (Deadline::of(&request), Stopping::of(&request));
        let by = send_many::By { caller: Caller::of(&request)?.name, allowance: Allowance::of(&request) };
        let items = request.into_inner();
        Ok(Response::new(send_many::run(self, &by, items, deadline, stopping).await?))
    }

    async fn get(
        &self,
        request: Request<proto::NotificationServiceGetRequest>,
    ) -> Result<Response<proto::NotificationServiceGetResponse>, Status> {
        let (deadline, caller) = (Deadline::of(&request), Caller::of(&request)?);
        let message = request.into_inner();
        let id = get::wanted(&message.notification_id)?;
        let token = message.consistency_token.as_deref();
        let view = self.find(&caller, id, token, deadline.for_work()).await?;
        Ok(Response::new(get::answer(view)))
    }

    async fn list(
        &self,
        request: Request<proto::NotificationServiceListRequest>,
    ) -> Result<Response<proto::NotificationServiceListResponse>, Status> {
        let (deadline, caller) = (Deadline::of(&request), Caller::of(&request)?);
        let message = request.into_inner();
        let wanted = list::wanted(&message, &caller)?;
        if let Some(token) = wait::token(message.consistency_token.as_deref(), None, &self.means.progress)? {
            Wait::new(&self.pool, &self.means.progress, &token, deadline.for_work()).processed().await?;
        }
        let page = crate::record::list::page(&self.pool, &wanted.filter, wanted.after, wanted.size);
        Ok(Response::new(list::answer(page.await.map_err(ApiError::from)?, &wanted)))
    }

    async fn watch(
        &self,
        request: Request<proto::NotificationServiceWatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(watch::open(self, request.get_ref(), caller).await?))
    }

    async fn explain(
        &self,
        request: Request<proto::NotificationServiceExplainRequest>,
    ) -> Result<Response<proto::NotificationServiceExplainResponse>, Status> {
        use crate::record::explain::{basis, why_page};
        let (deadline, caller) = (Deadline::of(&request), Caller::of(&request)?);
        let message = request.into_inner();
        let wanted = explain::wanted(&message)?;
        let token = message.consistency_token.as_deref();
        let view = self.find(&caller, wanted.id, token, deadline.for_work()).await?;
        let basis = basis(&self.pool, view.recipient_id, view.purpose, view.accepted_at);
        let why = why_page(&self.pool, wanted.id, wanted.after, wanted.size);
        let (basis, why) = (basis.await.map_err(ApiError::from)?, why.await.map_err(ApiError::from)?);
        Ok(Response::new(explain::answer(view, why, basis, &self.means.quiet_hours)))
    }

    async fn cancel(
        &self,
        request: Request<proto::NotificationServiceCancelRequest>,
    ) -> Result<Response<proto::NotificationServiceCancelResponse>, Status> {
        let deadline = Deadline::of(&request);
        let caller = Caller::of(&request)?;
        let (update, id) = update::cancelled(request.get_ref(), &caller, Timestamp::now())?;
        let position = self.publisher.publish(update, &deadline).await.map_err(ApiError::from)?;
        Ok(Response::new(proto::NotificationServiceCancelResponse {
            consistency_token: token(position, Awaited::Cancelled, id),
        }))
    }

    async fn mark_read(
        &self,
        request: Request<proto::NotificationServiceMarkReadRequest>,
    ) -> Result<Response<proto::NotificationServiceMarkReadResponse>, Status> {
        let deadline = Deadline::of(&request);
        let caller = Caller::of(&request)?.name;
        let (update, id, engagement) = update::engaged(request.get_ref(), caller, Timestamp::now())?;
        let position = self.publisher.publish(update, &deadline).await.map_err(ApiError::from)?;
        Ok(Response::new(proto::NotificationServiceMarkReadResponse {
            consistency_token: token(position, Awaited::Engaged(engagement), id),
        }))
    }
}

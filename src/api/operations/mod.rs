//! `OperationsService`: what operators look at, and the few things that they change.

use std::sync::Arc;

use deadpool_postgres::Pool;
use rdkafka::error::KafkaError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status};

use super::auth::{Caller, Scope};
use super::error::ApiError;
use super::guard::Deadline;
use super::proto;
use super::publisher::PublishError;
use super::validate::Violations;
use crate::config::{self, Config};
use crate::domain::Channel;
use crate::topic::dlq::DlqError;
use crate::topic::producer::ProduceError;

mod callbacks;
mod channels;
mod dead_letters;
mod groups;
mod jobs;

/// Calls that ask the brokers, side by side: each has a client and threads of its own.
const BROKER_CALLS_MAX: usize = 4;

/// What the service knows from the configuration.
#[derive(Clone)]
pub struct Setup {
    /// To the brokers.
    pub kafka: config::Kafka,
    /// Channels that are switched on.
    pub enabled: Vec<Channel>,
    /// Where to ask how many replicas are wanted; empty: nowhere.
    pub scaler_url: String,
}

impl Setup {
    /// As it is configured.
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        let enabled = [
            (Channel::Sms, config.sms.enabled),
            (Channel::Email, config.email.enabled),
            (Channel::Push, config.push.enabled),
        ];
        let enabled = enabled.into_iter().filter(|(_, enabled)| *enabled).map(|(channel, _)| channel);
        Self {
            kafka: config.kafka.clone(),
            enabled: enabled.collect(),
            scaler_url: config.app.scaler_url.clone(),
        }
    }
}

/// Shows and steers.
pub struct Operations {
    pool: Pool,
    setup: Setup,
    broker_calls: Arc<Semaphore>,
}

impl Operations {
    /// On this database and these brokers.
    #[must_use]
    pub fn new(pool: Pool, setup: Setup) -> Self {
        Self { pool, setup, broker_calls: Arc::new(Semaphore::new(BROKER_CALLS_MAX)) }
    }

    fn broker_call(&self) -> Result<OwnedSemaphorePermit, ApiError> {
        Arc::clone(&self.broker_calls).try_acquire_owned().map_err(|_| ApiError::Overloaded)
    }

    /// Asks the brokers on a thread that may block. Its place is free again when the
    /// thread is done, which may be after the deadline.
    async fn ask<T: Send + 'static>(
        &self,
        until: Instant,
        ask: impl FnOnce(&config::Kafka) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let (place, kafka) = (self.broker_call()?, self.setup.kafka.clone());
        let asked = tokio::task::spawn_blocking(move || {
            let _place = place;
            ask(&kafka)
        });
        match timeout_at(until, asked).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(error))) => Err(away(error.to_string())),
            Ok(Err(_)) | Err(_) => Err(away("no answer before the deadline".to_owned())),
        }
    }
}

fn away(why: String) -> ApiError {
    PublishError::Broker(why).into()
}

fn of_dlq(error: DlqError) -> ApiError {
    match error {
        DlqError::NoTopic { .. } => {
            ApiError::Precondition { reason: "NO_DEAD_LETTER_TOPIC", message: error.to_string() }
        }
        DlqError::Produce(ProduceError::Refused { .. }) => PublishError::Refused(error.to_string()).into(),
        DlqError::Kafka { .. } | DlqError::Silent { .. } | DlqError::Produce(_) => away(error.to_string()),
    }
}

#[tonic::async_trait]
impl proto::operations_service_server::OperationsService for Operations {
    async fn get_lag(
        &self,
        request: Request<proto::OperationsServiceGetLagRequest>,
    ) -> Result<Response<proto::OperationsServiceGetLagResponse>, Status> {
        let until = Deadline::of(&request).for_work();
        Ok(Response::new(self.lag(&request.into_inner().group, until).await?))
    }

    async fn list_dead_letters(
        &self,
        request: Request<proto::OperationsServiceListDeadLettersRequest>,
    ) -> Result<Response<proto::OperationsServiceListDeadLettersResponse>, Status> {
        let (until, caller) = (Deadline::of(&request).for_work(), Caller::of(&request)?);
        let message = request.into_inner();
        if message.include_contents && !caller.may(Scope::OperationsAdmin) {
            return Err(ApiError::Forbidden(Scope::OperationsAdmin).into());
        }
        Ok(Response::new(self.list(&caller.name, &message, until).await?))
    }

    async fn replay_dead_letters(
        &self,
        request: Request<proto::OperationsServiceReplayDeadLettersRequest>,
    ) -> Result<Response<proto::OperationsServiceReplayDeadLettersResponse>, Status> {
        let (until, caller) = (Deadline::of(&request).for_work(), Caller::of(&request)?);
        Ok(Response::new(self.replay(&caller.name, &request.into_inner(), until).await?))
    }

    async fn start_replay(
        &self,
        request: Request<proto::OperationsServiceStartReplayRequest>,
    ) -> Result<Response<proto::OperationsServiceStartReplayResponse>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.start(&caller.name, request.get_ref()).await?))
    }

    async fn list_jobs(
        &self,
        request: Request<proto::OperationsServiceListJobsRequest>,
    ) -> Result<Response<proto::OperationsServiceListJobsResponse>, Status> {
        Ok(Response::new(self.jobs(request.get_ref()).await?))
    }

    async fn get_job(
        &self,
        request: Request<proto::OperationsServiceGetJobRequest>,
    ) -> Result<Response<proto::OperationsServiceGetJobResponse>, Status> {
        let job = Some(self.job(&request.get_ref().job_id).await?);
        Ok(Response::new(proto::OperationsServiceGetJobResponse { job }))
    }

    async fn cancel_job(
        &self,
        request: Request<proto::OperationsServiceCancelJobRequest>,
    ) -> Result<Response<proto::OperationsServiceCancelJobResponse>, Status> {
        let caller = Caller::of(&request)?;
        let job = Some(self.cancel(&caller.name, &request.get_ref().job_id).await?);
        Ok(Response::new(proto::OperationsServiceCancelJobResponse { job }))
    }

    async fn retry_job(
        &self,
        request: Request<proto::OperationsServiceRetryJobRequest>,
    ) -> Result<Response<proto::OperationsServiceRetryJobResponse>, Status> {
        let caller = Caller::of(&request)?;
        let job = Some(self.retry(&caller.name, &request.get_ref().job_id).await?);
        Ok(Response::new(proto::OperationsServiceRetryJobResponse { job }))
    }

    async fn list_providers(
        &self,
        _request: Request<proto::OperationsServiceListProvidersRequest>,
    ) -> Result<Response<proto::OperationsServiceListProvidersResponse>, Status> {
        Ok(Response::new(self.providers().await?))
    }

    async fn pause_channel(
        &self,
        request: Request<proto::OperationsServicePauseChannelRequest>,
    ) -> Result<Response<proto::OperationsServicePauseChannelResponse>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.pause(&caller.name, &request.into_inner()).await?))
    }

    async fn resume_channel(
        &self,
        request: Request<proto::OperationsServiceResumeChannelRequest>,
    ) -> Result<Response<proto::OperationsServiceResumeChannelResponse>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.resume(&caller.name, &request.into_inner()).await?))
    }

    async fn get_processor_state(
        &self,
        request: Request<proto::OperationsServiceGetProcessorStateRequest>,
    ) -> Result<Response<proto::OperationsServiceGetProcessorStateResponse>, Status> {
        let until = Deadline::of(&request).for_work();
        Ok(Response::new(self.processor_state(until).await?))
    }

    async fn list_callbacks(
        &self,
        request: Request<proto::OperationsServiceListCallbacksRequest>,
    ) -> Result<Response<proto::OperationsServiceListCallbacksResponse>, Status> {
        Ok(Response::new(self.callbacks(&request.into_inner()).await?))
    }

    async fn replay_callbacks(
        &self,
        request: Request<proto::OperationsServiceReplayCallbacksRequest>,
    ) -> Result<Response<proto::OperationsServiceReplayCallbacksResponse>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(self.replay_parked(&caller.name, &request.into_inner()).await?))
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::proto::operations_service_server::OperationsService as _;
    use super::*;

    #[tokio::test]
    async fn contents_of_dead_letters_are_for_administrators() {
        let config = Config::from_defaults();
        let pool = crate::record::pool::pool(&config.postgres).unwrap();
        let operations = Operations::new(pool, Setup::from_config(&config));
        let message =
            proto::OperationsServiceListDeadLettersRequest { include_contents: true, ..Default::default() };
        let mut request = Request::new(message);
        request.extensions_mut().insert(Caller::new("board".to_owned(), vec![Scope::OperationsRead]));
        let refused = operations.list_dead_letters(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
}

//! Exports: asked for, and fetched piece by piece.

use std::pin::Pin;

use deadpool_postgres::Pool;
use futures::Stream;
use tonic::Status;
use uuid::Uuid;

use super::Recipients;
use crate::api::error::ApiError;
use crate::api::proto;
use crate::api::validate::Violations;
use crate::domain::job::JobState;
use crate::record::exports::{self, Fetch};

/// What goes out: one piece is read when the one before it was taken.
pub(super) type Pieces =
    Pin<Box<dyn Stream<Item = Result<proto::RecipientServiceDownloadExportResponse, Status>> + Send>>;

impl Recipients {
    pub(super) async fn ask_export(
        &self,
        caller: &str,
        message: &proto::RecipientServiceExportRequest,
    ) -> Result<proto::RecipientServiceExportResponse, ApiError> {
        let mut faults = Violations::default();
        let patient = faults.patient_id("patient_id", &message.patient_id);
        faults.finish()?;
        let patient = patient.ok_or(ApiError::invalid("patient_id", "is required"))?;
        let asked = exports::ask(&self.pool, &patient, caller).await?.ok_or(ApiError::NotFound("patient"))?;
        Ok(proto::RecipientServiceExportResponse { job_id: asked.job_id.to_string(), created: asked.is_new })
    }

    pub(super) async fn fetch_export(
        &self,
        caller: &str,
        message: &proto::RecipientServiceDownloadExportRequest,
    ) -> Result<Pieces, ApiError> {
        let mut faults = Violations::default();
        let job_id = Uuid::try_parse(&message.job_id);
        faults.require(job_id.is_ok(), "job_id", "must be a UUID, as Export answered it");
        faults.require(message.from_piece >= 0, "from_piece", "must not be negative");
        faults.finish()?;
        let job_id = job_id.unwrap_or_default();
        let refusal =
            |reason, message: &str| Err(ApiError::Precondition { reason, message: message.to_owned() });
        let pieces = match exports::open(&self.pool, job_id, caller).await? {
            Fetch::Ready(pieces) => pieces,
            Fetch::NotFound => return Err(ApiError::NotFound("export")),
            Fetch::Gone => return Err(gone()),
            Fetch::NotReady(JobState::Queued | JobState::Running) => {
                return refusal("EXPORT_NOT_READY", "the export is still being written; ask again");
            }
            Fetch::NotReady(JobState::Done | JobState::Parked | JobState::Cancelled) => {
                return refusal(
                    "EXPORT_FAILED",
                    "the export could not be written; ask an operator, or ask for a new one",
                );
            }
        };
        let from = message.from_piece.max(1);
        Ok(Box::pin(futures::stream::unfold((self.pool.clone(), from), move |(pool, piece)| async move {
            if piece > pieces {
                return None;
            }
            match read(&pool, job_id, piece, pieces).await {
                Ok(read) => Some((Ok(read), (pool, piece + 1))),
                Err(error) => Some((Err(error.into_status()), (pool, i32::MAX))),
            }
        })))
    }
}

async fn read(
    pool: &Pool,
    job_id: Uuid,
    piece: i32,
    pieces: i32,
) -> Result<proto::RecipientServiceDownloadExportResponse, ApiError> {
    let content = exports::chunk(pool, job_id, piece).await?.ok_or_else(gone)?;
    let content = content.expose().clone().into_bytes();
    Ok(proto::RecipientServiceDownloadExportResponse { piece, pieces, content })
}

fn gone() -> ApiError {
    ApiError::Precondition {
        reason: "EXPORT_GONE",
        message: "the export is gone: its time is over, or the patient was erased".to_owned(),
    }
}

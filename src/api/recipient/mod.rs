//! `RecipientService`: one file a concern, `fields` has the checks that they share.

mod changes;
mod export;
mod fields;
mod proxies;
mod show;
mod state;
mod verification;

use std::sync::Arc;

use deadpool_postgres::Pool;
use jiff::Timestamp;
use tonic::{Request, Response, Status};

use super::auth::Caller;
use super::error::ApiError;
use super::guard::Deadline;
use super::proto;
use super::validate::Violations;
use crate::record::recipients::{self, ChangeError, Touch, Upserted};

pub use verification::Codes;

/// Keeps recipients as the portal knows them.
#[derive(Debug)]
pub struct Recipients {
    /// To the database.
    pub pool: Pool,
    /// `None`: no codes are sent.
    pub codes: Option<Arc<Codes>>,
}

impl From<ChangeError> for ApiError {
    fn from(error: ChangeError) -> Self {
        let reason = match error {
            ChangeError::Unknown => return Self::NotFound("recipient"),
            ChangeError::UnknownContactPoint => return Self::NotFound("contact point"),
            ChangeError::Erased => return Self::RecipientErased,
            ChangeError::Record(error) => return Self::Record(error),
            ChangeError::Code(error) => return verification::told(&error),
            ChangeError::ContactPointRemoved => "CONTACT_POINT_REMOVED",
            ChangeError::TooManyContactPoints => "TOO_MANY_CONTACT_POINTS",
            ChangeError::TooManyLinks => "TOO_MANY_LINKS",
            ChangeError::LinkIsPatient => "LINK_IS_PATIENT",
            ChangeError::PatientOfAge => "PATIENT_OF_AGE",
        };
        Self::Precondition { reason, message: error.to_string() }
    }
}

/// A recipient's identifier that is the whole request, or part of it.
fn recipient_id(text: &str) -> Violations {
    let mut faults = Violations::default();
    faults.opaque("recipient_id", text);
    faults
}

/// Each method: who calls, what is asked, what is done, what is shown.
#[tonic::async_trait]
impl proto::recipient_service_server::RecipientService for Recipients {
    async fn upsert(
        &self,
        request: Request<proto::RecipientServiceUpsertRequest>,
    ) -> Result<Response<proto::RecipientServiceUpsertResponse>, Status> {
        let caller = Caller::of(&request)?.name;
        let entry = state::state(request.into_inner(), Timestamp::now())?;
        let created = match recipients::upsert(&self.pool, &entry, &caller).await.map_err(ApiError::from)? {
            Upserted::Created => true,
            Upserted::Updated => false,
            Upserted::Erased => return Err(ApiError::RecipientErased.into()),
        };
        Ok(Response::new(proto::RecipientServiceUpsertResponse { created }))
    }

    async fn get(
        &self,
        request: Request<proto::RecipientServiceGetRequest>,
    ) -> Result<Response<proto::RecipientServiceGetResponse>, Status> {
        let caller = Caller::of(&request)?.name;
        let recipient = request.into_inner().recipient_id;
        recipient_id(&recipient).finish()?;
        let touch = Touch { recipient: &recipient, caller: &caller };
        let view = recipients::recipient(&self.pool, touch)
            .await
            .map_err(ApiError::from)?
            .ok_or(ApiError::NotFound("recipient"))?;
        let recipient = Some(show::recipient(view, Timestamp::now()));
        Ok(Response::new(proto::RecipientServiceGetResponse { recipient }))
    }

    async fn list_by_patient(
        &self,
        request: Request<proto::RecipientServiceListByPatientRequest>,
    ) -> Result<Response<proto::RecipientServiceListByPatientResponse>, Status> {
        Ok(Response::new(self.list_patient(request.into_inner()).await?))
    }

    async fn erase(
        &self,
        request: Request<proto::RecipientServiceEraseRequest>,
    ) -> Result<Response<proto::RecipientServiceEraseResponse>, Status> {
        let caller = Caller::of(&request)?.name;
        let deadline = Deadline::of(&request);
        Ok(Response::new(self.erase_recipient(&caller, deadline, request.into_inner()).await?))
    }

    async fn put_contact_point(
        &self,
        request: Request<proto::RecipientServicePutContactPointRequest>,
    ) -> Result<Response<proto::RecipientServicePutContactPointResponse>, Status> {
        let caller = Caller::of(&request)?.name;
        Ok(Response::new(self.put_point(&caller, request.into_inner()).await?))
    }

    async fn remove_contact_point(
        &self,
        request: Request<proto::RecipientServiceRemoveContactPointRequest>,
    ) -> Result<Response<proto::RecipientServiceRemoveContactPointResponse>, Status> {
        let caller = Caller::of(&request)?.name;
        Ok(Response::new(self.remove_point(&caller, request.into_inner()).await?))
    }

    async fn verify_contact_point(
        &self,
        request: Request<proto::RecipientServiceVerifyContactPointRequest>,
    ) -> Result<Response<proto::RecipientServiceVerifyContactPointResponse>, Status> {
        let caller = Caller::of(&request)?.name;
        Ok(Response::new(self.verify_point(&caller, request.into_inner()).await?))
    }

    async fn start_verification(
        &self,
        request: Request<proto::RecipientServiceStartVerificationRequest>,
    ) -> Result<Response<proto::RecipientServiceStartVerificationResponse>, Status> {
        let caller = Caller::of(&request)?.name;
        let deadline = Deadline::of(&request);
        Ok(Response::new(self.start_code(&caller, deadline, request.into_inner()).await?))
    }

    async fn confirm_verification(
        &self,
        request: Request<proto::RecipientServiceConfirmVerificationRequest>,
    ) -> Result<Response<proto::RecipientServiceConfirmVerificationResponse>, Status> {
        let caller = Caller::of(&request)?.name;
        Ok(Response::new(self.confirm_code(&caller, request.into_inner()).await?))
    }

    async fn update_preferences(
        &self,
        request: Request<proto::RecipientServiceUpdatePreferencesRequest>,
    ) -> Result<Response<proto::RecipientServiceUpdatePreferencesResponse>, Status> {
        let caller = Caller::of(&request)?.name;
        Ok(Response::new(self.update(&caller, request.into_inner()).await?))
    }

    async fn record_consent(
        &self,
        request: Request<proto::RecipientServiceRecordConsentRequest>,
    ) -> Result<Response<proto::RecipientServiceRecordConsentResponse>, Status> {
        let caller = Caller::of(&request)?.name;
        Ok(Response::new(self.record(&caller, request.into_inner()).await?))
    }

    async fn list_consents(
        &self,
        request: Request<proto::RecipientServiceListConsentsRequest>,
    ) -> Result<Response<proto::RecipientServiceListConsentsResponse>, Status> {
        let caller = Caller::of(&request)?.name;
        Ok(Response::new(self.ledger(&caller, request.into_inner()).await?))
    }

    async fn register_device(
        &self,
        request: Request<proto::RecipientServiceRegisterDeviceRequest>,
    ) -> Result<Response<proto::RecipientServiceRegisterDeviceResponse>, Status> {
        let caller = Caller::of(&request)?.name;
        Ok(Response::new(self.register(&caller, request.into_inner()).await?))
    }

    async fn unregister_device(
        &self,
        request: Request<proto::RecipientServiceUnregisterDeviceRequest>,
    ) -> Result<Response<proto::RecipientServiceUnregisterDeviceResponse>, Status> {
        let caller = Caller::of(&request)?.name;
        Ok(Response::new(self.unregister(&caller, request.into_inner()).await?))
    }

    async fn list_devices(
        &self,
        request: Request<proto::RecipientServiceListDevicesRequest>,
    ) -> Result<Response<proto::RecipientServiceListDevicesResponse>, Status> {
        let caller = Caller::of(&request)?.name;
        Ok(Response::new(self.devices(&caller, request.into_inner()).await?))
    }

    async fn grant_proxy(
        &self,
        request: Request<proto::RecipientServiceGrantProxyRequest>,
    ) -> Result<Response<proto::RecipientServiceGrantProxyResponse>, Status> {
        let caller = Caller::of(&request)?.name;
        Ok(Response::new(self.grant(&caller, request.into_inner()).await?))
    }

    async fn revoke_proxy(
        &self,
        request: Request<proto::RecipientServiceRevokeProxyRequest>,
    ) -> Result<Response<proto::RecipientServiceRevokeProxyResponse>, Status> {
        let caller = Caller::of(&request)?.name;
        Ok(Response::new(self.revoke(&caller, request.into_inner()).await?))
    }

    async fn set_coming_of_age(
        &self,
        request: Request<proto::RecipientServiceSetComingOfAgeRequest>,
    ) -> Result<Response<proto::RecipientServiceSetComingOfAgeResponse>, Status> {
        let caller = Caller::of(&request)?.name;
        Ok(Response::new(self.set_of_age(&caller, request.into_inner()).await?))
    }

    async fn export(
        &self,
        request: Request<proto::RecipientServiceExportRequest>,
    ) -> Result<Response<proto::RecipientServiceExportResponse>, Status> {
        let caller = Caller::of(&request)?.name;
        Ok(Response::new(self.ask_export(&caller, request.get_ref()).await?))
    }

    type DownloadExportStream = export::Pieces;

    async fn download_export(
        &self,
        request: Request<proto::RecipientServiceDownloadExportRequest>,
    ) -> Result<Response<export::Pieces>, Status> {
        let caller = Caller::of(&request)?.name;
        Ok(Response::new(self.fetch_export(&caller, request.get_ref()).await?))
    }
}

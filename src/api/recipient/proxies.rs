//! Who else hears of a patient.

use jiff::Timestamp;

use super::fields::page_size;
use super::{Recipients, show};
use crate::api::convert::{purpose_from, timestamp_to};
use crate::api::error::ApiError;
use crate::api::proto;
use crate::api::validate::Violations;
use crate::domain::Purpose;
use crate::domain::ids::is_opaque;
use crate::record::recipients::{
    Grant, Touch, grant_proxy, list_by_patient, revoke_proxy, set_coming_of_age,
};

impl Recipients {
    pub(super) async fn grant(
        &self,
        caller: &str,
        message: proto::RecipientServiceGrantProxyRequest,
    ) -> Result<proto::RecipientServiceGrantProxyResponse, ApiError> {
        let recipient = message.recipient_id.clone();
        let now = Timestamp::now();
        let grant = grant(message, now)?;
        let view = grant_proxy(&self.pool, Touch { recipient: &recipient, caller }, &grant).await?;
        let access = Some(show::access(view, Timestamp::now()));
        Ok(proto::RecipientServiceGrantProxyResponse { access })
    }

    pub(super) async fn revoke(
        &self,
        caller: &str,
        message: proto::RecipientServiceRevokeProxyRequest,
    ) -> Result<proto::RecipientServiceRevokeProxyResponse, ApiError> {
        let mut faults = Violations::default();
        let patient = faults.patient_id("patient_id", &message.patient_id);
        faults.opaque("recipient_id", &message.recipient_id);
        faults.finish()?;
        let patient = patient.ok_or_else(|| ApiError::invalid("patient_id", "is required"))?;
        let touch = Touch { recipient: &message.recipient_id, caller };
        let revoked = revoke_proxy(&self.pool, touch, &patient).await?;
        Ok(proto::RecipientServiceRevokeProxyResponse { revoked })
    }

    pub(super) async fn set_of_age(
        &self,
        caller: &str,
        message: proto::RecipientServiceSetComingOfAgeRequest,
    ) -> Result<proto::RecipientServiceSetComingOfAgeResponse, ApiError> {
        let mut faults = Violations::default();
        let patient = faults.patient_id("patient_id", &message.patient_id);
        let of_age_at = faults.timestamp("of_age_at", message.of_age_at);
        faults.finish()?;
        let patient = patient.ok_or_else(|| ApiError::invalid("patient_id", "is required"))?;
        set_coming_of_age(&self.pool, caller, &patient, of_age_at).await?;
        Ok(proto::RecipientServiceSetComingOfAgeResponse {})
    }

    pub(super) async fn list_patient(
        &self,
        message: proto::RecipientServiceListByPatientRequest,
    ) -> Result<proto::RecipientServiceListByPatientResponse, ApiError> {
        let mut faults = Violations::default();
        let patient = faults.patient_id("patient_id", &message.patient_id);
        let size = page_size(message.page_size, &mut faults);
        let token = &message.page_token;
        let known = token.is_empty() || is_opaque(token);
        faults.require(known, "page_token", "is not one that ListByPatient answered");
        faults.finish()?;
        let patient = patient.ok_or_else(|| ApiError::invalid("patient_id", "is required"))?;
        let page = list_by_patient(&self.pool, &patient, token, size).await?;
        let now = Timestamp::now();
        Ok(proto::RecipientServiceListByPatientResponse {
            accesses: page.links.into_iter().map(|link| show::access(link, now)).collect(),
            next_page_token: page.next_after.unwrap_or_default(),
            of_age_at: page.of_age_at.map(timestamp_to),
        })
    }
}

fn grant(message: proto::RecipientServiceGrantProxyRequest, now: Timestamp) -> Result<Grant, ApiError> {
    let mut faults = Violations::default();
    let patient_id = faults.patient_id("patient_id", &message.patient_id);
    faults.opaque("recipient_id", &message.recipient_id);
    let valid_from = faults.timestamp("valid_from", message.valid_from);
    let valid_until = faults.timestamp("valid_until", message.valid_until);
    let ahead = valid_until.is_none_or(|end| end > valid_from.unwrap_or(now).max(now));
    faults.require(ahead, "valid_until", "must be in the future and after valid_from");
    let purposes = purposes(&message.purposes, &mut faults);
    let by_patient = faults.required_word("grantor", message.grantor, |grantor| match grantor {
        proto::Grantor::Unspecified => None,
        proto::Grantor::Patient => Some(true),
        proto::Grantor::Representative => Some(false),
    });
    faults.opaque("granted_by", &message.granted_by);
    faults.finish()?;
    let (patient_id, by_patient) =
        patient_id.zip(by_patient).ok_or_else(|| ApiError::invalid("patient_id", "is required"))?;
    Ok(Grant { patient_id, valid_from, valid_until, purposes, by_patient, granted_by: message.granted_by })
}

/// Purposes, none unspecified, none twice.
fn purposes(numbers: &[i32], faults: &mut Violations) -> Vec<Purpose> {
    let mut purposes = Vec::new();
    // Beyond this there is certainly one named twice; it bounds the answer.
    for (index, &number) in numbers.iter().enumerate().take(Purpose::ALL.len() + 1) {
        let field = format!("purposes[{index}]");
        if let Some(purpose) = faults.required_word(&field, number, purpose_from) {
            faults.require(!purposes.contains(&purpose), &field, "names a purpose a second time");
            purposes.push(purpose);
        }
    }
    purposes
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn message() -> proto::RecipientServiceGrantProxyRequest {
        proto::RecipientServiceGrantProxyRequest {
            patient_id: "pat-1".into(),
            recipient_id: "rcp-1".into(),
            valid_from: None,
            valid_until: Some(timestamp_to(now() + SignedDuration::from_hours(1))),
            purposes: vec![proto::Purpose::TestResult.into()],
            grantor: proto::Grantor::Representative.into(),
            granted_by: "portal".into(),
        }
    }

    fn faults(message: proto::RecipientServiceGrantProxyRequest) -> Vec<String> {
        match grant(message, now()) {
            Err(ApiError::Invalid(faults)) => faults.into_iter().map(|fault| fault.field).collect(),
            Err(other) => panic!("{other}"),
            Ok(_) => vec![],
        }
    }

    #[test]
    fn a_grant_says_who_hears_what_and_until_when() {
        let grant = grant(message(), now()).unwrap();
        assert_eq!((grant.purposes, grant.by_patient), (vec![Purpose::TestResult], false));
    }

    #[test]
    fn all_faults_of_a_grant_are_reported_at_once() {
        let bad = proto::RecipientServiceGrantProxyRequest {
            patient_id: "Jane Doe".into(),
            valid_until: Some(timestamp_to(now())),
            purposes: vec![1, 1, 99, 0],
            grantor: 0,
            granted_by: String::new(),
            ..message()
        };
        let expected = [
            "patient_id",
            "valid_until",
            "purposes[1]",
            "purposes[2]",
            "purposes[3]",
            "grantor",
            "granted_by",
        ];
        assert_eq!(faults(bad), expected);
        // It has to end after it begins.
        let begins = Some(timestamp_to(now() + SignedDuration::from_hours(2)));
        assert_eq!(
            faults(proto::RecipientServiceGrantProxyRequest { valid_from: begins, ..message() }),
            ["valid_until"]
        );
    }
}

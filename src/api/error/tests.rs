//! Codes, reasons and details, and what is not told.

use super::*;

#[test]
fn every_fault_of_the_request_is_in_the_details() {
    let status = ApiError::Invalid(vec![
        FieldViolation::new("patient_id", "is required"),
        FieldViolation::new("purpose", "is required"),
    ])
    .into_status();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(status.message(), "request is not valid: patient_id: is required; purpose: is required");
    assert_eq!(status.get_details_bad_request().unwrap().field_violations.len(), 2);
    assert_eq!(status.get_details_error_info().unwrap().reason, "INVALID_REQUEST");
    assert!(status.get_details_retry_info().is_none());
}

#[test]
fn what_passes_tells_when_to_come_back() {
    let passing = [
        (ApiError::NotYetProcessed, Code::Unavailable, "NOT_YET_PROCESSED"),
        (ApiError::KeysAway, Code::Unavailable, "KEYS_UNAVAILABLE"),
        (
            ApiError::KeyNotLookedFor { retry_after: Duration::from_secs(10) },
            Code::Unavailable,
            "KEYS_UNAVAILABLE",
        ),
        (ApiError::Overloaded, Code::ResourceExhausted, "OVERLOADED"),
        (
            ApiError::ProviderAway { channel: Channel::Sms, retry_after: Duration::from_secs(3) },
            Code::Unavailable,
            "PROVIDER_UNAVAILABLE",
        ),
        (WatchError::Broker("x".into()).into(), Code::Unavailable, "BROKER_UNAVAILABLE"),
        (WatchError::Lagged.into(), Code::Aborted, "WATCH_LAGGED"),
        (ApiError::Stopping, Code::Unavailable, "SERVER_STOPPING"),
        (ApiError::StreamEnded, Code::Unavailable, "STREAM_TIME_OVER"),
        (PublishError::Broker("x".into()).into(), Code::Unavailable, "BROKER_UNAVAILABLE"),
        (PublishError::Registry("x".into()).into(), Code::Unavailable, "REGISTRY_UNAVAILABLE"),
        (RecordError::unavailable("x").into(), Code::Unavailable, "DATABASE_UNAVAILABLE"),
    ];
    for (error, code, reason) in passing {
        let status = error.into_status();
        assert_eq!(status.code(), code, "{reason}");
        assert_eq!(status.get_details_error_info().unwrap().reason, reason);
        assert!(status.get_details_retry_info().unwrap().retry_delay.is_some(), "{reason}");
    }
}

#[test]
fn what_is_refused_for_good_says_what_stands_against_it() {
    let status = ApiError::Forbidden(Scope::OperationsAdmin).into_status();
    let info = status.get_details_error_info().unwrap();
    assert_eq!((status.code(), info.reason.as_str()), (Code::PermissionDenied, "SCOPE_MISSING"));
    assert_eq!(info.metadata["scope"], "operations:admin");
    let status = ApiError::OverQuota {
        subject: "portal".into(),
        limit: "100 calls a second".into(),
        retry_after: Duration::from_secs(1),
    }
    .into_status();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(status.get_details_quota_failure().unwrap().violations[0].subject, "portal");
    assert!(status.get_details_retry_info().is_some());
}

#[test]
fn the_inside_is_not_told_to_callers() {
    for error in [
        ApiError::from(RecordError::bug("constraint secret_pkey")),
        PublishError::Refused("secret schema".into()).into(),
        PublishError::Broker("10.0.0.7:9092 secret".into()).into(),
    ] {
        assert!(!error.into_status().message().contains("secret"));
    }
}

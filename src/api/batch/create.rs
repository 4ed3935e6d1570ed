//! `Create`: from a request to a new batch.

use jiff::{SignedDuration, Timestamp};

use crate::api::convert::{minute_from, purpose_from};
use crate::api::error::ApiError;
use crate::api::proto;
use crate::api::template::add_faults;
use crate::api::validate::Violations;
use crate::deliver::Renderer;
use crate::domain::batch::SendWindow;
use crate::domain::{Purpose, Redacted};
use crate::record::batches::NewBatch;

const NAME_MAX_CHARS: usize = 100;
const RATE_DEFAULT_PER_S: i32 = 100;
const RATE_MAX_PER_S: i32 = 100_000;
/// How far ahead a message may expire, as for Send.
const EXPIRES_AT_MAX: SignedDuration = SignedDuration::from_hours(732 * 24);

/// Checks a request.
pub(super) fn new_batch(
    message: proto::BatchServiceCreateRequest,
    caller: String,
    renderer: &Renderer,
    now: Timestamp,
) -> Result<NewBatch, ApiError> {
    let mut faults = Violations::default();
    faults.opaque("idempotency_key", &message.idempotency_key);
    faults.require(!message.name.trim().is_empty(), "name", "is required");
    faults.line("name", &message.name, NAME_MAX_CHARS);
    let purpose = faults.required_word("purpose", message.purpose, purpose_from);
    if let Some(purpose) = purpose {
        let for_many = matches!(purpose, Purpose::General | Purpose::Campaign);
        faults.require(for_many, "purpose", "must be general or campaign");
        let variables: Vec<(String, String)> = message.variables.clone().into_iter().collect();
        add_faults("variables", renderer.faults_anywhere(purpose, &variables), &mut faults);
    }
    let channels = faults.channels("channels", &message.channels);
    let rate = message.rate_per_second;
    faults.require((0..=RATE_MAX_PER_S).contains(&rate), "rate_per_second", "must be 1 to 100000");
    let window = message.window.and_then(|window| window_from(&window, &mut faults));
    faults.require(message.expires_at.is_some(), "expires_at", "is required");
    let expires_at = faults.timestamp("expires_at", message.expires_at);
    if let Some(expires_at) = expires_at {
        faults.require(expires_at > now, "expires_at", "must be in the future");
        let near = expires_at.duration_since(now) <= EXPIRES_AT_MAX;
        faults.require(near, "expires_at", "must be at most 732 days ahead");
    }
    faults.finish()?;
    let (Some(purpose), Some(expires_at)) = (purpose, expires_at) else {
        return Err(ApiError::invalid("purpose", "is required together with expires_at"));
    };
    Ok(NewBatch {
        caller,
        idempotency_key: message.idempotency_key,
        name: message.name,
        purpose,
        channels,
        variables: Redacted::new(message.variables),
        rate_per_s: if rate == 0 { RATE_DEFAULT_PER_S } else { rate },
        window,
        // As the database and the topic keep it.
        expires_at: Timestamp::from_millisecond(expires_at.as_millisecond()).unwrap_or(expires_at),
    })
}

fn window_from(window: &proto::SendWindow, faults: &mut Violations) -> Option<SendWindow> {
    let (start, end) = (minute_from(&window.start), minute_from(&window.end));
    faults.require(start.is_some(), "window.start", "must be HH:MM, 00:00 to 23:59");
    faults.require(end.is_some(), "window.end", "must be HH:MM, 00:00 to 23:59");
    let time_zone = faults.time_zone("window.time_zone", &window.time_zone);
    let (start, end) = start.zip(end)?;
    faults.require(start != end, "window.end", "must differ from start");
    Some(SendWindow { start, end, time_zone })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::convert::timestamp_to;
    use crate::config::Config;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn checked(message: proto::BatchServiceCreateRequest) -> Result<NewBatch, ApiError> {
        let renderer = Renderer::embedded(&Config::from_defaults().plan).unwrap();
        new_batch(message, "portal".to_owned(), &renderer, now())
    }

    fn message() -> proto::BatchServiceCreateRequest {
        proto::BatchServiceCreateRequest {
            idempotency_key: "flu-2026".into(),
            name: "Flu shots".into(),
            purpose: proto::Purpose::Campaign.into(),
            variables: [("topic".to_owned(), "flu_shots".to_owned())].into(),
            expires_at: Some(timestamp_to(now() + SignedDuration::from_hours(48))),
            ..Default::default()
        }
    }

    #[test]
    fn the_least_request_gets_the_defaults() {
        let batch = checked(message()).unwrap();
        assert_eq!((batch.rate_per_s, batch.window, batch.channels.len()), (100, None, 0));
        assert_eq!(batch.variables.expose()["topic"], "flu_shots");
    }

    #[test]
    fn all_faults_are_reported_at_once() {
        let bad = proto::BatchServiceCreateRequest {
            idempotency_key: String::new(),
            name: "two\nlines".into(),
            purpose: proto::Purpose::TestResult.into(),
            variables: [("CANARY".to_owned(), "x".to_owned())].into(),
            channels: vec![1, 1],
            rate_per_second: 100_001,
            window: Some(proto::SendWindow {
                start: "8".into(),
                end: "20:00".into(),
                time_zone: String::new(),
            }),
            expires_at: Some(timestamp_to(now())),
        };
        let Err(ApiError::Invalid(faults)) = checked(bad) else { panic!("not refused") };
        assert!(!format!("{faults:?}").contains("CANARY"));
        let fields: Vec<&str> = faults.iter().map(|fault| fault.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "idempotency_key",
                "name",
                "purpose",
                "variables",
                "channels[1]",
                "rate_per_second",
                "window.start",
                "window.time_zone",
                "expires_at",
            ]
        );
        let bad = proto::BatchServiceCreateRequest {
            variables: [("topic".to_owned(), "CANARY".to_owned())].into(),
            ..message()
        };
        let Err(ApiError::Invalid(faults)) = checked(bad) else { panic!("not refused") };
        let padded = format!("flu_shots{}", " ".repeat(500));
        let variables = [("topic".to_owned(), padded)].into();
        let long = checked(proto::BatchServiceCreateRequest { variables, ..message() });
        assert!(matches!(long, Err(ApiError::Invalid(_))), "the topic's record would not take it");
        assert_eq!(faults[0].field, "variables[topic]");
        assert!(!format!("{faults:?}").contains("CANARY"));
    }
}

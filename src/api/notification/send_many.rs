//! `SendMany`: each item as `Send` takes it, many side by side, one answer at the end.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use prost::Message as _;
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use super::Notifications;
use crate::api::auth::Allowance;
use crate::api::error::ApiError;
use crate::api::guard::stream::Stopping;
use crate::api::guard::{CALL_MAX, Deadline};
use crate::api::proto;
use crate::api::publisher::PublishError;

/// Items that one stream may have; the answer has a line for each.
const ITEMS_MAX: usize = 10_000;
/// Bytes of all items of a stream together.
const PAYLOAD_MAX_BYTES: usize = 64 * 1024 * 1024;
/// Items of a stream that wait for the brokers at once.
const IN_FLIGHT_MAX: usize = 256;
/// How long a stream may still be read once the server stops.
const STOP_MAX: Duration = Duration::from_secs(5);
/// Items with an error that are told every detail; the answer has to fit into the 4 MiB
/// that clients take by default.
const DETAILED_MAX: usize = 500;

/// Why a stream is not read to its end, besides what ends every stream.
enum End {
    TooMany,
    TooLarge,
    Deadline,
    Api(ApiError),
}

impl End {
    fn told(self) -> proto::SendManyError {
        let (code, reason, message) = match self {
            Self::TooMany => (
                Code::OutOfRange,
                "TOO_MANY_ITEMS",
                "a stream has at most 10,000 items; send the rest by another",
            ),
            Self::TooLarge => (
                Code::OutOfRange,
                "STREAM_TOO_LARGE",
                "a stream has at most 64 MiB; send the rest by another",
            ),
            Self::Deadline => return told(ApiError::DeadlineExceeded.into_status()),
            Self::Api(error) => return told(error.into_status()),
        };
        proto::SendManyError {
            code: code.into(),
            reason: reason.to_owned(),
            message: message.to_owned(),
            ..Default::default()
        }
    }
}

/// The form that an error has within an answer.
fn told(status: Status) -> proto::SendManyError {
    let details = status.get_error_details();
    let (reason, metadata) =
        details.error_info().map(|info| (info.reason.clone(), info.metadata.clone())).unwrap_or_default();
    let violations = details.bad_request().map_or(&[][..], |faults| &faults.field_violations);
    proto::SendManyError {
        code: status.code().into(),
        reason,
        // The violations say it field by field.
        message: if violations.is_empty() { status.message().to_owned() } else { String::new() },
        violations: violations
            .iter()
            .map(|fault| proto::FieldViolation {
                field: fault.field.clone(),
                description: fault.description.clone(),
            })
            .collect(),
        retry_after: details
            .retry_info()
            .and_then(|info| info.retry_delay)
            .and_then(|delay| prost_types::Duration::try_from(delay).ok()),
        metadata: metadata.into_iter().collect(),
    }
}

/// The answer while it is being made.
#[derive(Default)]
struct Results {
    all: Vec<proto::SendManyResult>,
    accepted: usize,
    refused: usize,
    /// What is away: the rest of the stream is not read.
    away: Option<ApiError>,
}

impl Results {
    fn add(&mut self, index: usize, result: Result<proto::NotificationServiceSendResponse, ApiError>) {
        let index = i32::try_from(index).unwrap_or(i32::MAX);
        match result {
            Ok(sent) => {
                self.accepted += 1;
                self.all.push(proto::SendManyResult {
                    index,
                    notification_id: sent.notification_id,
                    consistency_token: sent.consistency_token,
                    error: None,
                });
            }
            Err(error) => {
                self.refused += 1;
                if let ApiError::Publish(why @ (PublishError::Broker(_) | PublishError::Registry(_))) = &error
                {
                    self.away.get_or_insert_with(|| why.clone().into());
                }
                let mut error = told(error.into_status());
                if self.refused > DETAILED_MAX {
                    error.message.clear();
                    error.violations.clear();
                }
                let notification_id = error.metadata.get("notification_id").cloned().unwrap_or_default();
                self.all.push(proto::SendManyResult {
                    index,
                    notification_id,
                    error: Some(error),
                    ..Default::default()
                });
            }
        }
    }

    fn answer(mut self, end: Option<End>) -> proto::NotificationServiceSendManyResponse {
        self.all.sort_unstable_by_key(|result| result.index);
        let count = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
        proto::NotificationServiceSendManyResponse {
            accepted: count(self.accepted),
            refused: count(self.refused),
            results: self.all,
            end: end.map(End::told),
        }
    }
}

/// Who sends.
pub(super) struct By {
    pub(super) caller: String,
    pub(super) allowance: Allowance,
}

/// Takes a stream over.
///
/// # Errors
/// When the client's stream itself fails: an item that is too large or cannot be
/// decoded, or a connection that is gone.
pub(super) async fn run(
    service: &Notifications,
    by: &By,
    mut items: Streaming<proto::NotificationServiceSendManyRequest>,
    deadline: Deadline,
    stopping: Stopping,
) -> Result<proto::NotificationServiceSendManyResponse, Status> {
    let (until, idle) = (deadline.for_work(), service.means.stream_idle);
    let stop = async {
        stopping.begun().await;
        tokio::time::sleep(STOP_MAX).await;
    };
    tokio::pin!(stop);
    let mut results = Results::default();
    let mut under_way = FuturesUnordered::new();
    let (mut count, mut bytes) = (0_usize, 0_usize);
    let end = loop {
        if let Some(error) = results.away.take() {
            break Some(End::Api(error));
        }
        let full = under_way.len() >= IN_FLIGHT_MAX;
        let item = tokio::select! {
            Some((index, result)) = under_way.next() => {
                results.add(index, result);
                continue;
            }
            item = timeout(idle, items.message()), if !full => item,
            () = &mut stop => break Some(End::Api(ApiError::Stopping)),
            () = sleep_until(until) => break Some(End::Deadline),
        };
        let Ok(item) = item else { break Some(End::Api(ApiError::StreamIdle(idle))) };
        let Some(item) = item? else { break None };
        bytes += item.encoded_len();
        if count == ITEMS_MAX {
            break Some(End::TooMany);
        }
        if bytes > PAYLOAD_MAX_BYTES {
            break Some(End::TooLarge);
        }
        let index = count;
        count += 1;
        let end = until.min(Instant::now() + CALL_MAX);
        under_way.push(async move {
            let result = match item.item {
                Some(item) => service.take_over(item, by.caller.clone(), &by.allowance, end).await,
                None => Err(ApiError::invalid("item", "is required")),
            };
            (index, result)
        });
    };
    // Each of them has its own end in sight.
    while let Some((index, result)) = under_way.next().await {
        results.add(index, result);
    }
    // Their own time ends with the call's: what was away is the better word.
    let end = match (end, results.away.take()) {
        (Some(End::Deadline), Some(away)) => Some(End::Api(away)),
        (end, _) => end,
    };
    Ok(results.answer(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_fits_into_what_clients_take_by_default() {
        let faults = |n: usize| {
            let fault = tonic_types::FieldViolation::new("variables", "x".repeat(100));
            ApiError::Invalid(vec![fault; n])
        };
        let mut bad = Results::default();
        let mut good = Results::default();
        for index in 0..ITEMS_MAX {
            bad.add(index, Err(faults(15)));
            good.add(
                index,
                Ok(proto::NotificationServiceSendResponse {
                    notification_id: "x".repeat(36),
                    consistency_token: "x".repeat(160),
                }),
            );
        }
        for results in [bad, good] {
            let bytes = results.answer(Some(End::TooMany)).encoded_len();
            assert!(bytes < 4 * 1024 * 1024, "{bytes}");
        }
    }

    #[test]
    fn results_are_in_order_and_an_absent_dependency_ends_the_stream() {
        let mut results = Results::default();
        results.add(2, Err(PublishError::Broker("x".into()).into()));
        results.add(0, Err(ApiError::invalid("purpose", "is required")));
        results.add(1, Ok(proto::NotificationServiceSendResponse::default()));
        let end = results.away.take().map(End::Api);
        let answer = results.answer(end);
        let places: Vec<i32> = answer.results.iter().map(|result| result.index).collect();
        assert_eq!((places, answer.accepted, answer.refused), (vec![0, 1, 2], 1, 2));
        let end = answer.end.unwrap();
        assert_eq!((end.code, end.reason.as_str()), (Code::Unavailable.into(), "BROKER_UNAVAILABLE"));
        assert!(end.retry_after.is_some());
        let invalid = answer.results[0].error.as_ref().unwrap();
        assert_eq!(
            (invalid.reason.as_str(), invalid.violations[0].field.as_str()),
            ("INVALID_REQUEST", "purpose")
        );
    }
}

//! Bounds of every call: how many at once, and until when. Streams have places and a
//! longest time of their own, see [`stream`].

mod seats;
pub mod stream;

use std::sync::Arc;
use std::time::Duration;

use axum::http::{self, HeaderMap};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::body::Body;

use super::error::ApiError;
use super::traced::Traced;
use crate::metrics;
use seats::{Seat, Seats};

/// Longest time of a call, and the time of one whose caller set no deadline.
pub const CALL_MAX: Duration = Duration::from_secs(10);
/// What is kept of a call's time for the way back, so that the caller reads our
/// answer and not its own deadline.
const WAY_BACK: Duration = Duration::from_millis(100);

/// A call as it comes.
pub(super) type Request = http::Request<Body>;
/// Its answer.
pub(super) type Response = http::Response<Body>;

/// When a call must be answered.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    begun: Instant,
    end: Instant,
}

impl Deadline {
    fn after(timeout: Duration, longest: Duration) -> Self {
        let begun = Instant::now();
        Self { begun, end: begun + timeout.min(longest) }
    }

    /// The deadline of a call that came through `call`.
    #[must_use]
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get().copied().unwrap_or_else(|| Self::after(CALL_MAX, CALL_MAX))
    }

    /// Has it come too late?
    fn has_passed(self) -> bool {
        Instant::now() >= self.end
    }

    /// Until when the work may last: a little less than the deadline, at most a tenth.
    #[must_use]
    pub fn for_work(self) -> Instant {
        self.end - self.way_back()
    }

    /// When a call that is not answered is ended. The server below ends it at its
    /// deadline too, with CANCELLED and nothing else: we come before.
    fn for_answer(self) -> Instant {
        self.end - self.way_back() / 2
    }

    fn way_back(self) -> Duration {
        WAY_BACK.min((self.end - self.begun) / 10)
    }
}

/// What all calls of a server share.
#[derive(Debug)]
pub struct Bounds {
    calls: Semaphore,
    streams: Arc<Semaphore>,
    seats: Seats,
    shutdown: CancellationToken,
}

impl Bounds {
    /// At most so many calls with one answer, so many streams, and so many of them a
    /// caller, at once. Streams are told to resume elsewhere when `shutdown` is cancelled.
    #[must_use]
    pub fn new(
        calls: usize,
        (streams, streams_a_caller): (usize, usize),
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            calls: Semaphore::new(calls),
            streams: Arc::new(Semaphore::new(streams)),
            seats: Seats::new(streams_a_caller),
            shutdown,
        }
    }

    /// Takes one of the streams that this caller may hold, for a stream that came through
    /// [`stream::run`].
    ///
    /// # Errors
    /// [`ApiError::OverQuota`] when it holds all of them.
    pub(super) fn seat(&self, request: &Request, caller: &str) -> Result<(), ApiError> {
        request.extensions().get::<Seat>().map_or(Ok(()), |seat| self.seats.take(seat, caller))
    }
}

/// One request, one answer: refused when too many are under way, ended at its deadline.
/// A method that the contract does not know is `other` on metrics: a caller cannot make
/// up new labels.
pub(super) async fn call<Answering: Future<Output = Response>>(
    bounds: &Bounds,
    method: &'static str,
    mut request: Request,
    next: impl FnOnce(Request) -> Answering,
) -> Response {
    let deadline = Deadline::after(timeout(request.headers()).unwrap_or(CALL_MAX), CALL_MAX);
    let traced = Traced::begin(method, request.headers());
    let answer = match bounds.calls.try_acquire() {
        // Nobody waits for it any more.
        _ if deadline.has_passed() => refusal(ApiError::DeadlineExceeded),
        Ok(_place) => {
            request.extensions_mut().insert(deadline);
            let answered = match &traced {
                Some(traced) => timeout_at(deadline.for_answer(), traced.run(next(request))).await,
                None => timeout_at(deadline.for_answer(), next(request)).await,
            };
            answered.unwrap_or_else(|_| refusal(ApiError::DeadlineExceeded))
        }
        Err(_) => refusal(ApiError::Overloaded),
    };
    let code = code_of(answer.headers());
    metrics::grpc_request(method, code_name(code), deadline.begun.elapsed());
    if let Some(traced) = traced {
        traced.end(code, code_name(code));
    }
    answer
}

pub(super) fn refusal(error: ApiError) -> Response {
    error.into_status().into_http()
}

/// An error's code stands in the headers, or in the trailers; the code of an answer
/// with a body comes after it, and there is such an answer only when the call went well.
fn code_of(headers: &HeaderMap) -> Code {
    headers.get("grpc-status").map_or(Code::Ok, |status| Code::from_bytes(status.as_bytes()))
}

/// The contract's name of a code.
const fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

/// `grpc-timeout`: up to eight digits and a unit; `None` when there is none to be read.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_timeout_is_read() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            timeout(&headers)
        };
        assert_eq!(read("1500m"), Some(Duration::from_millis(1500)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for bad in ["", "S", "123456789S", "-1S", "+1S", "1s", "1.5S"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }

    #[test]
    fn errors_are_counted_by_name() {
        let refused = refusal(ApiError::Overloaded);
        assert_eq!(code_name(code_of(refused.headers())), "RESOURCE_EXHAUSTED");
        assert_eq!(code_name(code_of(&HeaderMap::new())), "OK");
    }

    #[tokio::test]
    async fn no_call_lasts_longer_than_the_bound() {
        let deadline = Deadline::after(Duration::from_secs(3600), CALL_MAX);
        assert_eq!(deadline.end - deadline.begun, CALL_MAX);
        assert_eq!(deadline.end - deadline.for_work(), WAY_BACK);
        let short = Deadline::after(Duration::from_millis(100), CALL_MAX);
        assert_eq!(short.end - short.for_work(), Duration::from_millis(10));
        assert_eq!(short.end - short.for_answer(), Duration::from_millis(5));
    }
}

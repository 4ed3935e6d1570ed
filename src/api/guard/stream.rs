//! Bounds of streams: places of their own, a longest time of their own, and a word
//! to the client when the server stops, so that it resumes elsewhere.
//!
//! A server stream is told at once when the server stops. A client stream is given
//! [`CALL_MAX`] to be finished; its service can ask [`Stopping`] and answer earlier
//! with what it has.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use axum::http::HeaderMap;
use futures::future::BoxFuture;
use http_body::Frame;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Status};

use super::seats::Seat;
use super::{Bounds, CALL_MAX, Deadline, Request, Response, code_name, code_of, refusal, timeout};
use crate::api::error::ApiError;
use crate::metrics;

/// Longest time of a stream, also of one whose caller set no deadline: then it is
/// opened again, and clients spread over new pods.
pub const STREAM_MAX: Duration = Duration::from_secs(30 * 60);
/// Frames that a stream may still give after the stop: a finished answer is one
/// message and its trailers.
const LAST_FRAMES: u8 = 2;

/// Tells a service that streams are to come to their end, because the server stops.
#[derive(Debug, Clone)]
pub struct Stopping(CancellationToken);

impl Stopping {
    /// The one of a call that came through `run`; never, for others.
    #[must_use]
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        request.extensions().get().cloned().unwrap_or_else(|| Self(CancellationToken::new()))
    }

    /// Ends when the server has begun to stop.
    pub async fn begun(&self) {
        self.0.cancelled().await;
    }
}

/// A stream in its place; what it held is free again when it is dropped.
struct Open {
    method: &'static str,
    code: Code,
    _place: OwnedSemaphorePermit,
    _seat: Seat,
}

impl Drop for Open {
    fn drop(&mut self) {
        metrics::grpc_streams(self.method, -1);
        metrics::grpc_stream_ended(self.method, code_name(self.code));
    }
}

/// Runs a stream within its bounds.
pub(in crate::api) async fn run<Answering: Future<Output = Response>>(
    bounds: &Bounds,
    method: &'static str,
    mut request: Request,
    next: impl FnOnce(Request) -> Answering,
) -> Response {
    let Ok(place) = Arc::clone(&bounds.streams).try_acquire_owned() else {
        metrics::grpc_stream_ended(method, code_name(Code::ResourceExhausted));
        return refusal(ApiError::Overloaded);
    };
    metrics::grpc_streams(method, 1);
    // A client that goes away drops this, and whatever it awaits.
    let seat = Seat::default();
    let mut open = Open { method, code: Code::Cancelled, _place: place, _seat: seat.clone() };
    let asked = timeout(request.headers());
    let deadline = Deadline::after(asked.unwrap_or(STREAM_MAX), STREAM_MAX);
    let at_the_end = move || match asked {
        Some(asked) if asked <= STREAM_MAX => ApiError::DeadlineExceeded,
        _ => ApiError::StreamEnded,
    };
    request.extensions_mut().insert(deadline.clone());
    request.extensions_mut().insert(seat);
    request.extensions_mut().insert(Stopping(bounds.shutdown.clone()));
    let stop = bounds.shutdown.clone();
    let drained = async {
        stop.cancelled().await;
        sleep(CALL_MAX).await;
    };
    let answer = tokio::select! {
        biased;
        // Nobody waits for it any more.
        () = std::future::ready(()), if deadline.has_passed() => refusal(at_the_end()),
        answer = next(request) => answer,
        () = sleep_until(deadline.for_answer()) => refusal(at_the_end()),
        () = drained => refusal(ApiError::Stopping),
    };
    if answer.headers().contains_key("grpc-status") {
        open.code = code_of(answer.headers());
        return answer;
    }
    let ending: BoxFuture<'static, ApiError> = Box::pin(async move {
        tokio::select! {
            () = stop.cancelled_owned() => ApiError::Stopping,
            () = sleep_until(deadline.for_answer()) => at_the_end(),
        }
    });
    answer.map(|inner| Body::new(Bounded { inner, ending: Some(ending), last: None, open }))
}

/// The messages of a stream, which can be told to end.
struct Bounded {
    inner: Body,
    /// Why it has to end; `None` once it had to.
    ending: Option<BoxFuture<'static, ApiError>>,
    /// The status that it ends with, and the frames that it may give before.
    last: Option<(HeaderMap, u8)>,
    open: Open,
}

impl Bounded {
    /// Looks whether it has to end.
    fn look(&mut self, cx: &mut Context<'_>) {
        if let Some(ending) = &mut self.ending
            && let Poll::Ready(error) = ending.as_mut().poll(cx)
        {
            self.ending = None;
            let mut trailers = HeaderMap::new();
            // A status of ours has only what fits a header.
            let _ = error.into_status().add_header(&mut trailers);
            self.last = Some((trailers, LAST_FRAMES));
        }
    }

    fn end(&mut self) -> Option<Result<Frame<Bytes>, Status>> {
        let (trailers, _) = self.last.take()?;
        self.open.code = code_of(&trailers);
        self.inner = Body::empty();
        Some(Ok(Frame::trailers(trailers)))
    }
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.look(cx);
        match &mut self.last {
            Some((_, 0)) => return Poll::Ready(self.end()),
            Some((_, left)) => *left -= 1,
            None => {}
        }
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if polled.is_pending() && self.last.is_some() {
            return Poll::Ready(self.end());
        }
        let frame = ready!(polled);
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.open.code = code_of(trailers);
            (self.ending, self.last) = (None, None);
        }
        Poll::Ready(frame)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{StreamExt as _, stream};
    use tokio::sync::Semaphore;

    use super::*;

    fn open(places: &Arc<Semaphore>) -> Open {
        let place = Arc::clone(places).try_acquire_owned().unwrap();
        Open { method: "test", code: Code::Cancelled, _place: place, _seat: Seat::default() }
    }

    /// The messages that a client gets of an endless, ready stream or one that waits,
    /// after the stop; and the status.
    async fn ended(inner: Body, stop: CancellationToken) -> (usize, Code) {
        let places = Arc::new(Semaphore::new(1));
        let ending: BoxFuture<'static, ApiError> = Box::pin(async move {
            stop.cancelled().await;
            ApiError::Stopping
        });
        let bounded = Bounded { inner, ending: Some(ending), last: None, open: open(&places) };
        let mut body = Body::new(bounded);
        assert_eq!(places.available_permits(), 0);
        let mut messages = 0;
        let mut code = Code::Unknown;
        while let Some(frame) =
            std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.transpose().unwrap()
        {
            match frame.trailers_ref() {
                Some(trailers) => code = code_of(trailers),
                None => messages += 1,
            }
        }
        drop(body);
        assert_eq!(places.available_permits(), 1, "its place is free again");
        (messages, code)
    }

    fn messages(endless: bool) -> Body {
        let ready = stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(b"m")));
        if endless {
            Body::new(axum::body::Body::from_stream(ready))
        } else {
            Body::new(axum::body::Body::from_stream(ready.take(1).chain(stream::pending())))
        }
    }

    #[tokio::test]
    async fn a_stream_is_told_that_the_server_stops_whether_it_waits_or_never_does() {
        let stop = CancellationToken::new();
        stop.cancel();
        assert_eq!(ended(messages(true), stop.clone()).await, (usize::from(LAST_FRAMES), Code::Unavailable));
        assert_eq!(ended(messages(false), stop).await, (1, Code::Unavailable));
    }

    #[tokio::test]
    async fn a_stream_that_waits_is_woken() {
        let stop = CancellationToken::new();
        let told = tokio::spawn(ended(messages(false), stop.clone()));
        tokio::task::yield_now().await;
        stop.cancel();
        assert_eq!(told.await.unwrap(), (1, Code::Unavailable));
    }
}

//! Who is let in, and when: a call has a place only once it has proved where it comes from.
//! Until then it costs no more than what it has sent, and not for long.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::request::Parts;
use futures::StreamExt as _;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use super::Answer;

/// Longest time for a body to come: providers send theirs at once.
const BODY_READ_MAX: Duration = Duration::from_secs(2);
/// What all calls of one kind that are not known yet may take, in bytes.
const UNPROVEN_MAX_BYTES: usize = 32 * 1024 * 1024;
/// What such a call counts for before it has sent anything, in bytes: so there are at most
/// 4,096 of them.
const CALL_BYTES: usize = 8 * 1024;

/// The way in of one kind of calls.
pub(super) struct Gate {
    body_max_bytes: usize,
    unproven: Semaphore,
    places: Semaphore,
}

/// A call with its body, of which nothing else is known yet. What it takes is given back
/// when it is dropped.
pub(super) struct Unproven<'a> {
    pub head: Parts,
    pub body: Bytes,
    _held: SemaphorePermit<'a>,
}

impl Unproven<'_> {
    /// As it came, whole.
    pub(super) fn into_request(self) -> Request {
        Request::from_parts(self.head, Body::from(self.body))
    }
}

impl Gate {
    /// With so many places, for bodies of at most so many bytes.
    pub(super) const fn new(places: usize, body_max_bytes: usize) -> Self {
        Self::bounded(places, body_max_bytes, UNPROVEN_MAX_BYTES)
    }

    const fn bounded(places: usize, body_max_bytes: usize, unproven_max_bytes: usize) -> Self {
        Self {
            body_max_bytes,
            unproven: Semaphore::const_new(unproven_max_bytes),
            places: Semaphore::const_new(places),
        }
    }

    /// Reads the body of a call.
    ///
    /// # Errors
    /// `Slow` after two seconds, `BadBody` when it is too long or breaks off, and
    /// `Overloaded` when too much is being read.
    pub(super) async fn read(&self, request: Request) -> Result<Unproven<'_>, Answer> {
        let deadline = Instant::now() + BODY_READ_MAX;
        let mut held = self.hold(CALL_BYTES)?;
        let (head, body) = request.into_parts();
        let mut chunks = body.into_data_stream();
        let mut whole = Vec::new();
        while let Some(chunk) = timeout_at(deadline, chunks.next()).await.map_err(|_| Answer::Slow)? {
            let chunk = chunk.map_err(|_| Answer::BadBody(StatusCode::BAD_REQUEST))?;
            if whole.len() + chunk.len() > self.body_max_bytes {
                return Err(Answer::BadBody(StatusCode::PAYLOAD_TOO_LARGE));
            }
            held.merge(self.hold(chunk.len())?);
            whole.extend_from_slice(&chunk);
        }
        Ok(Unproven { head, body: whole.into(), _held: held })
    }

    /// A place for a call that has proved where it comes from.
    ///
    /// # Errors
    /// `Overloaded` when all are taken.
    pub(super) fn enter(&self) -> Result<SemaphorePermit<'_>, Answer> {
        self.places.try_acquire().map_err(|_| Answer::Overloaded)
    }

    fn hold(&self, bytes: usize) -> Result<SemaphorePermit<'_>, Answer> {
        let bytes = u32::try_from(bytes).map_err(|_| Answer::Overloaded)?;
        self.unproven.try_acquire_many(bytes).map_err(|_| Answer::Overloaded)
    }
}

#[cfg(test)]
mod tests {
    use futures::stream;

    use super::*;

    fn of(body: Body) -> Request {
        Request::new(body)
    }

    async fn read(gate: &Gate, body: Body) -> Result<usize, Answer> {
        gate.read(of(body)).await.map(|call| call.body.len())
    }

    #[tokio::test]
    async fn what_is_not_known_yet_is_bounded_by_bytes_and_time() {
        let gate = Gate::bounded(1, 100, 2 * CALL_BYTES + 100);
        let too_long = Answer::BadBody(StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(read(&gate, Body::from(vec![0; 101])).await, Err(too_long));
        let first = gate.read(of(Body::from(vec![0; 60]))).await.unwrap();
        assert_eq!(read(&gate, Body::from(vec![0; 60])).await, Err(Answer::Overloaded), "60 + 60 > 100");
        let second = gate.read(of(Body::from(vec![0; 40]))).await.unwrap();
        assert_eq!(read(&gate, Body::empty()).await, Err(Answer::Overloaded), "a call counts by itself");
        drop((first, second));
        let begun = Instant::now();
        let silent = || Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(read(&gate, silent()).await, Err(Answer::Slow));
        assert!(begun.elapsed() >= BODY_READ_MAX);
        assert_eq!(read(&gate, Body::from(vec![0; 100])).await, Ok(100), "all is given back");
    }
}

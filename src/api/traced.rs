//! The trace of a call: its caller's, or one that begins with it; and what the call
//! publishes goes on in it.

use axum::http::HeaderMap;
use tonic::Code;

use crate::trace::{self, Kind, Span, TRACEPARENT, TraceContext};

tokio::task_local! {
    static CALL: TraceContext;
}

/// The context that what this call publishes follows from; `None` where there is no trace.
#[must_use]
pub fn of_this_call() -> Option<TraceContext> {
    CALL.try_with(|context| *context).ok()
}

/// A call with a trace.
pub(super) struct Traced {
    span: Span,
    /// What goes on from here. Nothing does in a trace that begins here and is not sampled:
    /// what it would lead to decides for itself.
    goes_on: Option<TraceContext>,
}

impl Traced {
    /// `None`: its caller gave none, and nobody looks at those that begin here.
    pub(super) fn begin(method: &'static str, headers: &HeaderMap) -> Option<Self> {
        let given = headers.get(TRACEPARENT).and_then(|value| TraceContext::parse(value.as_bytes()));
        let from = given.or_else(trace::begin)?;
        let span = match given {
            Some(_) => Span::begin(method, Kind::Server, from),
            None => Span::root(method, Kind::Server, from, from.span_id),
        };
        let goes_on = (given.is_some() || from.sampled).then(|| span.context(from));
        Some(Self { span, goes_on })
    }

    /// Works on the call within its trace.
    pub(super) async fn run<T>(&self, work: impl Future<Output = T>) -> T {
        match self.goes_on {
            Some(context) => CALL.scope(context, work).await,
            None => work.await,
        }
    }

    /// Which codes are the server's failure: OpenTelemetry, "Semantic conventions for
    /// gRPC", section on the server's status.
    pub(super) fn end(self, code: Code, code_name: &'static str) {
        let span = self.span.with("rpc.system", "grpc").with("rpc.grpc.status_code", code as i64);
        match code {
            Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => span.fail(code_name),
            _ => span.end(),
        }
    }
}

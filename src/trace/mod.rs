//! Traces: what was done for one notification, by whichever process, as spans of the
//! trace of whoever asked for it.
//!
//! - A trace comes with a record's or a call's `traceparent`, is kept with the notification
//!   and goes on with its status changes. Where nobody gave one, its id follows from the
//!   notification's, so no process has to ask another.
//! - Sampled by head: the producer's word counts; without one the trace's id decides, so
//!   that all processes decide alike. What failed is always kept.
//! - Spans hold identifiers and words of ours; never an address, a name or content.
//!
//! Spans are built as data and given to the batch processor of the OpenTelemetry SDK: one
//! statement or one batch serves many traces, so there is no "current span" to follow.

mod context;
mod export;
mod span;

pub use context::{Hex, TRACEPARENT, TraceContext, span_of};
pub use export::{TraceError, Traces, is_on, start};
pub use span::{Kind, Span};

use crate::domain::NotificationId;

/// The trace of a notification. `given`: what whoever asked for it gave with it.
#[must_use]
pub fn of_notification(id: NotificationId, given: Option<TraceContext>) -> TraceContext {
    context::of_notification(id, given, export::is_sampled)
}

/// A trace that begins here, for a call whose caller has none; `None` while nobody looks.
#[must_use]
pub fn begin() -> Option<TraceContext> {
    export::is_on().then(|| {
        let trace_id = nonzero();
        TraceContext { trace_id, span_id: nonzero(), sampled: export::is_sampled(&trace_id) }
    })
}

/// Random bytes, not all of them zero, which would be no id.
fn nonzero<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    while bytes == [0; N] {
        rand::fill(&mut bytes[..]);
    }
    bytes
}

//! One thing that was done, with its times.

use std::time::SystemTime;

use opentelemetry::trace::{SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

use super::context::TraceContext;
use super::{export, nonzero};

/// Most attributes of a span.
const ATTRIBUTES_MAX: usize = 16;

/// What a span is to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It answers a call.
    Server,
    /// It calls somebody.
    Client,
    /// It reads a record.
    Consumer,
    /// It writes a record.
    Producer,
    /// It works.
    Internal,
}

/// A span that has begun. It is kept only once it ends, and only if its trace is sampled or
/// it failed; while nobody looks at traces, nothing is gathered.
#[derive(Debug)]
pub struct Span {
    open: Option<Box<Open>>,
}

#[derive(Debug)]
struct Open {
    /// The trace, and the span that this one follows from.
    context: TraceContext,
    own_id: [u8; 8],
    is_remote: bool,
    name: &'static str,
    kind: Kind,
    begun: SystemTime,
    ended: Option<SystemTime>,
    attributes: Vec<KeyValue>,
}

impl Span {
    /// Begins behind the span of `context`.
    #[must_use]
    pub fn begin(name: &'static str, kind: Kind, context: TraceContext) -> Self {
        Self::with_id(name, kind, context, nonzero)
    }

    /// Begins as the span with this id, behind what came from outside: the root of what
    /// other processes will add.
    #[must_use]
    pub fn root(name: &'static str, kind: Kind, from: TraceContext, own_id: [u8; 8]) -> Self {
        let mut span = Self::with_id(name, kind, from, || own_id);
        if let Some(open) = &mut span.open {
            // A trace that begins here has nothing before it.
            open.is_remote = from.span_id != own_id;
        }
        span
    }

    fn with_id(
        name: &'static str,
        kind: Kind,
        context: TraceContext,
        own_id: impl FnOnce() -> [u8; 8],
    ) -> Self {
        let open = export::is_on().then(|| {
            Box::new(Open {
                context,
                own_id: own_id(),
                is_remote: false,
                name,
                kind,
                begun: SystemTime::now(),
                ended: None,
                attributes: Vec::new(),
            })
        });
        Self { open }
    }

    /// It had begun before it was known to which trace it belongs.
    #[must_use]
    pub fn since(mut self, begun: SystemTime) -> Self {
        if let Some(open) = &mut self.open {
            open.begun = begun;
        }
        self
    }

    /// It was over before it is told of.
    #[must_use]
    pub fn until(mut self, ended: SystemTime) -> Self {
        if let Some(open) = &mut self.open {
            open.ended = Some(ended);
        }
        self
    }

    /// Adds what it is about: an identifier or a word of ours, never a patient's.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<opentelemetry::Value>) -> Self {
        if let Some(open) = &mut self.open
            && open.attributes.len() < ATTRIBUTES_MAX
        {
            open.attributes.push(KeyValue::new(name, value));
        }
        self
    }

    /// As [`Span::with`], for what has to be written as text first: only if somebody looks.
    #[must_use]
    pub fn with_text(self, name: &'static str, value: &dyn std::fmt::Display) -> Self {
        if self.open.is_none() {
            return self;
        }
        self.with(name, value.to_string())
    }

    /// The context of what follows from it. While nobody looks: that of what it followed from.
    #[must_use]
    pub fn context(&self, otherwise: TraceContext) -> TraceContext {
        self.open.as_ref().map_or(otherwise, |open| open.context.behind(open.own_id))
    }

    /// It went well.
    pub fn end(self) {
        self.finish(None);
    }

    /// It failed: why, in a word of ours. It is kept whatever the sampling says.
    pub fn fail(self, why: &'static str) {
        self.finish(Some(why));
    }

    fn finish(self, failed: Option<&'static str>) {
        let Some(open) = self.open else { return };
        if open.context.sampled || failed.is_some() {
            export::keep(open.into_data(failed));
        }
    }
}

impl Open {
    fn into_data(self, failed: Option<&'static str>) -> SpanData {
        let Self { context, own_id, is_remote, name, kind, begun, ended, mut attributes } = self;
        let parent =
            if context.span_id == own_id { SpanId::INVALID } else { SpanId::from_bytes(context.span_id) };
        let status = failed.map_or(Status::Unset, |why| {
            attributes.push(KeyValue::new("error.type", why));
            Status::error(why)
        });
        // Whatever comes here is to be exported.
        let flags = TraceFlags::SAMPLED;
        let trace_id = TraceId::from_bytes(context.trace_id);
        SpanData {
            span_context: SpanContext::new(
                trace_id,
                SpanId::from_bytes(own_id),
                flags,
                false,
                TraceState::default(),
            ),
            parent_span_id: parent,
            parent_span_is_remote: is_remote,
            span_kind: kind.into(),
            name: name.into(),
            start_time: begun,
            end_time: ended.unwrap_or_else(SystemTime::now).max(begun),
            attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status,
            instrumentation_scope: InstrumentationScope::builder(env!("CARGO_PKG_NAME")).build(),
        }
    }
}

impl From<Kind> for SpanKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Server => Self::Server,
            Kind::Client => Self::Client,
            Kind::Consumer => Self::Consumer,
            Kind::Producer => Self::Producer,
            Kind::Internal => Self::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(context: TraceContext, own_id: [u8; 8]) -> Box<Open> {
        Box::new(Open {
            context,
            own_id,
            is_remote: true,
            name: "deliver",
            kind: Kind::Client,
            begun: SystemTime::now(),
            ended: None,
            attributes: Vec::new(),
        })
    }

    #[test]
    fn a_failure_says_why_and_a_root_has_no_parent() {
        let context = TraceContext { trace_id: [1; 16], span_id: [2; 8], sampled: false };
        let data = open(context, [3; 8]).into_data(Some("provider_timeout"));
        assert_eq!(data.status, Status::error("provider_timeout"));
        assert_eq!(data.parent_span_id, SpanId::from_bytes([2; 8]));
        assert!(data.span_context.is_sampled(), "an error is kept");
        assert_eq!(data.attributes, [KeyValue::new("error.type", "provider_timeout")]);
        let root = open(context, [2; 8]).into_data(None);
        assert_eq!((root.parent_span_id, root.status), (SpanId::INVALID, Status::Unset));
    }

    #[test]
    fn nothing_is_gathered_while_nobody_looks() {
        let context = TraceContext { trace_id: [1; 16], span_id: [2; 8], sampled: true };
        let span = Span::begin("plan", Kind::Internal, context).with("channel", "sms");
        assert!(span.open.is_none());
        assert_eq!(span.context(context), context);
        span.fail("render_failed");
    }
}

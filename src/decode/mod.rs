//! Bytes → event: the registry's wire format, the writer's schema by its id,
//! resolved to ours, and then field by field into the domain's types.
//!
//! Two steps, so that a message costs no await: [`Decoder::prepare`] fetches the
//! schemas that a batch needs, [`Decoder::decode`] does the rest.

use std::io::{self, Read};

use apache_avro::types::Value;
use thiserror::Error;

use crate::config;
use crate::domain::{Event, NotificationUpdate, Reason, StatusChanged};

mod fields;
mod inspect;
mod notification;
#[cfg(test)]
pub(crate) mod stub_registry;
mod status;
mod test_result;
#[cfg(test)]
mod tests;
mod update;
mod wire;
mod writers;

pub use inspect::NotReadable;
use writers::{Verdict, Writers};

/// Which event a topic holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// `TestResultPublished`.
    TestResult,
    /// `NotificationRequested`, bulk or not.
    Notification,
}

/// Which of our records a value is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    TestResult,
    Notification,
    Update,
    Status,
}

impl Shape {
    /// Every shape, in the order of [`Shape::index`].
    const ALL: [Self; 4] = [Self::TestResult, Self::Notification, Self::Update, Self::Status];

    const fn index(self) -> usize {
        match self {
            Self::TestResult => 0,
            Self::Notification => 1,
            Self::Update => 2,
            Self::Status => 3,
        }
    }
}

/// A record that can never be decoded: a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{reason}: {detail}")]
pub struct Rejected {
    /// The class, for the dead letter's header and for metrics.
    pub reason: Reason,
    /// For people: names of fields and words of ours, never a value of the record.
    pub detail: String,
}

impl Rejected {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

/// The schema registry cannot say now whether a record can be decoded. Nothing
/// of it is cached; the offset stays, and the same batch is prepared again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("schema {schema_id} cannot be fetched from the schema registry now: {detail}")]
pub struct Unavailable {
    /// The id that was asked for.
    pub schema_id: u32,
    /// What went wrong.
    pub detail: String,
}

/// Decodes records; one a process, shared by all partitions.
pub struct Decoder {
    writers: Writers,
    payload_max_bytes: usize,
}

impl Decoder {
    /// A decoder that asks this registry and accepts values of at most
    /// `payload_max_bytes`.
    ///
    /// # Errors
    /// When no HTTP client can be made of the registry's settings.
    pub fn new(registry: &config::Registry, payload_max_bytes: usize) -> Result<Self, Unavailable> {
        // A length prefix in a damaged record asks for memory before the bytes
        // are there. An item takes at least one byte on the wire and less than
        // 128 in memory, so no record within the bound needs more than this.
        apache_avro::util::max_allocation_bytes(payload_max_bytes.saturating_mul(128));
        Ok(Self { writers: Writers::new(registry)?, payload_max_bytes })
    }

    /// True when the schema of this id is in hand, or known not to exist.
    #[must_use]
    pub fn cached(&self, schema_id: u32) -> bool {
        self.writers.has(schema_id)
    }

    /// Fetches every schema that these values need and that is not in hand, each
    /// once. Values that [`Decoder::decode`] rejects without a schema are passed over.
    ///
    /// # Errors
    /// [`Unavailable`] when the registry did not answer; what it did answer is kept.
    pub async fn prepare(&self, payloads: impl Iterator<Item = &[u8]>) -> Result<(), Unavailable> {
        let missing = self.writers.missing(
            payloads
                .filter(|payload| payload.len() <= self.payload_max_bytes)
                .filter_map(|payload| wire::split(payload).ok())
                .map(|(schema_id, _)| schema_id),
        );
        if missing.is_empty() {
            return Ok(());
        }
        self.writers.fetch(missing).await
    }

    /// Decodes one event. Its batch must have been prepared.
    ///
    /// # Errors
    /// [`Rejected`] when it can never be decoded.
    pub fn decode(&self, kind: RecordKind, payload: Option<&[u8]>) -> Result<Event, Rejected> {
        match kind {
            RecordKind::TestResult => {
                test_result::from_value(self.value(Shape::TestResult, payload)?).map(Event::TestResult)
            }
            RecordKind::Notification => {
                notification::from_value(self.value(Shape::Notification, payload)?).map(Event::Notification)
            }
        }
    }

    /// Decodes one `NotificationUpdate`. Its batch must have been prepared.
    ///
    /// # Errors
    /// [`Rejected`] when it can never be decoded.
    pub fn decode_update(&self, payload: Option<&[u8]>) -> Result<NotificationUpdate, Rejected> {
        update::from_value(self.value(Shape::Update, payload)?)
    }

    /// Decodes one `NotificationStatusChanged`; `None` when a newer writer tells of
    /// something that this version has no word for. Its batch must have been prepared.
    ///
    /// # Errors
    /// [`Rejected`] when it can never be decoded.
    pub fn decode_status(&self, payload: Option<&[u8]>) -> Result<Option<StatusChanged>, Rejected> {
        status::from_value(self.value(Shape::Status, payload)?)
    }

    fn value(&self, shape: Shape, payload: Option<&[u8]>) -> Result<Value, Rejected> {
        let payload = payload.filter(|bytes| !bytes.is_empty());
        let payload =
            payload.ok_or_else(|| Rejected::new(Reason::EmptyPayload, "the record has no value"))?;
        if payload.len() > self.payload_max_bytes {
            let detail = format!("{} bytes, at most {} are decoded", payload.len(), self.payload_max_bytes);
            return Err(Rejected::new(Reason::PayloadTooLarge, detail));
        }
        let (schema_id, body) = wire::split(payload)?;
        let writer = match self.writers.get(schema_id) {
            Some(Verdict::Writer(writer)) => writer,
            Some(Verdict::Refused(rejected)) => return Err(rejected),
            None => {
                let detail = format!("schema {schema_id} was not prepared");
                return Err(Rejected::new(Reason::UnknownSchema, detail));
            }
        };
        let mut body = Body { rest: body, ended_early: false };
        let value = writer.reader(shape)?.read_value(&mut body);
        if body.ended_early {
            return Err(undecodable(schema_id, "the value ends too early"));
        }
        // The library's own error may quote the value: it must not be passed on.
        let value = value.map_err(|_| undecodable(schema_id, "the bytes do not fit it"))?;
        if !body.rest.is_empty() {
            let what = format!("{} bytes are left over", body.rest.len());
            return Err(undecodable(schema_id, &what));
        }
        Ok(value)
    }
}

fn undecodable(schema_id: u32, what: &str) -> Rejected {
    Rejected::new(Reason::Undecodable, format!("writer's schema {schema_id}: {what}"))
}

/// The datum's bytes. apache-avro takes the end of the input for a null where a
/// string, a boolean or a union stands, so that a truncated record could pass for
/// a whole one: we remember whether it asked for more than there was.
struct Body<'a> {
    rest: &'a [u8],
    ended_early: bool,
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.ended_early |= self.rest.is_empty() && !buffer.is_empty();
        self.rest.read(buffer)
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.ended_early |= self.rest.len() < buffer.len();
        self.rest.read_exact(buffer)
    }
}

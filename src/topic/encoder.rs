//! Event → bytes in the registry's wire format, under the id that our schema has
//! in the registry. Nothing is registered here: that is `schemas apply`.

mod alike;

pub use alike::Alike;

use std::sync::LazyLock;

use apache_avro::Schema;
use apache_avro::types::Value;
use apache_avro::writer::datum::GenericDatumWriter;
use jiff::Timestamp;
use thiserror::Error;
use tokio::sync::OnceCell;

use crate::config;
use crate::domain::{
    DeliveryRef, Fact, NotificationRequested, NotificationUpdate, PatientId, ReceiptStatus, ResultUrgency,
    StatusChanged, TestResultPublished, contract,
};

use super::names::{self, Topic};
use super::registry::{Registry, RegistryError};

/// Why a record could not be encoded.
#[derive(Debug, Error)]
pub enum EncodeError {
    /// The registry gave no id; nothing of this is cached, so try again.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Our schema is not in the registry.
    #[error("our schema of {subject} is not in the schema registry: run `patient-notify schemas apply`")]
    NotRegistered {
        /// The subject.
        subject: String,
    },
    /// The event does not fit our schema: a bug.
    #[error("a {record} does not fit its schema")]
    Unencodable {
        /// Name of the record.
        record: &'static str,
    },
}

/// Encodes the records that we write; one a process.
pub struct Encoder {
    registry: Registry,
    prefix: String,
    /// By the topic's place in [`names::ALL`]. A schema never changes its id.
    ids: [OnceCell<u32>; names::ALL.len()],
}

impl Encoder {
    /// An encoder for the topics under a prefix. Asks the registry when an id is
    /// needed for the first time.
    ///
    /// # Errors
    /// When no HTTP client can be made of the registry's settings.
    pub fn new(registry: &config::Registry, topic_prefix: &str) -> Result<Self, EncodeError> {
        Ok(Self {
            registry: Registry::new(registry)?,
            prefix: topic_prefix.to_owned(),
            ids: Default::default(),
        })
    }

    /// The id that our schema has under a topic's subject.
    ///
    /// # Errors
    /// When the registry does not answer, or does not have it.
    pub async fn schema_id(&self, topic: &Topic) -> Result<u32, EncodeError> {
        let subject = topic.subject(&self.prefix);
        let place = names::ALL.iter().position(|known| known.name == topic.name);
        let schema = topic.schema.and_then(contract::text_of);
        let (Some(place), Some(schema)) = (place, schema) else {
            return Err(EncodeError::NotRegistered { subject });
        };
        let id = self.ids[place].get_or_try_init(|| self.find(&subject, schema)).await?;
        Ok(*id)
    }

    async fn find(&self, subject: &str, schema: &str) -> Result<u32, EncodeError> {
        let version = self.registry.look_up(subject, schema).await?;
        let version = version.ok_or_else(|| EncodeError::NotRegistered { subject: subject.to_owned() })?;
        Ok(version.id)
    }

    /// A value for `pat.test-results.v1`.
    ///
    /// # Errors
    /// As [`Encoder::schema_id`].
    pub async fn test_result(&self, event: &TestResultPublished) -> Result<Vec<u8>, EncodeError> {
        let id = self.schema_id(&names::TEST_RESULTS).await?;
        wire(&TEST_RESULT, id, test_result(event), "TestResultPublished")
    }

    /// A value for [`names::NOTIFICATIONS`] or [`names::NOTIFICATIONS_BULK`].
    ///
    /// # Errors
    /// As [`Encoder::schema_id`].
    pub async fn notification(
        &self,
        topic: &Topic,
        event: &NotificationRequested,
    ) -> Result<Vec<u8>, EncodeError> {
        let id = self.schema_id(topic).await?;
        wire(&NOTIFICATION, id, notification(event), "NotificationRequested")
    }

    /// A value for `pat.notification-updates.v1`.
    ///
    /// # Errors
    /// As [`Encoder::schema_id`]; [`EncodeError::Unencodable`] for [`Fact::Unknown`],
    /// which is only ever read.
    pub async fn update(&self, update: &NotificationUpdate) -> Result<Vec<u8>, EncodeError> {
        const NAME: &str = "NotificationUpdate";
        let id = self.schema_id(&names::NOTIFICATION_UPDATES).await?;
        let parts = Parts::of(&update.fact).ok_or(EncodeError::Unencodable { record: NAME })?;
        wire(&UPDATE, id, parts.record(update), NAME)
    }

    /// A value for `pat.notification-status.v1`.
    ///
    /// # Errors
    /// As [`Encoder::schema_id`].
    pub async fn status(&self, event: &StatusChanged) -> Result<Vec<u8>, EncodeError> {
        let id = self.schema_id(&names::NOTIFICATION_STATUS).await?;
        wire(&STATUS, id, status(event), "NotificationStatusChanged")
    }
}

type Writer = GenericDatumWriter<'static>;

static TEST_RESULT: LazyLock<Writer> = LazyLock::new(|| writer(contract::TEST_RESULTS));
static NOTIFICATION: LazyLock<Writer> = LazyLock::new(|| writer(contract::NOTIFICATIONS));
static UPDATE: LazyLock<Writer> = LazyLock::new(|| writer(contract::NOTIFICATION_UPDATES));
static STATUS: LazyLock<Writer> = LazyLock::new(|| writer(contract::NOTIFICATION_STATUS));

/// A writer with one of our schemas, which live as long as the process.
fn writer(schema: &'static str) -> Writer {
    const SOUND: &str = "avro/ is embedded, and a test parses each of its files";
    let schema = Box::leak(Box::new(Schema::parse_str(schema).expect(SOUND)));
    GenericDatumWriter::builder(schema).build().expect(SOUND)
}

fn wire(writer: &Writer, id: u32, record: Value, name: &'static str) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Vec::with_capacity(192);
    bytes.push(0);
    bytes.extend_from_slice(&id.to_be_bytes());
    // The library's error may quote the value: it must not be passed on.
    writer.write_value(&mut bytes, record).map_err(|_| EncodeError::Unencodable { record: name })?;
    Ok(bytes)
}

fn test_result(event: &TestResultPublished) -> Value {
    let urgency = match event.urgency {
        ResultUrgency::Normal => "normal",
        ResultUrgency::Abnormal => "abnormal",
        ResultUrgency::Critical => "critical",
    };
    record([
        ("result_id", text(&event.result_id)),
        ("version", Value::Int(event.version)),
        ("patient_id", text(event.patient_id.as_str())),
        ("facility_id", text(&event.facility_id)),
        ("category", text(event.category.expose())),
        ("urgency", text(urgency)),
        ("released_at", time(event.released_at)),
        ("available_at", time(event.available_at)),
    ])
}

fn notification(event: &NotificationRequested) -> Value {
    let variables = event.variables.expose().iter().map(|(name, value)| (name.clone(), text(value)));
    record([
        ("caller", text(&event.caller)),
        ("idempotency_key", text(&event.idempotency_key)),
        ("patient_id", text(event.patient_id.as_str())),
        ("recipient", optional(event.recipient.as_deref().map(text))),
        ("purpose", text(event.purpose.as_str())),
        ("urgency", text(event.urgency.as_str())),
        ("channels", Value::Array(event.channels.iter().map(|channel| text(channel.as_str())).collect())),
        ("strategy", text(event.strategy.as_str())),
        ("send_at", optional(event.send_at.map(time))),
        ("expires_at", optional(event.expires_at.map(time))),
        ("variables", Value::Map(variables.collect())),
        ("requested_at", time(event.requested_at)),
    ])
}

/// The fields of a `NotificationUpdate` that some kinds have and others do not.
#[derive(Default)]
struct Parts<'a> {
    kind: &'static str,
    notification_id: Option<String>,
    delivery_id: Option<String>,
    provider_message_id: Option<&'a str>,
    recipient: Option<&'a str>,
    channel: Option<&'static str>,
    purpose: Option<&'static str>,
    receipt: Option<&'static str>,
    engagement: Option<&'static str>,
    provider_code: Option<&'a str>,
    caller: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn of(fact: &'a Fact) -> Option<Self> {
        let none = Self::default();
        Some(match fact {
            Fact::Receipt { delivery, status, code } => {
                let (delivery_id, provider_message_id) = match delivery {
                    DeliveryRef::Id(id) => (Some(id.to_string()), None),
                    DeliveryRef::ProviderMessage(id) => (None, Some(id.as_str())),
                };
                let (kind, receipt) = match status {
                    ReceiptStatus::TokenInvalid => ("token_invalid", None),
                    status => ("receipt", Some(status.as_str())),
                };
                let provider_code = code.as_deref();
                Self { kind, delivery_id, provider_message_id, receipt, provider_code, ..none }
            }
            Fact::Engaged { notification_id, engagement } => Self {
                kind: "engagement",
                notification_id: Some(notification_id.to_string()),
                engagement: Some(engagement.as_str()),
                ..none
            },
            Fact::Consent { recipient, channel, purpose, granted } => Self {
                kind: if *granted { "opt_in" } else { "opt_out" },
                recipient: Some(recipient),
                channel: channel.map(|channel| channel.as_str()),
                purpose: purpose.map(|purpose| purpose.as_str()),
                ..none
            },
            Fact::Cancelled { notification_id, caller } => Self {
                kind: "cancel",
                notification_id: Some(notification_id.to_string()),
                caller: caller.as_deref(),
                ..none
            },
            Fact::Unknown => return None,
        })
    }

    fn record(self, update: &NotificationUpdate) -> Value {
        let word = |word: Option<&str>| optional(word.map(text));
        record([
            ("update_id", text(&update.update_id)),
            ("kind", text(self.kind)),
            ("occurred_at", time(update.occurred_at)),
            ("source", text(&update.source)),
            ("patient_id", word(update.patient_id.as_ref().map(PatientId::as_str))),
            ("notification_id", word(self.notification_id.as_deref())),
            ("delivery_id", word(self.delivery_id.as_deref())),
            ("provider_message_id", word(self.provider_message_id)),
            ("recipient", word(self.recipient)),
            ("channel", word(self.channel)),
            ("purpose", word(self.purpose)),
            ("receipt", word(self.receipt)),
            ("engagement", word(self.engagement)),
            ("provider_code", word(self.provider_code)),
            ("caller", word(self.caller)),
        ])
    }
}

fn status(event: &StatusChanged) -> Value {
    record([
        ("notification_id", text(&event.notification_id.to_string())),
        ("patient_id", text(event.patient_id.as_str())),
        ("recipient_id", text(&event.recipient_id.to_string())),
        ("purpose", text(event.purpose.as_str())),
        ("sequence", Value::Int(event.sequence)),
        ("state", text(event.state.as_str())),
        ("reason", text(event.reason.as_str())),
        ("channel", optional(event.channel.map(|channel| text(channel.as_str())))),
        ("caller", optional(event.caller.as_deref().map(text))),
        ("changed_at", time(event.changed_at)),
    ])
}

fn record<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Record(fields.map(|(name, value)| (name.to_owned(), value)).into())
}

/// A string; where the schema has an enum, its symbol.
fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

fn time(at: Timestamp) -> Value {
    Value::TimestampMillis(at.as_millisecond())
}

/// A union of null (first) and something.
fn optional(value: Option<Value>) -> Value {
    match value {
        None => Value::Union(0, Box::new(Value::Null)),
        Some(value) => Value::Union(1, Box::new(value)),
    }
}

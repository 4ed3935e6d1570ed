//! Event → bytes in the registry's wire format, under the id that our schema has
//! in the registry. Nothing is registered here: that is `schemas apply`.

mod alike;

pub use alike::Alike;

use std::sync::LazyLock;

use apache_avro::Schema;
use apache_avro::writer::datum::GenericDatumWriter;
use jiff::Timestamp;
use serde::ser::{Serialize, Serializer};
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
        let place = names::ALL.iter().position(|known| known.name == topic.name);
        if let Some(id) = place.and_then(|place| self.ids[place].get()) {
            return Ok(*id);
        }
        let subject = topic.subject(&self.prefix);
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
        wire(&TEST_RESULT, id, &TestResult::of(event), "TestResultPublished")
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
        wire(&NOTIFICATION, id, &Notification::of(event), "NotificationRequested")
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
        wire(&UPDATE, id, &parts.record(update), NAME)
    }

    /// A value for `pat.notification-status.v1`.
    ///
    /// # Errors
    /// As [`Encoder::schema_id`].
    pub async fn status(&self, event: &StatusChanged) -> Result<Vec<u8>, EncodeError> {
        let id = self.schema_id(&names::NOTIFICATION_STATUS).await?;
        wire(&STATUS, id, &Status::of(event), "NotificationStatusChanged")
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

fn wire(
    writer: &Writer,
    id: u32,
    record: &impl Serialize,
    name: &'static str,
) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Vec::with_capacity(192);
    bytes.push(0);
    bytes.extend_from_slice(&id.to_be_bytes());
    // The library's error may quote the value: it must not be passed on.
    writer.write_ser(&mut bytes, record).map_err(|_| EncodeError::Unencodable { record: name })?;
    Ok(bytes)
}

// The records with their fields in the schemas' order. They borrow what they write.

#[derive(serde::Serialize)]
struct TestResult<'a> {
    result_id: &'a str,
    version: i32,
    patient_id: &'a str,
    facility_id: &'a str,
    category: &'a str,
    urgency: Symbol,
    released_at: Millis,
    available_at: Millis,
}

impl<'a> TestResult<'a> {
    fn of(event: &'a TestResultPublished) -> Self {
        let urgency = match event.urgency {
            ResultUrgency::Normal => "normal",
            ResultUrgency::Abnormal => "abnormal",
            ResultUrgency::Critical => "critical",
        };
        Self {
            result_id: &event.result_id,
            version: event.version,
            patient_id: event.patient_id.as_str(),
            facility_id: &event.facility_id,
            category: event.category.expose(),
            urgency: Symbol(urgency),
            released_at: Millis(event.released_at),
            available_at: Millis(event.available_at),
        }
    }
}

#[derive(serde::Serialize)]
struct Notification<'a> {
    caller: &'a str,
    idempotency_key: &'a str,
    patient_id: &'a str,
    recipient: Option<&'a str>,
    purpose: Symbol,
    urgency: Symbol,
    channels: Vec<Symbol>,
    strategy: Symbol,
    send_at: Option<Millis>,
    expires_at: Option<Millis>,
    variables: Variables<'a>,
    requested_at: Millis,
}

impl<'a> Notification<'a> {
    fn of(event: &'a NotificationRequested) -> Self {
        Self {
            caller: &event.caller,
            idempotency_key: &event.idempotency_key,
            patient_id: event.patient_id.as_str(),
            recipient: event.recipient.as_deref(),
            purpose: Symbol(event.purpose.as_str()),
            urgency: Symbol(event.urgency.as_str()),
            channels: event.channels.iter().map(|channel| Symbol(channel.as_str())).collect(),
            strategy: Symbol(event.strategy.as_str()),
            send_at: event.send_at.map(Millis),
            expires_at: event.expires_at.map(Millis),
            variables: Variables(event.variables.expose()),
            requested_at: Millis(event.requested_at),
        }
    }
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

    fn record(&'a self, update: &'a NotificationUpdate) -> Update<'a> {
        Update {
            update_id: &update.update_id,
            kind: Symbol(self.kind),
            occurred_at: Millis(update.occurred_at),
            source: &update.source,
            patient_id: update.patient_id.as_ref().map(PatientId::as_str),
            notification_id: self.notification_id.as_deref(),
            delivery_id: self.delivery_id.as_deref(),
            provider_message_id: self.provider_message_id,
            recipient: self.recipient,
            channel: self.channel.map(Symbol),
            purpose: self.purpose.map(Symbol),
            receipt: self.receipt.map(Symbol),
            engagement: self.engagement.map(Symbol),
            provider_code: self.provider_code,
            caller: self.caller,
        }
    }
}

#[derive(serde::Serialize)]
struct Update<'a> {
    update_id: &'a str,
    kind: Symbol,
    occurred_at: Millis,
    source: &'a str,
    patient_id: Option<&'a str>,
    notification_id: Option<&'a str>,
    delivery_id: Option<&'a str>,
    provider_message_id: Option<&'a str>,
    recipient: Option<&'a str>,
    channel: Option<Symbol>,
    purpose: Option<Symbol>,
    receipt: Option<Symbol>,
    engagement: Option<Symbol>,
    provider_code: Option<&'a str>,
    caller: Option<&'a str>,
}

#[derive(serde::Serialize)]
struct Status<'a> {
    notification_id: String,
    patient_id: &'a str,
    recipient_id: String,
    purpose: Symbol,
    sequence: i32,
    state: Symbol,
    reason: &'static str,
    channel: Option<Symbol>,
    caller: Option<&'a str>,
    changed_at: Millis,
}

impl<'a> Status<'a> {
    fn of(event: &'a StatusChanged) -> Self {
        Self {
            notification_id: event.notification_id.to_string(),
            patient_id: event.patient_id.as_str(),
            recipient_id: event.recipient_id.to_string(),
            purpose: Symbol(event.purpose.as_str()),
            sequence: event.sequence,
            state: Symbol(event.state.as_str()),
            reason: event.reason.as_str(),
            channel: event.channel.map(|channel| Symbol(channel.as_str())),
            caller: event.caller.as_deref(),
            changed_at: Millis(event.changed_at),
        }
    }
}

/// A symbol of the enum that the schema has there.
struct Symbol(&'static str);

impl Serialize for Symbol {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        // The library finds a symbol by its word where the index says nothing.
        to.serialize_unit_variant("", u32::MAX, self.0)
    }
}

/// A time in milliseconds.
struct Millis(Timestamp);

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_i64(self.0.as_millisecond())
    }
}

/// Values by name.
struct Variables<'a>(&'a [(String, String)]);

impl Serialize for Variables<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

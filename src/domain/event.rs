//! What the topics tell us, after decoding.

use jiff::Timestamp;

use super::ids::PatientId;
use super::notification::{Channel, Purpose, Strategy, Urgency};
use super::redacted::Redacted;

/// A decoded record.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A laboratory released a result.
    TestResult(TestResultPublished),
    /// Somebody wants a message sent.
    Notification(NotificationRequested),
}

impl Event {
    /// The patient whom it is about.
    #[must_use]
    pub const fn patient_id(&self) -> &PatientId {
        match self {
            Self::TestResult(event) => &event.patient_id,
            Self::Notification(event) => &event.patient_id,
        }
    }
}

/// How a laboratory flags a result. It never reaches the patient's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResultUrgency {
    /// Within the reference range.
    Normal,
    /// Outside of it.
    Abnormal,
    /// A clinician must act at once.
    Critical,
}

impl ResultUrgency {
    /// The urgency of the patient's message.
    #[must_use]
    pub const fn notification_urgency(self) -> Urgency {
        match self {
            Self::Normal => Urgency::Normal,
            Self::Abnormal => Urgency::High,
            Self::Critical => Urgency::Critical,
        }
    }
}

/// A result can be seen in the portal, or will be at `available_at`.
/// It carries identifiers and times, never a value.
#[derive(Debug, Clone, PartialEq)]
pub struct TestResultPublished {
    /// The laboratory's identifier of the result, opaque.
    pub result_id: String,
    /// Grows with each correction of the same result; from 1.
    pub version: i32,
    /// Whose result it is.
    pub patient_id: PatientId,
    /// The facility that released it, opaque.
    pub facility_id: String,
    /// Kind of test (for example `laboratory`, `imaging`); never shown to the patient.
    pub category: Redacted<String>,
    /// The laboratory's flag.
    pub urgency: ResultUrgency,
    /// When the laboratory released it.
    pub released_at: Timestamp,
    /// From when on the patient may see it (embargo); at or before now: at once.
    pub available_at: Timestamp,
}

/// A request for one message to the recipients of one patient.
#[derive(Debug, Clone, PartialEq)]
pub struct NotificationRequested {
    /// Who asks: the caller's name, opaque.
    pub caller: String,
    /// The caller's key: the same key is the same notification.
    pub idempotency_key: String,
    /// Whom it is about.
    pub patient_id: PatientId,
    /// One recipient of the patient by the portal's identifier; `None`: the patient.
    pub recipient: Option<String>,
    /// What it is for.
    pub purpose: Purpose,
    /// How soon.
    pub urgency: Urgency,
    /// Channels in order; empty: the recipient's own order.
    pub channels: Vec<Channel>,
    /// How they are used.
    pub strategy: Strategy,
    /// Not before; `None`: at once.
    pub send_at: Option<Timestamp>,
    /// Too late to be useful; `None`: the purpose's default.
    pub expires_at: Option<Timestamp>,
    /// Values for the template's variables (name, value), allow-listed a template.
    pub variables: Redacted<Vec<(String, String)>>,
    /// When the caller asked.
    pub requested_at: Timestamp,
}

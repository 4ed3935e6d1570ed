//! The nouns: identifiers, events, recipients, notifications and their states.
//!
//! Pure data. No I/O, no clock, no dependency on another room.

pub mod appointment;
pub mod batch;
mod case;
pub mod contract;
pub mod event;
mod fingerprint;
mod fold;
pub mod ids;
pub mod job;
pub mod keyword;
pub mod notification;
pub mod outcome;
pub mod recipient;
pub mod redacted;
pub mod status;
pub mod update;

pub use case::{Case, Change, Due, Escalation, Leg, Own, Windows};
pub use event::{Event, NotificationRequested, ResultUrgency, TestResultPublished};
pub use fingerprint::{fingerprint, request_fingerprint};
pub use fold::{Receipt, Standing};
pub use ids::{BatchId, DeliveryId, NotificationId, PatientId, RecipientId};
pub use keyword::Keyword;
pub use notification::{Channel, HoldReason, Purpose, Reason, State, Strategy, Urgency};
pub use outcome::Outcome;
pub use recipient::{Access, ContactPoint, Platform, QuietHours, Recipient, Relation};
pub use redacted::Redacted;
pub use status::StatusChanged;
pub use update::{DeliveryRef, Engagement, Fact, NotificationUpdate, ReceiptStatus};

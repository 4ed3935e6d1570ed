//! The nouns: identifiers, events, recipients, notifications and their states.
//!
//! Pure data. No I/O, no clock, no dependency on another room.

pub mod contract;
pub mod event;
pub mod ids;
pub mod notification;
pub mod outcome;
pub mod recipient;
pub mod redacted;
pub mod status;

pub use event::{Event, NotificationRequested, ResultUrgency, TestResultPublished};
pub use ids::{DeliveryId, NotificationId, PatientId, RecipientId};
pub use notification::{Channel, HoldReason, Purpose, Reason, State, Urgency};
pub use outcome::Outcome;
pub use recipient::{ContactPoint, QuietHours, Recipient, Relation};
pub use redacted::Redacted;
pub use status::StatusChanged;

//! What other systems learn about a notification.

use jiff::Timestamp;

use super::ids::{NotificationId, PatientId, RecipientId};
use super::notification::{Channel, Purpose, Reason, State};

/// The state of a notification changed; an outbox row on its way to
/// `pat.notification-status.v1`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusChanged {
    /// Which notification.
    pub notification_id: NotificationId,
    /// Whom it is about; also the record's key.
    pub patient_id: PatientId,
    /// Who is written to.
    pub recipient_id: RecipientId,
    /// What it is for.
    pub purpose: Purpose,
    /// 1 for the first state, one more with each change.
    pub sequence: i32,
    /// The new state.
    pub state: State,
    /// Why.
    pub reason: Reason,
    /// The channel that brought the change; `None`: none did.
    pub channel: Option<Channel>,
    /// Who asked for the notification; `None`: it came from a test result.
    pub caller: Option<String>,
    /// When, by the database's clock.
    pub changed_at: Timestamp,
}

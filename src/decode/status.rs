//! `NotificationStatusChanged` of `pat.notification-status.v1`.

use apache_avro::types::Value;

use crate::domain::{Channel, NotificationId, Purpose, Reason, RecipientId, State, StatusChanged};

use super::Rejected;
use super::fields::Fields;

/// `None`: a newer writer's purpose, state or reason.
pub(super) fn from_value(record: Value) -> Result<Option<StatusChanged>, Rejected> {
    let mut fields = Fields::of(record)?;
    let notification_id = NotificationId(fields.uuid("notification_id")?);
    let patient_id = fields.patient_id("patient_id")?;
    let recipient_id = RecipientId(fields.uuid("recipient_id")?);
    let purpose = Purpose::parse(&fields.symbol("purpose")?);
    let sequence = fields.int("sequence")?;
    let state = State::parse(&fields.symbol("state")?);
    let reason = Reason::parse(&fields.text("reason")?);
    let channel = fields.optional_symbol("channel")?.as_deref().and_then(Channel::parse);
    let caller = fields.optional_opaque("caller")?;
    let changed_at = fields.timestamp("changed_at")?;
    let (Some(purpose), Some(state), Some(reason)) = (purpose, state, reason) else { return Ok(None) };
    Ok(Some(StatusChanged {
        notification_id,
        patient_id,
        recipient_id,
        purpose,
        sequence,
        state,
        reason,
        channel,
        caller,
        changed_at,
    }))
}

//! `NotificationUpdate` of `pat.notification-updates.v1`.

use apache_avro::types::Value;

use crate::domain::{
    Channel, DeliveryId, DeliveryRef, Engagement, Fact, NotificationId, NotificationUpdate, PatientId,
    Purpose, ReceiptStatus,
};

use super::Rejected;
use super::fields::{Fields, unusable};

const PROVIDER_MESSAGE_ID_MAX_CHARS: usize = 256;
const PROVIDER_CODE_MAX_CHARS: usize = 64;
/// What a symbol that we do not know resolves to.
const UNKNOWN: &str = "unknown";

/// The optional parts, of which each kind needs some.
struct Parts {
    patient_id: Option<PatientId>,
    notification_id: Option<NotificationId>,
    delivery_id: Option<DeliveryId>,
    provider_message_id: Option<String>,
    recipient: Option<String>,
    channel: Option<String>,
    purpose: Option<String>,
    receipt: Option<String>,
    engagement: Option<String>,
    provider_code: Option<String>,
    caller: Option<String>,
}

pub(super) fn from_value(record: Value) -> Result<NotificationUpdate, Rejected> {
    let mut fields = Fields::of(record)?;
    let update_id = fields.opaque("update_id")?;
    let kind = fields.symbol("kind")?;
    let occurred_at = fields.timestamp("occurred_at")?;
    let source = fields.opaque("source")?;
    let parts = Parts {
        patient_id: fields.optional_patient_id("patient_id")?,
        notification_id: fields.optional_uuid("notification_id")?.map(NotificationId),
        delivery_id: fields.optional_uuid("delivery_id")?.map(DeliveryId),
        provider_message_id: fields
            .optional_printable("provider_message_id", PROVIDER_MESSAGE_ID_MAX_CHARS)?,
        recipient: fields.optional_opaque("recipient")?,
        channel: fields.optional_symbol("channel")?,
        purpose: fields.optional_symbol("purpose")?,
        receipt: fields.optional_symbol("receipt")?,
        engagement: fields.optional_symbol("engagement")?,
        provider_code: fields.optional_printable("provider_code", PROVIDER_CODE_MAX_CHARS)?,
        caller: fields.optional_opaque("caller")?,
    };
    let patient_id = parts.patient_id.clone();
    let fact = fact(&kind, parts)?;
    Ok(NotificationUpdate { update_id, occurred_at, source, patient_id, fact })
}

fn fact(kind: &str, parts: Parts) -> Result<Fact, Rejected> {
    match kind {
        "receipt" => receipt(parts),
        "token_invalid" => Ok(Fact::Receipt {
            delivery: delivery(parts.delivery_id, parts.provider_message_id)?,
            status: ReceiptStatus::TokenInvalid,
            code: parts.provider_code,
        }),
        "engagement" => {
            let notification_id = needed("notification_id", "an engagement", parts.notification_id)?;
            let engagement = needed("engagement", "an engagement", parts.engagement)?;
            // A newer writer's word.
            Ok(Engagement::parse(&engagement)
                .map_or(Fact::Unknown, |engagement| Fact::Engaged { notification_id, engagement }))
        }
        "opt_out" | "opt_in" => consent(kind == "opt_in", parts),
        "cancel" => Ok(Fact::Cancelled {
            notification_id: needed("notification_id", "a cancellation", parts.notification_id)?,
            caller: parts.caller,
        }),
        _ => Ok(Fact::Unknown),
    }
}

fn receipt(parts: Parts) -> Result<Fact, Rejected> {
    let status = needed("receipt", "a receipt", parts.receipt)?;
    let delivery = delivery(parts.delivery_id, parts.provider_message_id)?;
    // A newer writer's word.
    Ok(ReceiptStatus::parse(&status).map_or(Fact::Unknown, |status| Fact::Receipt {
        delivery,
        status,
        code: parts.provider_code,
    }))
}

fn consent(granted: bool, parts: Parts) -> Result<Fact, Rejected> {
    let recipient = needed("recipient", "an opt_out or opt_in", parts.recipient)?;
    let unknown = |word: &Option<String>| word.as_deref() == Some(UNKNOWN);
    // Narrower than this version can express: taken as said of everything, an
    // opt-in would grant too much. An opt-out for everything is the safe reading.
    if granted && (unknown(&parts.channel) || unknown(&parts.purpose)) {
        return Ok(Fact::Unknown);
    }
    Ok(Fact::Consent {
        recipient,
        channel: parts.channel.as_deref().and_then(Channel::parse),
        purpose: parts.purpose.as_deref().and_then(Purpose::parse),
        granted,
    })
}

fn delivery(id: Option<DeliveryId>, provider_message: Option<String>) -> Result<DeliveryRef, Rejected> {
    id.map(DeliveryRef::Id)
        .or(provider_message.map(|message| {
            // An e-mail's Message-ID is ours, and names the delivery.
            DeliveryId::in_message_id(&message).map_or(DeliveryRef::ProviderMessage(message), DeliveryRef::Id)
        }))
        .ok_or_else(|| unusable("delivery_id", "null, and so is provider_message_id; one is needed"))
}

fn needed<T>(field: &'static str, what: &str, value: Option<T>) -> Result<T, Rejected> {
    value.ok_or_else(|| unusable(field, &format!("null, and {what} needs it")))
}

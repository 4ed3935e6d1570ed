//! `NotificationRequested` of `pat.notifications.v1` and its bulk twin.

use apache_avro::types::Value;

use crate::domain::{Channel, NotificationRequested, Purpose, Redacted, Strategy, Urgency};

use super::Rejected;
use super::fields::{Fields, unusable};

const CHANNELS_MAX: usize = 8;
const VARIABLES_MAX: usize = 20;
const VARIABLE_NAME_MAX_CHARS: usize = 64;
const VARIABLE_VALUE_MAX_CHARS: usize = 500;
/// What a symbol that we do not know resolves to.
const UNKNOWN: &str = "unknown";

pub(super) fn from_value(record: Value) -> Result<NotificationRequested, Rejected> {
    let mut fields = Fields::of(record)?;
    let request = NotificationRequested {
        caller: fields.opaque("caller")?,
        idempotency_key: fields.opaque("idempotency_key")?,
        patient_id: fields.patient_id("patient_id")?,
        recipient: fields.optional_opaque("recipient")?,
        purpose: Purpose::parse(&fields.symbol("purpose")?).ok_or_else(|| {
            unusable("purpose", "unknown to this version; replay the record after an update")
        })?,
        urgency: Urgency::parse(&fields.symbol("urgency")?)
            .ok_or_else(|| unusable("urgency", "not a symbol of the schema"))?,
        channels: channels(&fields.symbols("channels", CHANNELS_MAX)?)?,
        strategy: Strategy::parse(&fields.symbol("strategy")?)
            .ok_or_else(|| unusable("strategy", "not a symbol of the schema"))?,
        send_at: fields.optional_timestamp("send_at")?,
        expires_at: fields.optional_timestamp("expires_at")?,
        variables: variables(fields.texts("variables")?)?,
        requested_at: fields.timestamp("requested_at")?,
    };
    let earliest = request.send_at.map_or(request.requested_at, |at| at.max(request.requested_at));
    if request.expires_at.is_some_and(|expires_at| expires_at <= earliest) {
        return Err(unusable("expires_at", "not after send_at and requested_at"));
    }
    Ok(request)
}

/// Channels of a newer schema are left out; nothing but such channels cannot be
/// honoured, and an empty list would mean something else.
fn channels(symbols: &[String]) -> Result<Vec<Channel>, Rejected> {
    let mut channels = Vec::with_capacity(symbols.len());
    for symbol in symbols.iter().filter(|symbol| *symbol != UNKNOWN) {
        let channel =
            Channel::parse(symbol).ok_or_else(|| unusable("channels", "not a symbol of the schema"))?;
        if channels.contains(&channel) {
            return Err(unusable("channels", "a channel stands there twice"));
        }
        channels.push(channel);
    }
    if channels.is_empty() && !symbols.is_empty() {
        return Err(unusable("channels", "none is known to this version"));
    }
    Ok(channels)
}

fn variables(pairs: Vec<(String, String)>) -> Result<Redacted<Vec<(String, String)>>, Rejected> {
    if pairs.len() > VARIABLES_MAX {
        return Err(unusable("variables", "more than 20"));
    }
    for (name, value) in &pairs {
        let is_name = (1..=VARIABLE_NAME_MAX_CHARS).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !is_name {
            return Err(unusable("variables", "a name is not 1 to 64 characters of a-z 0-9 _"));
        }
        if value.chars().count() > VARIABLE_VALUE_MAX_CHARS {
            return Err(unusable("variables", "a value is longer than 500 characters"));
        }
        if value.contains('\0') {
            return Err(unusable("variables", "a value has a NUL character, which PostgreSQL does not take"));
        }
    }
    Ok(Redacted::new(pairs))
}

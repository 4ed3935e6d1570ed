//! The busiest record of all, `NotificationRequested`, field by field in the schema's
//! order: a call of the front writes one, and the general way costs it more than the rest
//! of what it decides. A test holds it against the general way.

use std::sync::LazyLock;

use apache_avro::Schema;
use jiff::Timestamp;

use super::binary::{length, long, optional, text};
use crate::domain::{NotificationRequested, contract};

/// Symbols of the schema's enums, each list in the order that gives them their numbers.
struct Symbols {
    purpose: Vec<String>,
    urgency: Vec<String>,
    channel: Vec<String>,
    strategy: Vec<String>,
}

static SYMBOLS: LazyLock<Symbols> = LazyLock::new(|| {
    let schema = Schema::parse_str(contract::NOTIFICATIONS).ok();
    let of = |field: &str| schema.as_ref().and_then(|schema| symbols(schema, field)).unwrap_or_default();
    Symbols {
        purpose: of("purpose"),
        urgency: of("urgency"),
        channel: of("channels"),
        strategy: of("strategy"),
    }
});

/// Symbols of the enum that a record's field has, or its items have.
fn symbols(schema: &Schema, field: &str) -> Option<Vec<String>> {
    let Schema::Record(record) = schema else { return None };
    let schema = match &record.fields.iter().find(|one| one.name == field)?.schema {
        Schema::Array(array) => &*array.items,
        other => other,
    };
    let Schema::Enum(found) = schema else { return None };
    Some(found.symbols.clone())
}

/// Appends the record's fields. `None`: the schema has no such symbol.
pub(super) fn put(bytes: &mut Vec<u8>, event: &NotificationRequested) -> Option<()> {
    text(bytes, &event.caller);
    text(bytes, &event.idempotency_key);
    text(bytes, event.patient_id.as_str());
    optional(bytes, event.recipient.as_deref());
    symbol(bytes, &SYMBOLS.purpose, event.purpose.as_str())?;
    symbol(bytes, &SYMBOLS.urgency, event.urgency.as_str())?;
    block(bytes, &event.channels, |bytes, channel| symbol(bytes, &SYMBOLS.channel, channel.as_str()))?;
    symbol(bytes, &SYMBOLS.strategy, event.strategy.as_str())?;
    time(bytes, event.send_at);
    time(bytes, event.expires_at);
    block(bytes, event.variables.expose(), |bytes, (name, value)| {
        text(bytes, name);
        text(bytes, value);
        Some(())
    })?;
    long(bytes, event.requested_at.as_millisecond());
    Some(())
}

fn symbol(bytes: &mut Vec<u8>, symbols: &[String], word: &str) -> Option<()> {
    length(bytes, symbols.iter().position(|symbol| symbol == word)?);
    Some(())
}

/// An array or a map: one block of all that it has, and the empty one that ends it.
fn block<T>(bytes: &mut Vec<u8>, items: &[T], put: impl Fn(&mut Vec<u8>, &T) -> Option<()>) -> Option<()> {
    if !items.is_empty() {
        length(bytes, items.len());
        items.iter().try_for_each(|item| put(bytes, item))?;
    }
    length(bytes, 0);
    Some(())
}

fn time(bytes: &mut Vec<u8>, time: Option<Timestamp>) {
    long(bytes, i64::from(time.is_some()));
    if let Some(time) = time {
        long(bytes, time.as_millisecond());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Millis, Symbol, writer};
    use super::*;
    use crate::domain::{Channel, PatientId, Purpose, Redacted, Strategy, Urgency};
    use proptest::strategy::Strategy as _;

    /// What the library writes of the same.
    #[derive(serde::Serialize)]
    struct General<'a> {
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
        variables: std::collections::HashMap<&'a str, &'a str>,
        requested_at: Millis,
    }

    fn general(event: &NotificationRequested) -> Vec<u8> {
        let record = General {
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
            variables: event.variables.expose().iter().map(|(n, v)| (n.as_str(), v.as_str())).collect(),
            requested_at: Millis(event.requested_at),
        };
        let mut bytes = Vec::new();
        writer(contract::NOTIFICATIONS).write_ser(&mut bytes, &record).unwrap();
        bytes
    }

    fn time() -> impl proptest::strategy::Strategy<Value = Timestamp> {
        (-1_000_000_000_000..4_000_000_000_000_i64).prop_map(|ms| Timestamp::from_millisecond(ms).unwrap())
    }

    proptest! {
        #[test]
        fn it_is_what_the_general_way_gives(
            key in ".{0,200}",
            recipient in proptest::option::of("[a-z0-9-]{1,64}"),
            purpose in prop::sample::select(Purpose::ALL),
            urgency in prop::sample::select(Urgency::ALL),
            channels in prop::sample::subsequence(Channel::ALL.to_vec(), 0..=Channel::ALL.len()),
            strategy in prop::sample::select(Strategy::ALL),
            (send_at, expires_at) in (proptest::option::of(time()), proptest::option::of(time())),
            // One at most: the general way writes several in any order.
            variable in proptest::option::of(("[a-z_]{1,64}", ".{0,500}")),
            requested_at in time(),
        ) {
            let event = NotificationRequested {
                caller: "portal".to_owned(),
                idempotency_key: key,
                patient_id: PatientId::parse("pat-1").unwrap(),
                recipient,
                purpose,
                urgency,
                channels,
                strategy,
                send_at,
                expires_at,
                variables: Redacted::new(Vec::from_iter(variable)),
                requested_at,
            };
            let mut bytes = Vec::new();
            prop_assert!(put(&mut bytes, &event).is_some());
            prop_assert_eq!(bytes, general(&event));
        }
    }
}

//! Taking a resolved record apart, field by field, in the order of our schema.
//! What is wrong is said by the field's name, never by its value.

use apache_avro::types::Value;
use jiff::Timestamp;
use uuid::Uuid;

use crate::domain::{PatientId, Reason, ids};

use super::Rejected;

/// The fields that are left of a record.
pub(super) struct Fields(std::vec::IntoIter<(String, Value)>);

/// A field whose value cannot be used, and why.
pub(super) fn unusable(field: &'static str, why: &str) -> Rejected {
    Rejected::new(Reason::UnusableField, format!("{field}: {why}"))
}

fn not_our_shape(field: &'static str) -> Rejected {
    Rejected::new(Reason::Undecodable, format!("{field}: not of the type that the schema says"))
}

impl Fields {
    pub(super) fn of(record: Value) -> Result<Self, Rejected> {
        match record {
            Value::Record(fields) => Ok(Self(fields.into_iter())),
            _ => Err(not_our_shape("record")),
        }
    }

    /// The next field, which must be the one of this name. Unions give what they hold.
    fn next(&mut self, field: &'static str) -> Result<Value, Rejected> {
        match self.0.next() {
            Some((name, Value::Union(_, value))) if name == field => Ok(*value),
            Some((name, value)) if name == field => Ok(value),
            _ => Err(not_our_shape(field)),
        }
    }

    pub(super) fn text(&mut self, field: &'static str) -> Result<String, Rejected> {
        match self.next(field)? {
            Value::String(text) => Ok(text),
            _ => Err(not_our_shape(field)),
        }
    }

    /// An identifier of the form that [`ids::is_opaque`] asks for.
    pub(super) fn opaque(&mut self, field: &'static str) -> Result<String, Rejected> {
        checked_opaque(field, self.text(field)?)
    }

    pub(super) fn optional_opaque(&mut self, field: &'static str) -> Result<Option<String>, Rejected> {
        match self.next(field)? {
            Value::Null => Ok(None),
            Value::String(text) => checked_opaque(field, text).map(Some),
            _ => Err(not_our_shape(field)),
        }
    }

    pub(super) fn optional_patient_id(&mut self, field: &'static str) -> Result<Option<PatientId>, Rejected> {
        let text = self.optional_opaque(field)?;
        // Of the same form as any identifier from outside.
        Ok(text.as_deref().and_then(PatientId::parse))
    }

    /// One of our own ids, in its 36-character form.
    pub(super) fn optional_uuid(&mut self, field: &'static str) -> Result<Option<Uuid>, Rejected> {
        match self.next(field)? {
            Value::Null => Ok(None),
            Value::String(text) if text.len() == UUID_CHARS => match Uuid::parse_str(&text) {
                Ok(id) => Ok(Some(id)),
                Err(_) => Err(unusable(field, NOT_UUID)),
            },
            Value::String(_) => Err(unusable(field, NOT_UUID)),
            _ => Err(not_our_shape(field)),
        }
    }

    /// The same where it must be there.
    pub(super) fn uuid(&mut self, field: &'static str) -> Result<Uuid, Rejected> {
        self.optional_uuid(field)?.ok_or_else(|| not_our_shape(field))
    }

    /// A text of 1 to `chars_max` characters, none of them a control character.
    pub(super) fn optional_printable(
        &mut self,
        field: &'static str,
        chars_max: usize,
    ) -> Result<Option<String>, Rejected> {
        match self.next(field)? {
            Value::Null => Ok(None),
            Value::String(text) if is_printable(&text, chars_max) => Ok(Some(text)),
            Value::String(_) => Err(unusable(field, "empty, too long, or with control characters")),
            _ => Err(not_our_shape(field)),
        }
    }

    pub(super) fn optional_symbol(&mut self, field: &'static str) -> Result<Option<String>, Rejected> {
        match self.next(field)? {
            Value::Null => Ok(None),
            value => symbol_of(field, value).map(Some),
        }
    }

    pub(super) fn patient_id(&mut self, field: &'static str) -> Result<PatientId, Rejected> {
        PatientId::parse(&self.text(field)?).ok_or_else(|| unusable(field, NOT_OPAQUE))
    }

    pub(super) fn int(&mut self, field: &'static str) -> Result<i32, Rejected> {
        match self.next(field)? {
            Value::Int(number) => Ok(number),
            _ => Err(not_our_shape(field)),
        }
    }

    /// An enum's symbol.
    pub(super) fn symbol(&mut self, field: &'static str) -> Result<String, Rejected> {
        symbol_of(field, self.next(field)?)
    }

    /// The symbols of a list of at most `items_max` enums.
    pub(super) fn symbols(&mut self, field: &'static str, items_max: usize) -> Result<Vec<String>, Rejected> {
        match self.next(field)? {
            Value::Array(items) if items.len() > items_max => Err(unusable(field, "too many items")),
            Value::Array(items) => items.into_iter().map(|item| symbol_of(field, item)).collect(),
            _ => Err(not_our_shape(field)),
        }
    }

    /// A map of texts, sorted by name.
    pub(super) fn texts(&mut self, field: &'static str) -> Result<Vec<(String, String)>, Rejected> {
        let Value::Map(map) = self.next(field)? else {
            return Err(not_our_shape(field));
        };
        let pairs = map.into_iter().map(|(name, value)| match value {
            Value::String(text) => Ok((name, text)),
            _ => Err(not_our_shape(field)),
        });
        let mut pairs = pairs.collect::<Result<Vec<_>, _>>()?;
        pairs.sort_unstable();
        Ok(pairs)
    }

    pub(super) fn timestamp(&mut self, field: &'static str) -> Result<Timestamp, Rejected> {
        let value = self.next(field)?;
        timestamp_of(field, &value)
    }

    pub(super) fn optional_timestamp(&mut self, field: &'static str) -> Result<Option<Timestamp>, Rejected> {
        match self.next(field)? {
            Value::Null => Ok(None),
            value => timestamp_of(field, &value).map(Some),
        }
    }
}

const UUID_CHARS: usize = 36;
const NOT_UUID: &str = "not a UUID in its 36-character form";
const NOT_OPAQUE: &str = "not 1 to 64 characters of A-Z a-z 0-9 . _ : -";

fn checked_opaque(field: &'static str, text: String) -> Result<String, Rejected> {
    if ids::is_opaque(&text) { Ok(text) } else { Err(unusable(field, NOT_OPAQUE)) }
}

/// Control characters have no place in an identifier, and PostgreSQL takes no NUL.
fn is_printable(text: &str, chars_max: usize) -> bool {
    (1..=chars_max).contains(&text.chars().count()) && !text.contains(char::is_control)
}

fn symbol_of(field: &'static str, value: Value) -> Result<String, Rejected> {
    match value {
        Value::Enum(_, symbol) => Ok(symbol),
        _ => Err(not_our_shape(field)),
    }
}

const YEAR_2000_MS: i64 = 946_684_800_000;
const YEAR_2101_MS: i64 = 4_133_980_800_000;

/// Milliseconds since 1970. A writer that took seconds or microseconds lands
/// outside of the years that can be meant.
fn timestamp_of(field: &'static str, value: &Value) -> Result<Timestamp, Rejected> {
    let (Value::TimestampMillis(millis) | Value::Long(millis)) = *value else {
        return Err(not_our_shape(field));
    };
    (YEAR_2000_MS..YEAR_2101_MS)
        .contains(&millis)
        .then(|| Timestamp::from_millisecond(millis).ok())
        .flatten()
        .ok_or_else(|| unusable(field, "not milliseconds since 1970 within the years 2000 to 2100"))
}

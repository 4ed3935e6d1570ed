//! May this schema follow that one? Stricter than Avro's own rules where those
//! let a change through that breaks readers.

use apache_avro::Schema;
use apache_avro::schema_compatibility::{Compatibility, SchemaCompatibility};
use serde_json::Value;

/// Whether records written with `old` can all be read with `new`; else why not.
pub(super) fn new_reads_old(new: &str, old: &str) -> Result<(), String> {
    let new_schema = Schema::parse_str(new).map_err(|error| format!("ours is not valid: {error}"))?;
    let old_schema = Schema::parse_str(old).map_err(|error| format!("the old one is not valid: {error}"))?;
    match SchemaCompatibility::can_read(&old_schema, &new_schema) {
        Ok(Compatibility::Full) => {}
        Ok(Compatibility::Partial) => {
            return Err("some old records could not be read: a union lost a branch, or an enum without a \
                        default lost a symbol"
                .to_owned());
        }
        Err(error) => return Err(chain(&error)),
    }
    units_stay(new, old)
}

/// Avro compares a time in milliseconds with one in microseconds as equal: both
/// are longs. For a reader they are not.
fn units_stay(new: &str, old: &str) -> Result<(), String> {
    let parse = |text| serde_json::from_str::<Value>(text).map_err(|error| error.to_string());
    let (new, old) = (parse(new)?, parse(old)?);
    for old_field in fields(&old) {
        let name = &old_field["name"];
        let Some(new_field) = fields(&new).find(|field| field["name"] == *name) else {
            continue;
        };
        let (was, is) = (units(&old_field["type"]), units(&new_field["type"]));
        if was != is {
            return Err(format!("field {name} changed its logical type from {was:?} to {is:?}"));
        }
    }
    Ok(())
}

fn fields(record: &Value) -> impl Iterator<Item = &Value> {
    record["fields"].as_array().into_iter().flatten()
}

/// The logical types within a field's type, in order.
fn units(kind: &Value) -> Vec<&str> {
    match kind {
        Value::Array(branches) => branches.iter().flat_map(units).collect(),
        Value::Object(object) => {
            let inner = ["type", "items", "values"].iter().filter_map(|key| object.get(*key));
            let own = object.get("logicalType").and_then(Value::as_str);
            own.into_iter().chain(inner.flat_map(units)).collect()
        }
        _ => Vec::new(),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::contract;

    /// `pat.test-results.v1` with another list of fields made of its own.
    fn changed(change: impl FnOnce(&mut Vec<Value>)) -> String {
        let mut schema: Value = serde_json::from_str(contract::TEST_RESULTS).unwrap();
        change(schema["fields"].as_array_mut().unwrap());
        schema.to_string()
    }

    fn verdict(change: impl FnOnce(&mut Vec<Value>)) -> Result<(), String> {
        new_reads_old(&changed(change), contract::TEST_RESULTS)
    }

    #[test]
    fn a_new_field_needs_a_default() {
        let field = serde_json::json!({"name": "ward", "type": ["null", "string"], "default": null});
        assert_eq!(verdict(|fields| fields.push(field)), Ok(()));
        let field = serde_json::json!({"name": "ward", "type": "string"});
        assert!(verdict(|fields| fields.push(field)).unwrap_err().contains("ward"));
    }

    #[test]
    fn a_field_may_go_but_not_change_its_type() {
        assert_eq!(verdict(|fields| drop(fields.remove(3))), Ok(()));
        let error = verdict(|fields| fields[1]["type"] = "string".into()).unwrap_err();
        assert!(error.contains("version"), "{error}");
    }

    #[test]
    fn a_time_keeps_its_unit() {
        let error =
            verdict(|fields| fields[6]["type"]["logicalType"] = "timestamp-micros".into()).unwrap_err();
        assert!(error.contains("released_at") && error.contains("timestamp-micros"), "{error}");
    }

    #[test]
    fn a_symbol_may_be_added_and_an_optional_field_stays_optional() {
        let added = verdict(|fields| {
            fields[5]["type"]["symbols"].as_array_mut().unwrap().push("panic".into());
        });
        assert_eq!(added, Ok(()));
        let mut new: Value = serde_json::from_str(contract::NOTIFICATIONS).unwrap();
        new["fields"][3]["type"] = "string".into();
        new["fields"][3]["default"] = "".into();
        assert!(new_reads_old(&new.to_string(), contract::NOTIFICATIONS).is_err());
    }
}

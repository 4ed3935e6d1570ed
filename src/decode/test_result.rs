//! `TestResultPublished` of `pat.test-results.v1`.

use apache_avro::types::Value;

use crate::domain::{Redacted, ResultUrgency, TestResultPublished};

use super::Rejected;
use super::fields::{Fields, unusable};

/// Longest category, in characters.
const CATEGORY_MAX_CHARS: usize = 64;

pub(super) fn from_value(record: Value) -> Result<TestResultPublished, Rejected> {
    let mut fields = Fields::of(record)?;
    Ok(TestResultPublished {
        result_id: fields.opaque("result_id")?,
        version: version(fields.int("version")?)?,
        patient_id: fields.patient_id("patient_id")?,
        facility_id: fields.opaque("facility_id")?,
        category: category(fields.text("category")?)?,
        urgency: urgency(&fields.symbol("urgency")?)?,
        released_at: fields.timestamp("released_at")?,
        available_at: fields.timestamp("available_at")?,
    })
}

fn version(version: i32) -> Result<i32, Rejected> {
    if version >= 1 { Ok(version) } else { Err(unusable("version", "less than 1")) }
}

fn category(text: String) -> Result<Redacted<String>, Rejected> {
    let fits = (1..=CATEGORY_MAX_CHARS).contains(&text.chars().count()) && !text.contains(char::is_control);
    if fits {
        Ok(Redacted::new(text))
    } else {
        Err(unusable("category", "not 1 to 64 characters without control characters"))
    }
}

fn urgency(symbol: &str) -> Result<ResultUrgency, Rejected> {
    match symbol {
        "normal" => Ok(ResultUrgency::Normal),
        "abnormal" => Ok(ResultUrgency::Abnormal),
        "critical" => Ok(ResultUrgency::Critical),
        _ => Err(unusable("urgency", "not a symbol of the schema")),
    }
}

//! The layers: the built-in defaults, a file, the environment.

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::de::{DeString, DeTable, DeValue};
use toml::{Spanned, Value};

use super::draft::Draft;
use super::fault::Origin;
use super::kind::Complaint;
use super::rules::{self, RULES, Rule};
use super::{FILE_VARIABLE, PREFIX};

/// Bytes of a configuration file or of a secret's file; more is a mistake.
const FILE_MAX_BYTES: u64 = 1024 * 1024;
/// Variables with our prefix that are no keys.
const OTHER_VARIABLES: [&str; 3] = [FILE_VARIABLE, "PATIENT_NOTIFY_TOOLS_DIR", "PATIENT_NOTIFY_DATA_DIR"];
/// What tests of this repository set for themselves.
const TEST_PREFIX: &str = "PATIENT_NOTIFY_TEST_";

pub(super) fn add_defaults(draft: &mut Draft, text: &str) {
    add_toml(draft, text, &|_| Origin::Default);
}

pub(super) fn add_file(draft: &mut Draft, path: &Path) {
    match read_bounded(path) {
        Ok(text) => add_toml(draft, &text, &|line| Origin::File { path: path.to_path_buf(), line }),
        Err(wrong) => {
            let origin = Origin::File { path: path.to_path_buf(), line: 0 };
            draft.fault("configuration file", origin, wrong, "a TOML file that this process may read");
        }
    }
}

/// Reads a text file; the error is for people.
fn read_bounded(path: &Path) -> Result<String, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(cannot)?;
    let read = file.take(FILE_MAX_BYTES + 1).read_to_string(&mut text).map_err(cannot)?;
    if read as u64 > FILE_MAX_BYTES {
        return Err(format!("is larger than {FILE_MAX_BYTES} bytes"));
    }
    Ok(text)
}

/// Adds a TOML text. What a parse error makes unreadable is left out, the rest
/// is still checked.
fn add_toml(draft: &mut Draft, text: &str, origin_of: &dyn Fn(usize) -> Origin) {
    let origin_at = |byte: usize| origin_of(1 + text.bytes().take(byte).filter(|&b| b == b'\n').count());
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        let origin = origin_at(error.span().map_or(0, |span| span.start));
        draft.fault("TOML", origin, error.message(), "TOML as in config/default.toml");
    }
    for (section, content) in in_order(document.get_ref()) {
        let origin = origin_at(section.span().start);
        let section = section.get_ref();
        if draft.has_fault_at(&origin) && origin != Origin::Default {
            continue;
        }
        let Some(content) = content.get_ref().as_table() else {
            add_stray(draft, section, origin);
            continue;
        };
        if !sections().any(|known| known == section.as_ref()) {
            let allowed = suggestion(section, sections());
            draft.fault(format!("[{section}]"), origin, "there is no such section", allowed);
            continue;
        }
        for (name, value) in in_order(content) {
            let origin = origin_at(name.span().start);
            add_key(draft, section, name.get_ref(), value.get_ref(), origin);
        }
    }
}

/// A table's entries as they stand in the file.
fn in_order<'t, 'i>(table: &'t DeTable<'i>) -> Vec<(&'t Spanned<DeString<'i>>, &'t Spanned<DeValue<'i>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

/// A key in front of the first section, or a section that is none.
fn add_stray(draft: &mut Draft, name: &str, origin: Origin) {
    let allowed = match RULES.iter().find(|rule| rule.section_and_name().1 == name) {
        Some(rule) => format!("sections of keys; did you mean {}?", rule.key),
        None => "sections of keys, such as [kafka]".to_owned(),
    };
    draft.fault(name, origin, "stands outside of every section", allowed);
}

fn add_key(draft: &mut Draft, section: &str, name: &str, value: &DeValue<'_>, origin: Origin) {
    if draft.has_fault_at(&origin) && origin != Origin::Default {
        return;
    }
    match rules::find(section, name) {
        Some(rule) => match plain(value) {
            Some(value) => draft.set(rule, value, origin),
            None => {
                let wrong = format!("has the wrong type: {}", value.type_str());
                draft.refuse(rule, rule.kind.complaint(wrong), origin);
            }
        },
        None => add_unknown_key(draft, section, name, origin),
    }
}

fn add_unknown_key(draft: &mut Draft, section: &str, name: &str, origin: Origin) {
    let key = format!("{section}.{name}");
    let allowed = suggestion(&key, RULES.iter().map(|rule| rule.key));
    draft.fault(key, origin, "there is no such key", allowed);
}

/// A parsed value without its spans; `None` for what no key can hold.
fn plain(value: &DeValue<'_>) -> Option<Value> {
    match value {
        DeValue::String(text) => Some(Value::String(text.to_string())),
        DeValue::Boolean(flag) => Some(Value::Boolean(*flag)),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).ok().map(Value::Integer)
        }
        DeValue::Array(items) => {
            items.iter().map(|item| plain(item.get_ref())).collect::<Option<_>>().map(Value::Array)
        }
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Table(_) => None,
    }
}

fn sections() -> impl Iterator<Item = &'static str> {
    RULES.iter().map(|rule| rule.section_and_name().0)
}

fn suggestion<'c>(text: &str, candidates: impl Iterator<Item = &'c str>) -> String {
    let known = "what stands in config/default.toml";
    match rules::nearest(text, candidates) {
        Some(near) => format!("{known}; did you mean {near}?"),
        None => known.to_owned(),
    }
}

/// Adds every variable that begins with our prefix, in the order of their names.
pub(super) fn add_variables(draft: &mut Draft, variables: Vec<(OsString, OsString)>) {
    let mut ours: Vec<(String, OsString)> = variables
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
        .filter(|(name, _)| name.starts_with(PREFIX))
        .filter(|(name, _)| !OTHER_VARIABLES.contains(&name.as_str()) && !name.starts_with(TEST_PREFIX))
        .collect();
    ours.sort();
    let names: Vec<String> = ours.iter().map(|(name, _)| name.clone()).collect();
    for (variable, value) in ours {
        match key_of(&variable) {
            Some((rule, false)) => add_variable(draft, rule, &variable, value),
            Some((rule, true)) if names.contains(&variable_of(rule)) => {
                let wrong = format!("{} is set as well", variable_of(rule));
                draft.fault(variable.clone(), Origin::Variable(variable), wrong, "one of the two");
            }
            Some((rule, true)) => add_secret_file(draft, rule, &variable, PathBuf::from(value)),
            None => add_unknown_variable(draft, variable),
        }
    }
}

/// The variable of a key.
fn variable_of(rule: &Rule) -> String {
    let (section, name) = rule.section_and_name();
    format!("{PREFIX}{}__{}", section.to_uppercase(), name.to_uppercase())
}

/// The key that a variable sets, and whether it names a file with the value.
fn key_of(variable: &str) -> Option<(&'static Rule, bool)> {
    let direct = RULES.iter().find(|rule| variable_of(rule) == variable);
    if let Some(rule) = direct {
        return Some((rule, false));
    }
    let variable = variable.strip_suffix("_FILE")?;
    RULES.iter().find(|rule| rule.secret && variable_of(rule) == variable).map(|rule| (rule, true))
}

fn add_variable(draft: &mut Draft, rule: &Rule, variable: &str, value: OsString) {
    let origin = Origin::Variable(variable.to_owned());
    let value = value
        .into_string()
        .map_err(|_| rule.kind.complaint("is not UTF-8".to_owned()))
        .and_then(|text| rule.kind.parse(&text));
    match value {
        Ok(value) => draft.set(rule, value, origin),
        Err(complaint) => draft.refuse(rule, complaint, origin),
    }
}

fn add_secret_file(draft: &mut Draft, rule: &Rule, variable: &str, path: PathBuf) {
    let text = read_bounded(&path);
    let origin = Origin::SecretFile { variable: variable.to_owned(), path };
    match text {
        // Editors and `kubectl create secret` leave a newline at the end.
        Ok(text) => draft.set(rule, Value::String(text.trim_end_matches(['\r', '\n']).to_owned()), origin),
        Err(wrong) => {
            let allowed = "a text file that this process may read".to_owned();
            draft.refuse(rule, Complaint { wrong, allowed }, origin);
        }
    }
}

fn add_unknown_variable(draft: &mut Draft, variable: String) {
    let known: Vec<String> = RULES.iter().map(variable_of).collect();
    // Without the prefix, which would make every name look alike.
    let tails = known.iter().filter_map(|name| name.strip_prefix(PREFIX));
    let mut allowed = format!("{PREFIX}<SECTION>__<KEY> of a key in config/default.toml");
    if let Some(near) = rules::nearest(variable.strip_prefix(PREFIX).unwrap_or(&variable), tails) {
        allowed = format!("{allowed}; did you mean {PREFIX}{near}?");
    } else if variable.contains("_SERVICE_") || variable.contains("_PORT") {
        allowed = format!("{allowed}; if Kubernetes set it, set enableServiceLinks: false in the pod");
    }
    draft.fault(variable.clone(), Origin::Variable(variable), "sets no key", allowed);
}

//! The table of callers: whose certificate is whose, limits of their own, and where they
//! are called back.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU32;
use std::path::Path;

use serde::Deserialize;

use super::limits::Limits;
use super::{Caller, Scope, files};
use crate::config;
use crate::deliver::callback::{self, Endpoint};
use crate::domain::ids::{is_opaque, is_own_caller};

/// Bytes of the table.
const TABLE_MAX_BYTES: usize = 1024 * 1024;
/// Largest rate and burst; as of the defaults in the configuration.
const RATE_MAX: u32 = 1_000_000;

/// One caller as the table has it.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Entry {
    identities: Vec<String>,
    scopes: Vec<String>,
    calls_per_second: Option<u32>,
    calls_burst: Option<u32>,
    notifications_per_day: Option<u64>,
    callback: Option<callback::Entry>,
}

/// Callers that the operators have written down.
#[derive(Default)]
pub(super) struct Callers {
    by_identity: HashMap<String, Caller>,
    limits: HashMap<String, Limits>,
    callbacks: BTreeMap<String, callback::Address>,
    default: Limits,
}

impl Callers {
    /// Reads the table; without one there are only the defaults. The error has a
    /// line for each fault.
    pub(super) fn read(config: &config::Auth) -> Result<Self, Vec<String>> {
        let default = default_limits(config);
        if config.callers_file.is_empty() {
            return Ok(Self { default, ..Self::default() });
        }
        let path = Path::new(&config.callers_file);
        let fault = |wrong: String| format!("auth.callers_file {}: {wrong}", path.display());
        let content =
            files::read(path, TABLE_MAX_BYTES).map_err(|wrong| vec![format!("auth.callers_file {wrong}")])?;
        let text = String::from_utf8(content).map_err(|_| vec![fault("is not UTF-8".to_owned())])?;
        Self::parse(&text, default).map_err(|faults| faults.into_iter().map(fault).collect())
    }

    fn parse(text: &str, default: Limits) -> Result<Self, Vec<String>> {
        let table: BTreeMap<String, Entry> =
            toml::from_str(text).map_err(|error| vec![error.to_string().trim_end().replace('\n', " ")])?;
        let mut faults = Vec::new();
        let mut callers = Self { default, ..Self::default() };
        for (name, entry) in table {
            callers.add(&name, &entry, &mut |wrong| faults.push(format!("[{name}] {wrong}")));
        }
        if faults.is_empty() { Ok(callers) } else { Err(faults) }
    }

    fn add(&mut self, name: &str, entry: &Entry, fault: &mut dyn FnMut(String)) {
        if !is_opaque(name) {
            fault("is no name: 1 to 64 characters of A-Z a-z 0-9 . _ : -".to_owned());
        }
        if is_own_caller(name) {
            fault("is a name of the service's own; no caller may have it".to_owned());
        }
        let mut scopes = Vec::new();
        for word in &entry.scopes {
            match Scope::parse(word) {
                Some(scope) => scopes.push(scope),
                None => fault(format!("scopes: there is no scope {word:?}")),
            }
        }
        if entry.identities.is_empty() != entry.scopes.is_empty() {
            fault(
                "needs identities with its scopes, and scopes with its identities: a token brings its own"
                    .into(),
            );
        }
        let caller = Caller::new(name.to_owned(), scopes);
        for identity in &entry.identities {
            let identity = canonical(identity);
            if identity.is_empty() || identity.contains(['*', ' ']) {
                fault(format!("identities: {identity:?} is neither a URI nor a DNS name"));
            }
            if self.by_identity.insert(identity.clone(), caller.clone()).is_some() {
                fault(format!("identities: {identity:?} stands there twice"));
            }
        }
        let rates = [("calls_per_second", entry.calls_per_second, 0), ("calls_burst", entry.calls_burst, 1)];
        for (key, rate, min) in rates {
            if rate.is_some_and(|rate| !(min..=RATE_MAX).contains(&rate)) {
                fault(format!("{key} must be a whole number from {min} to {RATE_MAX}"));
            }
        }
        if let Some(callback) = entry.callback.as_ref().and_then(|callback| callback.check(fault)) {
            self.callbacks.insert(name.to_owned(), callback);
        }
        let default = self.default;
        let limits = Limits {
            calls_per_second: entry.calls_per_second.map_or(default.calls_per_second, NonZeroU32::new),
            calls_burst: entry.calls_burst.unwrap_or(default.calls_burst),
            notifications_per_day: entry.notifications_per_day.unwrap_or(default.notifications_per_day),
        };
        self.limits.insert(name.to_owned(), limits);
    }

    /// The caller of a certificate with these identities; `None` when they are
    /// nobody's, or not all one caller's.
    pub(super) fn of_certificate(&self, identities: &[String]) -> Option<&Caller> {
        let mut callers = identities.iter().filter_map(|identity| self.by_identity.get(identity));
        let caller = callers.next()?;
        callers.all(|other| other == caller).then_some(caller)
    }

    /// Where callers are called back, with the secrets; every fault at once.
    pub(super) fn endpoints(&self) -> Result<Vec<Endpoint>, Vec<String>> {
        let (mut endpoints, mut faults) = (Vec::new(), Vec::new());
        for (name, address) in &self.callbacks {
            match address.read(name) {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(wrong) => faults.extend(wrong.iter().map(|wrong| format!("[{name}] {wrong}"))),
            }
        }
        if faults.is_empty() { Ok(endpoints) } else { Err(faults) }
    }

    /// What a caller may have.
    pub(super) fn limits(&self, name: &str) -> Limits {
        self.limits.get(name).copied().unwrap_or(self.default)
    }
}

const fn default_limits(config: &config::Auth) -> Limits {
    Limits {
        calls_per_second: NonZeroU32::new(config.calls_per_second),
        calls_burst: config.calls_burst,
        notifications_per_day: config.notifications_per_day,
    }
}

/// An identity as it is compared: a URI has a colon and is taken as it is; case means
/// nothing in a DNS name.
pub(super) fn canonical(identity: &str) -> String {
    if identity.contains(':') { identity.to_owned() } else { identity.to_ascii_lowercase() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = r#"
        [portal]
        identities = ["spiffe://clinic/portal", "Portal.internal"]
        scopes = ["notifications:send", "notifications:read"]
        calls_per_second = 5
        [laboratory]
        identities = ["lab.internal"]
        scopes = ["notifications:send"]
        notifications_per_day = 10
        [token-client]
        calls_per_second = 0
    "#;

    fn default() -> Limits {
        Limits { calls_per_second: NonZeroU32::new(100), calls_burst: 200, notifications_per_day: 0 }
    }

    fn of(callers: &Callers, identities: &[&str]) -> Option<String> {
        let identities: Vec<String> = identities.iter().map(|&text| text.to_owned()).collect();
        callers.of_certificate(&identities).map(|caller| caller.name.clone())
    }

    #[test]
    fn identities_lead_to_one_caller_and_limits_to_a_name() {
        let callers = Callers::parse(TABLE, default()).unwrap();
        assert_eq!(of(&callers, &["spiffe://clinic/portal"]).as_deref(), Some("portal"));
        assert_eq!(of(&callers, &["other.internal", "portal.internal"]).as_deref(), Some("portal"));
        assert_eq!(of(&callers, &["spiffe://clinic/Portal"]), None, "a URI is compared as it is");
        assert_eq!(of(&callers, &["portal.internal", "lab.internal"]), None, "two callers are none");
        assert_eq!(of(&callers, &[]), None);
        assert_eq!(callers.limits("portal").calls_per_second, NonZeroU32::new(5));
        assert_eq!(callers.limits("portal").calls_burst, 200);
        assert_eq!(callers.limits("laboratory").notifications_per_day, 10);
        assert_eq!(callers.limits("token-client").calls_per_second, None, "not bound");
        assert_eq!(callers.limits("somebody"), default());
    }

    #[test]
    fn every_fault_of_the_table_is_told_at_once() {
        let faults = Callers::parse(
            r#"
            [a]
            identities = ["one", "*.internal"]
            scopes = ["notifications:everything"]
            [b]
            identities = ["ONE"]
            scopes = ["batches:read"]
            calls_burst = 0
            ["two words"]
            scopes = ["batches:read"]
            [cron]
            [appointments]
            [portal.callback]
            url = "http://portal.example.org"
            "#,
            default(),
        )
        .err()
        .unwrap()
        .join("\n");
        for expected in [
            "notifications:everything",
            "*.internal",
            "stands there twice",
            "calls_burst",
            "is no name",
            "needs identities",
            "[cron] is a name of the service's own",
            "[appointments] is a name of the service's own",
            "[portal] callback.url must begin with https://",
            "[portal] callback.secret_files must name one file",
        ] {
            assert!(faults.contains(expected), "{expected} is missing in\n{faults}");
        }
        assert_eq!(faults.lines().count(), 10, "{faults}");
        let unknown = Callers::parse("[a]\nidentity = 'x'", default()).err().unwrap();
        assert!(unknown[0].contains("identity"), "{unknown:?}");
    }
}

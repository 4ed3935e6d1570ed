//! What the loader promises: each fault is named, all at once, and no secret is shown.

use std::ffi::OsString;
use std::path::PathBuf;

use super::draft::Draft;
use super::rules::RULES;
use super::*;

fn variables(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
}

fn from_variables(pairs: &[(&str, &str)]) -> Result<Config, ConfigFaults> {
    Config::load_from(None, variables(pairs))
}

/// Loads a text as the configuration file `prod.toml`.
fn from_text(text: &str) -> Result<Config, ConfigFaults> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prod.toml");
    std::fs::write(&path, text).unwrap();
    Config::load_from(Some(&path), Vec::new())
}

fn only_fault(result: Result<Config, ConfigFaults>) -> String {
    let faults = result.unwrap_err();
    assert_eq!(faults.0.len(), 1, "{faults}");
    faults.0[0].to_string()
}

#[test]
fn every_key_of_the_defaults_has_a_rule_in_the_same_order() {
    let mut keys = Vec::new();
    let mut section = "";
    for line in DEFAULTS.lines().filter(|line| !line.starts_with('#')) {
        if let Some(name) = line.strip_prefix('[') {
            section = name.trim_end_matches(']');
        } else if let Some((name, _)) = line.split_once(" = ") {
            keys.push(format!("{section}.{name}"));
        }
    }
    let rules: Vec<_> = RULES.iter().map(|rule| rule.key.to_owned()).collect();
    assert_eq!(rules, keys);
}

#[test]
fn the_defaults_have_no_fault() {
    assert_eq!(Config::from_defaults().processor.commit_interval_ms, 1000);
}

#[test]
fn a_key_of_the_defaults_without_a_rule_is_a_fault() {
    let mut draft = Draft::default();
    sources::add_defaults(&mut draft, &DEFAULTS.replace("[shutdown]", "[shutdown]\nnew_key = 1"));
    assert_eq!(
        only_fault(draft.finish()),
        "shutdown.new_key (default): there is no such key; allowed: what stands in config/default.toml"
    );
}

#[test]
fn the_environment_is_over_the_file_and_the_file_over_the_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prod.toml");
    std::fs::write(&path, "[sms]\nconcurrency = 7\ntimeout_ms = 700\n").unwrap();
    let variables = variables(&[
        ("PATIENT_NOTIFY_CONFIG", path.to_str().unwrap()),
        ("PATIENT_NOTIFY_SMS__CONCURRENCY", "9"),
        ("PATIENT_NOTIFY_PLAN__DEFAULT_CHANNELS", "sms, push"),
        ("PATIENT_NOTIFY_EMAIL__ENABLED", "false"),
        ("PATIENT_NOTIFY_TEST_STACK", "x"),
        ("PATIENT_NOTIFY_DATA_DIR", "/tmp"),
        ("HOME", "/root"),
    ]);
    let config = Config::load_from(None, variables).unwrap();
    assert_eq!((config.sms.concurrency, config.sms.timeout_ms), (9, 700));
    assert_eq!(config.plan.default_channels, ["sms", "push"]);
    assert!(!config.email.enabled && config.push.enabled);
    let shown = config.show();
    assert!(shown.contains("concurrency = 9 # PATIENT_NOTIFY_SMS__CONCURRENCY\n"), "{shown}");
    assert!(shown.contains(&format!("timeout_ms = 700 # {}:3\n", path.display())), "{shown}");
    assert!(shown.contains("topic_prefix = \"\" # default\n"), "{shown}");
}

const TWELVE_FAULTS: &str = "\
[kafka]
bootstrap_server = 'a:1'
replication_factor = 0
security_protocol = 'tls'
min_insync_replicas = 'two'
[registy]
url = 'http://x'
[plan]
portal_url = 'portal.example.org'
default_time_zone = 'Europe/Zurch'
quiet_hours_start = '9pm'
[app]
listen = 'localhost:80'
[processor]
heartbeat_interval_ms = 20000
";

const TWELVE_REPORTS: &str = r#"the configuration has 12 faults:
  - kafka.bootstrap_server (prod.toml:2): there is no such key; allowed: what stands in config/default.toml; did you mean kafka.bootstrap_servers?
  - kafka.replication_factor (prod.toml:3): 0 is out of bounds; allowed: a whole number from 1 to 9
  - kafka.security_protocol (prod.toml:4): "tls" cannot be used; allowed: plaintext, ssl, sasl_plaintext, sasl_ssl
  - kafka.min_insync_replicas (prod.toml:5): has the wrong type: string in place of a whole number; allowed: a whole number from 1 to 9
  - [registy] (prod.toml:6): there is no such section; allowed: what stands in config/default.toml; did you mean registry?
  - plan.portal_url (prod.toml:9): "portal.example.org" cannot be used; allowed: an address such as https://host:port/path, without credentials, query or fragment
  - plan.default_time_zone (prod.toml:10): "Europe/Zurch" cannot be used; allowed: a name of the IANA time zone database such as Europe/Zurich (the system needs tzdata)
  - plan.quiet_hours_start (prod.toml:11): "9pm" cannot be used; allowed: a time of day such as 21:00
  - app.listen (prod.toml:13): "localhost:80" cannot be used; allowed: an IP address and a port such as 127.0.0.1:9090
  - PATIENT_NOTIFY_KAFKA_BOOTSTRAP_SERVERS: sets no key; allowed: PATIENT_NOTIFY_<SECTION>__<KEY> of a key in config/default.toml; did you mean PATIENT_NOTIFY_KAFKA__BOOTSTRAP_SERVERS?
  - sms.timeout_ms (PATIENT_NOTIFY_SMS__TIMEOUT_MS): "soon" is not a whole number; allowed: a whole number from 100 to 120000
  - processor.heartbeat_interval_ms with processor.session_timeout_ms: 20000 (prod.toml:15) and 30000 (default) do not go together; allowed: heartbeat_interval_ms at most a third of session_timeout_ms"#;

#[test]
fn every_fault_is_reported_at_once_in_the_order_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("prod.toml");
    std::fs::write(&path, TWELVE_FAULTS).unwrap();
    let variables = variables(&[
        ("PATIENT_NOTIFY_SMS__TIMEOUT_MS", "soon"),
        ("PATIENT_NOTIFY_KAFKA_BOOTSTRAP_SERVERS", "a:1"),
    ]);
    let text = Config::load_from(Some(&path), variables).unwrap_err().to_string();
    assert_eq!(text.replace(path.to_str().unwrap(), "prod.toml"), TWELVE_REPORTS);
}

#[test]
fn a_line_that_is_no_toml_is_named_and_the_rest_is_still_checked() {
    let text = from_text("[kafka]\ntopic_prefix = \n[sms]\nconcurrency = 0\n").unwrap_err().to_string();
    assert!(text.contains("prod.toml:2): "), "{text}");
    assert!(text.contains("sms.concurrency") && text.contains("prod.toml:4): 0 is out of bounds"), "{text}");
}

#[test]
fn a_file_that_is_not_there_is_a_fault() {
    let text = only_fault(Config::load_from(Some(&PathBuf::from("/does/not/exist.toml")), Vec::new()));
    assert!(text.starts_with("configuration file (/does/not/exist.toml): cannot be read:"), "{text}");
}

#[test]
fn a_rule_between_keys_is_not_checked_where_one_of_them_is_faulty() {
    let text = only_fault(from_variables(&[("PATIENT_NOTIFY_PROCESSOR__LEASE_MS", "1")]));
    assert!(text.contains("1 is out of bounds"), "{text}");
}

#[test]
fn rules_between_keys_are_checked() {
    for (pairs, expected) in [
        (
            &[("PATIENT_NOTIFY_PROCESSOR__LEASE_MS", "20000")] as &[_],
            "processor.lease_ms with email.timeout_ms",
        ),
        (&[("PATIENT_NOTIFY_APP__LISTEN", "0.0.0.0:9080")], "app.listen with app.allow_unauthenticated"),
        (
            &[("PATIENT_NOTIFY_PROCESSOR__BULK_IN_FLIGHT_MAX", "1024")],
            "processor.bulk_in_flight_max with processor.in_flight_max",
        ),
        (&[("PATIENT_NOTIFY_POSTGRES__POOL_SIZE", "4")], "postgres.pool_size with"),
        (&[("PATIENT_NOTIFY_SHUTDOWN__TIMEOUT_MS", "30000")], "shutdown.timeout_ms"),
        (&[("PATIENT_NOTIFY_KAFKA__MIN_INSYNC_REPLICAS", "2")], "kafka.min_insync_replicas with"),
        (&[("PATIENT_NOTIFY_KAFKA__SECURITY_PROTOCOL", "sasl_ssl")], "a user name and a password"),
        (&[("PATIENT_NOTIFY_EMAIL__USERNAME", "u")], "email.username with email.password"),
        (&[("PATIENT_NOTIFY_EMAIL__UNSUBSCRIBE_KEY", "short")], "email.unsubscribe_key: "),
        (&[("PATIENT_NOTIFY_EMAIL__UNSUBSCRIBE_PREVIOUS_KEY", "short")], "email.unsubscribe_previous_key: "),
        (&[("PATIENT_NOTIFY_APP__CODE_KEY", "short")], "app.code_key: "),
        (&[("PATIENT_NOTIFY_PUSH__BASE_URL", "https://fcm.googleapis.com")], "a service account"),
        (
            &[("PATIENT_NOTIFY_AUTH__JWKS_URL", "https://login.example.org/keys")],
            "auth.token_issuer with auth.token_audience",
        ),
        (
            &[("PATIENT_NOTIFY_AUTH__JWKS_URL", "http://login.example.org/keys")],
            "https, unless it is on this",
        ),
        (
            &[("PATIENT_NOTIFY_AUTH__CLIENT_CA_FILE", "Cargo.toml")],
            "auth.client_ca_file with auth.callers_file",
        ),
        (&[("PATIENT_NOTIFY_AUTH__TLS_KEY_FILE", "Cargo.toml")], "auth.tls_certificate_file with"),
        (&[("PATIENT_NOTIFY_AUTH__CALLERS_FILE", "Cargo.toml")], "a table of callers only where"),
    ] {
        let text = from_variables(pairs).unwrap_err().to_string();
        assert!(text.contains(expected), "missing: {expected}\n{text}");
    }
}

#[test]
fn authenticated_callers_may_come_from_everywhere() {
    let keys = [
        ("PATIENT_NOTIFY_APP__LISTEN", "0.0.0.0:9080"),
        ("PATIENT_NOTIFY_AUTH__JWKS_URL", "https://login.example.org/keys"),
        ("PATIENT_NOTIFY_AUTH__TOKEN_ISSUER", "https://login.example.org"),
        ("PATIENT_NOTIFY_AUTH__TOKEN_AUDIENCE", "patient-notify"),
    ];
    assert!(from_variables(&keys).unwrap().auth.takes_tokens());
}

#[test]
fn a_secret_is_shown_by_nothing() {
    let secrets: Vec<_> = RULES.iter().filter(|rule| rule.secret).collect();
    assert_eq!(secrets.len(), 8);
    let names: Vec<_> = secrets
        .iter()
        .map(|rule| (format!("PATIENT_NOTIFY_{}", rule.key.to_uppercase().replace('.', "__")), rule))
        .collect();
    let good: Vec<_> = names
        .iter()
        .map(|(name, rule)| {
            let url = rule.key == "postgres.url";
            (
                name.as_str(),
                if url { "postgres://u:CANARY@db/d" } else { "CANARY, as long as a key that signs" },
            )
        })
        .chain([("PATIENT_NOTIFY_REGISTRY__USERNAME", "u"), ("PATIENT_NOTIFY_EMAIL__USERNAME", "u")])
        .chain([("PATIENT_NOTIFY_EMAIL__SMTP_TLS", "tls")])
        .collect();
    let config = from_variables(&good).unwrap();
    assert!(config.postgres.url.expose().contains("CANARY"));
    for output in [config.show(), format!("{config:?}"), format!("{config:#?}")] {
        assert!(!output.contains("CANARY"), "{output}");
        assert!(output.contains("[redacted]"));
    }

    let bad: Vec<_> = names.iter().map(|(name, _)| (name.as_str(), "CANARY\nCANARY")).collect();
    let faults = from_variables(&bad).unwrap_err();
    assert_eq!(faults.0.len(), 8, "{faults}");
    assert!(!format!("{faults} {faults:?}").contains("CANARY"), "{faults}");
}

#[test]
fn credentials_in_an_address_are_refused_and_not_shown() {
    for name in ["REGISTRY__URL", "KAFKA__BOOTSTRAP_SERVERS", "SMS__BASE_URL"] {
        let name = format!("PATIENT_NOTIFY_{name}");
        let text = only_fault(from_variables(&[(&name, "http://user:CANARY@registry:8081")]));
        assert!(!text.contains("CANARY"), "{text}");
    }
}

#[test]
fn a_secret_can_come_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("token");
    std::fs::write(&path, "s3cret\n").unwrap();
    let name = "PATIENT_NOTIFY_SMS__AUTH_TOKEN_FILE";
    let config = from_variables(&[(name, path.to_str().unwrap())]).unwrap();
    assert_eq!(config.sms.auth_token.expose(), "s3cret");
    let origin = format!("auth_token = \"[redacted]\" # {name} = {}\n", path.display());
    assert!(config.show().contains(&origin), "{}", config.show());

    let text = only_fault(from_variables(&[(name, "/does/not/exist")]));
    assert!(
        text.contains("(PATIENT_NOTIFY_SMS__AUTH_TOKEN_FILE = /does/not/exist): cannot be read"),
        "{text}"
    );
    let both = [(name, path.to_str().unwrap()), ("PATIENT_NOTIFY_SMS__AUTH_TOKEN", "x")];
    assert!(only_fault(from_variables(&both)).contains("PATIENT_NOTIFY_SMS__AUTH_TOKEN is set as well"));
}

#[test]
fn only_secrets_come_from_files() {
    let text = only_fault(from_variables(&[("PATIENT_NOTIFY_SMS__BASE_URL_FILE", "/x")]));
    assert!(text.contains("sets no key"), "{text}");
}

#[test]
fn what_is_shown_can_be_loaded_again() {
    let shown = Config::from_defaults().show();
    let again = from_text(&shown.replace("[redacted]", "postgres://u@h/d")).unwrap();
    assert_eq!(again.plan.default_channels, Config::from_defaults().plan.default_channels);
}

#[test]
fn what_the_program_changed_is_shown_as_such() {
    let mut config = Config::from_defaults();
    config.kafka.topic_prefix = "t1-".to_owned();
    assert!(config.show().contains("topic_prefix = \"t1-\" # set by the program\n"));
}

#[test]
fn kubernetes_service_links_are_explained() {
    let text = only_fault(from_variables(&[("PATIENT_NOTIFY_PORT_80_TCP_ADDR", "10.0.0.1")]));
    assert!(text.contains("enableServiceLinks"), "{text}");
}

#[test]
fn origins_are_as_browsers_write_them_and_a_signing_key_is_one() {
    const ORIGINS: &str = "PATIENT_NOTIFY_APP__BROWSER_ORIGINS";
    let good = [(ORIGINS, "https://board.example.org, http://127.0.0.1:8080")];
    assert!(from_variables(&good).is_ok());
    for bad in ["*", "board.example.org", "https://board.example.org/", "https://b.org:443", "https://a.org,"]
    {
        assert!(only_fault(from_variables(&[(ORIGINS, bad)])).contains("app.browser_origins"), "{bad}");
    }
    let key = [("PATIENT_NOTIFY_EMAIL__EVENT_WEBHOOK_PUBLIC_KEY", "AAAA")];
    assert!(only_fault(from_variables(&key)).contains("a public key of P-256"));
    let links = [("PATIENT_NOTIFY_EMAIL__UNSUBSCRIBE_BASE_URL", "https://notify.example.org")];
    assert!(only_fault(from_variables(&links)).contains("a key with an address for links"));
}

//! The schema registry and the database.

use super::finding::Finding;
use crate::config::Config;
use crate::record::diagnosis::Diagnosis;
use crate::record::{Owner, RecordError, Store, migrate, pool};
use crate::topic::schemas;

const SCHEMAS: &str = "schemas";
const DATABASE: &str = "database";
const MIGRATIONS: &str = "migrations";
const RIGHTS: &str = "database rights";
const CLOCK: &str = "clock";

/// Leases and due times are compared in the database's clock alone; tokens, signatures
/// and expiry on this one. Beyond this somebody should know.
const CLOCK_OFF_WARNING_MS: i64 = 1_000;
/// Beyond this, calls and webhooks are refused that should not be.
const CLOCK_OFF_FAULT_MS: i64 = 30_000;

pub(super) async fn registry(config: &Config) -> Vec<Finding> {
    let found = match schemas::check(config).await {
        Ok(report) if report.is_incompatible() => Finding::fault(
            SCHEMAS,
            report.to_string(),
            "this build cannot follow what is registered: see avro/README.md, Changing a schema",
        ),
        Ok(report) if report.is_clean() => {
            Finding::ok(SCHEMAS, format!("{} subjects as they should be", report.subjects.len()))
        }
        Ok(report) => Finding::fault(SCHEMAS, report.to_string(), "run `patient-notify schemas apply`"),
        Err(error) => Finding::fault(
            SCHEMAS,
            error.to_string(),
            "start the registry, or correct registry.url, registry.username and registry.password",
        ),
    };
    vec![found]
}

pub(super) async fn database(config: &Config) -> Vec<Finding> {
    let diagnosis = async { Store::new(pool::pool(&config.postgres)?, Owner::new()).diagnose().await }.await;
    match diagnosis {
        Ok(diagnosis) => {
            let migrations = migrations(config).await;
            vec![reached(&diagnosis), migrations, rights(&diagnosis), clock(&diagnosis)]
        }
        Err(error) => {
            let reached = Finding::fault(
                DATABASE,
                why(&error),
                "start it, or correct postgres.url (its user, password and database too)",
            );
            let away = |check| Finding::skipped(check, "the database does not answer");
            vec![reached, away(MIGRATIONS), away(RIGHTS), away(CLOCK)]
        }
    }
}

/// The error and what lies beneath it.
fn why(error: &RecordError) -> String {
    let mut text = error.to_string();
    let mut beneath = std::error::Error::source(error);
    while let Some(source) = beneath {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        beneath = source.source();
    }
    text
}

fn reached(found: &Diagnosis) -> Finding {
    if found.standby {
        let mend = "let postgres.url name the primary";
        return Finding::fault(DATABASE, "it is a standby: nothing can be written", mend);
    }
    Finding::ok(DATABASE, format!("PostgreSQL {}, answered in {} ms", found.version, found.answered_ms))
}

async fn migrations(config: &Config) -> Finding {
    match migrate::check(&config.postgres).await {
        Ok(status) if status.is_current() => Finding::ok(MIGRATIONS, status.to_string()),
        Ok(status) => Finding::fault(MIGRATIONS, status.to_string(), "run `patient-notify migrate`"),
        Err(error) => Finding::fault(MIGRATIONS, why(&error), "let this user read refinery_schema_history"),
    }
}

fn rights(found: &Diagnosis) -> Finding {
    if found.denied.is_empty() {
        return Finding::ok(RIGHTS, "this user may read and write every table");
    }
    let what = format!("this user may not do everything with {}", found.denied.join(", "));
    Finding::fault(RIGHTS, what, "GRANT SELECT, INSERT, UPDATE, DELETE on these tables to it")
}

fn clock(found: &Diagnosis) -> Finding {
    let off_ms = found.clock_ahead_ms.abs();
    // What the question itself took cannot be told from a clock that is off.
    let certain_ms = off_ms - found.answered_ms / 2;
    let direction = if found.clock_ahead_ms > 0 { "behind" } else { "ahead of" };
    let what = format!("this machine is {off_ms} ms {direction} the database");
    let mend = "let both follow a time server (chrony, systemd-timesyncd)";
    if certain_ms > CLOCK_OFF_FAULT_MS {
        Finding::fault(CLOCK, what, mend)
    } else if certain_ms > CLOCK_OFF_WARNING_MS {
        Finding::warning(CLOCK, what, mend)
    } else {
        Finding::ok(CLOCK, what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(clock_ahead_ms: i64, answered_ms: i64) -> Diagnosis {
        let version = "18.6".to_owned();
        Diagnosis { version, standby: false, clock_ahead_ms, answered_ms, denied: Vec::new() }
    }

    #[test]
    fn a_clock_is_off_only_by_what_a_slow_answer_does_not_explain() {
        use super::super::finding::Grade;
        let grade = |ahead, answered| clock(&found(ahead, answered)).grade;
        assert_eq!(grade(900, 2), Grade::Ok);
        assert_eq!(grade(1_100, 400), Grade::Ok);
        assert_eq!(grade(-1_300, 400), Grade::Warning);
        assert_eq!(grade(31_000, 10), Grade::Fault);
        assert!(clock(&found(-5_000, 0)).to_string().contains("5000 ms ahead of the database"));
    }

    #[test]
    fn a_standby_and_missing_rights_are_faults() {
        use super::super::finding::Grade;
        let standby = Diagnosis { standby: true, denied: vec!["audit".to_owned()], ..found(0, 1) };
        assert_eq!((reached(&standby).grade, rights(&standby).grade), (Grade::Fault, Grade::Fault));
        assert!(rights(&standby).to_string().contains("audit"));
    }
}

//! What a look at one thing came to.

use std::fmt;

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Grade {
    /// As it should be.
    Ok,
    /// It works, and somebody should know.
    Warning,
    /// Some deployment cannot do its work.
    Fault,
    /// It could not be looked at, because something else is broken.
    Skipped,
}

/// One check's outcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// What was looked at, in one or two words.
    check: &'static str,
    pub(super) grade: Grade,
    /// What was found.
    what: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self { check, grade: Grade::Ok, what: what.into(), mend: None }
    }

    pub(super) fn warning(check: &'static str, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { grade: Grade::Warning, mend: Some(mend.into()), ..Self::ok(check, what) }
    }

    pub(super) fn fault(check: &'static str, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { grade: Grade::Fault, mend: Some(mend.into()), ..Self::ok(check, what) }
    }

    pub(super) fn skipped(check: &'static str, what: impl Into<String>) -> Self {
        Self { grade: Grade::Skipped, ..Self::ok(check, what) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let grade = match self.grade {
            Grade::Ok => "ok",
            Grade::Warning => "WARNING",
            Grade::Fault => "FAULT",
            Grade::Skipped => "skipped",
        };
        let mut lines = self.what.trim_end().lines();
        writeln!(f, "{grade:<8} {:<18} {}", self.check, lines.next().unwrap_or_default())?;
        for line in lines {
            writeln!(f, "{:27} {line}", "")?;
        }
        if let Some(mend) = &self.mend {
            writeln!(f, "{:27} -> {mend}", "")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_reads_as_one_and_what_mends_it_stands_below() {
        let fault = Finding::fault("topics", "a: create\nb: create\n", "run it");
        let indent = " ".repeat(28);
        assert_eq!(
            fault.to_string(),
            format!("FAULT    topics             a: create\n{indent}b: create\n{indent}-> run it\n")
        );
        assert_eq!(Finding::ok("broker", "one").to_string(), "ok       broker             one\n");
    }

    #[test]
    fn a_machine_reads_the_same() {
        let json = serde_json::to_value(Finding::skipped("topics", "no broker")).unwrap();
        assert_eq!(json, serde_json::json!({"check": "topics", "grade": "skipped", "what": "no broker"}));
    }
}

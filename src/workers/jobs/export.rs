//! `export`: all that is kept of one patient, written down to be fetched.

use serde_json::json;

use super::attend::Attempt;
use super::fault::Fault;
use crate::record::exports::Written;

/// Written in one transaction, so that an attempt that ends early has left nothing.
pub(super) async fn run(attempt: &Attempt) -> Result<(), Fault> {
    match attempt.store.write_export(attempt.job.job_id).await? {
        Written::Whole { chunks, lines } => {
            attempt.reached(&json!({ "chunks": chunks, "lines": lines })).await
        }
        Written::Gone => Err(Fault::Moot("patient_erased")),
        Written::TooLarge => Err(Fault::Hopeless("too_large")),
    }
}

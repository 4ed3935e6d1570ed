//! `job_prune`: exports whose time is over are removed, and jobs that ended long ago.

use serde_json::json;

use super::attend::Attempt;
use super::fault::Fault;

/// Bounded steps until nothing is left; one that is interrupted begins anew.
pub(super) async fn run(attempt: &Attempt) -> Result<(), Fault> {
    let (mut exports, mut jobs) = (0, 0);
    loop {
        let (removed, forgotten) =
            (attempt.store.remove_expired_exports().await?, attempt.store.forget_jobs().await?);
        exports += removed;
        jobs += forgotten;
        attempt.reached(&json!({ "exports_removed": exports, "jobs_forgotten": jobs })).await?;
        if removed == 0 && forgotten == 0 {
            return Ok(());
        }
    }
}

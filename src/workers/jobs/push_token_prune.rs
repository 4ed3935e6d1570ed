//! `push_token_prune`: devices that nobody has confirmed for 270 days are taken out of
//! use, and those that were taken out of use 90 days ago are forgotten.

use serde_json::json;

use super::attend::Attempt;
use super::fault::Fault;

/// Bounded steps until nothing is left; one that is interrupted begins anew. Where it is
/// among the tokens is not written down: they are addresses.
pub(super) async fn run(attempt: &Attempt) -> Result<(), Fault> {
    let (mut retired, mut forgotten) = (0, 0);
    let mut after = None;
    loop {
        let step = attempt.store.retire_stale_devices(after.as_ref()).await?;
        retired += step.retired;
        attempt.reached(&json!({ "retired": retired, "forgotten": forgotten })).await?;
        after = step.next;
        if after.is_none() {
            break;
        }
    }
    loop {
        let step = attempt.store.forget_retired_devices().await?;
        forgotten += step;
        attempt.reached(&json!({ "retired": retired, "forgotten": forgotten })).await?;
        if step == 0 {
            return Ok(());
        }
    }
}

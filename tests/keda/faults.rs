//! What goes wrong around the autoscaler, and what it must not lead to.

use std::time::Duration;

use crate::Stage;
use crate::backlog;
use crate::open_loop::{UP, at_rest};
use crate::timeline::Timeline;
use crate::workload::{RESULTS, UPDATES};

/// Longer than the HPA's window for fewer replicas.
pub const LONGER_THAN_THE_WINDOW: Duration = Duration::from_secs(220);

/// KEDA's webhooks are on, and refuse a name that the HPA could not have.
pub async fn webhooks_refuse(stage: &Stage) {
    let scaling = stage.manifests.scaling(&stage.bed, "simple");
    let too_long = scaling.replace(
        "      name: consumer-test-result-notification\n",
        &format!("      name: keda-hpa-{}\n", RESULTS.deployment),
    );
    assert_ne!(too_long, scaling);
    let error = stage.bed.try_apply(&too_long).unwrap_err();
    assert!(error.contains("denied the request"), "{error}");
    // What is there is there under the names that operators use.
    for workload in crate::workload::ALL {
        assert!(workload.standing(&stage.bed.api).await.asked >= 1, "{workload:?}");
    }
}

/// A group that has never committed reads from the earliest record: all that is kept is its lag.
pub async fn no_commits_yet(stage: &Stage) {
    let on = (&stage.bed, &stage.world);
    at_rest(stage, UPDATES).await;
    backlog::add(&stage.world, UPDATES, 1).await;
    backlog::end(&stage.world, UPDATES).await;
    let mut timeline = Timeline::new(UPDATES);
    backlog::forget_offsets(&stage.world, UPDATES).await;
    timeline.until("the most replicas", UP, on, |now, _| now.asked == UPDATES.max).await;
    backlog::end(&stage.world, UPDATES).await;
}

/// While the brokers cannot be reached the replicas stay, few or many; afterwards they follow.
pub async fn broker_away(stage: &Stage) {
    let on = (&stage.bed, &stage.world);
    at_rest(stage, RESULTS).await;
    let mut timeline = Timeline::new(RESULTS);
    stage.broker.proxy.cut().await;
    backlog::add(&stage.world, RESULTS, 40_000).await;
    timeline.stays("6 replicas", Duration::from_secs(45), on, |now| now.asked == RESULTS.min).await;
    stage.broker.proxy.restore().await;
    timeline.until("the most replicas", UP, on, |now, _| now.asked == RESULTS.max).await;

    stage.broker.proxy.cut().await;
    backlog::end(&stage.world, RESULTS).await;
    timeline.stays("15 replicas", LONGER_THAN_THE_WINDOW, on, |now| now.asked == RESULTS.max).await;
    stage.broker.proxy.restore().await;
    timeline.until("fewer", crate::open_loop::DOWN, on, |now, _| now.asked < RESULTS.max).await;
}

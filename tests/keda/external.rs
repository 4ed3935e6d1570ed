//! Our own scaler in the trigger's place: it moves the replicas, and while it is away they stay.

use std::time::Duration;

use crate::Stage;
use crate::backlog;
use crate::faults::LONGER_THAN_THE_WINDOW;
use crate::harness::Process;
use crate::open_loop::{DOWN, UP, at_rest};
use crate::timeline::Timeline;
use crate::workload::RESULTS;

/// Pods of 50/s, which are to be through with it in 30 s: more than fifteen of them.
const BACKLOG: u32 = 40_000;
const STARTED: Duration = Duration::from_secs(60);

async fn start(stage: &Stage) -> Process {
    let mut scaler = stage.world.process(
        "scaler",
        &[
            ("PATIENT_NOTIFY_SCALER__LISTEN", &stage.scaler),
            ("PATIENT_NOTIFY_SCALER__RESULTS_RATE_PER_S", "50"),
        ],
    );
    let begun = std::time::Instant::now();
    while !tokio::net::TcpStream::connect(&stage.scaler).await.is_ok() {
        assert!(scaler.is_running() && begun.elapsed() < STARTED, "{}", scaler.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    scaler
}

async fn stop(mut scaler: Process) {
    scaler.terminate();
    let status = scaler.wait().await;
    assert!(status.success(), "the scaler did not end cleanly: {status}");
}

/// The overlay `external`: up, the scaler dies and comes back, down; and back to `simple`.
pub async fn away_and_back(stage: &Stage) {
    let on = (&stage.bed, &stage.world);
    at_rest(stage, RESULTS).await;
    let scaler = start(stage).await;
    stage.bed.apply_objects(&stage.manifests.scaling(&stage.bed, "external"));
    let mut timeline = Timeline::new(RESULTS);
    timeline.stays("6 replicas", Duration::from_secs(30), on, |now| now.asked == RESULTS.min).await;
    backlog::add(&stage.world, RESULTS, BACKLOG).await;
    timeline.until("the most replicas", UP, on, |now, _| now.asked == RESULTS.max).await;

    stop(scaler).await;
    backlog::end(&stage.world, RESULTS).await;
    timeline.stays("15 replicas", LONGER_THAN_THE_WINDOW, on, |now| now.asked == RESULTS.max).await;
    let scaler = start(stage).await;
    timeline.until("the least replicas", DOWN, on, |now, _| now.asked == RESULTS.min).await;

    stage.bed.apply_objects(&stage.manifests.scaling(&stage.bed, "simple"));
    stop(scaler).await;
    timeline.stays("6 replicas", Duration::from_secs(30), on, |now| now.asked == RESULTS.min).await;
    backlog::add(&stage.world, RESULTS, BACKLOG).await;
    timeline.until("the most replicas", UP, on, |now, _| now.asked == RESULTS.max).await;
    backlog::end(&stage.world, RESULTS).await;
}

//! Backlogs that nobody works off, and that end from outside: what the HPA makes of them.

use std::time::Duration;

use futures::future::join_all;

use crate::Stage;
use crate::backlog;
use crate::timeline::Timeline;
use crate::workload::{ALL, DUE, REQUESTS, RESULTS, UPDATES, Workload};

/// From a backlog to the most replicas: two looks of the HPA and what KEDA needs, on a busy machine.
pub const UP: Duration = Duration::from_secs(90);
/// From no lag to the least: the window of 180 s, then half a minute's worth each minute.
pub const DOWN: Duration = Duration::from_secs(480);

/// Enough for every replica: its threshold times the most, and some.
fn enough(workload: Workload) -> u32 {
    match workload.name {
        name if name == RESULTS.name => 40_000,
        name if name == REQUESTS.name => 25_000,
        name if name == UPDATES.name => 45_000,
        name if name == DUE.name => 15_000,
        name => panic!("{name}?"),
    }
}

/// All are at their least, and their HPAs have looked.
pub async fn at_rest(stage: &Stage, workload: Workload) -> Timeline {
    let mut timeline = Timeline::new(workload);
    let min = workload.min;
    timeline
        .until("it is at rest", DOWN, (&stage.bed, &stage.world), |now, lag| {
            lag == 0 && now.asked == min && now.wanted == Some(min)
        })
        .await;
    timeline
}

pub async fn lag_moves_all_four(stage: &Stage) {
    join_all(ALL.map(async |workload| {
        at_rest(stage, workload).await;
        let (on, min, max) = ((&stage.bed, &stage.world), workload.min, workload.max);
        let mut timeline = Timeline::new(workload);
        timeline.until("a look", UP, on, |_, _| true).await;
        backlog::add(&stage.world, workload, enough(workload)).await;
        timeline.until("the most replicas", UP, on, |now, _| now.asked == max).await;
        let first = timeline.first_new_replica().unwrap();
        backlog::end(&stage.world, workload).await;
        timeline.until("the least replicas", DOWN, on, |now, _| now.asked == min).await;
        println!("  {}: {min} → {max} → {min}; first new replica after {first:.0?}", workload.name);
    }))
    .await;
}

/// With the HPA's usual tolerance, work for 15 leaves 14 as they are.
pub async fn no_stranding(stage: &Stage) {
    let on = (&stage.bed, &stage.world);
    at_rest(stage, RESULTS).await;
    let mut timeline = Timeline::new(RESULTS);
    backlog::add(&stage.world, RESULTS, 27_500).await;
    timeline.until("14 replicas", UP, on, |now, _| now.asked == 14).await;
    backlog::add(&stage.world, RESULTS, 1_500).await;
    timeline.until("the fifteenth", UP, on, |now, _| now.asked == 15).await;
    backlog::end(&stage.world, RESULTS).await;
}

//! What is due is told, with the age of the oldest; what waits on purpose is not due.

use std::time::Duration;

use crate::harness::{World, eventually};

const SOON: Duration = Duration::from_secs(60);

async fn execute(world: &World, statement: &str) {
    world.pool.get().await.unwrap().batch_execute(statement).await.unwrap();
}

/// Deliveries of nobody, due so many seconds ago (below zero: ahead).
fn deliveries(count: u32, urgency: &str, state: &str, ago_s: i64) -> String {
    format!(
        "INSERT INTO delivery (delivery_id, notification_id, recipient_id, channel, position, urgency, state,
                               reason, due_at, expires_at)
         SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), 'sms', 0, '{urgency}', '{state}',
                'none', now() - {ago_s} * interval '1 second' - n * interval '1 second', now() + interval '1 day'
           FROM generate_series(0, {count} - 1) AS n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_depth_of_each_queue_and_the_age_of_its_oldest_row_are_told() {
    let world = World::new().await;
    for rows in [
        deliveries(3, "critical", "temporary_failure", 600),
        deliveries(2, "bulk", "queued", 60),
        deliveries(5, "critical", "held", -3_600),
        deliveries(4, "normal", "dispatching", -60),
    ] {
        execute(&world, &rows).await;
    }
    let depths = world.store.depths().await.unwrap();
    let of = |queue: &str, urgency: &str| {
        depths.iter().find(|one| (one.queue.as_str(), one.urgency.as_str()) == (queue, urgency))
    };
    let critical = of("deliveries", "critical").unwrap();
    assert_eq!(critical.due, 3);
    assert!((602..1_000).contains(&critical.oldest.as_secs()), "{:?}", critical.oldest);
    assert_eq!(of("deliveries", "bulk").unwrap().due, 2);
    assert_eq!(depths.len(), 2, "what is held, and what somebody is sending, is not due: {depths:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_tell_a_depth_and_that_it_is_gone() {
    let world = World::new().await;
    execute(
        &world,
        "INSERT INTO outbox (notification_id, patient_id, recipient_id, purpose, sequence, state, reason,
                                 changed_at)
             SELECT gen_random_uuid(), 'pat-1', gen_random_uuid(), 'general', n, 'sent', 'none',
                    now() - interval '5 minutes'
               FROM generate_series(1, 3) AS n",
    )
    .await;
    let worker = tokio::sync::Mutex::new(world.process("wrk-notifications", &[]));
    let labels = "{queue=\"outbox\",urgency=\"none\"}";
    let depth = format!("patient_notify_due_depth{labels}");
    let age = format!("patient_notify_due_oldest_age_seconds{labels}");
    let is = async |expected: f64| (worker.lock().await.metric(&depth).await - expected).abs() < f64::EPSILON;
    eventually("the depth is told", SOON, async || is(3.0).await).await;
    assert!(worker.lock().await.metric(&age).await >= 300.0);
    execute(&world, "DELETE FROM outbox").await;
    eventually("it is told to be gone", SOON, async || is(0.0).await).await;
    assert!(worker.lock().await.metric(&age).await.abs() < f64::EPSILON);
}

/// What the autoscaler sees: due rows a lane.
async fn seen(world: &World) -> (i64, i64) {
    let client = world.pool.get().await.unwrap();
    let rows = client.query("SELECT lane, due FROM scaler_due_deliveries", &[]).await.unwrap();
    let of = |lane: &str| rows.iter().find(|row| row.get::<_, &str>("lane") == lane).unwrap().get("due");
    (of("urgent"), of("bulk"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_autoscaler_sees_what_is_due_now_and_only_as_far_as_it_can_use() {
    let world = World::new().await;
    assert_eq!(seen(&world).await, (0, 0));
    for rows in [
        deliveries(3, "critical", "temporary_failure", 600),
        deliveries(2, "normal", "dispatching", 600),
        deliveries(7, "bulk", "queued", 60),
        deliveries(5, "critical", "held", -3_600),
    ] {
        execute(&world, &rows).await;
    }
    assert_eq!(seen(&world).await, (5, 7), "what waits on purpose adds no pods; a dead owner's claim does");
    execute(&world, &deliveries(20_000, "high", "queued", 60)).await;
    execute(&world, &deliveries(35_000, "bulk", "queued", 60)).await;
    assert_eq!(seen(&world).await, (15_000, 30_000), "no more is counted than the most pods need");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_autoscaler_s_role_sees_counts_and_nothing_else() {
    let world = World::new().await;
    // Twice: again changes nothing.
    for _ in 0..2 {
        execute(&world, include_str!("../../deploy/postgres/scaler-role.sql")).await;
    }
    execute(&world, &deliveries(3, "high", "queued", 60)).await;
    let client = world.pool.get().await.unwrap();
    client.batch_execute("SET ROLE patient_notify_scaler").await.unwrap();
    let due = "SELECT due FROM scaler_due_deliveries WHERE lane = 'urgent'";
    assert_eq!(client.query_one(due, &[]).await.unwrap().get::<_, i64>("due"), 3);
    let refused = client.query("SELECT FROM delivery", &[]).await.unwrap_err();
    assert_eq!(refused.code(), Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE));
    client.batch_execute("RESET ROLE").await.unwrap();
}

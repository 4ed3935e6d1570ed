//! Jobs of cron: each tick is won once and done whoever dies, what is missed is run once,
//! and what a job does twice has one effect.

use std::time::Duration;

use patient_notify::api::proto;
use patient_notify::api::proto::notification_service_client::NotificationServiceClient;
use rand::RngExt as _;

use crate::front::front;
use crate::harness::{Process, World, eventually, patient, ready, request, result, sms_only, stop};
use crate::tools::{printed, tool};

const SOON: Duration = Duration::from_secs(60);

/// Due once a year: no test runs long enough to see it fall due by itself.
const YEARLY: &str = "0 0 1 1 *";

/// A replica that looks often and whose leases are short.
fn replica(world: &World, digest: &str) -> Process {
    world.process(
        "cron",
        &[
            ("PATIENT_NOTIFY_CRON__LEASE_MS", "2000"),
            ("PATIENT_NOTIFY_CRON__PAGE_MAX_ROWS", "4"),
            ("PATIENT_NOTIFY_CRON__RETENTION_SCHEDULE", YEARLY),
            ("PATIENT_NOTIFY_CRON__DIGEST_SCHEDULE", YEARLY),
            ("PATIENT_NOTIFY_CRON__DIGEST_ENABLED", digest),
            ("PATIENT_NOTIFY_WORKERS__POLL_INTERVAL_MS", "50"),
        ],
    )
}

async fn execute(world: &World, statement: &str) {
    world.pool.get().await.unwrap().batch_execute(statement).await.unwrap();
}

/// Each step of a job takes a while, so that one can be met in the middle.
async fn slow_steps(world: &World) {
    let trigger = "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS \
                   'BEGIN PERFORM pg_sleep(0.05); RETURN NEW; END'; \
                   CREATE TRIGGER slowly BEFORE UPDATE ON cron_tick FOR EACH ROW EXECUTE FUNCTION slowly()";
    execute(world, trigger).await;
}

const RETENTION_DONE: &str = "cron_tick WHERE job = 'retention' AND state = 'done'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_tick_is_lost_or_doubled_whoever_dies_and_a_missed_one_is_run_once() {
    const ROUNDS: i64 = 6;
    let world = World::new().await;
    slow_steps(&world).await;
    let mut replicas = vec![replica(&world, "false"), replica(&world, "false")];
    let first = "cron_tick WHERE job = 'retention' AND fault = 'first_seen'";
    eventually("the first look runs nothing", SOON, async || world.count(first).await == 1).await;
    let mut logs = Vec::new();
    let mut died_holding_it = 0;
    for round in 0..ROUNDS {
        // The newest tick moves back in time: that of this year is missing then.
        let back = format!(
            "UPDATE cron_tick SET due_at = '2010-01-01'::timestamptz + {round} * interval '1 day' \
              WHERE job = 'retention' AND due_at = (SELECT max(due_at) FROM cron_tick WHERE job = 'retention')"
        );
        execute(&world, &back).await;
        eventually("the tick is won", SOON, async || {
            world.count("cron_tick WHERE job = 'retention' AND due_at > '2020-01-01'").await == 1
        })
        .await;
        let pause = Duration::from_millis(rand::rng().random_range(0..300));
        tokio::time::timeout(pause, std::future::pending::<()>()).await.unwrap_err();
        let victim = usize::try_from(round).unwrap() % 2;
        replicas[victim].kill9();
        logs.push(replicas[victim].log());
        died_holding_it += world.count("cron_tick WHERE job = 'retention' AND state = 'running'").await;
        replicas[victim] = replica(&world, "false");
        eventually("the tick is done", SOON, async || world.count(RETENTION_DONE).await == round + 1).await;
    }
    println!("{died_holding_it} of {ROUNDS} ticks ran when a replica died");
    assert_eq!(world.count("cron_tick WHERE job = 'retention'").await, ROUNDS + 1, "none twice");
    assert_eq!(world.count("cron_tick WHERE job = 'retention' AND state <> 'done'").await, 1);

    // All are down; years go by.
    for mut one in replicas.drain(..) {
        one.terminate();
        assert_eq!(one.wait().await.code(), Some(0), "{}", one.log());
        logs.push(one.log());
    }
    let won: usize = logs.iter().map(|log| log.matches("a tick is won").count()).sum();
    assert!(won <= usize::try_from(ROUNDS).unwrap() + stale_wins(&logs), "a tick is won once: {won}");
    execute(&world, "DELETE FROM cron_tick WHERE due_at > '2010-01-02'").await;
    let both = [replica(&world, "false"), replica(&world, "false")];
    let late =
        "cron_tick WHERE job = 'retention' AND state = 'done' AND passed_over > 10 AND due_at > '2020-01-01'";
    eventually("of many missed ticks the newest is run", SOON, async || world.count(late).await == 1).await;
    assert_eq!(world.count("cron_tick WHERE job = 'retention' AND due_at > '2010-01-02'").await, 1);
    drop(both);
}

/// Ticks of the job that looks every few minutes may fall into the test.
fn stale_wins(logs: &[String]) -> usize {
    let stale = |line: &&str| line.contains("a tick is won") && line.contains("\"stale\"");
    logs.iter().map(|log| log.lines().filter(stale).count()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_digest_reaches_each_recipient_once_although_its_runner_dies() {
    const PATIENTS: u64 = 12;
    let world = World::new().await;
    let people: Vec<_> = (1..=PATIENTS + 1).map(sms_only).collect();
    world.load(&people).await;
    let roles = ready(&world, ["consumer-test-result-notification", "consumer-notification"]).await;
    let mut results: Vec<_> = (1..=PATIENTS + 1).map(|n| result(n, &format!("res-{n}"))).collect();
    results.extend((1..=PATIENTS).map(|n| result(n, &format!("res-second-{n}"))));
    world.publish(&results).await;
    let told = i64::try_from(2 * PATIENTS + 1).unwrap();
    world.until_sent(told, SOON).await;
    let last = patient(PATIENTS + 1);
    let read = format!("UPDATE notification SET engagement = 'read' WHERE patient_id = '{}'", last.as_str());
    execute(&world, &read).await;

    slow_steps(&world).await;
    let tick =
        "INSERT INTO cron_tick (job, due_at, state, lease_until) VALUES ('digest', now(), 'running', now())";
    execute(&world, tick).await;
    let mut first = replica(&world, "true");
    // Not at the pace of `eventually`: it has to be met in the middle.
    let begun = std::time::Instant::now();
    while world.count("cron_tick WHERE job = 'digest' AND progress IS NOT NULL").await == 0 {
        assert!(begun.elapsed() < SOON, "the digest does not begin");
    }
    first.kill9();
    assert_eq!(world.count("cron_tick WHERE job = 'digest' AND state = 'running'").await, 1, "in the middle");
    let second = replica(&world, "true");
    let done = "cron_tick WHERE job = 'digest' AND state = 'done' AND deaths > 0";
    eventually("another one goes on", SOON, async || world.count(done).await == 1).await;
    world.until_sent(told + i64::try_from(PATIENTS).unwrap(), SOON).await;
    let digests = "notification WHERE caller = 'digest'";
    assert_eq!(world.count(digests).await, i64::try_from(PATIENTS).unwrap());
    assert_eq!(world.count(&format!("{digests} AND patient_id = '{}'", last.as_str())).await, 0);
    assert_eq!(world.count("why WHERE reason = 'conflicting_duplicate'").await, 0);
    world.assert_each_once().await;
    let said = world.sandbox.log.all();
    let counted = said.iter().filter(|one| one.body.expose().contains("Unread messages in the portal: 2."));
    assert_eq!(counted.count(), usize::try_from(PATIENTS).unwrap());
    drop(second);
    stop(roles).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_old_loses_its_contents_and_keeps_its_reasons() {
    let world = World::new().await;
    world.load(&[sms_only(1), sms_only(2)]).await;
    let roles = ready(&world, ["consumer-notification"]).await;
    let mut old = request(1, "old");
    old.variables = patient_notify::domain::Redacted::new(vec![("topic".to_owned(), "flu_shots".to_owned())]);
    let mut new = old.clone();
    new.idempotency_key = "new".to_owned();
    new.patient_id = patient(2);
    world.publish_requests(&[old, new], &patient_notify::topic::names::NOTIFICATIONS).await;
    world.until_sent(2, SOON).await;
    stop(roles).await;
    let aged = "UPDATE notification SET accepted_at = now() - interval '91 days' WHERE patient_id = \
                (SELECT min(patient_id) FROM notification); \
        INSERT INTO batch (batch_id, caller, idempotency_key, name, purpose, channels, variables, rate_per_s, \
                expires_at, state, rows_stored, ended_at) \
        VALUES (gen_random_uuid(), 'test', 'b', 'b', 'campaign', '{}', '{\"note\": \"CANARY\"}', 1, now(), 'done', \
                900, now() - interval '31 days'); \
        INSERT INTO batch_recipient (batch_id, row_no, patient_id, notification_id, variables) \
        SELECT batch_id, n, 'pat-CANARY', gen_random_uuid(), '{\"note\": \"CANARY\"}' \
          FROM batch, generate_series(1, 900) AS n; \
        INSERT INTO appointment (appointment_id, patient_id, recipients, starts_at, time_zone, location, status, \
                offsets_s, notice, notice_version, created_by) \
        VALUES ('apt-1', 'pat-1', '{}', now() - interval '91 days', 'UTC', 'CANARY', 'booked', '{}', 'made', 1, 't'); \
        INSERT INTO appointment_reminder (appointment_id, schedule, offset_s, starts_at, due_at, state, reason) \
        VALUES ('apt-1', 1, 60, now() - interval '91 days', now() - interval '91 days', 'fired', 'published')";
    execute(&world, aged).await;

    let ran = tool(&world.config, &["cron", "run", "retention", "--by", "ann"]).await;
    assert!(ran.status.success(), "{}", printed(&ran));
    for (left, count) in [
        ("notification WHERE variables IS NOT NULL AND NOT contents_erased", 1),
        ("delivery WHERE address IS NOT NULL", 1),
        ("notification WHERE contents_erased AND state = 'sent'", 1),
        ("batch_recipient", 0),
        ("batch WHERE rows_stored = 900 AND contents_erased_at IS NOT NULL AND variables = '{}'", 1),
        ("appointment WHERE location IS NOT NULL", 0),
        ("appointment_reminder", 0),
    ] {
        assert_eq!(world.count(left).await, count, "{left}");
    }
    assert_eq!(canaries(&world).await, Vec::<String>::new());

    let (_front, channel) = front(&world).await;
    let id = patient_notify::domain::NotificationId::for_request("test", "old");
    let explain =
        proto::NotificationServiceExplainRequest { notification_id: id.to_string(), ..Default::default() };
    let told = NotificationServiceClient::new(channel).explain(explain).await.unwrap().into_inner();
    assert!(format!("{told:?}").contains("provider_accepted"), "{told:?}");

    let history = printed(&tool(&world.config, &["cron", "history", "retention"]).await);
    for word in
        ["retention", "done", "ann", "batch_rows 900", "locations 1", "notifications 1", "reminders 1"]
    {
        assert!(history.contains(word), "{word} in {history}");
    }
    let list = printed(&tool(&world.config, &["cron", "list"]).await);
    let line = |job: &str| list.lines().find(|line| line.starts_with(job)).unwrap_or_default().to_owned();
    assert!(line("digest").contains("off"), "{list}");
    assert!(line("retention").contains("30 3 * * *") && line("retention").contains("done"), "{list}");
    assert!(line("stale").contains("*/5 * * * *"), "{list}");
    assert_eq!(tool(&world.config, &["cron", "run", "nonsense"]).await.status.code(), Some(64));
}

/// Tables that still have the word.
async fn canaries(world: &World) -> Vec<String> {
    let client = world.pool.get().await.unwrap();
    let tables = client.query("SELECT relname::text FROM pg_stat_user_tables", &[]).await.unwrap();
    let mut found = Vec::new();
    for table in tables.iter().map(|row| row.get::<_, String>(0)) {
        let with_it = format!("{table} t WHERE t::text LIKE '%CANARY%'");
        if world.count(&with_it).await > 0 {
            found.push(table);
        }
    }
    found
}

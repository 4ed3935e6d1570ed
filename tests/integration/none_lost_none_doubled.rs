//! 20,000 results through two consumers, of which one is killed in the middle
//! while another joins: none is lost, none is sent twice.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use patient_notify::domain::{Channel, State};
use patient_notify::record::recipients::RecipientUpsert;
use patient_notify::sandbox::ChannelFaults;

use crate::harness::{World, eventually, recipient, results};

const CONSUMER: &str = "consumer-test-result-notification";
const RESULTS: i64 = 20_000;
const PATIENTS: u64 = 2_000;
/// So many are sent when the consumer is killed.
const BEFORE_THE_KILL: i64 = 4_000;
/// A claim lasts as short as its providers' time-outs allow.
const SHORT: [(&str, &str); 7] = [
    ("PATIENT_NOTIFY_SMS__TIMEOUT_MS", "3000"),
    ("PATIENT_NOTIFY_EMAIL__TIMEOUT_MS", "3000"),
    ("PATIENT_NOTIFY_PUSH__TIMEOUT_MS", "3000"),
    ("PATIENT_NOTIFY_EMAIL__CONCURRENCY", "64"),
    ("PATIENT_NOTIFY_PROCESSOR__LEASE_MS", "16000"),
    ("PATIENT_NOTIFY_PROCESSOR__IN_FLIGHT_MAX", "512"),
    ("PATIENT_NOTIFY_RETRY__OUTCOME_UNKNOWN_DEADLINE_MS", "2000"),
];

/// Most prefer text messages; some e-mail or push, which cannot be looked up.
fn people() -> Vec<RecipientUpsert> {
    (1..=PATIENTS)
        .map(|number| {
            let mut one = recipient(number);
            one.channel_order = match number % 16 {
                0 => vec![Channel::Email],
                1 => vec![Channel::Email, Channel::Sms],
                2 | 3 => vec![Channel::Push, Channel::Sms],
                _ => vec![Channel::Sms, Channel::Email],
            };
            one
        })
        .collect()
}

/// Nothing is committed that has no row: otherwise a crash would lose it.
async fn assert_commits_are_backed(world: &World) {
    // In this order: rows that come in between do not matter.
    let committed = world.committed().await;
    let noted = world.noted().await;
    for one in committed {
        let Some(until) = one.committed else { continue };
        let without = (one.low..until).filter(|&offset| !noted.contains(&(one.partition, offset))).count();
        assert_eq!(without, 0, "partition {}: committed up to {until} without their rows", one.partition);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_is_killed_loses_and_doubles_nothing() {
    let begun = Instant::now();
    let world = World::new().await;
    world.load(&people()).await;
    for channel in [Channel::Sms, Channel::Email, Channel::Push] {
        world.sandbox.faults.set(channel, ChannelFaults { latency_ms: 50, ..Default::default() });
    }
    let mut victim = world.process(CONSUMER, &SHORT);
    let mut second = world.process(CONSUMER, &SHORT);
    let worker = world.process("wrk-notifications", &SHORT);
    eventually("both have partitions", Duration::from_secs(30), async || {
        assert!(victim.is_running() && second.is_running());
        victim.assigned() > 0 && second.assigned() > 0 && victim.assigned() + second.assigned() == 12
    })
    .await;

    let results = results(1, RESULTS.unsigned_abs(), PATIENTS);
    let kill = async {
        eventually("some are sent", Duration::from_secs(60), async || world.sent().await >= BEFORE_THE_KILL).await;
        victim.kill9();
        let left = world.count("delivery WHERE state = 'dispatching'").await;
        (world.process(CONSUMER, &SHORT), left, world.sent().await)
    };
    let (published, (third, in_dispatch, sent_at_kill)) = tokio::join!(world.publish(&results), kill);
    let published: HashSet<(i32, i64)> = published.into_iter().collect();
    assert_eq!(i64::try_from(published.len()), Ok(RESULTS), "each result has an offset of its own");

    eventually("all are committed", Duration::from_secs(60), async || {
        assert_commits_are_backed(&world).await;
        let (noted, lag) = (world.noted().await.len(), world.lag().await);
        noted == published.len() && lag == 0
    })
    .await;
    eventually("nothing is on its way", Duration::from_secs(60), async || {
        world.store.due_within(Duration::from_secs(3600)).await.unwrap() == 0
    })
    .await;

    assert!(world.noted().await == published, "what became a notification is what was published");
    world.assert_each_once().await;
    let states = world.states().await;
    let ended_unknown =
        world.count("notification WHERE state = 'technical_failure' AND reason = 'outcome_unknown'").await;
    let sent = states.get(&State::Sent).copied().unwrap_or(0);
    assert_eq!(sent + ended_unknown, RESULTS, "{states:?}");
    assert_eq!(world.count("delivery WHERE channel = 'sms' AND state <> 'sent'").await, 0, "text messages are found");
    let orphans = worker.logged("its owner died");
    assert!(orphans > 0, "the kill hit nothing that was in flight; in dispatch: {in_dispatch}");
    let found = world.count("delivery WHERE reason = 'found_at_provider'").await;
    let next_channel = world.count("delivery WHERE position > 0").await;
    println!(
        "none lost, none doubled: {RESULTS} published, {sent_at_kill} sent at the kill, {in_dispatch} in dispatch \
         then; {orphans} claims of the dead owner: {found} found at the provider, {next_channel} by the next \
         channel, {ended_unknown} ended as unknown; {} messages, third consumer had {} partitions; {:.1} s",
        world.sandbox.log.stats().total,
        third.assigned(),
        begun.elapsed().as_secs_f64()
    );
}

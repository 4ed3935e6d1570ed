//! 20,000 messages and their receipts through all three consumers, each of which is
//! killed once in the middle: none is lost, none is sent twice, and each ends as its
//! provider said.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use patient_notify::dev::Told;
use patient_notify::domain::{Channel, NotificationRequested, Purpose, ReceiptStatus, State};
use patient_notify::record::recipients::RecipientUpsert;
use patient_notify::sandbox::{ChannelFaults, ReceiptPlan};
use patient_notify::topic::names::{NOTIFICATIONS, TEST_RESULTS, Topic};

use crate::harness::{Process, World, eventually, recipient, request, results};

const RESULTS_CONSUMER: &str = "consumer-test-result-notification";
const REQUESTS_CONSUMER: &str = "consumer-notification";
const UPDATES_CONSUMER: &str = "consumer-notification-update";
/// Results, and as many requests.
const EACH: u64 = 10_000;
const MESSAGES: i64 = 20_000;
const PATIENTS: u64 = 2_000;
const DEADLINE: Duration = Duration::from_secs(150);
/// A claim lasts as short as its providers' time-outs allow.
const SHORT: [(&str, &str); 7] = [
    ("PATIENT_NOTIFY_SMS__TIMEOUT_MS", "3000"),
    ("PATIENT_NOTIFY_EMAIL__TIMEOUT_MS", "3000"),
    ("PATIENT_NOTIFY_PUSH__TIMEOUT_MS", "3000"),
    ("PATIENT_NOTIFY_EMAIL__CONCURRENCY", "64"),
    ("PATIENT_NOTIFY_PROCESSOR__LEASE_MS", "16000"),
    ("PATIENT_NOTIFY_PROCESSOR__IN_FLIGHT_MAX", "512"),
    ("PATIENT_NOTIFY_RETRY__OUTCOME_UNKNOWN_DEADLINE_MS", "4000"),
];
/// What their providers say names our delivery: an answer that was lost with its
/// process took the provider's own id with it.
const PLAN: ReceiptPlan = ReceiptPlan {
    seed: 4,
    delay_ms: 200,
    sms_undelivered: 5,
    sms_answered: 0,
    email_bounced: 5,
    email_complained: 0,
    push_seen: 0,
    repeated: 20,
    shuffled: 30,
    named_by_delivery: 100,
};

/// Most prefer text messages; some e-mail, which cannot be looked up.
fn people() -> Vec<RecipientUpsert> {
    (1..=PATIENTS)
        .map(|number| {
            let mut one = recipient(number);
            one.channel_order = match number % 16 {
                0 => vec![Channel::Email],
                1..=3 => vec![Channel::Email, Channel::Sms],
                _ => vec![Channel::Sms, Channel::Email],
            };
            one
        })
        .collect()
}

fn requests() -> Vec<NotificationRequested> {
    (0..EACH)
        .map(|number| {
            let mut one = request(number % PATIENTS + 1, &format!("kill-{number}"));
            one.purpose = Purpose::AppointmentConfirmation;
            one
        })
        .collect()
}

/// Nothing is committed that has no row: otherwise a crash would lose it.
async fn assert_commits_are_backed(world: &World, topic: &Topic) {
    // In this order: rows that come in between do not matter.
    let committed = world.committed(topic).await;
    let noted = world.noted_of(topic).await;
    for one in committed {
        let Some(until) = one.committed else { continue };
        let without = (one.low..until).filter(|&offset| !noted.contains(&(one.partition, offset))).count();
        assert_eq!(without, 0, "partition {}: committed up to {until} without their rows", one.partition);
    }
}

async fn ended(world: &World) -> i64 {
    world.states().await.iter().filter(|(state, _)| state.is_terminal()).map(|(_, count)| count).sum()
}

/// Kills a process once so many messages have ended, and starts another in its place.
async fn kill(world: &World, role: &'static str, victim: &mut Process, when_ended: i64) -> (Process, i64) {
    eventually(&format!("{when_ended} have ended"), DEADLINE, async || {
        assert!(victim.is_running(), "{role} ended by itself");
        ended(world).await >= when_ended
    })
    .await;
    victim.kill9();
    let in_dispatch = world.count("delivery WHERE state = 'dispatching'").await;
    (world.process(role, &SHORT), in_dispatch)
}

/// Every delivery that a provider took ended as its provider said.
async fn assert_ends_as_told(world: &World, told: &Told) {
    for delivery in world.store.all_deliveries().await.unwrap() {
        let Some(end) = told.ends.get(&delivery.delivery_id.short_code()) else { continue };
        let expected = match end {
            ReceiptStatus::Delivered => State::Delivered,
            _ => State::PermanentFailure,
        };
        assert_eq!(delivery.state, expected, "its provider said {end}: {delivery:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consumers_that_are_killed_lose_and_double_nothing() {
    let begun = Instant::now();
    let mut world = World::new().await;
    // For the stub to know which delivery a text message is.
    world.config.sms.status_callback_base_url = "https://portal.example.org".to_owned();
    world.load(&people()).await;
    for channel in [Channel::Sms, Channel::Email] {
        world.sandbox.faults.set(channel, ChannelFaults { latency_ms: 50, ..Default::default() });
    }
    let mut of_results = world.process(RESULTS_CONSUMER, &SHORT);
    let mut of_requests = world.process(REQUESTS_CONSUMER, &SHORT);
    let mut of_updates = world.process(UPDATES_CONSUMER, &SHORT);
    let worker = world.process("wrk-notifications", &SHORT);
    let reporting = world.reporting(PLAN);

    let results = results(1, EACH, PATIENTS);
    let requests = requests();
    let kills = async {
        let one = kill(&world, RESULTS_CONSUMER, &mut of_results, 2_000).await;
        let two = kill(&world, REQUESTS_CONSUMER, &mut of_requests, 6_000).await;
        let three = kill(&world, UPDATES_CONSUMER, &mut of_updates, 9_000).await;
        [one, two, three]
    };
    let (published, asked, replacements) =
        tokio::join!(world.publish(&results), world.publish_requests(&requests, &NOTIFICATIONS), kills);
    let in_dispatch = replacements.each_ref().map(|(_, count)| *count);

    eventually("all are committed", DEADLINE, async || {
        assert_commits_are_backed(&world, &TEST_RESULTS).await;
        assert_commits_are_backed(&world, &NOTIFICATIONS).await;
        world.count("notification").await == MESSAGES && world.lag().await == 0
    })
    .await;
    eventually("all have ended, and everything is told", DEADLINE, async || {
        ended(&world).await == MESSAGES
            && reporting.is_idle().unwrap()
            && world.lag().await == 0
            && world.count("unmatched_update").await == 0
    })
    .await;

    let published: HashSet<(i32, i64)> = published.into_iter().collect();
    assert!(world.noted().await == published, "each result became a notification");
    let asked: HashSet<(i32, i64)> = asked.into_iter().collect();
    assert!(world.noted_of(&NOTIFICATIONS).await == asked, "each request became a notification");
    world.assert_each_once().await;
    let told = reporting.stop().await.unwrap();
    assert_ends_as_told(&world, &told).await;
    let orphans = worker.logged("its owner died");
    assert!(orphans > 0, "the kills hit nothing that was in flight; in dispatch: {in_dispatch:?}");
    let states = world.states().await;
    println!(
        "none lost, none doubled: {MESSAGES} messages, three kills with {in_dispatch:?} in dispatch; \
         {orphans} claims of dead owners, {} found at the provider; {} receipts, {} of them repeats; \
         {} messages at the providers, {} deliveries; ends: {states:?}; {:.1} s",
        world.count("why WHERE reason = 'found_at_provider'").await,
        told.records,
        told.repeats,
        world.sandbox.log.stats().total,
        world.count("delivery").await,
        begun.elapsed().as_secs_f64()
    );
}

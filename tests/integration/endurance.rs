//! For two minutes a process that works is killed every few seconds, any of two replicas of
//! seven roles, while everything flows in. Afterwards all that was accepted has ended, or
//! waits for a reason of its own; nothing reached a provider twice; every status change is
//! on its topic; the batch adds up.
//!
//! It needs the machine for itself: it is run after the other tests, alone.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use patient_notify::api::convert::timestamp_to;
use patient_notify::api::proto;
use patient_notify::api::proto::appointment_service_client::AppointmentServiceClient;
use patient_notify::domain::{
    Channel, NotificationId, NotificationRequested, Purpose, ResultUrgency, State, TestResultPublished,
};
use patient_notify::record::recipients::RecipientUpsert;
use patient_notify::sandbox::{ChannelFaults, ReceiptPlan};
use patient_notify::topic::names::{NOTIFICATIONS, TEST_RESULTS};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tonic::transport::Channel as Connection;

use crate::batch_exactness::{checked, released};
use crate::front::front;
use crate::harness::{Process, World, cancelled, eventually, patient, recipient, request, result};
use crate::status_out::{assert_topic_tells_what_the_database_says, outbox};

/// How long processes are killed.
const DURATION: Duration = Duration::from_secs(120);
/// Between two kills.
const KILL_EVERY_MS: std::ops::Range<u64> = 2_000..4_000;
/// How long the rest may take afterwards.
const SETTLED: Duration = Duration::from_secs(300);
const ROLES: [&str; 7] = [
    "consumer-test-result-notification",
    "consumer-notification",
    "consumer-notification-update",
    "wrk-notifications",
    "wrk-default",
    "wrk-batch-publisher",
    "cron",
];
const PATIENTS: u64 = 1_000;
/// What comes in a tick.
const TICK: Duration = Duration::from_millis(500);
const RESULTS_A_TICK: u64 = 8;
const REQUESTS_A_TICK: u64 = 8;
const RECIPIENTS: i64 = 3_000;
const BATCH_RATE_PER_S: i32 = 30;
/// Short, so that what a dead process held is taken up soon.
const SHORT: [(&str, &str); 8] = [
    ("PATIENT_NOTIFY_SMS__TIMEOUT_MS", "3000"),
    ("PATIENT_NOTIFY_EMAIL__TIMEOUT_MS", "3000"),
    ("PATIENT_NOTIFY_PUSH__TIMEOUT_MS", "3000"),
    ("PATIENT_NOTIFY_PROCESSOR__LEASE_MS", "16000"),
    ("PATIENT_NOTIFY_RETRY__OUTCOME_UNKNOWN_DEADLINE_MS", "4000"),
    ("PATIENT_NOTIFY_KAFKA__PRODUCE_TIMEOUT_MS", "4000"),
    ("PATIENT_NOTIFY_WORKERS__POLL_INTERVAL_MS", "200"),
    ("PATIENT_NOTIFY_WORKERS__UNMATCHED_EXPIRY_MS", "60000"),
];
const PLAN: ReceiptPlan = ReceiptPlan {
    seed: 6,
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

/// Text message first, or e-mail first, or e-mail alone.
fn people() -> Vec<RecipientUpsert> {
    let person = |number| {
        let mut one = recipient(number);
        one.channel_order = match number % 16 {
            0 => vec![Channel::Email],
            1..=3 => vec![Channel::Email, Channel::Sms],
            _ => vec![Channel::Sms, Channel::Email],
        };
        one
    };
    (1..=PATIENTS).map(person).collect()
}

/// What was accepted.
#[derive(Default)]
struct Accepted {
    results: HashSet<(i32, i64)>,
    requests: HashSet<(i32, i64)>,
    embargoed: i64,
    cancellations: usize,
    read: usize,
    appointments: u64,
    moved: usize,
    called_off: usize,
}

/// Everything that flows in.
struct Flow<'a> {
    world: &'a World,
    front: AppointmentServiceClient<Connection>,
    random: StdRng,
    accepted: Accepted,
}

impl Flow<'_> {
    async fn run(mut self) -> Accepted {
        let begun = Instant::now();
        let mut ticks = tokio::time::interval(TICK);
        let mut tick = 0;
        while begun.elapsed() < DURATION {
            ticks.tick().await;
            self.results(tick).await;
            self.requests(tick).await;
            self.appointments().await;
            tick += 1;
        }
        self.accepted
    }

    async fn results(&mut self, tick: u64) {
        let mut some: Vec<TestResultPublished> = Vec::new();
        for n in 0..RESULTS_A_TICK {
            let mut one = result(self.random.random_range(1..=PATIENTS), &format!("res-{tick}-{n}"));
            if self.random.random_ratio(1, 40) {
                one.urgency = ResultUrgency::Abnormal;
                one.available_at += SignedDuration::from_hours(24);
                self.accepted.embargoed += 1;
            }
            some.push(one);
        }
        self.accepted.results.extend(self.world.publish(&some).await);
    }

    async fn requests(&mut self, tick: u64) {
        let (mut some, mut updates): (Vec<NotificationRequested>, Vec<_>) = (Vec::new(), Vec::new());
        for n in 0..REQUESTS_A_TICK {
            let key = format!("req-{tick}-{n}");
            let mut one = request(self.random.random_range(1..=PATIENTS), &key);
            one.purpose = Purpose::AppointmentConfirmation;
            match self.random.random_range(0..20) {
                0 => updates.push(cancelled(&key)),
                1..=4 => {
                    updates.push(crate::harness::engaged(&key, patient_notify::domain::Engagement::Read))
                }
                _ => {}
            }
            some.push(one);
        }
        let (published, ()) = tokio::join!(
            self.world.publish_requests(&some, &NOTIFICATIONS),
            self.world.publish_updates(&updates)
        );
        self.accepted.requests.extend(published);
        let taken_back = |one: &&patient_notify::domain::NotificationUpdate| {
            matches!(one.fact, patient_notify::domain::Fact::Cancelled { .. })
        };
        self.accepted.cancellations += updates.iter().filter(taken_back).count();
        self.accepted.read += updates.len() - updates.iter().filter(taken_back).count();
    }

    /// One new appointment whose reminder falls due at once; some are moved or cancelled
    /// while it is on its way.
    async fn appointments(&mut self) {
        self.accepted.appointments += 1;
        let number = self.accepted.appointments;
        let start = |hours| Some(timestamp_to(Timestamp::now() + SignedDuration::from_hours(hours)));
        let wish = proto::AppointmentServicePutRequest {
            appointment_id: format!("apt-{number}"),
            patient_id: patient(number % PATIENTS + 1).as_str().to_owned(),
            starts_at: start(60),
            time_zone: "Europe/Vienna".to_owned(),
            reminder_offsets: vec![prost_types::Duration { seconds: 48 * 3600, nanos: 0 }],
            notify: number.is_multiple_of(4),
            ..Default::default()
        };
        self.front.put(wish.clone()).await.unwrap();
        let database = self.world.pool.get().await.unwrap();
        let due = "UPDATE appointment_reminder SET due_at = now(), look_at = now()
                    WHERE appointment_id = $1 AND schedule = 1 AND state = 'planned' AND owner IS NULL";
        database.execute(due, &[&wish.appointment_id]).await.unwrap();
        match self.random.random_range(0..6) {
            0 => {
                let moved = proto::AppointmentServicePutRequest { starts_at: start(90), ..wish };
                self.front.put(moved).await.unwrap();
                self.accepted.moved += 1;
            }
            1 => {
                let (appointment_id, notify) = (wish.appointment_id, wish.notify);
                let off =
                    proto::AppointmentServiceCancelRequest { appointment_id, notify, ..Default::default() };
                self.front.cancel(off).await.unwrap();
                self.accepted.called_off += 1;
            }
            _ => {}
        }
    }
}

/// Kills one process after the other, and starts each again.
async fn kill(
    world: &World,
    replicas: &mut [(&'static str, Process)],
    mut random: StdRng,
) -> Vec<&'static str> {
    let (begun, mut killed) = (Instant::now(), Vec::new());
    while begun.elapsed() < DURATION {
        let pause = Duration::from_millis(random.random_range(KILL_EVERY_MS));
        tokio::time::sleep(pause).await;
        let victim = random.random_range(0..replicas.len());
        let (role, process) = &mut replicas[victim];
        assert!(process.is_running(), "{role} ended by itself: {}", process.log());
        process.kill9();
        killed.push(*role);
        *process = world.process(role, &SHORT);
    }
    killed
}

/// What has not ended, and does not wait for a reason of its own.
const UNDER_WAY: &str =
    "notification WHERE NOT (state = ANY ('{delivered,permanent_failure,technical_failure,expired,
    cancelled,suppressed}') OR state = 'held' AND reason = 'embargo')";
const REMINDERS_UNDER_WAY: &str =
    "appointment_reminder WHERE owner IS NOT NULL OR state = 'recalling' OR look_at <= now()";

/// Every reminder that was fired is one notification, and none is there that was not.
async fn assert_reminders(world: &World) -> usize {
    let client = world.pool.get().await.unwrap();
    let rows = client
        .query("SELECT appointment_id, schedule, offset_s, state FROM appointment_reminder", &[])
        .await
        .unwrap();
    let of = |wanted: &[&str]| -> HashSet<uuid::Uuid> {
        let rows = rows.iter().filter(|row| wanted.contains(&row.get::<_, &str>("state")));
        rows.map(|row| NotificationId::for_reminder(row.get(0), row.get(1), row.get(2), None).0).collect()
    };
    let there = "SELECT notification_id FROM notification WHERE purpose = 'appointment_reminder'";
    let there: HashSet<uuid::Uuid> =
        client.query(there, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    let fired = of(&["fired"]);
    assert!(fired.is_subset(&there), "each that was fired is there");
    let may = &fired | &of(&["recalled"]);
    assert!(there.is_subset(&may), "and no other, but those that were taken back");
    fired.len()
}

/// Changes so far when nothing goes on at this look; `None`: something does.
async fn changes_at_rest(world: &World, reporting: &patient_notify::dev::Reporting) -> Option<i64> {
    let at_rest = world.count(UNDER_WAY).await == 0
        && world.count(REMINDERS_UNDER_WAY).await == 0
        && world.count("batch WHERE state = 'done'").await == 1
        && world.store.unmatched_waiting().await.unwrap() == 0
        && outbox(world).await == 0
        && reporting.is_idle().unwrap()
        && world.lag().await == 0;
    if !at_rest {
        return None;
    }
    let client = world.pool.get().await.unwrap();
    Some(client.query_one("SELECT sum(sequence) FROM notification", &[]).await.unwrap().get(0))
}

/// Waits until nothing goes on any more. One look sees one place after the other, and
/// what moves on meanwhile is missed by it; not by the next look, if both count the same.
async fn settled(world: &World, reporting: &patient_notify::dev::Reporting) {
    eventually("everything was read", SETTLED, async || world.lag().await == 0).await;
    let mut before = None;
    eventually("everything has ended, and everything is told", SETTLED, async || {
        let now = changes_at_rest(world, reporting).await;
        let same = now.is_some() && now == before;
        before = now;
        same
    })
    .await;
}

#[allow(clippy::disallowed_methods, reason = "a failed run is repeated with its seed")]
fn seed() -> u64 {
    let given = std::env::var("PATIENT_NOTIFY_ENDURANCE_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| rand::random::<u32>().into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_minutes_of_kills_lose_and_double_nothing() {
    let (seed, begun) = (seed(), Instant::now());
    println!("endurance: PATIENT_NOTIFY_ENDURANCE_SEED={seed} chooses the same victims again");
    let mut world = World::new().await;
    // For the stub to know which delivery a text message is.
    world.config.sms.status_callback_base_url = "https://portal.example.org".to_owned();
    world.load(&people()).await;
    for channel in [Channel::Sms, Channel::Email] {
        world.sandbox.faults.set(channel, ChannelFaults { latency_ms: 50, ..Default::default() });
    }
    let (_front, connection) = front(&world).await;
    let mut replicas: Vec<(&'static str, Process)> =
        ROLES.iter().chain(&ROLES).map(|role| (*role, world.process(role, &SHORT))).collect();
    let reporting = world.reporting(PLAN);
    let patient_of = |n: i64| patient(n.unsigned_abs() % PATIENTS + 1);
    let in_batch = |n: i64| if n <= 1000 { patient_of(n) } else { patient(n.unsigned_abs() + PATIENTS) };
    let batch = released(&world, Purpose::General, RECIPIENTS, BATCH_RATE_PER_S, in_batch).await;
    let flow = Flow {
        world: &world,
        front: AppointmentServiceClient::new(connection),
        random: StdRng::seed_from_u64(seed),
        accepted: Accepted::default(),
    };
    let killer = StdRng::seed_from_u64(seed.wrapping_add(1));
    let (accepted, killed) = tokio::join!(flow.run(), kill(&world, &mut replicas, killer));
    let flowed = begun.elapsed();
    settled(&world, &reporting).await;

    assert!(world.noted_of(&TEST_RESULTS).await == accepted.results, "each result is a notification");
    let noted = world.noted_of(&NOTIFICATIONS).await;
    assert!(accepted.requests.is_subset(&noted), "each request is a notification");
    // Fewer: a bounce retires an address, and who has no other is suppressed.
    let states = world.states().await;
    let held = states.get(&State::Held).copied().unwrap_or(0);
    assert!((1..=accepted.embargoed).contains(&held), "{states:?}");
    world.assert_each_once().await;
    let changes = assert_topic_tells_what_the_database_says(&world).await;
    let check = checked(&world, batch, false).await;
    assert_eq!(check.adds_up(), Some(true), "{check:?}");
    let fired = assert_reminders(&world).await;
    let told = reporting.stop().await.unwrap();
    println!(
        "endurance: seed {seed}, {} kills in {:.0} s: {killed:?}\n\
         endurance: {} results ({} embargoed), {} requests ({} cancelled, {} read), a batch of {RECIPIENTS}, \
         {} appointments ({} moved, {} cancelled; {fired} reminders fired), {} receipts ({} repeats)\n\
         endurance: {} notifications, {} deliveries, {} messages at the providers, {} status changes; ends: \
         {states:?}; settled {:.0} s after the last kill",
        killed.len(),
        flowed.as_secs_f64(),
        accepted.results.len(),
        accepted.embargoed,
        accepted.requests.len(),
        accepted.cancellations,
        accepted.read,
        accepted.appointments,
        accepted.moved,
        accepted.called_off,
        told.records,
        told.repeats,
        world.count("notification").await,
        world.count("delivery").await,
        world.sandbox.log.stats().total,
        changes.len(),
        (begun.elapsed() - flowed).as_secs_f64(),
    );
}

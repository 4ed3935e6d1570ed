//! Urgent goes first: a queue of bulk, full places and due rows of bulk do not keep
//! urgent messages waiting, and bulk moves with what they leave.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use jiff::Timestamp;
use patient_notify::domain::{Channel, DeliveryId, NotificationId, NotificationRequested, Urgency};
use patient_notify::sandbox::ChannelFaults;
use patient_notify::topic::names::{NOTIFICATIONS, NOTIFICATIONS_BULK};
use tokio_stream::wrappers::IntervalStream;

use crate::harness::{World, eventually, only, patient, request, stays};

/// Who asks in [`request`].
const CALLER: &str = "test";
const CONSUMER: &str = "consumer-notification";
const RESTING: &str = "patient_notify_partitions{state=\"resting_for_urgent\"}";
const PAUSES: &str = "patient_notify_partition_pauses_total{cause=\"urgent_work\"}";
const SOON: Duration = Duration::from_secs(60);

const BULK: u64 = 200_000;
const PATIENTS: u64 = 2_000;
/// 50 a second for 20 s.
const URGENT: usize = 1_000;
const URGENT_EVERY: Duration = Duration::from_millis(20);
/// Urgent messages on their way to the broker at once.
const URGENT_IN_FLIGHT: usize = 64;
const OBJECTIVE: Duration = Duration::from_secs(10);

/// Providers that answer after this time.
fn answer_in(world: &World, latency_ms: u64) {
    for &channel in Channel::ALL {
        world.sandbox.faults.set(channel, ChannelFaults { latency_ms, ..Default::default() });
    }
}

/// A patient whose first channel depends on the number: half text messages, the
/// rest e-mail and push.
fn first_channel(number: u64) -> Channel {
    match number % 4 {
        0 | 1 => Channel::Sms,
        2 => Channel::Push,
        _ => Channel::Email,
    }
}

/// Four of each in turn, so that each has every channel.
const fn nth_urgency(nth: usize) -> Urgency {
    if nth % 8 < 4 { Urgency::Critical } else { Urgency::Normal }
}

/// The mark by which a provider's log knows a requested message.
fn short_code(key: &str, channel: Channel) -> String {
    DeliveryId::for_channel(NotificationId::for_request(CALLER, key), channel).short_code()
}

/// Publishes 50 urgent requests a second; short code → (urgency, when it was published).
async fn publish_urgent(world: &World) -> HashMap<String, (Urgency, Timestamp)> {
    IntervalStream::new(tokio::time::interval(URGENT_EVERY))
        .take(URGENT)
        .enumerate()
        .map(async |(nth, _)| {
            let number = nth as u64 * 7 % PATIENTS + 1;
            let (key, urgency) = (format!("urgent-{nth}"), nth_urgency(nth));
            let published_at = Timestamp::now();
            world.publish_requests(&[request_as(urgency, number, &key)], &NOTIFICATIONS).await;
            (short_code(&key, first_channel(number)), (urgency, published_at))
        })
        .buffer_unordered(URGENT_IN_FLIGHT)
        .collect()
        .await
}

/// From publication to provider, for those that came, in order of time.
fn ways(world: &World, urgent: &HashMap<String, (Urgency, Timestamp)>) -> Vec<(Urgency, Duration)> {
    let mut ways: Vec<_> = world
        .sandbox
        .log
        .find(usize::MAX, |message| message.short_code.as_ref().is_some_and(|code| urgent.contains_key(code)))
        .iter()
        .map(|message| {
            let (urgency, published_at) = urgent[message.short_code.as_ref().unwrap()];
            let way = message.received_at.duration_since(published_at);
            (urgency, Duration::try_from(way).unwrap_or_default())
        })
        .collect();
    ways.sort_unstable_by_key(|(_, way)| *way);
    ways
}

fn percentile(ways: &[Duration], percent: usize) -> Duration {
    ways[(ways.len() * percent / 100).min(ways.len() - 1)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urgent_messages_keep_their_objective_while_two_hundred_thousand_bulk_ones_are_queued() {
    let world = World::full_size().await;
    world.load(&(1..=PATIENTS).map(|number| only(first_channel(number), number)).collect::<Vec<_>>()).await;
    let bulk: Vec<_> =
        (0..BULK).map(|nth| request_as(Urgency::Bulk, nth % PATIENTS + 1, &format!("bulk-{nth}"))).collect();
    let begun = Instant::now();
    world.publish_requests(&bulk, &NOTIFICATIONS_BULK).await;
    println!("{BULK} bulk messages published in {:?}", begun.elapsed());
    answer_in(&world, 50);
    let received = || world.sandbox.log.stats().total;

    let mut consumer = world.process(CONSUMER, &[]);
    eventually("bulk moves while nothing urgent waits", SOON, async || received() >= 500).await;
    let (bulk_before, begun) = (received(), Instant::now());
    let urgent = publish_urgent(&world).await;
    let pauses = consumer.metric(PAUSES).await;
    eventually("all urgent messages are with their providers", SOON, async || {
        ways(&world, &urgent).len() == URGENT
    })
    .await;
    let (bulk_after, elapsed) = (received() - URGENT as u64, begun.elapsed());
    eventually("bulk moves when nothing urgent waits any more", SOON, async || {
        received() - URGENT as u64 >= bulk_after + 500
    })
    .await;

    let ways = ways(&world, &urgent);
    for urgency in [Urgency::Critical, Urgency::Normal] {
        let of_it: Vec<_> = ways.iter().filter(|(of, _)| *of == urgency).map(|(_, way)| *way).collect();
        println!(
            "{urgency}: {} messages, publish → provider p50 {:?}, p99 {:?}, max {:?}",
            of_it.len(),
            percentile(&of_it, 50),
            percentile(&of_it, 99),
            of_it[of_it.len() - 1],
        );
        assert!(percentile(&of_it, 99) <= OBJECTIVE, "{urgency}");
    }
    println!(
        "bulk: {bulk_before} before, {bulk_after} after {elapsed:?} of urgent messages; \
         {pauses} pauses of its 30 partitions for them"
    );
    assert!(bulk_after < BULK, "bulk ran dry: it was no campaign that saturates the system");
    assert_eq!(world.sandbox.log.stats().duplicates, 0);
    consumer.terminate();
    assert_eq!(consumer.wait().await.code(), Some(0), "{}", consumer.log());
}

const TINY: [(&str, &str); 3] = [
    ("PATIENT_NOTIFY_PROCESSOR__IN_FLIGHT_MAX", "16"),
    ("PATIENT_NOTIFY_PROCESSOR__BULK_IN_FLIGHT_MAX", "4"),
    ("PATIENT_NOTIFY_PROCESSOR__BATCH_MAX_RECORDS", "8"),
];

fn request_as(urgency: Urgency, number: u64, key: &str) -> NotificationRequested {
    NotificationRequested { urgency, ..request(number, key) }
}

/// Requests `{name}-{nth}` of patients `first` to `first + count - 1`.
fn requests(name: &str, first: u64, count: u64, urgency: Urgency) -> Vec<NotificationRequested> {
    (first..first + count).map(|number| request_as(urgency, number, &format!("{name}-{number}"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_that_hangs_leaves_places_for_urgent_messages() {
    let world = World::new().await;
    // Bulk goes by text message, and that provider takes it and never answers.
    let of_bulk = (1..=60).map(|number| only(Channel::Sms, number));
    let of_urgent = (101..=160).map(|number| only(Channel::Push, number));
    world.load(&of_bulk.chain(of_urgent).collect::<Vec<_>>()).await;
    let hangs = ChannelFaults { hang_percent: 100, ..Default::default() };
    world.sandbox.faults.set(Channel::Sms, hangs);
    world.publish_requests(&requests("bulk", 1, 60, Urgency::Bulk), &NOTIFICATIONS_BULK).await;
    let mut consumer = world.process(CONSUMER, &TINY);
    let calling = async || world.count("delivery WHERE urgency = 'bulk' AND state = 'dispatching'").await;
    eventually("bulk has all of its places", SOON, async || calling().await == 4).await;

    world.publish_requests(&requests("urgent", 101, 60, Urgency::Normal), &NOTIFICATIONS).await;
    eventually("all urgent messages are sent", SOON, async || {
        let calling = calling().await;
        assert!(calling <= 4, "{calling} bulk messages in flight");
        world.count("notification WHERE urgency = 'normal' AND state = 'sent'").await == 60
    })
    .await;
    assert_eq!(world.sandbox.log.count(Channel::Push), 60);
    consumer.terminate();
    assert_eq!(consumer.wait().await.code(), Some(0), "{}", consumer.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_rests_while_urgent_messages_wait_and_goes_on_after_them() {
    let world = World::new().await;
    world.load(&(1..=1_000).map(|number| only(Channel::Sms, number)).collect::<Vec<_>>()).await;
    answer_in(&world, 400);
    world.publish_requests(&requests("urgent", 1, 600, Urgency::Normal), &NOTIFICATIONS).await;
    world.publish_requests(&requests("bulk", 601, 400, Urgency::Bulk), &NOTIFICATIONS_BULK).await;
    let mut consumer = world.process(CONSUMER, &TINY);
    eventually("the bulk topic's partitions rest", SOON, async || consumer.metric(RESTING).await >= 3.0)
        .await;
    // How much bulk was claimed, while urgent messages beyond one batch a loop wait.
    let claimed = async || {
        let count = |urgency: &str| format!("notification WHERE urgency = '{urgency}'");
        let bulk = world.count(&count("bulk")).await;
        (world.count(&count("normal")).await < 600 - 2 * 16).then_some(bulk)
    };
    let begun = claimed().await.expect("urgent messages wait when bulk rests");
    stays("no bulk is taken", Duration::from_secs(2), async || {
        claimed().await.is_none_or(|bulk| bulk == begun)
    })
    .await;

    // A stop right now must not hang, paused as the partitions are.
    consumer.terminate();
    assert_eq!(consumer.wait().await.code(), Some(0), "{}", consumer.log());
    assert_eq!(consumer.logged("left the consumer group"), 1);

    world.sandbox.faults.clear();
    let mut second = world.process(CONSUMER, &[]);
    let worker = world.process("wrk-notifications", &[]);
    world.until_sent(1_000, SOON).await;
    eventually("no partition rests", SOON, async || second.metric(RESTING).await < 0.5).await;
    world.assert_each_once().await;
    drop(worker);
}

/// Rows as a night of quiet hours leaves them: `$1` bulk messages, due for an hour.
const DUE_BULK: &str = "
WITH new AS (
    INSERT INTO notification (notification_id, patient_id, recipient_id, purpose, urgency, state, reason,
           fingerprint, channels, locale, source_topic, source_partition, source_offset, published_at,
           expires_at)
    SELECT gen_random_uuid(), external_id, recipient_id, 'general', 'bulk', 'held', 'quiet_hours', '',
           '{sms}', 'en', 'bulk', 0, nth, now() - interval '9 hours', now() + interval '1 day'
      FROM recipient, generate_series(1, $1::int) AS nth
    RETURNING *
)
INSERT INTO delivery (delivery_id, notification_id, recipient_id, channel, position, urgency, state, reason,
       due_at, expires_at)
SELECT gen_random_uuid(), notification_id, recipient_id, 'sms', 0, urgency, state, reason,
       now() - interval '1 hour', expires_at
  FROM new";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn due_rows_of_bulk_do_not_delay_an_urgent_one() {
    let world = World::new().await;
    world.load(&(1..=100).map(|number| only(Channel::Sms, number)).collect::<Vec<_>>()).await;
    let client = world.pool.get().await.unwrap();
    assert_eq!(client.execute(DUE_BULK, &[&200]).await.unwrap(), 20_000);
    client.batch_execute("ANALYZE").await.unwrap();
    answer_in(&world, 200);
    let of_worker = [("PATIENT_NOTIFY_WORKERS__IN_FLIGHT_MAX", "16")];
    let worker = world.process("wrk-notifications", &of_worker);
    let calling = async || world.count("delivery WHERE urgency = 'bulk' AND state = 'dispatching'").await;
    // Two places are a channel's own and ten are shared; bulk has half of either.
    eventually("bulk has half of its channel's places", SOON, async || calling().await == 6).await;

    // Due now, after all of them: a retry, in effect.
    let urgent = DUE_BULK.replace("'bulk', 'held'", "'critical', 'queued'").replace("1 hour", "0 hours");
    assert_eq!(client.execute(&urgent, &[&1]).await.unwrap(), 100);
    eventually("the critical ones are sent", SOON, async || {
        let calling = calling().await;
        assert!(calling <= 6, "{calling} bulk messages in flight");
        world.count("notification WHERE urgency = 'critical' AND state = 'sent'").await == 100
    })
    .await;
    let bulk = world.count("notification WHERE urgency = 'bulk' AND state = 'sent'").await;
    assert!(bulk < 10_000, "{bulk} bulk messages went first");
    eventually("bulk goes on", SOON, async || {
        world.count("notification WHERE urgency = 'bulk' AND state = 'sent'").await > bulk
    })
    .await;
    let read = "pg_stat_user_indexes WHERE indexrelname = 'delivery_due' AND idx_scan > 0";
    eventually("the index is read", SOON, async || world.count(read).await == 1).await;
    drop(worker);
}

/// Rows of one recipient as [`DUE_BULK`] makes them, for another channel and urgency.
fn due(urgency: &str, channel: Channel, number: u64) -> String {
    DUE_BULK
        .replace("'bulk', 'held'", &format!("'{urgency}', 'queued'"))
        .replace("{sms}", &format!("{{{channel}}}"))
        .replace("'sms', 0", &format!("'{channel}', 0"))
        .replace(
            "FROM recipient,",
            &format!("FROM (SELECT * FROM recipient WHERE external_id = '{}') r,", patient(number).as_str()),
        )
}

/// A worker whose providers may hang for longer than a test takes.
const PATIENT_WORKER: [(&str, &str); 5] = [
    ("PATIENT_NOTIFY_WORKERS__IN_FLIGHT_MAX", "18"),
    ("PATIENT_NOTIFY_SMS__TIMEOUT_MS", "50000"),
    ("PATIENT_NOTIFY_PUSH__TIMEOUT_MS", "50000"),
    ("PATIENT_NOTIFY_PROCESSOR__LEASE_MS", "120000"),
    ("PATIENT_NOTIFY_PROCESSOR__SLOT_DEADLINE_MS", "240000"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn providers_that_hang_hold_up_their_own_channels_and_no_other() {
    let world = World::new().await;
    let people: Vec<_> =
        (1..=500).flat_map(|n| [only(Channel::Sms, n), only(Channel::Push, 500 + n)]).collect();
    world.load(&people).await;
    world.load(&[only(Channel::Email, 1001)]).await;
    let client = world.pool.get().await.unwrap();
    // They neither answer nor are given up, so that their breakers stay closed.
    for channel in [Channel::Sms, Channel::Push] {
        world.sandbox.faults.set(channel, ChannelFaults { hang_percent: 100, ..ChannelFaults::default() });
    }
    for number in 1..=20 {
        client.execute(&due("normal", Channel::Sms, number), &[&20]).await.unwrap();
        client.execute(&due("bulk", Channel::Push, 500 + number), &[&20]).await.unwrap();
    }
    let worker = world.process("wrk-notifications", &PATIENT_WORKER);
    let calling = async |channel: &str| {
        world.count(&format!("delivery WHERE channel = '{channel}' AND state = 'dispatching'")).await
    };
    eventually("text messages have all but what is the others' own", SOON, async || {
        calling("sms").await == 12
    })
    .await;
    // Of bulk there is no more than half of its channel's own places.
    eventually("bulk by push hangs, too", SOON, async || calling("push").await == 1).await;
    assert_eq!(client.execute(&due("normal", Channel::Push, 521), &[&20]).await.unwrap(), 20);
    eventually("push has its own places", SOON, async || calling("push").await == 3).await;

    for urgency in ["normal", "bulk"] {
        assert_eq!(client.execute(&due(urgency, Channel::Email, 1001), &[&40]).await.unwrap(), 40);
    }
    eventually("e-mail goes out all the same, bulk too", SOON, async || {
        world.count("notification WHERE channels = '{email}' AND state = 'sent'").await == 80
    })
    .await;
    assert_eq!((calling("sms").await, calling("push").await), (12, 3));
    drop(worker);
}

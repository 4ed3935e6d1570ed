//! Urgent goes first: a queue of bulk, full places and due rows of bulk do not keep
//! urgent messages waiting, and bulk moves with what they leave.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use jiff::Timestamp;
use patient_notify::domain::{Channel, DeliveryId, NotificationId, Urgency};
use patient_notify::sandbox::ChannelFaults;
use patient_notify::topic::names::{NOTIFICATIONS, NOTIFICATIONS_BULK};
use tokio_stream::wrappers::IntervalStream;

use crate::harness::{CALLER, World, eventually, only, request};

const CONSUMER: &str = "consumer-notification";
const RESTING: &str = "patient_notify_partitions{state=\"resting_for_urgent\"}";
const RESTS: &str = "patient_notify_bulk_rests_total";
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

const fn nth_urgency(nth: usize) -> Urgency {
    if nth.is_multiple_of(2) { Urgency::Critical } else { Urgency::Normal }
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
            world.publish_requests(&NOTIFICATIONS, &[request(number, &key, urgency)]).await;
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
        (0..BULK).map(|nth| request(nth % PATIENTS + 1, &format!("bulk-{nth}"), Urgency::Bulk)).collect();
    let begun = Instant::now();
    world.publish_requests(&NOTIFICATIONS_BULK, &bulk).await;
    println!("{BULK} bulk messages published in {:?}", begun.elapsed());
    answer_in(&world, 50);
    let received = || world.sandbox.log.stats().total;

    let mut consumer = world.process(CONSUMER, &[]);
    eventually("bulk moves while nothing urgent waits", SOON, async || received() >= 500).await;
    let (bulk_before, begun) = (received(), Instant::now());
    let urgent = publish_urgent(&world).await;
    let (rests, resting) = (consumer.metric(RESTS).await, consumer.metric(RESTING).await);
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
        "bulk: {bulk_before} before, {bulk_after} after {elapsed:?} of urgent messages; {rests} rests, {resting} partitions resting at the end"
    );
    assert!(bulk_after < BULK, "bulk ran dry: it was no campaign that saturates the system");
    assert_eq!(world.sandbox.log.stats().duplicates, 0);
    consumer.terminate();
    assert_eq!(consumer.wait().await.code(), Some(0), "{}", consumer.log());
}

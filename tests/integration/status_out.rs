//! Every status change reaches its topic: gap-free and in order a notification,
//! whichever process relays, and however that process ends.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use patient_notify::domain::{Channel, NotificationId, RecipientId, ResultUrgency, contract};
use patient_notify::sandbox::ChannelFaults;
use patient_notify::topic::encoder::Encoder;
use patient_notify::topic::names;

use crate::harness::{BrokerProxy, World, eventually, patient, recipient, result, results, sms_only};
use crate::tools::{Lying, read_topic};

const DEADLINE: Duration = Duration::from_secs(60);
/// Differences that a failed comparison shows.
const SHOWN_MAX: usize = 5;

/// What another backend reads of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    notification_id: String,
    patient_id: String,
    sequence: i32,
    state: String,
    reason: String,
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) | Value::Enum(_, text) => text.clone(),
        other => panic!("not a text: {other:?}"),
    }
}

/// Reads with the schema file alone, as a backend in another language would.
fn changes(records: &[Lying], schema_id: u32) -> Vec<Change> {
    let schema = Schema::parse_str(contract::NOTIFICATION_STATUS).unwrap();
    let reader = GenericDatumReader::builder(&schema).build().unwrap();
    records
        .iter()
        .map(|record| {
            let payload = record.payload.as_deref().unwrap();
            assert_eq!(
                payload[..5],
                [&[0][..], &schema_id.to_be_bytes()].concat(),
                "the registry's wire format"
            );
            let Value::Record(fields) = reader.read_value(&mut &payload[5..]).unwrap() else {
                panic!("no record")
            };
            let fields: BTreeMap<String, Value> = fields.into_iter().collect();
            let Value::Int(sequence) = fields["sequence"] else { panic!("no number") };
            let change = Change {
                notification_id: text(&fields["notification_id"]),
                patient_id: text(&fields["patient_id"]),
                sequence,
                state: text(&fields["state"]),
                reason: text(&fields["reason"]),
            };
            assert_eq!(record.key.as_deref(), Some(change.patient_id.as_bytes()), "keyed by the patient");
            change
        })
        .collect()
}

/// The final state of each notification, as a reader rebuilds it who keeps the
/// greatest sequence. Nothing may be skipped, and nothing come out of order but a
/// repetition of what was there.
fn rebuilt(changes: &[Change]) -> BTreeMap<String, Change> {
    let mut newest: BTreeMap<String, Change> = BTreeMap::new();
    for change in changes {
        let seen = newest.get(&change.notification_id).map_or(0, |newest| newest.sequence);
        assert!(change.sequence <= seen + 1, "a gap after {seen}: {change:?}");
        if change.sequence == seen + 1 {
            newest.insert(change.notification_id.clone(), change.clone());
        }
    }
    newest
}

fn repeated(changes: &[Change]) -> usize {
    let different: BTreeSet<_> =
        changes.iter().map(|change| (change.notification_id.clone(), change.sequence)).collect();
    changes.len() - different.len()
}

/// State, reason and sequence of every notification as the database has them.
async fn in_database(world: &World) -> BTreeMap<String, (String, String, i32)> {
    let client = world.pool.get().await.unwrap();
    let rows =
        client.query("SELECT notification_id, state, reason, sequence FROM notification", &[]).await.unwrap();
    rows.iter()
        .map(|row| {
            let id: uuid::Uuid = row.get(0);
            (id.to_string(), (row.get(1), row.get(2), row.get(3)))
        })
        .collect()
}

pub async fn outbox(world: &World) -> i64 {
    let client = world.pool.get().await.unwrap();
    client.query_one("SELECT count(*) FROM outbox", &[]).await.unwrap().get(0)
}

async fn published(world: &World) -> Vec<Change> {
    let encoder = Encoder::new(&world.config.registry, &world.config.kafka.topic_prefix).unwrap();
    let id = encoder.schema_id(&names::NOTIFICATION_STATUS).await.unwrap();
    changes(&read_topic(&world.config.kafka, &world.topic(&names::NOTIFICATION_STATUS)).await, id)
}

pub async fn assert_topic_tells_what_the_database_says(world: &World) -> Vec<Change> {
    let changes = published(world).await;
    let told: BTreeMap<_, _> = rebuilt(&changes)
        .into_iter()
        .map(|(id, change)| (id, (change.state, change.reason, change.sequence)))
        .collect();
    let stored = in_database(world).await;
    let different: Vec<_> = told
        .keys()
        .chain(stored.keys())
        .filter(|id| told.get(*id) != stored.get(*id))
        .map(|id| (id, told.get(id), stored.get(id)))
        .take(SHOWN_MAX)
        .collect();
    assert!(different.is_empty(), "the topic and the database say different things: {different:?}");
    changes
}

/// Sent ones, one that changes its channel, one that is held, one for nobody.
async fn make_every_sort_of_change(world: &World) {
    let mut dead_phone = recipient(2);
    // Twilio's own number for "invalid".
    dead_phone.contact_points[0] = crate::harness::contact(Channel::Sms, "+15005550001".to_owned());
    world.load(&[recipient(1), dead_phone, sms_only(3)]).await;
    let mut embargoed = result(1, "embargoed");
    embargoed.available_at += jiff::SignedDuration::from_hours(1);
    embargoed.urgency = ResultUrgency::Abnormal;
    world
        .publish(&[
            result(1, "sent"),
            result(2, "next-channel"),
            embargoed,
            result(99, "nobody"),
            result(3, "again"),
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_the_topic_knows_what_the_database_knows() {
    let world = World::new().await;
    let relay = world.role("wrk-default", |_| {});
    let consumer = world.role("consumer-test-result-notification", |_| {});
    let worker = world.role("wrk-notifications", |_| {});
    make_every_sort_of_change(&world).await;
    // One provider that fails for a moment: temporary failures, then success.
    world
        .sandbox
        .faults
        .set(Channel::Sms, ChannelFaults { fail_percent: 50, fail_status: 500, ..Default::default() });
    eventually("a text message failed and all are recorded", DEADLINE, async || {
        in_database(&world).await.len() == 5
    })
    .await;
    world.sandbox.faults.clear();
    eventually("three are sent, one is held, one is suppressed", DEADLINE, async || {
        let states = in_database(&world).await;
        let count = |state: &str| states.values().filter(|(found, _, _)| found == state).count();
        (count("sent"), count("held"), count("suppressed")) == (3, 1, 1)
    })
    .await;
    eventually("the outbox is empty", DEADLINE, async || outbox(&world).await == 0).await;
    for role in [consumer, worker, relay] {
        role.stop().await.unwrap();
    }
    let changes = assert_topic_tells_what_the_database_says(&world).await;
    assert_eq!(repeated(&changes), 0, "nothing failed on the way, so nothing is told twice");
    let moved =
        NotificationId::for_result("next-channel", 1, RecipientId::from_external(patient(2).as_str()));
    let of_moved: Vec<_> = changes.iter().filter(|one| one.notification_id == moved.to_string()).collect();
    assert!(of_moved.len() >= 3, "planned, moved to the next channel, sent: {of_moved:?}");
    assert_eq!(of_moved.last().unwrap().state, "sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_relays_do_not_double_and_keep_the_order() {
    const COUNT: i64 = 600;
    let world = World::new().await;
    world.load(&(1..=50).map(recipient).collect::<Vec<_>>()).await;
    let relays = [world.role("wrk-default", |_| {}), world.role("wrk-default", |_| {})];
    let consumer = world.role("consumer-test-result-notification", |_| {});
    world.publish(&results(11, COUNT.unsigned_abs(), 50)).await;
    world.until_sent(COUNT, DEADLINE).await;
    consumer.stop().await.unwrap();
    eventually("the outbox is empty", DEADLINE, async || outbox(&world).await == 0).await;
    for relay in relays {
        relay.stop().await.unwrap();
    }
    let changes = assert_topic_tells_what_the_database_says(&world).await;
    assert_eq!(repeated(&changes), 0, "only one relays at a time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_killed_is_followed_by_another_without_a_gap() {
    const COUNT: i64 = 2_500;
    let world = World::new().await;
    world.load(&(1..=50).map(recipient).collect::<Vec<_>>()).await;
    let consumer = world.role("consumer-test-result-notification", |_| {});
    world.publish(&results(12, COUNT.unsigned_abs(), 50)).await;
    world.until_sent(COUNT, DEADLINE).await;
    consumer.stop().await.unwrap();
    let before = outbox(&world).await;
    assert!(before >= 2 * COUNT, "every notification has changed twice: {before}");

    // Its second batch is published and cannot be deleted: the worst moment to die.
    let mut holder = world.pool.get().await.unwrap();
    let lock = holder.transaction().await.unwrap();
    // The order is by a subquery: FOR UPDATE would lock what OFFSET skips as well.
    let third_of_second_batch = "SELECT 1 FROM outbox WHERE outbox_id = \
                                 (SELECT outbox_id FROM outbox ORDER BY outbox_id LIMIT 1 OFFSET 2002) FOR UPDATE";
    assert_eq!(lock.execute(third_of_second_batch, &[]).await.unwrap(), 1);
    let mut first = world.process("wrk-default", &[]);
    let client = world.pool.get().await.unwrap();
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                 AND wait_event_type = 'Lock' AND query LIKE '%DELETE FROM outbox%'";
    eventually("it waits for the lock", DEADLINE, async || {
        client.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
    first.kill9();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() \
               AND query LIKE '%DELETE FROM outbox%' AND pid <> pg_backend_pid()";
    client.execute(end, &[]).await.unwrap();
    lock.rollback().await.unwrap();
    let published_before = published(&world).await.len();
    assert!(published_before > 2_000, "{published_before} were published before it died");

    let second = world.role("wrk-default", |_| {});
    eventually("the other one ends the work", DEADLINE, async || outbox(&world).await == 0).await;
    second.stop().await.unwrap();
    let changes = assert_topic_tells_what_the_database_says(&world).await;
    assert!(repeated(&changes) > 0, "what was not deleted is told again: at least once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_goes_and_comes_back_leaves_no_gap() {
    const COUNT: i64 = 4_000;
    let world = World::new().await;
    world.load(&(1..=50).map(recipient).collect::<Vec<_>>()).await;
    let consumer = world.role("consumer-test-result-notification", |_| {});
    world.publish(&results(13, COUNT.unsigned_abs(), 50)).await;
    world.until_sent(COUNT, DEADLINE).await;
    consumer.stop().await.unwrap();
    let before = outbox(&world).await;

    let broker = BrokerProxy::start().await;
    broker.proxy.cut().await;
    let relay = world.process(
        "wrk-default",
        &[
            ("PATIENT_NOTIFY_KAFKA__BOOTSTRAP_SERVERS", world.addresses.proxied_brokers.as_str()),
            ("PATIENT_NOTIFY_KAFKA__PRODUCE_TIMEOUT_MS", "1000"),
        ],
    );
    let waits = || relay.log().matches("cannot be published now").count();
    eventually("it waits for the broker", DEADLINE, async || waits() > 0).await;
    assert_eq!(outbox(&world).await, before, "nothing is forgotten that nobody has acknowledged");
    broker.proxy.restore().await;
    eventually("it publishes", DEADLINE, async || outbox(&world).await < before).await;
    let waited = waits();
    broker.proxy.cut().await;
    eventually("it waits again, or was done", DEADLINE, async || {
        waits() > waited || outbox(&world).await == 0
    })
    .await;
    broker.proxy.restore().await;
    eventually("the outbox is empty", DEADLINE, async || outbox(&world).await == 0).await;
    assert_topic_tells_what_the_database_says(&world).await;
    broker.stop().await;
}

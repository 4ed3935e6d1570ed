//! A batch adds up: each recipient is published although its publishers die, a check finds
//! what is missing, and nothing is published any more a second after it was held back.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value;
use jiff::{SignedDuration, Timestamp};
use patient_notify::domain::batch::BatchAction;
use patient_notify::domain::{BatchId, NotificationId, PatientId, Purpose, Redacted, contract};
use patient_notify::record::batch_checks::{self, CheckView};
use patient_notify::record::batch_counts;
use patient_notify::record::batch_rows::{self, Added, Chunk, Form, NewRow};
use patient_notify::record::batches::{self, Acted, BatchView, By, NewBatch};
use patient_notify::topic::names::NOTIFICATIONS_BULK;

use crate::harness::{Process, World, eventually, stays};
use crate::tools::{read_topic, tool};

const PUBLISHER: &str = "wrk-batch-publisher";
const SOON: Duration = Duration::from_secs(60);
const CHUNK: usize = 2500;

fn by() -> By<'static> {
    By { caller: "test", owner: None, action: "BatchService/Test" }
}

/// A batch of so many unknown patients, which is released.
async fn running(world: &World, recipients: i64, rate_per_s: i32) -> BatchId {
    let patient = |n: i64| PatientId::parse(&format!("pat-{n}")).unwrap();
    released(world, Purpose::Campaign, recipients, rate_per_s, patient).await
}

/// A batch of so many patients, which is released.
pub(crate) async fn released(
    world: &World,
    purpose: Purpose,
    recipients: i64,
    rate_per_s: i32,
    patient: impl Fn(i64) -> PatientId,
) -> BatchId {
    let made = NewBatch {
        caller: "test".to_owned(),
        idempotency_key: "exact".to_owned(),
        name: "Exact".to_owned(),
        purpose,
        channels: Vec::new(),
        variables: Redacted::new(BTreeMap::new()),
        rate_per_s,
        window: None,
        expires_at: Timestamp::now() + SignedDuration::from_hours(24),
    };
    let id = batches::create(&world.pool, &made).await.unwrap().id;
    let numbers: Vec<i64> = (1..=recipients).collect();
    for chunk in numbers.chunks(CHUNK) {
        let row = |n: &i64| NewRow {
            patient_id: patient(*n),
            recipient: None,
            variables: Redacted::new(BTreeMap::new()),
        };
        let chunk = Chunk {
            first_row: chunk[0],
            rows: chunk.iter().map(|n| Ok(row(n))).collect(),
            form: Some(Form::Rows),
            begins: chunk[0] == 1,
            last: chunk.last() == numbers.last(),
        };
        // A chunk is harmless a second time: a slow machine's time-out is no fault here.
        eventually("the chunk is stored", SOON, async || {
            matches!(batch_rows::add(&world.pool, id, &chunk, by()).await, Ok(Added::Stored(..)))
        })
        .await;
    }
    act(world, id, BatchAction::Start).await;
    id
}

pub(crate) async fn act(world: &World, id: BatchId, action: BatchAction) -> BatchView {
    match batches::act(&world.pool, id, action, None, by()).await.unwrap() {
        Acted::Stored(view) => *view,
        other => panic!("{other:?}"),
    }
}

async fn view(world: &World, id: BatchId) -> BatchView {
    batches::get(&world.pool, id, None).await.unwrap().unwrap()
}

/// Waits until so many are published, looking as often as it can.
async fn until_published(world: &World, id: BatchId, rows: i64) {
    let begun = Instant::now();
    while view(world, id).await.rows_published < rows {
        assert!(begun.elapsed() < SOON, "{rows} are not published");
    }
}

/// Kills a publisher in the middle of a turn or before it has written its end: the topic
/// has rows that the batch does not know of, as its row is locked here.
async fn killed_in_a_turn(world: &World, id: BatchId, mut publisher: Process) {
    const TURN: Duration = Duration::from_secs(1);
    const WAITS: &str = "SELECT FROM pg_stat_activity WHERE datname = current_database()
                            AND wait_event_type = 'Lock' AND query LIKE '%UPDATE batch%SET published_to%'";
    let (mut client, observer) = (world.pool.get().await.unwrap(), world.pool.get().await.unwrap());
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < SOON, "no turn is met in its middle");
        let lock = client.transaction().await.unwrap();
        lock.execute("SELECT FROM batch WHERE batch_id = $1 FOR UPDATE", &[&id.0]).await.unwrap();
        let (records, locked) = (world.lag().await, Instant::now());
        while locked.elapsed() < TURN {
            let waits = observer.query(WAITS, &[]).await.unwrap();
            if !waits.is_empty() || world.lag().await > records {
                publisher.kill9();
                lock.rollback().await.unwrap();
                return;
            }
        }
        // The publisher was between two turns: it finds the next one before the next look.
        lock.rollback().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A publisher whose predecessor's lease has ended.
async fn resumed(world: &World) -> Process {
    let database = world.pool.get().await.unwrap();
    database.execute("UPDATE batch SET look_at = now() WHERE look_at IS NOT NULL", &[]).await.unwrap();
    world.process(PUBLISHER, &[])
}

/// The notifications that the records of the bulk topic ask for, and how many records
/// there are.
async fn asked_for(world: &World) -> (HashSet<NotificationId>, usize) {
    let schema = Schema::parse_str(contract::NOTIFICATIONS).unwrap();
    let reader = GenericDatumReader::builder(&schema).build().unwrap();
    let records = read_topic(&world.config.kafka, &world.topic(&NOTIFICATIONS_BULK)).await;
    let id = |payload: &[u8]| {
        let Ok(Value::Record(fields)) = reader.read_value(&mut &payload[5..]) else { panic!("not a record") };
        let text = |place: usize| match &fields[place] {
            (_, Value::String(text)) => text.clone(),
            other => panic!("not a text: {}", other.0),
        };
        NotificationId::for_request(&text(0), &text(1))
    };
    (records.iter().map(|one| id(one.payload.as_ref().unwrap())).collect(), records.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_are_exactly_that_although_publishers_die_three_times() {
    const RECIPIENTS: i64 = 100_000;
    let world = World::new().await;
    let id = running(&world, RECIPIENTS, 50_000).await;
    let mut publisher = world.process(PUBLISHER, &[]);
    for killed_at in [12_000, 37_000, 62_000] {
        until_published(&world, id, killed_at).await;
        killed_in_a_turn(&world, id, publisher).await;
        assert!(view(&world, id).await.rows_published < RECIPIENTS, "it died in the middle");
        publisher = resumed(&world).await;
    }
    eventually("it is done", SOON, async || world.count("batch WHERE state = 'done'").await == 1).await;
    assert_eq!(view(&world, id).await.rows_published, RECIPIENTS);
    let (asked, records) = asked_for(&world).await;
    println!("100,000 recipients, three kills: {records} records on the topic");
    let client = world.pool.get().await.unwrap();
    let rows = client.query("SELECT notification_id FROM batch_recipient", &[]).await.unwrap();
    let wanted: HashSet<NotificationId> = rows.iter().map(|row| NotificationId(row.get(0))).collect();
    assert_eq!(wanted.len(), usize::try_from(RECIPIENTS).unwrap());
    assert!(asked == wanted, "each recipient is one notification, and there are no others");
    publisher.terminate();
    assert_eq!(publisher.wait().await.code(), Some(0), "{}", publisher.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_paused_or_cancelled_goes_on_for_less_than_a_second() {
    const RATE: i32 = 2000;
    let world = World::new().await;
    let id = running(&world, 40_000, RATE).await;
    let publisher = world.role(PUBLISHER, |_| {});
    for action in [BatchAction::Pause, BatchAction::Cancel] {
        let before = view(&world, id).await.rows_published;
        until_published(&world, id, before + 1000).await;
        let held = act(&world, id, action).await.rows_published;
        // Longer than a turn that may have been under way.
        let mut last = view(&world, id).await.rows_published;
        stays("at most a second's rows follow", Duration::from_secs(2), async || {
            last = view(&world, id).await.rows_published;
            last - held <= i64::from(RATE)
        })
        .await;
        stays("it stands", Duration::from_millis(500), async || {
            view(&world, id).await.rows_published == last
        })
        .await;
        if action == BatchAction::Pause {
            act(&world, id, BatchAction::Resume).await;
        }
    }
    publisher.stop().await.unwrap();
}

pub(crate) async fn checked(world: &World, id: BatchId, repair: bool) -> CheckView {
    assert!(matches!(batch_checks::ask(&world.pool, id, repair, by()).await.unwrap(), Acted::Stored(_)));
    eventually("the check is done", SOON, async || {
        let check = batch_checks::newest(&world.pool, id, None).await.unwrap().unwrap();
        check.finished_at.is_some().then_some(check)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_finds_what_is_missing_and_a_repair_brings_it_back() {
    const RECIPIENTS: i64 = 7000;
    let world = World::new().await;
    let id = running(&world, RECIPIENTS, 50_000).await;
    let publisher = world.role(PUBLISHER, |_| {});
    eventually("it is done", SOON, async || world.count("batch WHERE state = 'done'").await == 1).await;

    // Nothing is missing as long as the consumers have not read it.
    batch_checks::ask(&world.pool, id, true, by()).await.unwrap();
    eventually("the check has begun", SOON, async || {
        world.count("batch_check WHERE ends IS NOT NULL").await == 1
    })
    .await;
    stays("it waits for the consumers", Duration::from_secs(2), async || {
        world.count("batch_check WHERE topic_passed OR finished_at IS NOT NULL").await == 0
    })
    .await;
    let consumer = world.role("consumer-notification", |_| {});
    let first = checked(&world, id, true).await;
    assert_eq!(first.adds_up(), Some(true), "{first:?}");
    assert_eq!((first.rows, first.rows_published, first.ended + first.open), (7000, 7000, 7000));
    assert_eq!(asked_for(&world).await.1, 7000, "nothing was published again");

    let database = world.pool.get().await.unwrap();
    let lose = "DELETE FROM notification WHERE notification_id IN
                (SELECT notification_id FROM batch_recipient WHERE row_no % 100 = 7)";
    assert_eq!(database.execute(lose, &[]).await.unwrap(), 70);
    let (code, said) = run_tool(&world, &["batches", "check", &id.to_string()]).await;
    assert!(code == 1 && said.contains("missing") && said.contains("70"), "{code}: {said}");
    let found = batch_checks::newest(&world.pool, id, None).await.unwrap().unwrap();
    assert_eq!((found.adds_up(), found.missing, found.republished), (Some(false), 70, 0));
    assert_eq!(found.first_missing[..3], [7, 107, 207]);
    let mended = checked(&world, id, true).await;
    assert_eq!((mended.missing, mended.republished), (70, 70));
    let last = checked(&world, id, false).await;
    assert_eq!(last.adds_up(), Some(true), "{last:?}");
    assert_eq!(world.count("notification").await, RECIPIENTS);

    // The counts of an answer are told again for some seconds.
    let counts = batch_counts::ended(&world.pool, id, RECIPIENTS).await.unwrap();
    assert_eq!(counts.states.iter().map(|(_, count)| count).sum::<i64>(), RECIPIENTS);
    database.execute("UPDATE batch_count SET counts = '{1}', states = '{sent}'", &[]).await.unwrap();
    let again = batch_counts::ended(&world.pool, id, RECIPIENTS).await.unwrap();
    assert_eq!((again.states.len(), again.counted_at), (1, counts.counted_at), "it was not counted again");
    database.execute("UPDATE batch_count SET counted_at = now() - interval '1 minute'", &[]).await.unwrap();
    let later = batch_counts::ended(&world.pool, id, RECIPIENTS).await.unwrap();
    assert_eq!(later.states, counts.states);
    let (code, said) = run_tool(&world, &["batches", "show", &id.to_string()]).await;
    assert!(code == 0 && said.contains("7000 of 7000"), "{code}: {said}");
    let (code, said) = run_tool(&world, &["batches", "list"]).await;
    assert!(code == 0 && said.contains("done") && said.contains(&id.to_string()), "{code}: {said}");
    publisher.stop().await.unwrap();
    consumer.stop().await.unwrap();
}

/// Exit code and output of one of our tools.
async fn run_tool(world: &World, arguments: &[&str]) -> (i32, String) {
    let output = tool(&world.config, arguments).await;
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

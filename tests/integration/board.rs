//! The board in a real browser: its numbers are those of the broker and the database and move,
//! what goes wrong is on it within seconds, many changes do not freeze it.

use std::time::{Duration, Instant};

use patient_notify::domain::{Channel, State};
use patient_notify::lag::Reader;
use patient_notify::sandbox::ChannelFaults;
use patient_notify::topic::names::TEST_RESULTS;
use serde_json::{Value, json};

use crate::front::front;
use crate::harness::{BrokerProxy, Window, World, eventually, only, result, results, sms_only};
use crate::who_may_call::{Signer, takes_tokens};

const SOON: Duration = Duration::from_secs(60);
/// What goes wrong is to be seen within this time.
const SEEN_WITHIN: Duration = Duration::from_secs(5);
const RESULTS: &str = "consumer-test-result-notification";
/// A page that does not answer for longer than this is frozen, to a person.
const FROZEN_MS: f64 = 1_000.0;

fn group(world: &World) -> String {
    TEST_RESULTS.full_group(&world.config.kafka.topic_prefix).unwrap()
}

/// The lag of each partition, as the heatmap has it.
fn cells(world: &World) -> String {
    format!(
        "[...document.querySelectorAll('[data-group=\"{}\"] .cell')].map((cell) => Number(cell.dataset.lag))",
        group(world)
    )
}

/// A number of the funnel's row of test results, by its column.
fn funnel(column: usize) -> String {
    format!(
        "Number([...document.querySelectorAll('#funnel tr')].find((row) => \
         row.cells[0].textContent === 'test result')?.cells[{column}].textContent.replaceAll(',', '')) || -1"
    )
}

async fn open(world: &World) -> Window {
    Window::open(&format!("http://{}/", world.config.app.listen)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_numbers_are_those_of_the_broker_and_the_database_and_move() {
    let world = World::new().await;
    world.load(&(1..=30).map(sms_only).collect::<Vec<_>>()).await;
    let (process, _connection) = front(&world).await;
    let page = open(&world).await;
    page.until_says("#live", "live", SOON).await;
    world.publish(&results(7, 300, 30)).await;

    // Nobody reads: the map is the broker's.
    eventually("the map shows all of them", SOON, async || {
        page.read::<Vec<i64>>(&cells(&world)).await.iter().sum::<i64>() == 300
    })
    .await;
    let mut at_broker: Vec<_> =
        world.committed(&TEST_RESULTS).await.iter().map(|one| (one.partition, one.lag())).collect();
    at_broker.sort_unstable();
    let at_broker: Vec<i64> = at_broker.into_iter().map(|(_, lag)| lag).collect();
    assert_eq!(page.read::<Vec<i64>>(&cells(&world)).await, at_broker);
    page.until_says("#verdict", "stopped", SOON).await;
    assert!(page.text("#verdict-lines").await.contains("nobody reads"), "somebody was woken");

    let consumer = world.role(RESULTS, |_| {});
    world.until_sent(300, SOON).await;
    eventually("the map is empty", SOON, async || {
        page.read::<Vec<i64>>(&cells(&world)).await.iter().all(|lag| *lag == 0)
    })
    .await;
    eventually("the funnel is the database's", SOON, async || {
        (page.read::<f64>(&funnel(1)).await, page.read::<f64>(&funnel(2)).await) == (300.0, 300.0)
    })
    .await;
    page.until_says("#verdict-title", "All is well", SOON).await;

    // By keyboard: to a map, then to its second partition.
    page.press(".heat", "ArrowRight").await;
    page.press(".heat", "ArrowRight").await;
    assert!(page.text(".readout").await.starts_with("Partition 1:"), "{}", page.text(".readout").await);
    let id: String = {
        let client = world.pool.get().await.unwrap();
        client.query_one("SELECT notification_id::text FROM notification LIMIT 1", &[]).await.unwrap().get(0)
    };
    page.write("#story-id", &id).await;
    page.press("#story-id", "Enter").await;
    page.until_says("#story", "sms", SOON).await;
    assert!(page.text("#story .steps").await.contains("20"), "no entry has a time");
    page.assert_no_problem().await;
    page.close().await;
    consumer.stop().await.unwrap();
    drop(process);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_partition_and_an_outage_are_seen_within_seconds() {
    let world = World::new().await;
    let broker = BrokerProxy::start().await;
    let mut people = vec![only(Channel::Sms, 1)];
    people.extend((2..=13).map(|number| only(Channel::Email, number)));
    world.load(&people).await;
    let faults = ChannelFaults { latency_ms: 60_000, ..Default::default() };
    world.sandbox.faults.set(Channel::Sms, faults);
    let through_proxy = [("PATIENT_NOTIFY_KAFKA__BOOTSTRAP_SERVERS", &*world.addresses.proxied_brokers)];
    let (process, _connection) = crate::front::front_with(&world, &through_proxy).await;
    let patient = [
        ("PATIENT_NOTIFY_SMS__TIMEOUT_MS", "90000"),
        ("PATIENT_NOTIFY_PROCESSOR__LEASE_MS", "300000"),
        ("PATIENT_NOTIFY_PROCESSOR__SLOT_DEADLINE_MS", "600000"),
    ];
    let mut consumer = world.process(RESULTS, &patient);
    consumer.wait_for_log("partitions assigned", SOON).await;
    let page = open(&world).await;
    page.until_says("#verdict-title", "All is well", SOON).await;

    let (held, _) = world.publish(&[result(1, "held")]).await[0];
    let begun = Instant::now();
    let state = format!(
        "document.querySelectorAll('[data-group=\"{}\"] .cell')[{held}]?.dataset.state === 'stalled'",
        group(&world)
    );
    // Others move meanwhile.
    world.publish(&(2..=13).map(|number| result(number, &format!("{number}"))).collect::<Vec<_>>()).await;
    eventually("the map shows the held partition", SOON, async || page.read::<bool>(&state).await).await;
    page.until_says("#verdict", &format!("/{held})"), SOON).await;
    assert!(begun.elapsed() < SEEN_WITHIN, "the stall was seen after {:?}", begun.elapsed());
    let stalled: Vec<i32> = page
        .read("[...document.querySelectorAll('.cell')].filter((cell) => cell.dataset.state === 'stalled').map((cell) => parseInt(cell.textContent.replace(/\\D/g, '')))")
        .await;
    assert_eq!(stalled, [held], "and no other");

    let group = group(&world);
    Reader::new(&world.config.kafka, &group).unwrap().read().await.unwrap();
    broker.proxy.cut().await;
    let cut = Instant::now();
    page.until_says("#verdict", "cannot be read", SOON).await;
    assert!(cut.elapsed() < SEEN_WITHIN, "the outage was seen after {:?}", cut.elapsed());
    assert!(page.text("#live").await.contains("live"), "the page itself lives");
    broker.proxy.restore().await;
    eventually("it is over", SOON, async || !page.text("#verdict").await.contains("cannot be read")).await;
    page.assert_no_problem().await;
    page.close().await;
    drop((process, consumer));
    broker.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_changes_a_minute_do_not_freeze_it() {
    const ROUNDS: u64 = 100;
    const EACH: u64 = 17;
    let world = World::new().await;
    world.load(&(1..=200).map(sms_only).collect::<Vec<_>>()).await;
    let (process, _connection) = front(&world).await;
    let consumer = world.role(RESULTS, |_| {});
    consumer.ready().await;
    let page = open(&world).await;
    page.until_says("#live", "live", SOON).await;
    page.read::<f64>("longestPauseMs = 0").await;

    // Each result changes its status twice: queued, sent.
    let mut every = tokio::time::interval(Duration::from_millis(200));
    let begun = Instant::now();
    for round in 0..ROUNDS {
        every.tick().await;
        let results: Vec<_> =
            (0..EACH).map(|one| result(one * 7 % 200 + 1, &format!("{round}-{one}"))).collect();
        world.publish(&results).await;
    }
    let all = i64::try_from(ROUNDS * EACH).unwrap();
    world.until_sent(all, SOON).await;
    let per_minute = f64::from(u32::try_from(2 * all).unwrap()) / begun.elapsed().as_secs_f64() * 60.0;
    assert!(per_minute > 5_000.0, "this machine made {per_minute:.0} changes a minute only");
    let pause_ms: f64 = page.read("longestPauseMs").await;
    println!("{per_minute:.0} status changes a minute; the page's longest pause: {pause_ms:.0} ms");
    assert!(pause_ms < FROZEN_MS, "the page stood for {pause_ms} ms");
    #[expect(clippy::cast_precision_loss, reason = "a small count")]
    let all = all as f64;
    eventually("the funnel has them all", SOON, async || page.read::<f64>(&funnel(2)).await == all).await;
    assert!(page.text("#live").await.contains("live"));

    pictures(&page).await;
    page.assert_no_problem().await;
    page.close().await;
    consumer.stop().await.unwrap();
    drop(process);
}

/// Of a desktop, a phone and the dark; none has to be moved sideways.
async fn pictures(page: &Window) {
    for (name, size, mobile, scheme) in [
        ("board-desktop.png", (1280, 900), false, "light"),
        ("board-dark.png", (1280, 900), false, "dark"),
        ("board-phone.png", (375, 812), true, "light"),
    ] {
        page.resize(size, mobile).await;
        page.scheme(scheme).await;
        let wide: i64 = page.read("document.documentElement.scrollWidth").await;
        assert!(wide <= size.0, "{name}: the page is {wide} wide");
        let path = page.picture(name).await;
        println!("{}", path.display());
        assert!(std::fs::metadata(&path).unwrap().len() > 20_000, "{name} is empty");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_look_may_not_replay() {
    let world = World::new().await;
    world.publish_raw(&world.topic(&TEST_RESULTS), None, Some(b"no Avro"), &[]).await;
    let keys = world.dir().join("keys.json");
    let signer = Signer::new("board");
    signer.publish(&keys);
    let role = world.role("app", |config| takes_tokens(config, &keys));
    role.ready().await;
    let consumer = world.role(RESULTS, |_| {});
    eventually("a dead letter", SOON, async || world.dead_letters().await.len() == 1).await;

    let base = format!("http://{}", world.config.app.listen);
    let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().unwrap();
    let nobody = http.get(format!("{base}/board/events")).send().await.unwrap();
    assert_eq!(nobody.status(), 401);

    let looks = signer.token("viewer", "operations:read", 600);
    let listed = http.get(format!("{base}/board/dead-letters")).bearer_auth(&looks).send().await.unwrap();
    let listed: Value = listed.json().await.unwrap();
    let name = listed["letters"][0]["name"].as_str().unwrap().to_owned();
    let replay = async |token: &str| {
        let request = http.post(format!("{base}/board/dead-letters/replay")).bearer_auth(token);
        request.json(&json!({ "name": name })).send().await.unwrap()
    };
    assert_eq!(replay(&looks).await.status(), 403);

    let page = Window::open(&format!("{base}/")).await;
    page.write("#token", &looks).await;
    page.press("#token", "Enter").await;
    page.until_says("#you", "viewer, may look", SOON).await;
    page.click("#letters-load").await;
    page.until_says("#letters-list", &name, SOON).await;
    assert!(page.read::<bool>("document.querySelector('#letters-list button').disabled").await);

    let replays = signer.token("operator", "operations:read operations:admin", 600);
    page.click("#token-open").await;
    page.write("#token", &replays).await;
    page.press("#token", "Enter").await;
    page.until_says("#you", "operator, may replay", SOON).await;
    page.click("#letters-load").await;
    eventually("its button can be used", SOON, async || {
        page.read::<bool>("document.querySelector('#letters-list button')?.disabled === false").await
    })
    .await;
    page.click("#letters-list button").await;
    page.until_says("#letters-list", "went to", SOON).await;
    page.assert_no_problem().await;
    page.close().await;
    assert_eq!(world.states().await.get(&State::Sent), None);
    consumer.stop().await.unwrap();
    role.stop().await.unwrap();
}

//! What operators do with dead letters: they see why without seeing whose, replay
//! what has become processable, which sends nothing twice, and what they give up is
//! gone from the brokers.

use std::process::Output;
use std::sync::Arc;
use std::time::Duration;

use patient_notify::config::Config;
use patient_notify::domain::{NotificationRequested, Reason, Redacted};
use patient_notify::topic::client::kafka_client_config;
use patient_notify::topic::dlq::{Handler, Letters, Reader, Removal, Remover};
use patient_notify::topic::encoder::Encoder;
use patient_notify::topic::names::{self, NOTIFICATIONS, TEST_RESULTS};
use patient_notify::topic::producer::Producer;
use patient_notify::topic::{DeadLetters, Origin};
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;
use serde_json::Value;

use crate::harness::{World, eventually, patient, recipient, request, result};
use crate::tools::{Lying, printed, read_topic, tool};

const DEADLINE: Duration = Duration::from_secs(60);
/// Stands in keys, values and headers, and must stand nowhere else.
const CANARY: &str = "CANARY-5d1e";
/// What the consumer decodes at first; the least that may be configured.
const SMALL_BYTES: usize = 1024;

async fn dlq(config: &Config, arguments: &[&str]) -> Output {
    tool(config, &[&["dlq"], arguments].concat()).await
}

/// Runs a command that must end with this code, and gives what it printed.
async fn ends(config: &Config, code: i32, arguments: &[&str]) -> String {
    let output = dlq(config, arguments).await;
    let text = printed(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {text}");
    text
}

async fn list(world: &World, arguments: &[&str]) -> Value {
    let output = dlq(&world.config, &[&["list", "--format", "json"], arguments].concat()).await;
    assert!(output.status.success(), "{}", printed(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The id of the only dead letter of a topic and a reason that nobody has handled.
async fn only(world: &World, topic: &str, reason: Reason) -> String {
    let found = list(world, &["--topic", topic, "--reason", reason.as_str()]).await;
    assert_eq!(found["total"], 1, "{topic} {reason}: {found:#}");
    found["dead_letters"][0]["id"].as_str().unwrap().to_owned()
}

/// A request that is longer than [`SMALL_BYTES`], and good.
async fn long_request(world: &World) -> Vec<u8> {
    let variable = |number: u8| (format!("note_{number}"), CANARY.repeat(40));
    let variables = Redacted::new((0..3).map(variable).collect());
    let request = NotificationRequested { variables, ..request(1, "long") };
    let encoder = Encoder::new(&world.config.registry, &world.config.kafka.topic_prefix).unwrap();
    let value = encoder.notification(&NOTIFICATIONS, &request).await.unwrap();
    assert!(value.len() > SMALL_BYTES);
    value
}

async fn until_buried(world: &World, count: usize) {
    eventually("the dead letters are written, and no lag is left", DEADLINE, async || {
        world.dead_letters().await.len() == count && world.lag().await == 0
    })
    .await;
}

/// One dead letter of the test results and two of the requests, the second of which
/// a consumer with the usual bound would take. Gives the three ids in this order.
async fn three_letters(world: &World) -> [String; 3] {
    let (results, requests) = (world.topic(&TEST_RESULTS), world.topic(&NOTIFICATIONS));
    let small = |config: &mut Config| config.processor.payload_max_bytes = SMALL_BYTES;
    let roles = ["consumer-test-result-notification", "consumer-notification"];
    let roles = roles.map(|name| world.role(name, small));
    let headers: [(&str, &[u8]); 1] = [("lab-system", CANARY.as_bytes())];
    let key = Some(CANARY.as_bytes());
    world.publish_raw(&results, key, Some(CANARY.as_bytes()), &headers).await;
    world.publish_raw(&requests, key, Some(CANARY.as_bytes()), &headers).await;
    until_buried(world, 2).await;
    let long = long_request(world).await;
    world.publish_raw(&requests, Some(patient(1).as_str().as_bytes()), Some(&long), &headers).await;
    until_buried(world, 3).await;
    for role in roles {
        role.stop().await.unwrap();
    }
    [
        only(world, "pat.test-results.v1", Reason::NotWireFormat).await,
        only(world, "pat.notifications.v1.dlq", Reason::NotWireFormat).await,
        only(world, &requests, Reason::PayloadTooLarge).await,
    ]
}

async fn letters_on(world: &World, topic: &names::Topic) -> Vec<Lying> {
    read_topic(&world.config.kafka, &names::dlq_of(&world.topic(topic))).await
}

async fn nobody_sees_whose_it_is(world: &World, [result, _, long]: &[String; 3]) {
    let text = ends(&world.config, 0, &["list"]).await;
    assert!(text.contains("3 dead letters, 3 shown"), "{text}");
    for word in [result, long, "not_wire_format", "payload_too_large"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let json = list(world, &["--limit", "1"]).await;
    assert_eq!(json["dead_letters"].as_array().unwrap().len(), 1, "{json:#}");
    assert_eq!((&json["total"], json["summary"].as_array().unwrap().len()), (&Value::from(3), 3));
    let first = &json["dead_letters"][0];
    assert_eq!(first["size_bytes"].as_u64().unwrap() > 0, first["cut"] == false, "{first:#}");
    assert!(first["origin"].as_str().unwrap().starts_with(&world.config.kafka.topic_prefix), "{first:#}");
    let shown = ends(&world.config, 0, &["show", long]).await;
    for word in ["payload_too_large", "lab-system", "not yet", "dlq.consumer"] {
        assert!(shown.contains(word), "{word}: {shown}");
    }
    for text in [text, json.to_string(), shown] {
        assert!(!text.contains(CANARY) && !text.contains("CANARY"), "{text}");
    }
}

async fn only_who_asks_for_the_payload_gets_it(world: &World, [_, damaged, long]: &[String; 3]) {
    let output = dlq(&world.config, &["show", long, "--payload"]).await;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && stderr.contains("protected health information"), "{stderr}");
    assert!(stdout.contains("\"idempotency_key\": \"long\""), "the fields, by the writer's schema: {stdout}");
    assert!(stdout.contains(&format!("header lab-system: {CANARY}")) && stdout.contains(CANARY), "{stdout}");
    let text = ends(&world.config, 0, &["show", damaged, "--payload"]).await;
    assert!(text.contains("|CANARY-5d1e|") && text.contains("cannot be shown"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_letter_is_looked_at_replayed_once_and_given_up() {
    let world = World::new().await;
    world.load(&[recipient(1)]).await;
    let letters = three_letters(&world).await;
    nobody_sees_whose_it_is(&world, &letters).await;
    only_who_asks_for_the_payload_gets_it(&world, &letters).await;
    let [_, damaged, long] = &letters;
    assert!(world.sandbox.log.is_empty());

    // Mended: this consumer takes longer values. The replay is sent, and is not listed any more.
    let role = world.role("consumer-notification", |_| {});
    let text = ends(&world.config, 0, &["replay", long, "--by", "ann"]).await;
    assert!(text.contains("1 replayed") && !text.contains(CANARY), "{text}");
    world.until_sent(1, DEADLINE).await;
    let left = list(&world, &["--topic", "pat.notifications.v1"]).await;
    assert_eq!(left["total"], 1, "{left:#}");
    assert_eq!(left["dead_letters"][0]["id"], damaged.as_str());
    let all = list(&world, &["--topic", "pat.notifications.v1", "--all"]).await;
    let handled = &all["dead_letters"][1]["handled"];
    assert_eq!((&handled["action"], &handled["by"]), (&"replayed".into(), &"ann".into()), "{all:#}");

    // Once more only for who insists, and even then nothing is sent twice.
    assert!(ends(&world.config, 1, &["replay", long]).await.contains("--again"));
    ends(&world.config, 0, &["replay", long, "--again"]).await;
    let requests = read_topic(&world.config.kafka, &world.topic(&NOTIFICATIONS)).await;
    let copies: Vec<&Lying> =
        requests.iter().filter(|one| !one.header("dlq.replayed_from").is_empty()).collect();
    assert_eq!(copies.len(), 2, "both replays are on the topic");
    let first = requests.iter().find(|one| one.key == copies[0].key && one.offset < copies[0].offset);
    let first = first.expect("the record itself, on the same partition");
    for copy in &copies {
        assert_eq!((&copy.payload, &copy.key), (&first.payload, &first.key), "the bytes are unchanged");
        assert_eq!(copy.partition, first.partition);
        assert_eq!((copy.header("lab-system"), &copy.header("dlq.replayed_from")), (CANARY.to_owned(), long));
        assert_eq!(copy.headers.len(), 2, "{:?}", copy.headers.keys());
    }
    world.until_no_lag(DEADLINE).await;
    role.stop().await.unwrap();
    assert_eq!(world.sandbox.log.len(), 1, "the message, once");
    assert_eq!(world.sent().await, 1);

    // Given up: what stands before it is handled, so all of it is removed.
    assert!(!letters_on(&world, &NOTIFICATIONS).await.is_empty());
    assert!(ends(&world.config, 1, &["drop", damaged]).await.contains("--yes"));
    assert_eq!(only(&world, "pat.notifications.v1", Reason::NotWireFormat).await, *damaged);
    let text = ends(&world.config, 0, &["drop", damaged, "--yes"]).await;
    assert!(text.contains("the oldest 5 records"), "two dead letters, three markers: {text}");
    let left = letters_on(&world, &NOTIFICATIONS).await;
    assert!(left.is_empty(), "the brokers have nothing of it any more: {}", left.len());
    assert_eq!(list(&world, &["--topic", "pat.notifications.v1", "--all"]).await["total"], 0);
    assert!(ends(&world.config, 1, &["show", damaged]).await.contains("it was removed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_are_handled_only_by_who_says_so() {
    const COUNT: usize = 40;
    let world = World::new().await;
    let topic = world.topic(&TEST_RESULTS);
    let producer = Arc::new(Producer::new(&world.config.kafka).unwrap());
    let letters = DeadLetters::new(producer, "a-group".to_owned());
    for number in 0..COUNT {
        let reason = if number % 4 == 0 { Reason::Undecodable } else { Reason::UnknownSchema };
        let payload = number.to_string().into_bytes();
        let origin = origin(&topic, Some(b"pat-000001"), Some(&payload));
        letters.send(&origin, reason, "for a test").await.unwrap();
    }
    let topic_flag = ["--topic", "pat.test-results.v1"];
    let replay = [&["replay", "--reason", "unknown_schema"][..], &topic_flag].concat();

    let text = ends(&world.config, 1, &replay).await;
    assert!(text.contains("30 would be replayed") && text.contains("--yes"), "{text}");
    assert_eq!(read_topic(&world.config.kafka, &topic).await.len(), 0);
    assert_eq!(list(&world, &topic_flag).await["total"], 40, "nothing was done");

    let text = ends(&world.config, 0, &[&replay[..], &["--yes", "--limit", "20"]].concat()).await;
    assert!(text.contains("20 replayed") && text.contains("there may be more"), "{text}");
    ends(&world.config, 0, &[&replay[..], &["--yes"]].concat()).await;
    let replayed = read_topic(&world.config.kafka, &topic).await;
    let values: Vec<usize> = replayed
        .iter()
        .map(|one| String::from_utf8(one.payload.clone().unwrap()).unwrap().parse().unwrap())
        .collect();
    let wanted: Vec<usize> = (0..COUNT).filter(|number| number % 4 != 0).collect();
    assert_eq!(values, wanted, "each once, and in their order");

    let text = ends(&world.config, 0, &[&["drop", "--yes"][..], &topic_flag].concat()).await;
    assert!(text.contains("10 dropped"), "{text}");
    assert_eq!(letters_on(&world, &TEST_RESULTS).await.len(), 0, "dead letters and markers are removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_brokers_refuse_to_remove_stays_and_is_said() {
    let world = World::new().await;
    let kafka = &world.config.kafka;
    let topic = world.topic(&TEST_RESULTS);
    let dead_letters = names::dlq_of(&topic);
    let producer = Arc::new(Producer::new(kafka).unwrap());
    let letters = DeadLetters::new(Arc::clone(&producer), "a-group".to_owned());
    letters.send(&origin(&topic, None, Some(b"x")), Reason::Undecodable, "").await.unwrap();
    let mut reader = Reader::new(kafka).unwrap();
    let handler = Handler::new(kafka, &reader, None).await.unwrap();
    let mut all = Letters::of_topics(&reader, std::slice::from_ref(&dead_letters)).await.unwrap();
    let (letter, _) = all.next(&mut reader).await.unwrap().unwrap();
    handler.drop(&letter).await.unwrap();

    // Kafka removes no records of a topic that is compacted.
    let admin: AdminClient<DefaultClientContext> = kafka_client_config(kafka).create().unwrap();
    let compacted =
        AlterConfig::new(ResourceSpecifier::Topic(&dead_letters)).set("cleanup.policy", "compact");
    for altered in admin.alter_configs(&[compacted], &AdminOptions::new()).await.unwrap() {
        altered.unwrap();
    }
    eventually("the log itself is compacted: it takes no record without a key", DEADLINE, async || {
        producer.send(&dead_letters, None, Some(b"later"), &[]).await.is_err()
    })
    .await;
    let before = letters_on(&world, &TEST_RESULTS).await.len();
    let remover = Remover::new(kafka).unwrap();
    let removal = remover.remove_handled(&mut reader, &dead_letters, 0).await.unwrap();
    assert_eq!(removal, Removal::Refused { cause: RDKafkaErrorCode::PolicyViolation });
    assert_eq!(letters_on(&world, &TEST_RESULTS).await.len(), before, "nothing is gone");
}

fn origin<'a>(topic: &'a str, key: Option<&'a [u8]>, payload: Option<&'a [u8]>) -> Origin<'a> {
    Origin { topic, partition: 0, offset: 0, timestamp_ms: 1_795_600_000_000, key, payload, headers: &[] }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_replayed_says_why_and_the_exit_code_says_how_it_went() {
    let world = World::new().await;
    let config = &world.config;
    let topic = world.topic(&TEST_RESULTS);
    let producer = Arc::new(Producer::new(&config.kafka).unwrap());
    let letters = DeadLetters::new(producer, "a-group".to_owned());
    let too_long = vec![b'x'; 3 * 1024 * 1024];
    let good = world.encode(&result(1, "keyless")).await;
    letters.send(&origin(&topic, None, Some(&too_long)), Reason::PayloadTooLarge, "").await.unwrap();
    letters.send(&origin(&topic, None, Some(&good)), Reason::UnusableField, "no key").await.unwrap();
    let headers: [(&str, &[u8]); 2] =
        [("dlq.reason", b"undecodable"), ("dlq.topic", b"somebody.elses.topic")];
    let dead_letters = names::dlq_of(&topic);
    world.publish_raw(&dead_letters, None, Some(b"x"), &headers).await;
    let id = |offset: u32| format!("pat.test-results.v1/0/{offset}");
    let [cut, keyless, foreign] = [id(0), id(1), id(2)];

    let text = ends(config, 1, &["replay", &cut, &foreign, "--yes"]).await;
    assert!(text.contains("only the beginning was kept") && text.contains("somebody.elses.topic"), "{text}");
    assert!(text.contains("0 replayed") && text.contains("2 not replayed"), "{text}");
    ends(config, 64, &["replay", &cut, &keyless, "--yes", "--key", "pat-000001"]).await;
    ends(config, 0, &["replay", &keyless, "--key", "pat-000001"]).await;
    let replayed = read_topic(&config.kafka, &topic).await;
    assert_eq!(replayed.len(), 1, "nothing but the one that can be");
    assert_eq!(replayed[0].key.as_deref(), Some(&b"pat-000001"[..]));
    assert_eq!(replayed[0].payload, Some(good));

    let text = ends(config, 1, &["drop", &id(3), &id(99), "pat.nothing/0/1", "--yes"]).await;
    for why in ["a note of what was done", "no such record yet", "called that", "0 dropped"] {
        assert!(text.contains(why), "{why}: {text}");
    }
    let partition = format!("{dead_letters}/7/0");
    assert!(ends(config, 1, &["show", &partition]).await.contains("1 partitions"));
    ends(config, 64, &["show", "nonsense"]).await;
    assert!(ends(config, 64, &["list", "--topic", "nonsense"]).await.contains("no topic with dead letters"));
    ends(config, 64, &["list", "--reason", "nonsense"]).await;
    ends(config, 64, &["replay"]).await;
    let mut away = config.clone();
    away.kafka.bootstrap_servers = "127.0.0.1:1".to_owned();
    let again = ["replay", &keyless, "--again"];
    let (listed, replayed) = tokio::join!(dlq(&away, &["list"]), dlq(&away, &again));
    for output in [listed, replayed] {
        assert_eq!(output.status.code(), Some(69), "{}", printed(&output));
    }
}

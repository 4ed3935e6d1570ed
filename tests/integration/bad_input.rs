//! What is wrong with a request gets one clear answer, in the dead letters or in the
//! why-log; it stops nobody, and nobody gets a message by mistake.
//!
//! How damaged records of any topic are kept is proved in `bad_records`; here is
//! what can only be wrong with a request.

use std::time::Duration;

use apache_avro::types::Value;
use jiff::{SignedDuration, Timestamp};
use patient_notify::domain::{
    Channel, NotificationId, NotificationRequested, Purpose, Reason, Strategy, Urgency, contract,
};
use patient_notify::record::{Repeated, Source};
use patient_notify::topic::client::kafka_client_config;
use patient_notify::topic::names::{NOTIFICATIONS, dlq_of};
use patient_notify::topic::producer::Producer;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::json;

use crate::bad_records::dead_letter_of;
use crate::harness::{World, eventually, patient, recipient, request, result, sms_only};
use crate::requests::variables;
use crate::tools::{Lying, read_topic, register, wire};

const ROLE: &str = "consumer-notification";
const SOON: Duration = Duration::from_secs(30);
/// Beyond what a record may have, and what our own producers send.
const FIVE_MB: usize = 5 * 1024 * 1024;

/// A request that a newer release wrote: it knows more words than we do.
struct Newer {
    schema: String,
    id: u32,
}

impl Newer {
    async fn registered(world: &World) -> Self {
        let mut schema: serde_json::Value = serde_json::from_str(contract::NOTIFICATIONS).unwrap();
        for (field, symbol) in [("purpose", "survey"), ("urgency", "panic"), ("strategy", "round_robin")] {
            Self::symbols(&mut schema, field).push(json!(symbol));
        }
        Self::symbols(&mut schema, "channels").push(json!("letter"));
        let schema = schema.to_string();
        // Under a subject of its own: the world's has our schema alone.
        let mut config = world.config.clone();
        config.kafka.topic_prefix.push_str("newer.");
        let id = register(&config, &NOTIFICATIONS, &schema).await;
        Self { schema, id }
    }

    fn symbols<'a>(schema: &'a mut serde_json::Value, field: &str) -> &'a mut Vec<serde_json::Value> {
        let fields = schema["fields"].as_array_mut().unwrap();
        let kind = &mut fields.iter_mut().find(|one| one["name"] == field).unwrap()["type"];
        let kind = if kind["type"] == "array" { &mut kind["items"] } else { kind };
        kind["symbols"].as_array_mut().unwrap()
    }

    /// One request with one of its words exchanged.
    fn request(&self, number: u64, field: &str, word: &str) -> Vec<u8> {
        let text = |text: &str| Value::String(text.to_owned());
        let is = |name: &str, usual: &str| text(if name == field { word } else { usual });
        let channels = if field == "channels" { vec![text(word), text("sms")] } else { vec![text("sms")] };
        let none = || Value::Union(0, Box::new(Value::Null));
        let fields = vec![
            ("caller", text("newer-backend")),
            ("idempotency_key", text(&format!("{field}-{word}"))),
            ("patient_id", text(patient(number).as_str())),
            ("recipient", none()),
            ("purpose", is("purpose", "general")),
            ("urgency", is("urgency", "high")),
            ("channels", Value::Array(channels)),
            ("strategy", is("strategy", "all_at_once")),
            ("send_at", none()),
            ("expires_at", none()),
            ("variables", Value::Map([].into())),
            ("requested_at", Value::TimestampMillis(Timestamp::now().as_millisecond())),
        ];
        wire(self.id, &self.schema, fields)
    }
}

async fn publish_bytes(world: &World, key: Option<&[u8]>, payload: &[u8]) -> (i32, i64) {
    world.publish_raw(&world.topic(&NOTIFICATIONS), key, Some(payload), &[]).await
}

async fn dead_letters(world: &World) -> Vec<Lying> {
    read_topic(&world.config.kafka, &dlq_of(&world.topic(&NOTIFICATIONS))).await
}

/// Waits until nothing is left to read, and nothing is under way.
async fn until_done(world: &World) {
    world.until_no_lag(SOON).await;
    eventually("nothing is under way", SOON, async || {
        world.count("delivery WHERE due_at IS NOT NULL").await == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_cannot_be_read_are_kept_and_their_neighbours_go_out() {
    let world = World::new().await;
    world.load(&[recipient(1)]).await;
    let good = world.encode_request(&request(1, "bad"), &NOTIFICATIONS).await;
    let of_another_record = world.encode(&result(1, "res-1")).await;
    let unknown_schema = [&[0][..], &2_000_000_000_u32.to_be_bytes(), &good[5..]].concat();
    let too_long = [&good[..], &vec![b'x'; world.config.processor.payload_max_bytes]].concat();
    let late = NotificationRequested {
        send_at: Some(Timestamp::now() + SignedDuration::from_hours(2)),
        expires_at: Some(Timestamp::now() + SignedDuration::from_hours(1)),
        ..request(1, "ends-before-it-begins")
    };
    let late = world.encode_request(&late, &NOTIFICATIONS).await;
    let new_purpose = Newer::registered(&world).await.request(1, "purpose", "survey");
    let patient = patient(1);
    let key = Some(patient.as_str().as_bytes());
    let bad = [
        (Reason::UnknownSchema, key, &unknown_schema[..]),
        (Reason::IncompatibleSchema, key, &of_another_record),
        (Reason::Undecodable, key, &good[..good.len() - 3]),
        (Reason::PayloadTooLarge, key, &too_long),
        (Reason::EmptyKey, None, &good),
        (Reason::EmptyKey, Some(&b""[..]), &good),
        (Reason::UnusableField, key, &late),
        (Reason::UnusableField, key, &new_purpose),
    ];
    let mut places = Vec::new();
    for (number, (_, key, payload)) in (1..).zip(&bad) {
        world.publish_requests(&[request(1, &format!("good-{number}"))], &NOTIFICATIONS).await;
        places.push(publish_bytes(&world, *key, payload).await);
    }

    let consumer = world.role(ROLE, |_| {});
    world.until_sent(i64::try_from(bad.len()).unwrap(), SOON).await;
    consumer.stop().await.unwrap();
    assert_eq!(world.count("notification").await, i64::try_from(bad.len()).unwrap(), "of the good ones only");
    assert_eq!(world.sandbox.log.len(), bad.len(), "one message a good request");
    assert_eq!(world.sandbox.log.stats().duplicates, 0);
    let letters = dead_letters(&world).await;
    assert_eq!(letters.len(), bad.len(), "one dead letter a bad request");
    for ((reason, key, payload), place) in bad.into_iter().zip(places) {
        let letter = dead_letter_of(&letters, place);
        assert_eq!(letter.header("dlq.reason"), reason.as_str(), "{}", letter.header("dlq.detail"));
        assert_eq!(letter.payload.as_deref(), Some(payload), "{reason}: the bytes are unchanged");
        assert_eq!(letter.key.as_deref(), key, "{reason}: and the key");
    }
    let of_key = letters.iter().find(|letter| letter.header("dlq.reason") == "empty_key").unwrap();
    assert!(of_key.header("dlq.detail").contains("patient's id"), "people are told what to do");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_5_mb_is_refused_by_our_producer_and_stops_nobody_when_another_wrote_it() {
    let world = World::new().await;
    world.load(&[sms_only(1)]).await;
    let topic = world.topic(&NOTIFICATIONS);
    let patient = patient(1);
    let key = patient.as_str().as_bytes();
    let huge = vec![0_u8; FIVE_MB];
    let ours = Producer::new(&world.config.kafka).unwrap();
    let refused = ours.send(&topic, Some(key), Some(&huge), &[]).await.unwrap_err();
    assert!(refused.is_too_large() && refused.to_string().contains("record's size"), "{refused}");

    // Compressed it is short enough for the broker.
    let mut client = kafka_client_config(&world.config.kafka);
    client.set("message.max.bytes", "10000000").set("compression.type", "lz4");
    let theirs: FutureProducer = client.create().unwrap();
    let record = FutureRecord::to(&topic).key(key).payload(&huge);
    let place = theirs.send(record, SOON).await.unwrap();
    world.publish_requests(&[request(1, "behind-it")], &NOTIFICATIONS).await;

    let consumer = world.role(ROLE, |_| {});
    world.until_sent(1, SOON).await;
    consumer.stop().await.unwrap();
    let letters = dead_letters(&world).await;
    let letter = dead_letter_of(&letters, (place.partition, place.offset));
    assert_eq!(letter.header("dlq.reason"), Reason::PayloadTooLarge.as_str());
    assert!(letter.header("dlq.cut").contains(&FIVE_MB.to_string()), "it says what was cut off");
    let kept = letter.payload.as_deref().unwrap();
    assert!(!kept.is_empty() && huge.starts_with(kept));
    assert_eq!(world.sandbox.log.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn words_of_a_newer_schema_are_taken_for_what_the_schema_says() {
    let world = World::new().await;
    world.load(&[recipient(1), recipient(2), recipient(3)]).await;
    let newer = Newer::registered(&world).await;
    for (number, field, word) in
        [(1, "urgency", "panic"), (2, "channels", "letter"), (3, "strategy", "round_robin")]
    {
        let patient = patient(number);
        let payload = newer.request(number, field, word);
        publish_bytes(&world, Some(patient.as_str().as_bytes()), &payload).await;
    }
    let consumer = world.role(ROLE, |_| {});
    world.until_sent(3, SOON).await;
    consumer.stop().await.unwrap();
    assert!(dead_letters(&world).await.is_empty());
    let is = async |number: u64, urgency: Urgency, strategy: Strategy| {
        let patient = patient(number);
        let of = format!(
            "notification WHERE patient_id = '{}' AND urgency = '{urgency}' AND strategy = '{strategy}' \
             AND channels = '{{sms}}'",
            patient.as_str()
        );
        assert_eq!(world.count(&of).await, 1, "{of}");
    };
    is(1, Urgency::Normal, Strategy::AllAtOnce).await;
    is(2, Urgency::High, Strategy::AllAtOnce).await;
    is(3, Urgency::High, Strategy::InOrder).await;
    assert_eq!(world.sandbox.log.count(Channel::Sms), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_decided_against_has_its_reason_and_reaches_nobody() {
    let world = World::new().await;
    world.load(&[sms_only(1)]).await;
    let hours = |hours| Timestamp::now() + SignedDuration::from_hours(hours);
    let years_ahead = hours(10 * 366 * 24);
    let asked = |key: &str| request(1, key);
    let cases = [
        (Reason::UnknownPatient, "suppressed", request(99, "nobody")),
        (
            Reason::NoRecipient,
            "suppressed",
            NotificationRequested { recipient: Some("a-stranger".to_owned()), ..asked("stranger") },
        ),
        (
            Reason::NoContactPoint,
            "suppressed",
            NotificationRequested { channels: vec![Channel::Push, Channel::Email], ..asked("nowhere") },
        ),
        (
            Reason::ScheduledTooFar,
            "suppressed",
            NotificationRequested {
                send_at: Some(years_ahead),
                expires_at: Some(years_ahead + SignedDuration::from_hours(1)),
                ..asked("in-ten-years")
            },
        ),
        (
            Reason::Expired,
            "expired",
            NotificationRequested {
                requested_at: hours(-2),
                expires_at: Some(hours(-1)),
                ..asked("an-hour-too-late")
            },
        ),
    ];
    let requests: Vec<NotificationRequested> = cases.iter().map(|(_, _, request)| request.clone()).collect();
    world.publish_requests(&requests, &NOTIFICATIONS).await;
    // In the past is at once: a month ago, and nobody said when it expires.
    let late = NotificationRequested { send_at: Some(hours(-30 * 24)), ..asked("a-month-ago") };
    world.publish_requests(&[late], &NOTIFICATIONS).await;

    let consumer = world.role(ROLE, |_| {});
    world.until_sent(1, SOON).await;
    consumer.stop().await.unwrap();
    for (reason, state, request) in cases {
        let id = NotificationId::for_request(&request.caller, &request.idempotency_key);
        let ended = format!("notification_id = '{id}' AND state = '{state}' AND reason = '{reason}'");
        assert_eq!(world.count(&format!("notification WHERE {ended}")).await, 1, "{reason}");
        assert_eq!(world.count(&format!("why WHERE step = 'plan' AND {ended}")).await, 1, "{reason}");
        assert_eq!(world.count(&format!("outbox WHERE {ended}")).await, 1, "{reason}: others are told");
    }
    assert_eq!(world.count("delivery").await, 1, "only of the one that went out");
    assert_eq!(world.sandbox.log.len(), 1);
    assert!(dead_letters(&world).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_locales_and_variables_cost_nobody_a_message_and_unknown_choices_a_channel() {
    let world = World::new().await;
    let mut far_away = sms_only(1);
    far_away.locale = Some("tlh-KX".to_owned());
    let mut mexican = sms_only(2);
    mexican.locale = Some("es-MX".to_owned());
    world.load(&[far_away, mexican, sms_only(3), recipient(4), sms_only(5)]).await;
    let unknown_choice = |number: u64| NotificationRequested {
        purpose: Purpose::AppointmentConfirmation,
        variables: variables(&[("change", "swapped")]),
        ..request(number, &format!("choice-{number}"))
    };
    let requests = [
        request(1, "locale"),
        request(2, "spanish"),
        NotificationRequested { variables: variables(&[("diagnosis", "CANARY")]), ..request(3, "variable") },
        unknown_choice(4),
        unknown_choice(5),
    ];
    let consumer = world.role(ROLE, |_| {});
    let worker = world.role("wrk-notifications", |_| {});
    world.publish_requests(&requests, &NOTIFICATIONS).await;
    world.until_sent(4, SOON).await;
    until_done(&world).await;
    let body = |address: &str| world.sandbox.log.latest(1, address).remove(0).body.expose().clone();
    assert!(body("+15550000001").contains("You have a new message"), "the default words");
    assert!(body("+15550000002").contains("Tiene un mensaje nuevo"), "the language, if not the country");
    assert!(!body("+15550000003").contains("CANARY"), "what a template does not know reaches nobody");
    // Neither a text message nor an e-mail has words for it; a push message needs none.
    let failed = "state = 'technical_failure' AND reason = 'render_failed'";
    assert_eq!(world.count(&format!("delivery WHERE {failed} AND attempt = 0")).await, 3);
    assert_eq!(world.sandbox.log.count(Channel::Push), 1);
    // Without another channel that is its end.
    let ended = format!("notification WHERE {failed} AND patient_id = '{}'", patient(5).as_str());
    assert_eq!(world.count(&ended).await, 1);
    assert_eq!(world.sandbox.log.len(), 4);
    consumer.stop().await.unwrap();
    worker.stop().await.unwrap();
}

/// Sets the group back to the begin of the topic, as if nothing had been committed.
async fn read_again(world: &World) {
    let (kafka, topic) = (world.config.kafka.clone(), world.topic(&NOTIFICATIONS));
    let group = NOTIFICATIONS.full_group(&kafka.topic_prefix).unwrap();
    let set_back = move || {
        let mut client = kafka_client_config(&kafka);
        client.set("group.id", &group).set("enable.auto.commit", "false");
        let consumer: BaseConsumer = client.create().unwrap();
        let metadata = consumer.fetch_metadata(Some(&topic), SOON).unwrap();
        let mut begin = TopicPartitionList::new();
        for partition in metadata.topics()[0].partitions() {
            begin.add_partition_offset(&topic, partition.id(), Offset::Offset(0)).unwrap();
        }
        consumer.commit(&begin, CommitMode::Sync).unwrap();
    };
    tokio::task::spawn_blocking(set_back).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_content_under_a_taken_key_is_noted_once_and_never_sent() {
    let world = World::new().await;
    world.load(&[recipient(1)]).await;
    let first = request(1, "key");
    let id = NotificationId::for_request(&first.caller, &first.idempotency_key);
    let of_another_purpose =
        NotificationRequested { purpose: Purpose::AppointmentReminder, ..request(1, "key") };
    let of_another_strategy = NotificationRequested { strategy: Strategy::AllAtOnce, ..request(1, "key") };
    // In one batch: the first stands, the same again is nothing, another one is noted.
    let batch = [first.clone(), first.clone(), of_another_purpose.clone()];
    world.publish_requests(&batch, &NOTIFICATIONS).await;
    let variables = [("PATIENT_NOTIFY_PROCESSOR__BATCH_LINGER_MS", "1000")];
    let mut consumer = world.process(ROLE, &variables);
    world.until_sent(1, SOON).await;
    let conflicts = format!(
        "why WHERE notification_id = '{id}' AND step = 'claim' AND reason = 'conflicting_duplicate' \
         AND detail IS NOT NULL"
    );
    assert_eq!(world.count(&conflicts).await, 1);
    // In a later batch, when it has been sent.
    world.publish_requests(&[of_another_strategy, first], &NOTIFICATIONS).await;
    world.until_no_lag(SOON).await;
    assert_eq!(world.count(&format!("{conflicts} AND state = 'sent'")).await, 1);
    let topic = world.topic(&NOTIFICATIONS);
    let counter =
        |reason: &str| format!("patient_notify_ignored_total{{reason=\"{reason}\",topic=\"{topic}\"}}");
    assert_eq!(consumer.metric(&counter("conflicting_duplicate")).await, 2.0);
    assert_eq!(consumer.metric(&counter("duplicate")).await, 2.0);
    assert!(consumer.log().contains(&id.to_string()), "a warning says which notification");
    consumer.terminate();
    assert_eq!(consumer.wait().await.code(), Some(0), "{}", consumer.log());

    // The same records once more are nothing new.
    read_again(&world).await;
    assert_eq!(world.lag().await, 5);
    let consumer = world.role(ROLE, |_| {});
    world.until_no_lag(SOON).await;
    consumer.stop().await.unwrap();
    assert_eq!(world.count(&conflicts).await, 2);
    assert_eq!(world.count("notification WHERE purpose = 'general' AND strategy = 'in_order'").await, 1);
    assert_eq!(world.count("delivery").await, 1);
    assert_eq!(world.sandbox.log.len(), 1, "only the first content was ever sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_never_stops_does_not_fill_the_why_log() {
    let world = World::new().await;
    world.load(&[recipient(1)]).await;
    let first = request(1, "key");
    world.publish_requests(std::slice::from_ref(&first), &NOTIFICATIONS).await;
    let consumer = world.role(ROLE, |_| {});
    world.until_sent(1, SOON).await;
    let repeated = |offset| Repeated {
        notification_id: NotificationId::for_request(&first.caller, &first.idempotency_key),
        fingerprint: [7; 32],
        source: Source {
            topic: "elsewhere".into(),
            partition: 0,
            offset,
            published_at: Timestamp::now(),
            trace: None,
        },
    };
    for batch in 0..3 {
        let many: Vec<Repeated> = (batch * 15..batch * 15 + 15).map(repeated).collect();
        let conflicts = world.store.note_conflicts(&many).await.unwrap();
        assert_eq!(conflicts.len(), 15, "each is known for what it is");
    }
    assert_eq!(world.count("why WHERE reason = 'conflicting_duplicate'").await, 20);
    consumer.stop().await.unwrap();
}

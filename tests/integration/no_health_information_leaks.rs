//! Addresses, names, categories, variables and payloads go the whole way, through
//! every sort of failure, with every process logging all that it can: they reach
//! the providers and nobody else.

use std::time::Duration;

use jiff::Timestamp;
use patient_notify::api::proto::notification_service_client::NotificationServiceClient;
use patient_notify::api::proto::recipient_service_client::RecipientServiceClient;
use patient_notify::api::{convert, proto};
use patient_notify::domain::{
    Channel, DeliveryId, DeliveryRef, ReceiptStatus, Redacted, TestResultPublished,
};
use patient_notify::sandbox::ChannelFaults;
use patient_notify::topic::names;
use tonic::Status;
use tonic::transport::Endpoint;

use crate::harness::{Process, Proxy, World, eventually, patient, receipt_for, result};
use crate::tools::{get, read_topic};

const DEADLINE: Duration = Duration::from_secs(60);
/// What every canary has in it, in small letters; the numbers, in more digits than
/// chance writes into a log; and words of the messages themselves.
const FORBIDDEN: [&str; 4] = ["canary", "999773194", "reply stop", "you have a new"];
const ROLES: [&str; 5] = [
    "app",
    "consumer-test-result-notification",
    "consumer-notification",
    "wrk-notifications",
    "consumer-notification-update",
];
/// Recipients: two who want text messages, two e-mail, two push.
const PEOPLE: u64 = 6;

fn number(person: u64) -> String {
    format!("+1999773194{person}")
}

/// A recipient whose every field is a canary.
fn person(person: u64) -> proto::RecipientServiceUpsertRequest {
    let mut order = vec![proto::Channel::Sms, proto::Channel::Email, proto::Channel::Push];
    order.rotate_left(usize::try_from((person - 1) / 2).unwrap());
    let point = |channel: proto::Channel, address: String| proto::ContactPoint {
        channel: channel.into(),
        address,
        verified_at: Some(convert::timestamp_to(Timestamp::now())),
    };
    let id = patient(person).as_str().to_owned();
    proto::RecipientServiceUpsertRequest {
        recipient_id: id.clone(),
        patients: vec![proto::PatientLink { patient_id: id, relation: proto::Relation::Patient.into() }],
        display_name: format!("Canaria Canary {person}"),
        quiet_hours: Some(proto::QuietHours { start: "00:00".to_owned(), end: "00:00".to_owned() }),
        channel_order: order.into_iter().map(Into::into).collect(),
        contact_points: vec![
            point(proto::Channel::Sms, number(person)),
            point(proto::Channel::Email, format!("canary-mail-{person}@example.org")),
            point(proto::Channel::Push, format!("CANARY-device-{person}")),
        ],
        ..Default::default()
    }
}

fn results_of_all(round: &str) -> Vec<TestResultPublished> {
    let of = |person| TestResultPublished {
        category: Redacted::new("canary-category".to_owned()),
        ..result(person, &format!("{round}-{person}"))
    };
    (1..=PEOPLE).map(of).collect()
}

fn reminder(key: &str, person: u64, date: &str) -> proto::NotificationServiceSendRequest {
    let variables = [("appointment_date", date), ("location", "CANARY Clinic"), ("canary_name", "CANARY")];
    proto::NotificationServiceSendRequest {
        idempotency_key: key.to_owned(),
        patient_id: patient(person).as_str().to_owned(),
        purpose: proto::Purpose::AppointmentReminder.into(),
        variables: variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ..Default::default()
    }
}

/// Fails where a text holds what only providers may see.
fn assert_clean(what: &str, text: &str) {
    let lower = text.to_lowercase();
    for forbidden in FORBIDDEN {
        if let Some(at) = lower.find(forbidden) {
            let near: String =
                lower[..at].chars().rev().take(300).collect::<Vec<_>>().into_iter().rev().collect();
            panic!("{what} holds {forbidden:?}, behind: {near}");
        }
    }
}

fn assert_status_clean(what: &str, status: &Status) {
    assert_clean(
        what,
        &format!("{status:?} {} {}", status.message(), String::from_utf8_lossy(status.details())),
    );
}

/// What is watched: the world, its processes, and the way to its front.
struct Stage {
    world: World,
    database: Proxy,
    processes: Vec<(&'static str, Process)>,
    notifications: NotificationServiceClient<tonic::transport::Channel>,
    recipients: RecipientServiceClient<tonic::transport::Channel>,
}

impl Stage {
    async fn new() -> Self {
        let mut world = World::new().await;
        world.config.log.filter = "trace".to_owned();
        let database = Proxy::start(world.addresses.postgres_address()).await;
        let url =
            world.config.postgres.url.expose().replace(world.addresses.postgres_address(), &database.address);
        let behind_proxy = [("PATIENT_NOTIFY_POSTGRES__URL", url.as_str())];
        let mut processes: Vec<_> =
            ROLES.iter().map(|role| (*role, world.process(role, &behind_proxy))).collect();
        processes[0].1.wait_for_log("front is listening", DEADLINE).await;
        let endpoint = Endpoint::from_shared(format!("http://{}", world.config.app.listen)).unwrap();
        let channel = endpoint.connect().await.unwrap();
        let notifications = NotificationServiceClient::new(channel.clone());
        let recipients = RecipientServiceClient::new(channel);
        Self { world, database, processes, notifications, recipients }
    }

    /// Publishes a result for everybody and waits until each is a notification.
    async fn publish_round(&self, round: &str) {
        let before = self.count("SELECT count(*) FROM notification").await;
        self.world.publish(&results_of_all(round)).await;
        let wanted = before + i64::try_from(PEOPLE).unwrap();
        eventually("each result is a notification that was tried", DEADLINE, async || {
            self.count("SELECT count(*) FROM notification").await == wanted
                && self.count("SELECT count(*) FROM notification WHERE state = 'dispatching'").await == 0
        })
        .await;
    }

    async fn count(&self, select: &str) -> i64 {
        let client = self.world.pool.get().await.unwrap();
        client.query_one(select, &[]).await.unwrap().get(0)
    }

    async fn rows(&self, table: &str) -> String {
        let client = self.world.pool.get().await.unwrap();
        let select = format!("SELECT coalesce(string_agg(row_to_json(t)::text, E'\\n'), '') FROM {table} t");
        client.query_one(&select, &[]).await.unwrap().get(0)
    }

    fn fail(&self, sms: ChannelFaults, email: ChannelFaults, push: ChannelFaults) {
        for (channel, faults) in [(Channel::Sms, sms), (Channel::Email, email), (Channel::Push, push)] {
            self.world.sandbox.faults.set(channel, faults);
        }
    }

    /// Every way in which a provider can fail.
    async fn fail_at_providers(&self) {
        let answer = |status| ChannelFaults { fail_percent: 100, fail_status: status, ..Default::default() };
        let lost = ChannelFaults { drop_after_receive_percent: 100, ..Default::default() };
        let refuse = ChannelFaults { refuse: true, ..Default::default() };
        self.fail(answer(500), answer(451), answer(503));
        self.publish_round("provider-error").await;
        self.fail(answer(429), answer(421), answer(429));
        self.publish_round("throttled").await;
        self.fail(answer(401), answer(535), answer(401));
        self.publish_round("credentials").await;
        self.fail(lost, lost, lost);
        self.publish_round("lost-answer").await;
        self.fail(refuse, refuse, refuse);
        self.publish_round("unreachable").await;
        self.fail(answer(400), answer(550), answer(404));
        self.publish_round("refused").await;
        self.world.sandbox.faults.clear();
    }

    /// Records that become dead letters, full of what must not be told.
    async fn publish_bad_records(&self) {
        let key = patient(1);
        let key = Some(key.as_str().as_bytes());
        let mut version_0 = results_of_all("bad").remove(0);
        version_0.version = 0;
        let unusable = self.world.encode(&version_0).await;
        let truncated = &self.world.encode(&results_of_all("bad")[0]).await[..40];
        for topic in [&names::TEST_RESULTS, &names::NOTIFICATIONS, &names::NOTIFICATION_UPDATES] {
            let topic = self.world.topic(topic);
            for payload in [&b"{\"name\": \"CANARY\"}"[..], b"\0\0\0\0\0CANARY", &unusable, truncated] {
                self.world.publish_raw(&topic, key, Some(payload), &[]).await;
            }
        }
        eventually("twelve dead letters", DEADLINE, async || self.world.dead_letters().await.len() == 12)
            .await;
    }

    /// Receipts of which a careless webhook has put an address into the code, and of
    /// a message that nobody knows.
    async fn publish_news(&self) {
        let client = self.world.pool.get().await.unwrap();
        let rows = client.query("SELECT delivery_id FROM delivery WHERE state = 'sent'", &[]).await.unwrap();
        let mut news: Vec<_> = rows
            .iter()
            .map(|row| DeliveryRef::Id(DeliveryId(row.get(0))))
            .map(|delivery| receipt_for(delivery, ReceiptStatus::Bounced, Some("canary-mail-1@example.org")))
            .collect();
        let nobodys = DeliveryRef::ProviderMessage("CANARY-message@example.org".to_owned());
        news.push(receipt_for(nobodys, ReceiptStatus::Delivered, None));
        self.world.publish_updates(&news).await;
        eventually("they are folded", DEADLINE, async || {
            self.count("SELECT count(*) FROM why WHERE reason = 'bounced'").await > 0
                && self.count("SELECT count(*) FROM unmatched_update").await == 1
        })
        .await;
    }

    /// Calls that the front refuses.
    async fn call_wrongly(&mut self) {
        let mut bad = reminder("CANARY key", 1, "x");
        bad.patient_id = "Jane Canary".to_owned();
        bad.variables.insert("Canary Name".to_owned(), "CANARY".repeat(200));
        assert_status_clean("a refused Send", &self.notifications.send(bad).await.unwrap_err());
        let mut bad = person(1);
        bad.display_name = "Canary\u{7}".repeat(100);
        bad.locale = "canary_locale!".to_owned();
        bad.time_zone = "Canary/Islands".to_owned();
        bad.contact_points.iter_mut().for_each(|point| point.address.push_str(" CANARY"));
        assert_status_clean("a refused Upsert", &self.recipients.upsert(bad).await.unwrap_err());
    }

    /// The database goes in the middle of everything, and comes back.
    async fn lose_the_database(&mut self) {
        self.database.cut().await;
        self.world.publish(&results_of_all("no-database")).await;
        let refused = self.recipients.upsert(person(1)).await.unwrap_err();
        assert_status_clean("an Upsert without a database", &refused);
        self.notifications.send(reminder("no-database", 1, "2030-01-02")).await.unwrap();
        for at in 1..=2 {
            let (role, process) = &mut self.processes[at];
            assert!(process.is_running(), "{role} ended with its database");
            process.wait_for_log("postgres", DEADLINE).await;
        }
        self.database.restore().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_the_providers_is_told() {
    let mut stage = Stage::new().await;
    for number in 1..=PEOPLE {
        stage.recipients.upsert(person(number)).await.unwrap();
    }
    stage.publish_round("well").await;
    stage.fail_at_providers().await;
    stage.publish_bad_records().await;
    stage.call_wrongly().await;
    for number in [1, 3, 5] {
        stage.notifications.send(reminder(&format!("good-{number}"), number, "2030-01-02")).await.unwrap();
        // Not a date: no words can be made of it.
        stage.notifications.send(reminder(&format!("bad-{number}"), number, "CANARY")).await.unwrap();
    }
    eventually("a message could not be rendered", DEADLINE, async || {
        stage.count("SELECT count(*) FROM why WHERE reason = 'render_failed'").await >= 2
    })
    .await;
    stage.publish_news().await;
    stage.lose_the_database().await;
    stage.world.until_no_lag(DEADLINE).await;
    assert_they_arrived(&stage).await;

    // Before anything is relayed and deleted.
    for table in ["why", "outbox"] {
        let rows = stage.rows(table).await;
        assert!(!rows.is_empty(), "{table} has rows");
        assert_clean(table, &rows);
    }
    stage.processes.push(("wrk-default", stage.world.process("wrk-default", &[])));
    eventually("status changes are published", DEADLINE, async || {
        stage.count("SELECT count(*) FROM outbox").await < 20
    })
    .await;
    assert_topics_clean(&stage).await;
    assert_processes_clean(&mut stage).await;
}

/// The canaries did fly: without this the test could not fail.
async fn assert_they_arrived(stage: &Stage) {
    let messages = stage.world.sandbox.log.all();
    for wanted in ["+1999773194", "canary-mail-", "CANARY-device-"] {
        assert!(
            messages.iter().any(|message| message.to.expose().contains(wanted)),
            "no message to {wanted}…"
        );
    }
    for channel in [Channel::Sms, Channel::Email] {
        let placed = |body: &str| body.contains("CANARY Clinic");
        let arrived = messages.iter().any(|one| one.channel == channel && placed(one.body.expose()));
        assert!(arrived, "no reminder by {channel} names the place");
    }
    assert!(messages.iter().any(|message| message.body.expose().to_lowercase().contains("you have a new")));
    assert!(messages.iter().any(|message| message.body.expose().contains("Reply STOP")));
    assert!(stage.rows("recipient").await.contains("Canaria Canary"));
    let results = read_topic(&stage.world.config.kafka, &stage.world.topic(&names::TEST_RESULTS)).await;
    let payloads = results.iter().filter_map(|one| one.payload.as_deref());
    assert!(payloads.map(String::from_utf8_lossy).any(|payload| payload.contains("canary-category")));
}

async fn assert_topics_clean(stage: &Stage) {
    let mut letters = 0;
    for topic in names::ALL.iter() {
        let name = stage.world.topic(topic);
        for record in read_topic(&stage.world.config.kafka, &name).await {
            assert_clean(
                &format!("a key on {name}"),
                &String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()),
            );
            if topic.name == names::NOTIFICATION_STATUS.name {
                assert_clean(&name, &String::from_utf8_lossy(record.payload.as_deref().unwrap_or_default()));
            }
        }
        if topic.group.is_none() {
            continue;
        }
        for letter in read_topic(&stage.world.config.kafka, &names::dlq_of(&name)).await {
            letters += 1;
            let key = String::from_utf8_lossy(letter.key.as_deref().unwrap_or_default()).into_owned();
            assert_clean("a dead letter's key", &key);
            for (header, value) in &letter.headers {
                assert_clean(&format!("{header} of a dead letter"), &String::from_utf8_lossy(value));
            }
        }
    }
    assert_eq!(letters, 12);
}

async fn assert_processes_clean(stage: &mut Stage) {
    for (role, process) in &mut stage.processes {
        let address = process.metrics_address().await;
        for page in ["metrics", "health/live", "health/ready"] {
            let (_, text) = get(&format!("http://{address}/{page}")).await;
            assert_clean(&format!("/{page} of {role}"), &text);
        }
        process.terminate();
    }
    for (role, process) in &mut stage.processes {
        assert!(process.wait().await.success(), "{role}");
        let log = process.log();
        assert!(log.lines().count() > 2, "{role} has logged");
        assert_clean(&format!("the log of {role}"), &log);
    }
    let consumer = stage.processes[1].1.log();
    assert!(consumer.contains("dead letter"), "what went wrong is told, without the values");
}

//! Who was erased is written to no more, and nothing that is theirs is left, while it
//! stays known what was decided and why. What a proxy, a consent or a device may no
//! longer bring does not go out, whenever it was planned.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use patient_notify::api::proto;
use patient_notify::api::proto::recipient_service_client::RecipientServiceClient;
use patient_notify::domain::{BatchId, Channel, NotificationId, NotificationRequested, Redacted};
use patient_notify::sandbox::ChannelFaults;
use patient_notify::topic::names;
use tonic::Code;

use crate::front::{front, reason};
use crate::harness::{World, contact, eventually, only, patient, recipient, request, result, sms_only};
use crate::recipients::state;
use crate::recipients_changes::{ago, consent, every_change, grant, id, register};

const SOON: Duration = Duration::from_secs(30);
/// What is planned for the erased recipient: more than one step of an erasure.
const HELD: usize = 450;

/// Every column of every table that has one of these words, in small letters.
async fn traces(world: &World, words: &[&str]) -> Vec<String> {
    let client = world.pool.get().await.unwrap();
    let tables = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1";
    let mut found = Vec::new();
    for row in client.query(tables, &[]).await.unwrap() {
        let table: String = row.get(0);
        for word in words {
            let rows = format!("{table} t WHERE lower(row_to_json(t)::text) LIKE '%{word}%'");
            let count = world.count(&rows).await;
            if count > 0 {
                found.push(format!("{count} in {table}"));
            }
        }
    }
    found
}

fn canary(key: &str, send_at: Option<Timestamp>) -> NotificationRequested {
    let variables = vec![("name".to_owned(), "Canaria Canary".to_owned())];
    NotificationRequested { send_at, variables: Redacted::new(variables), ..request(1, key) }
}

/// What notifications may still be made of: an appointment, and a row of a batch.
async fn sources(world: &World) {
    let client = world.pool.get().await.unwrap();
    let batch = BatchId::for_key("portal", "flu");
    let row = NotificationId::for_batch("portal", batch, &id(1), None);
    client
        .batch_execute(&format!(
            "INSERT INTO appointment (appointment_id, patient_id, recipients, starts_at, time_zone, location, status,
                    offsets_s, notice, notice_version, created_by)
             VALUES ('apt-1', '{patient}', '{{}}', now(), 'UTC', 'Canary Clinic', 'booked', '{{}}', 'made', 1, 'test');
             INSERT INTO batch (batch_id, caller, idempotency_key, name, purpose, channels, variables, rate_per_s,
                    expires_at, state)
             VALUES ('{batch}', 'portal', 'flu', 'flu', 'general', '{{}}', '{{}}', 1, now(), 'ready');
             INSERT INTO batch_recipient (batch_id, row_no, patient_id, notification_id, variables)
             VALUES ('{batch}', 1, '{patient}', '{row}', '{{\"name\": \"Canaria\"}}')",
            patient = id(1)
        ))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erased_recipient_is_written_to_no_more_and_leaves_no_health_information() {
    let world = World::new().await;
    let mut person = recipient(1);
    person.display_name = Some(Redacted::new("Canaria Canary".to_owned()));
    person.contact_points = vec![
        contact(Channel::Sms, "+19997731941".to_owned()),
        contact(Channel::Email, "canary@example.org".to_owned()),
    ];
    world.load(&[person, sms_only(2)]).await;
    let (_process, channel) = front(&world).await;
    let mut client = RecipientServiceClient::new(channel);
    client.register_device(register(1, "CANARY-device")).await.unwrap();
    let consumer = world.role("consumer-notification", |_| {});
    let worker = world.role("wrk-notifications", |_| {});
    let relay = world.role("wrk-default", |_| {});
    consumer.ready().await;

    world.publish_requests(&[canary("now", None)], &names::NOTIFICATIONS).await;
    let later = Timestamp::now() + SignedDuration::from_hours(1);
    let held: Vec<_> = (0..HELD).map(|n| canary(&format!("later-{n}"), Some(later))).collect();
    world.publish_requests(&held, &names::NOTIFICATIONS).await;
    world.until_no_lag(SOON).await;
    world.until_sent(1, SOON).await;
    assert_eq!(world.count("notification WHERE state = 'held'").await, i64::try_from(HELD).unwrap());
    sources(&world).await;
    assert!(traces(&world, &["canar", "9997731"]).await.len() > 4, "there is something to erase");

    let erase = proto::RecipientServiceEraseRequest { recipient_id: id(1) };
    let answer = client.erase(erase.clone()).await.unwrap().into_inner();
    assert!(answer.complete && answer.under_way == 0, "{answer:?}");
    assert_eq!(traces(&world, &["canar", "9997731"]).await, Vec::<String>::new());
    let ended = "notification WHERE state = 'suppressed' AND reason = 'erased'";
    assert_eq!(world.count(ended).await, i64::try_from(HELD).unwrap());
    assert_eq!(world.count("delivery WHERE state = 'held' OR (due_at IS NOT NULL)").await, 0);
    assert_eq!(
        world.count("why WHERE step = 'erase' AND channel IS NULL").await,
        i64::try_from(HELD).unwrap()
    );
    assert_eq!(world.count("audit WHERE action = 'RecipientService/Erase'").await, 1);
    let again = client.erase(erase).await.unwrap().into_inner();
    assert_eq!((again.erased_at, again.complete), (answer.erased_at, true));

    // Whatever comes now reaches nobody, and leaves nothing but its reason.
    world.publish_requests(&[canary("after", None), request(2, "neighbour")], &names::NOTIFICATIONS).await;
    world.until_sent(2, SOON).await;
    world.until_no_lag(SOON).await;
    assert_eq!(world.sandbox.log.stats().total, 2, "one before the erasure, and the neighbour's");
    assert_eq!(
        world.count("notification WHERE state = 'suppressed' AND reason = 'unknown_patient'").await,
        1
    );
    assert_eq!(traces(&world, &["canar", "9997731"]).await, Vec::<String>::new());
    let ask = proto::RecipientServiceGetRequest { recipient_id: id(1) };
    let shown = client.get(ask).await.unwrap().into_inner().recipient.unwrap();
    assert!(shown.erased && shown.contact_points.is_empty() && shown.patients.is_empty());
    assert_eq!(client.upsert(state(1)).await.unwrap_err().code(), Code::FailedPrecondition);
    for (name, status) in every_change(&mut client, 1).await {
        assert_eq!(reason(&status), "RECIPIENT_ERASED", "{name}: {status}");
    }
    let nobody = proto::RecipientServiceEraseRequest { recipient_id: "nobody".to_owned() };
    assert_eq!(client.erase(nobody).await.unwrap_err().code(), Code::NotFound);
    under_way(&world, &mut client).await;
    world.assert_each_once().await;
    for role in [consumer, worker, relay] {
        role.stop().await.unwrap();
    }
}

/// What a provider has just now is not torn, and its address goes when it has ended.
async fn under_way(world: &World, client: &mut RecipientServiceClient<tonic::transport::Channel>) {
    world.sandbox.faults.set(Channel::Sms, ChannelFaults { latency_ms: 1_000, ..Default::default() });
    world.publish_requests(&[request(2, "slow")], &names::NOTIFICATIONS).await;
    eventually("it is under way", SOON, async || {
        world.count("delivery WHERE state = 'dispatching'").await == 1
    })
    .await;
    let erase = proto::RecipientServiceEraseRequest { recipient_id: id(2) };
    let early = client.erase(erase.clone()).await.unwrap().into_inner();
    assert_eq!((early.complete, early.under_way), (false, 1), "{early:?}");
    assert_eq!(traces(world, &["15550000002"]).await, ["1 in delivery"], "a look-up would need it");
    world.until_sent(3, SOON).await;
    let late = client.erase(erase).await.unwrap().into_inner();
    assert_eq!((late.complete, late.under_way, late.erased_at), (true, 0, early.erased_at));
    assert_eq!(traces(world, &["15550000002"]).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_back_after_planning_does_not_go_out() {
    let world = World::new().await;
    world.load(&[sms_only(1), sms_only(2), only(Channel::Push, 3), only(Channel::Push, 4)]).await;
    let (_process, channel) = front(&world).await;
    let mut client = RecipientServiceClient::new(channel);
    let requests = world.role("consumer-notification", |_| {});
    let results = world.role("consumer-test-result-notification", |_| {});
    requests.ready().await;
    results.ready().await;

    // A proxy hears of the patient, until the patient comes of age.
    client.grant_proxy(grant(1, 2)).await.unwrap();
    world.publish(&[result(1, "res-minor")]).await;
    world.until_sent(2, SOON).await;
    let later = Timestamp::now() + SignedDuration::from_hours(1);
    let to = |number, key: &str, recipient: u64| NotificationRequested {
        recipient: Some(patient(recipient).as_str().to_owned()),
        send_at: Some(later),
        ..request(number, key)
    };
    let planned = [to(1, "to-proxy", 2), to(1, "to-patient", 1)];
    world.publish_requests(&planned, &names::NOTIFICATIONS).await;
    world.until_no_lag(SOON).await;
    assert_eq!(world.count("notification WHERE state = 'held'").await, 2, "both were allowed when planned");
    let of_age = proto::RecipientServiceSetComingOfAgeRequest { patient_id: id(1), of_age_at: ago(60) };
    client.set_coming_of_age(of_age).await.unwrap();
    client.record_consent(consent(1, false, 0)).await.unwrap();
    world.publish(&[result(1, "res-grown-up")]).await;
    world.until_sent(3, SOON).await;

    // Its time has come, and only now does anybody look at what was held.
    let due = "UPDATE delivery SET due_at = now() WHERE state = 'held'";
    world.pool.get().await.unwrap().batch_execute(due).await.unwrap();
    let worker = world.role("wrk-notifications", |_| {});
    for (reason, count) in [("access_ended", 2), ("no_consent", 1)] {
        let rows = format!("notification WHERE state = 'suppressed' AND reason = '{reason}'");
        eventually(reason, SOON, async || world.count(&rows).await == count).await;
    }

    // A device that changed hands shows its new owner's news alone.
    assert!(client.register_device(register(4, "device-000003")).await.unwrap().into_inner().moved);
    world.publish_requests(&[request(3, "old"), request(4, "new")], &names::NOTIFICATIONS).await;
    world.until_sent(4, SOON).await;
    world.until_no_lag(SOON).await;
    let message = world.sandbox.log.all().into_iter().find(|one| one.channel == Channel::Push).unwrap();
    assert_eq!(message.to.expose(), "device-000003");
    assert_eq!(world.count("notification WHERE reason = 'no_contact_point'").await, 1);
    assert_eq!(world.sandbox.log.stats().total, 4);
    world.assert_each_once().await;
    for role in [requests, results, worker] {
        role.stop().await.unwrap();
    }
}

//! A change of an appointment tells the patient what it was asked to tell, once and in
//! order, and takes back every reminder that may be under way.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use patient_notify::api::convert::timestamp_to;
use patient_notify::api::proto;
use patient_notify::api::proto::appointment_service_client::AppointmentServiceClient;
use patient_notify::api::proto::batch_service_client::BatchServiceClient;
use patient_notify::domain::ids::{REMINDER_CALLER, reminder_key};
use patient_notify::domain::{NotificationId, Purpose};
use patient_notify::record::reminders::ReminderEnd;
use patient_notify::topic::names::NOTIFICATIONS;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::front::{front, reason};
use crate::harness::{World, eventually, patient, ready, sms_only, stop};
use crate::tools::read_topic;
use crate::who_may_call::{Signer, bearing, takes_tokens};

type Client = AppointmentServiceClient<Channel>;

const SOON: Duration = Duration::from_secs(60);
const LEASE: Duration = Duration::from_secs(600);

fn in_hours(hours: i64) -> Option<prost_types::Timestamp> {
    Some(timestamp_to(Timestamp::now() + SignedDuration::from_hours(hours)))
}

fn hours(hours: i64) -> prost_types::Duration {
    prost_types::Duration { seconds: hours * 3600, nanos: 0 }
}

fn wish(id: &str, number: u64) -> proto::AppointmentServicePutRequest {
    proto::AppointmentServicePutRequest {
        appointment_id: id.to_owned(),
        patient_id: patient(number).as_str().to_owned(),
        starts_at: in_hours(60),
        time_zone: "Europe/Vienna".to_owned(),
        reminder_offsets: vec![hours(48)],
        ..Default::default()
    }
}

fn told(wish: &proto::AppointmentServicePutRequest) -> proto::AppointmentServicePutRequest {
    proto::AppointmentServicePutRequest { notify: true, ..wish.clone() }
}

async fn put(
    client: &mut Client,
    wish: proto::AppointmentServicePutRequest,
) -> (proto::PutOutcome, Option<proto::AppointmentNotice>) {
    let answer = client.put(wish).await.unwrap().into_inner();
    (answer.outcome(), answer.notice)
}

async fn records(world: &World) -> usize {
    read_topic(&world.config.kafka, &world.topic(&NOTIFICATIONS)).await.len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_was_asked_to_be_told_is_told() {
    use proto::PutOutcome::{Changed, Created, Unchanged};
    let world = World::new().await;
    let (_process, channel) = front(&world).await;
    let mut client = AppointmentServiceClient::new(channel);
    // An import, and the first synchronisation after it.
    let first = wish("apt-1", 1);
    assert_eq!(put(&mut client, first.clone()).await, (Created, None));
    assert_eq!(put(&mut client, told(&first)).await, (Unchanged, None), "it was stored without a notice");
    let newer = proto::AppointmentServicePutRequest { source_updated_at: in_hours(-1), ..told(&first) };
    assert_eq!(put(&mut client, newer).await, (Unchanged, None), "a newer word for the same");
    let offsets = proto::AppointmentServicePutRequest { reminder_offsets: vec![hours(2)], ..first.clone() };
    assert_eq!(put(&mut client, told(&offsets)).await, (Changed, None), "offsets are told to nobody");

    let moved = proto::AppointmentServicePutRequest { starts_at: in_hours(70), ..offsets };
    let (outcome, notice) = put(&mut client, told(&moved)).await;
    assert!(outcome == Changed && notice.is_some());
    assert_eq!(put(&mut client, told(&moved)).await, (Unchanged, notice.clone()), "one that was lost");
    assert_eq!(put(&mut client, moved).await, (Unchanged, None), "nobody asks");

    // What stays cancelled and is another one is told as that.
    let cancel = proto::AppointmentServiceCancelRequest {
        appointment_id: "apt-1".to_owned(),
        notify: true,
        ..Default::default()
    };
    let cancelled = client.cancel(cancel).await.unwrap().into_inner().notice;
    let elsewhere = proto::AppointmentServicePutRequest {
        status: proto::AppointmentStatus::Cancelled.into(),
        starts_at: in_hours(80),
        ..first
    };
    let (outcome, again) = put(&mut client, told(&elsewhere)).await;
    assert!(outcome == Changed && again.is_some() && again != cancelled && cancelled != notice);
    assert_eq!(records(&world).await, 4, "one of them a second time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_moves_at_once_the_newer_is_told() {
    let world = World::new().await;
    let (_process, channel) = front(&world).await;
    let mut client = AppointmentServiceClient::new(channel);
    let first = wish("apt-1", 1);
    put(&mut client, first.clone()).await;

    // Whoever would publish waits here; the older one first.
    let mut database = world.pool.get().await.unwrap();
    let gate = database.transaction().await.unwrap();
    let lock = "SELECT pg_advisory_xact_lock(hashtextextended('notice:apt-1', 0))";
    gate.batch_execute(lock).await.unwrap();
    let mut moves = Vec::new();
    for (version, start) in [(2, 70), (3, 80)] {
        let moved = proto::AppointmentServicePutRequest { starts_at: in_hours(start), ..told(&first) };
        let mut client = client.clone();
        moves.push(tokio::spawn(async move { put(&mut client, moved).await }));
        let stored = format!("appointment WHERE version = {version}");
        eventually("the move is stored", SOON, async || world.count(&stored).await == 1).await;
        let waiting = "pg_locks WHERE locktype = 'advisory' AND NOT granted
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        eventually("its notice waits", SOON, async || world.count(waiting).await == version - 1).await;
    }
    gate.commit().await.unwrap();
    let mut answers = Vec::new();
    for one in moves {
        answers.push(one.await.unwrap().1.is_some());
    }
    assert_eq!(answers, [false, true], "the older one is not told any more");
    let told = read_topic(&world.config.kafka, &world.topic(&NOTIFICATIONS)).await;
    assert_eq!(told.len(), 1);
}

/// Reminders of two patients that a worker holds, with the requests that it has
/// published, while their appointments are moved. Of the first it says so afterwards; with
/// the second it dies.
async fn moved_while_being_sent(world: &World, client: &mut Client) -> Vec<NotificationId> {
    for number in [1, 2] {
        put(client, wish(&format!("apt-{number}"), number)).await;
    }
    let database = world.pool.get().await.unwrap();
    database.execute("UPDATE appointment_reminder SET look_at = now()", &[]).await.unwrap();
    let due = world.store.due_reminders(10, LEASE).await.unwrap();
    assert_eq!(due.iter().map(|one| one.tried).collect::<Vec<_>>(), [false, false]);
    for one in &due {
        let number = if one.appointment_id == "apt-1" { 1 } else { 2 };
        let mut request = crate::harness::request(number, "");
        request.caller = REMINDER_CALLER.to_owned();
        request.idempotency_key = reminder_key(&one.appointment_id, 1, one.offset_s, None);
        request.purpose = Purpose::AppointmentReminder;
        request.expires_at = Some(one.starts_at);
        world.publish_requests(&[request], &NOTIFICATIONS).await;
        let moved = wish(&one.appointment_id, number);
        put(client, proto::AppointmentServicePutRequest { starts_at: in_hours(70), ..moved }).await;
        if number == 1 {
            let fired = [(one, ReminderEnd::Fired)];
            assert_eq!(world.store.end_reminders(&fired, Duration::ZERO).await.unwrap(), 1);
        } else {
            let lease_ends = "UPDATE appointment_reminder SET look_at = now() WHERE owner IS NOT NULL AND
                              appointment_id = 'apt-2'";
            assert_eq!(database.execute(lease_ends, &[]).await.unwrap(), 1);
        }
    }
    due.iter().map(|one| NotificationId::for_reminder(&one.appointment_id, 1, one.offset_s, None)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reminder_that_is_being_sent_while_its_appointment_moves_is_taken_back() {
    let world = World::new().await;
    world.load(&[sms_only(1), sms_only(2)]).await;
    let (_process, channel) = front(&world).await;
    let mut client = AppointmentServiceClient::new(channel);
    let old = moved_while_being_sent(&world, &mut client).await;
    let cron = world.role("cron", |_| {});
    let recalled = "appointment_reminder WHERE state = 'recalled' AND reason = 'moved' AND schedule = 1";
    eventually("both are taken back", SOON, async || world.count(recalled).await == 2).await;
    let updates = world.role("consumer-notification-update", |_| {});
    eventually("their cancellations wait", SOON, async || world.count("unmatched_update").await == 2).await;
    let consumer = world.role("consumer-notification", |_| {});
    world.until_no_lag(SOON).await;
    for id in old {
        assert_eq!(
            world
                .count(&format!("notification WHERE state = 'cancelled' AND notification_id = '{id}'"))
                .await,
            1
        );
    }

    // The new ones are sent at their own time.
    let database = world.pool.get().await.unwrap();
    let due = "UPDATE appointment_reminder SET look_at = now() WHERE state = 'planned' AND schedule = 2";
    assert_eq!(database.execute(due, &[]).await.unwrap(), 2);
    world.until_sent(2, SOON).await;
    assert_eq!(world.sandbox.log.len(), 2, "nobody is reminded of the old start");
    stop([cron, updates, consumer]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reminder_that_may_be_published_and_is_superseded_is_taken_back() {
    let world = World::new().await;
    let (_process, channel) = front(&world).await;
    let mut client = AppointmentServiceClient::new(channel);
    for id in ["apt-1", "apt-2"] {
        let two = proto::AppointmentServicePutRequest {
            reminder_offsets: vec![hours(48), hours(24)],
            recipient_ids: vec!["rcp-2".to_owned()],
            ..wish(id, 1)
        };
        put(&mut client, two).await;
    }
    // Of one appointment the first reminder was claimed by a worker that died, when its
    // recipient was another one. Then the second ones are due.
    let database = world.pool.get().await.unwrap();
    let died = "UPDATE appointment_reminder SET due_at = now() - interval '1 minute', look_at = now(),
                       owner = CASE WHEN appointment_id = 'apt-1' THEN gen_random_uuid() END,
                       recipients = CASE WHEN appointment_id = 'apt-1' THEN '{rcp-1}'::text[] END
                 WHERE offset_s = 48 * 3600";
    assert_eq!(database.execute(died, &[]).await.unwrap(), 2);
    let later = "UPDATE appointment_reminder SET due_at = now(), look_at = now() WHERE offset_s = 24 * 3600";
    assert_eq!(database.execute(later, &[]).await.unwrap(), 2);
    let [cron] = ready(&world, ["cron"]).await;
    let state = |id: &str, hours: i64, rest: &str| {
        format!("appointment_reminder WHERE appointment_id = '{id}' AND offset_s = {hours} * 3600 AND {rest}")
    };
    let withdrawn = state("apt-1", 48, "state = 'recalled' AND reason = 'superseded'");
    eventually("it is taken back", SOON, async || world.count(&withdrawn).await == 1).await;
    let both = state("apt-1", 48, "recipients = '{rcp-1,rcp-2}'");
    assert_eq!(world.count(&both).await, 1, "from all to whom it may have gone");
    let skipped = state("apt-2", 48, "state = 'skipped' AND reason = 'superseded'");
    let fired =
        "appointment_reminder WHERE offset_s = 24 * 3600 AND state = 'fired' AND recipients = '{rcp-2}'";
    eventually("the later ones are sent", SOON, async || {
        world.count(&skipped).await == 1 && world.count(fired).await == 2
    })
    .await;
    let updates = patient_notify::topic::names::NOTIFICATION_UPDATES;
    let taken_back = read_topic(&world.config.kafka, &world.topic(&updates)).await;
    assert_eq!(taken_back.len(), 3, "the patient, and both recipients");
    stop([cron]).await;
}

fn over_quota(status: &Status) {
    assert_eq!(
        (status.code(), reason(status).as_str()),
        (Code::ResourceExhausted, "QUOTA_EXCEEDED"),
        "{status}"
    );
    assert_eq!(status.get_details_quota_failure().unwrap().violations[0].subject, "frugal");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn notices_and_batches_count_against_the_quota() {
    let mut world = World::new().await;
    let (keys, callers) = (world.dir().join("jwks.json"), world.dir().join("callers.toml"));
    let signer = Signer::new("key-1");
    signer.publish(&keys);
    takes_tokens(&mut world.config, &keys);
    std::fs::write(&callers, "[frugal]\nnotifications_per_day = 5\n").unwrap();
    world.config.auth.callers_file = callers.to_str().unwrap().to_owned();
    let (_process, channel) = front(&world).await;
    let token = signer.token("frugal", "appointments:write batches:write batches:read", 300);
    let mut appointments = AppointmentServiceClient::new(channel.clone());
    let mut batches = BatchServiceClient::new(channel);

    // A batch of three, started twice: it counts once.
    let id = filled(&mut batches, &token, "small", 3).await;
    let start = |recipients| proto::BatchServiceStartRequest { batch_id: id.clone(), recipients };
    batches.start(bearing(&token, start(4))).await.unwrap_err();
    batches.start(bearing(&token, start(3))).await.unwrap();
    batches.start(bearing(&token, start(3))).await.unwrap();
    // A notice to two, and one that nobody asks for.
    let two =
        proto::AppointmentServicePutRequest { recipient_ids: vec!["rcp-2".to_owned()], ..wish("apt-1", 1) };
    appointments.put(bearing(&token, told(&two))).await.unwrap();
    appointments.put(bearing(&token, wish("apt-2", 2))).await.unwrap();

    let third = told(&wish("apt-3", 3));
    over_quota(&appointments.put(bearing(&token, third.clone())).await.unwrap_err());
    assert_eq!(world.count("appointment").await, 3, "it is stored, and its notice can follow");
    let id = filled(&mut batches, &token, "another", 1).await;
    let start = proto::BatchServiceStartRequest { batch_id: id, recipients: 1 };
    over_quota(&batches.start(bearing(&token, start)).await.unwrap_err());
    assert_eq!(world.count("batch WHERE state = 'ready'").await, 1);
    std::fs::write(&callers, "[frugal]\nnotifications_per_day = 6\n").unwrap();
    let client = tokio::sync::Mutex::new(appointments);
    let notice = eventually("there is one more", SOON, async || {
        client.lock().await.put(bearing(&token, third.clone())).await.ok()
    });
    assert!(notice.await.into_inner().notice.is_some());
}

async fn filled(client: &mut BatchServiceClient<Channel>, token: &str, key: &str, rows: usize) -> String {
    let wish = proto::BatchServiceCreateRequest {
        idempotency_key: key.to_owned(),
        name: key.to_owned(),
        purpose: proto::Purpose::Campaign.into(),
        expires_at: in_hours(48),
        ..Default::default()
    };
    let batch_id = client.create(bearing(token, wish)).await.unwrap().into_inner().batch.unwrap().batch_id;
    let rows = (1..=rows).map(|n| proto::BatchRow { patient_id: format!("pat-{n}"), ..Default::default() });
    let chunk = proto::BatchRows { first_row: 1, rows: rows.collect() };
    let message = proto::BatchServiceUploadRecipientsRequest {
        batch_id: batch_id.clone(),
        chunk: Some(proto::batch_service_upload_recipients_request::Chunk::Rows(chunk)),
        last: true,
    };
    let mut request = Request::new(futures::stream::iter([message]));
    *request.metadata_mut() = bearing(token, ()).metadata().clone();
    client.upload_recipients(request).await.unwrap();
    batch_id
}

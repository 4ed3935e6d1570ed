//! An appointment and its reminders are one: they change together, each reminder is sent
//! once, from the appointment as it is then, and what no longer holds is taken back.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use patient_notify::api::convert::timestamp_to;
use patient_notify::api::proto;
use patient_notify::api::proto::appointment_service_client::AppointmentServiceClient;
use patient_notify::api::proto::batch_service_client::BatchServiceClient;
use patient_notify::api::proto::notification_service_client::NotificationServiceClient;
use patient_notify::api::proto::template_service_client::TemplateServiceClient;
use patient_notify::domain::QuietHours;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::front::{assert_away, front, front_with, reason, refused_in_time, within};
use crate::harness::{BrokerProxy, Proxy, World, eventually, patient, ready, sms_only, stop};
use crate::templates::preview;

type Client = AppointmentServiceClient<Channel>;

const SOON: Duration = Duration::from_secs(60);
const CALL: Duration = Duration::from_secs(4);

fn from_now(time: SignedDuration) -> Option<prost_types::Timestamp> {
    Some(timestamp_to(Timestamp::now() + time))
}

fn hours(hours: i64) -> prost_types::Duration {
    prost_types::Duration { seconds: hours * 3600, nanos: 0 }
}

/// An appointment of the n-th patient in so many hours.
fn wish(id: &str, number: u64, in_hours: i64) -> proto::AppointmentServicePutRequest {
    proto::AppointmentServicePutRequest {
        appointment_id: id.to_owned(),
        patient_id: patient(number).as_str().to_owned(),
        starts_at: from_now(SignedDuration::from_hours(in_hours)),
        time_zone: "Europe/Vienna".to_owned(),
        location: "Clinic 2".to_owned(),
        ..Default::default()
    }
}

async fn put(
    client: &mut Client,
    wish: &proto::AppointmentServicePutRequest,
) -> (proto::PutOutcome, proto::Appointment) {
    let answer = client.put(wish.clone()).await.unwrap().into_inner();
    (answer.outcome(), answer.appointment.unwrap())
}

/// Offset in hours and state of each reminder, of one schedule after the other.
fn reminders(appointment: &proto::Appointment) -> Vec<(i64, proto::ReminderState, &str)> {
    let mut all: Vec<_> = appointment.reminders.iter().collect();
    all.sort_by_key(|one| (one.starts_at.unwrap().seconds, one.due_at.unwrap().seconds));
    all.iter().map(|one| (one.offset.unwrap().seconds / 3600, one.state(), one.reason.as_str())).collect()
}

fn refused(status: &Status, code: Code, word: &str) {
    assert_eq!((status.code(), reason(status).as_str()), (code, word), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_appointment_changes_together_with_its_reminders() {
    use proto::ReminderState::{Cancelled, Planned, Skipped};
    let world = World::new().await;
    let (_process, channel) = front(&world).await;
    let mut client = AppointmentServiceClient::new(channel);

    let mut first = wish("apt-1", 1, 30);
    first.source_updated_at = from_now(SignedDuration::from_mins(-10));
    let (outcome, appointment) = put(&mut client, &first).await;
    assert_eq!((outcome, appointment.version), (proto::PutOutcome::Created, 1));
    assert_eq!(
        reminders(&appointment),
        [(72, Skipped, "too_late"), (24, Planned, "planned"), (2, Planned, "planned")]
    );
    assert_eq!(put(&mut client, &first).await, (proto::PutOutcome::Unchanged, appointment.clone()));

    // Neither an older word of the source nor an unseen version overwrites.
    let mut older = wish("apt-1", 1, 50);
    older.source_updated_at = from_now(SignedDuration::from_mins(-11));
    assert_eq!(put(&mut client, &older).await, (proto::PutOutcome::Outdated, appointment.clone()));
    let unseen = proto::AppointmentServicePutRequest { expected_version: Some(7), ..wish("apt-1", 1, 50) };
    refused(&client.put(unseen).await.unwrap_err(), Code::FailedPrecondition, "VERSION_MISMATCH");
    let status = client.put(wish("apt-1", 2, 30)).await.unwrap_err();
    refused(&status, Code::AlreadyExists, "APPOINTMENT_EXISTS");

    // Moved: the reminders move along. Confirmed: the early ones are not needed.
    let moved = proto::AppointmentServicePutRequest {
        expected_version: Some(1),
        reminder_offsets: vec![hours(48), hours(1)],
        ..wish("apt-1", 1, 100)
    };
    let (outcome, appointment) = put(&mut client, &moved).await;
    assert_eq!((outcome, appointment.version), (proto::PutOutcome::Changed, 2));
    let old = [(72, Skipped, "too_late"), (24, Cancelled, "moved"), (2, Cancelled, "moved")];
    assert_eq!(reminders(&appointment)[..3], old);
    assert_eq!(reminders(&appointment)[3..], [(48, Planned, "planned"), (1, Planned, "planned")]);
    let confirm = proto::AppointmentServiceConfirmRequest {
        appointment_id: "apt-1".to_owned(),
        expected_version: Some(2),
    };
    let confirmed = client.confirm(confirm.clone()).await.unwrap().into_inner().appointment.unwrap();
    assert_eq!((confirmed.status(), confirmed.version), (proto::AppointmentStatus::Confirmed, 3));
    assert_eq!(reminders(&confirmed)[3..], [(48, Cancelled, "confirmed"), (1, Planned, "planned")]);
    assert_eq!(client.confirm(confirm.clone()).await.unwrap().into_inner().appointment.unwrap(), confirmed);

    let cancel = proto::AppointmentServiceCancelRequest {
        appointment_id: "apt-1".to_owned(),
        expected_version: Some(2),
        notify: false,
    };
    refused(&client.cancel(cancel.clone()).await.unwrap_err(), Code::FailedPrecondition, "VERSION_MISMATCH");
    let cancel = proto::AppointmentServiceCancelRequest { expected_version: None, ..cancel };
    let cancelled = client.cancel(cancel).await.unwrap().into_inner().appointment.unwrap();
    assert_eq!(reminders(&cancelled)[4], (1, Cancelled, "cancelled"));
    let confirm = proto::AppointmentServiceConfirmRequest { expected_version: None, ..confirm };
    refused(&client.confirm(confirm).await.unwrap_err(), Code::FailedPrecondition, "APPOINTMENT_CANCELLED");
    let again = wish("apt-1", 1, 100);
    refused(&client.put(again.clone()).await.unwrap_err(), Code::FailedPrecondition, "APPOINTMENT_CANCELLED");
    let booked =
        proto::AppointmentServicePutRequest { status: proto::AppointmentStatus::Booked.into(), ..again };
    assert_eq!(put(&mut client, &booked).await.1.version, 5);
    let changes = "audit WHERE subject_kind = 'appointment' AND subject = 'apt-1' AND caller = 'local'";
    assert_eq!(world.count(changes).await, 5, "a line for each change");
    looks_and_faults(&mut client).await;
}

async fn looks_and_faults(client: &mut Client) {
    for (id, start) in [("apt-c", 60), ("apt-b", 50), ("apt-a", 40)] {
        put(client, &wish(id, 3, start)).await;
    }
    let mut ask = proto::AppointmentServiceListRequest {
        patient_id: patient(3).as_str().to_owned(),
        starts_from: from_now(SignedDuration::from_hours(1)),
        page_size: 2,
        ..Default::default()
    };
    let mut seen = Vec::new();
    loop {
        let page = client.list(ask.clone()).await.unwrap().into_inner();
        seen.extend(page.appointments.into_iter().map(|one| one.appointment_id));
        ask.page_token = page.next_page_token;
        if ask.page_token.is_empty() {
            break;
        }
        let of_another = proto::AppointmentServiceListRequest {
            patient_id: patient(4).as_str().to_owned(),
            ..ask.clone()
        };
        refused(&client.list(of_another).await.unwrap_err(), Code::InvalidArgument, "INVALID_REQUEST");
    }
    assert_eq!(seen, ["apt-a", "apt-b", "apt-c"]);

    let get = |id: &str| proto::AppointmentServiceGetRequest { appointment_id: id.to_owned() };
    assert_eq!(client.get(get("apt-a")).await.unwrap().into_inner().appointment.unwrap().reminders.len(), 3);
    refused(&client.get(get("apt-none")).await.unwrap_err(), Code::NotFound, "NOT_FOUND");
    let none = proto::AppointmentServiceCancelRequest {
        appointment_id: "apt-none".to_owned(),
        ..Default::default()
    };
    refused(&client.cancel(none).await.unwrap_err(), Code::NotFound, "NOT_FOUND");
    let bad = proto::AppointmentServicePutRequest {
        time_zone: "CANARY".to_owned(),
        location: "CANARY\n".to_owned(),
        ..wish("apt-1", 1, 1)
    };
    let status = client.put(bad).await.unwrap_err();
    assert_eq!(status.get_details_bad_request().unwrap().field_violations.len(), 2, "{status}");
    assert!(!format!("{status:?}").contains("CANARY"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reminder_is_sent_when_due_and_taken_back_when_it_no_longer_holds() {
    let world = World::new().await;
    let mut sleeper = sms_only(2);
    let now = Timestamp::now().in_tz("UTC").unwrap().time();
    sleeper.time_zone = Some("UTC".to_owned());
    sleeper.quiet_hours = Some(QuietHours {
        start: now.wrapping_sub(SignedDuration::from_hours(6)),
        end: now.wrapping_add(SignedDuration::from_hours(6)),
    });
    world.load(&[sms_only(1), sleeper]).await;
    let roles = ready(&world, ["cron", "consumer-notification", "consumer-notification-update"]).await;
    let (_process, channel) = front(&world).await;
    let mut client = AppointmentServiceClient::new(channel.clone());
    let mut notifications = NotificationServiceClient::new(channel.clone());

    let with_one_reminder = |id, number| proto::AppointmentServicePutRequest {
        reminder_offsets: vec![hours(48)],
        notify: true,
        ..wish(id, number, 60)
    };
    let (awake, asleep) = (with_one_reminder("apt-1", 1), with_one_reminder("apt-2", 2));
    let told = client.put(awake.clone()).await.unwrap().into_inner();
    let again = client.put(awake).await.unwrap().into_inner();
    assert_eq!(told.notice, again.notice, "the same notice");
    assert_eq!(told.notice.unwrap().notification_ids.len(), 1);
    client.put(proto::AppointmentServicePutRequest { notify: false, ..asleep.clone() }).await.unwrap();
    what_is_planned_falls_due(&world).await;

    eventually("notice and reminder came", SOON, async || world.sandbox.log.len() == 2).await;
    let appointment = get(&mut client, "apt-1").await;
    assert_eq!(reminders(&appointment), [(48, proto::ReminderState::Fired, "published")]);
    let start = appointment.starts_at.unwrap();
    let local = Timestamp::from_second(start.seconds).unwrap().in_tz("Europe/Vienna").unwrap();
    let (day, clock) = (local.strftime("%Y-%m-%d").to_string(), local.strftime("%H:%M").to_string());
    let shown = [("appointment_date", day.as_str()), ("appointment_time", &clock), ("location", "Clinic 2")];
    let shown =
        TemplateServiceClient::new(channel).preview(preview(proto::Channel::Sms, &shown)).await.unwrap();
    let Some(proto::template_service_preview_response::Content::Sms(sms)) = shown.into_inner().content else {
        panic!("not a text message")
    };
    let came: Vec<String> = world.sandbox.log.all().iter().map(|one| one.body.expose().clone()).collect();
    let (head, _) = sms.body.split_once("http").unwrap();
    assert!(came.iter().any(|body| body.starts_with(head)), "{head} is not among {came:?}");
    assert!(came.iter().any(|body| body.contains("Appointment booked")), "{came:?}");

    // The other patient sleeps: what is held is taken back when the appointment is moved.
    let fired = eventually("the reminder of who sleeps is published", SOON, {
        let client = tokio::sync::Mutex::new(client.clone());
        async move || {
            let shown = get(&mut *client.lock().await, "apt-2").await;
            shown.reminders[0].notification_ids.first().cloned()
        }
    })
    .await;
    until_state(&mut notifications, &fired, proto::State::Held).await;
    let moved = proto::AppointmentServicePutRequest {
        starts_at: from_now(SignedDuration::from_hours(70)),
        notify: false,
        ..asleep
    };
    put(&mut client, &moved).await;
    until_state(&mut notifications, &fired, proto::State::Cancelled).await;
    let appointment = get(&mut client, "apt-2").await;
    assert_eq!(
        reminders(&appointment),
        [(48, proto::ReminderState::Recalled, "moved"), (48, proto::ReminderState::Planned, "planned")]
    );
    stop(roles).await;
}

/// Hours pass for the reminders.
async fn what_is_planned_falls_due(world: &World) {
    let client = world.pool.get().await.unwrap();
    let due = "UPDATE appointment_reminder SET due_at = now(), look_at = now() WHERE state = 'planned'";
    client.execute(due, &[]).await.unwrap();
}

async fn get(client: &mut Client, id: &str) -> proto::Appointment {
    let ask = proto::AppointmentServiceGetRequest { appointment_id: id.to_owned() };
    client.get(ask).await.unwrap().into_inner().appointment.unwrap()
}

async fn until_state(client: &mut NotificationServiceClient<Channel>, id: &str, state: proto::State) {
    let client = tokio::sync::Mutex::new(client);
    eventually("the notification is in its state", SOON, async || {
        let ask =
            proto::NotificationServiceGetRequest { notification_id: id.to_owned(), consistency_token: None };
        let shown = client.lock().await.get(ask).await.ok()?.into_inner().notification?;
        (shown.state() == state).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_replicas_one_may_die_and_each_reminder_is_one_notification() {
    const APPOINTMENTS: i64 = 3000;
    let world = World::new().await;
    let consumer = world.role("consumer-notification", |_| {});
    let client = world.pool.get().await.unwrap();
    client
        .batch_execute(&format!(
            "INSERT INTO appointment (appointment_id, patient_id, recipients, starts_at, time_zone, status, offsets_s,
                                      notice, notice_version, created_by)
             SELECT 'apt-' || n, 'pat-' || n, '{{}}', now() + interval '2 hours', 'UTC', 'booked', '{{7200}}',
                    'made', 1, 'test'
               FROM generate_series(1, {APPOINTMENTS}) n;
             INSERT INTO appointment_reminder (appointment_id, schedule, offset_s, starts_at, due_at, state, reason,
                                               look_at)
             SELECT appointment_id, 1, 7200, starts_at, starts_at - interval '2 hours', 'planned', 'planned',
                    starts_at - interval '2 hours'
               FROM appointment"
        ))
        .await
        .unwrap();
    let small = [
        ("PATIENT_NOTIFY_WORKERS__BATCH_MAX_ROWS", "20"),
        ("PATIENT_NOTIFY_KAFKA__PRODUCE_TIMEOUT_MS", "2000"),
    ];
    let mut replicas = [world.process("cron", &small), world.process("cron", &small)];
    let planned = "appointment_reminder WHERE state = 'planned'";
    // Not at the pace of `eventually`: it has to be met in the middle.
    let begun = std::time::Instant::now();
    while world.count("appointment_reminder WHERE state = 'fired'").await < 40 {
        assert!(begun.elapsed() < SOON, "nothing is fired");
    }
    replicas[0].kill9();
    assert!(world.count(planned).await > 0, "one died in the middle");
    eventually("all are fired", SOON, async || {
        world.count("appointment_reminder WHERE state = 'fired'").await == APPOINTMENTS
    })
    .await;
    world.until_no_lag(SOON).await;
    assert_eq!(world.count("notification WHERE purpose = 'appointment_reminder'").await, APPOINTMENTS);
    assert_eq!(world.count("why WHERE reason = 'conflicting_duplicate'").await, 0);
    assert_eq!(world.dead_letters().await.len(), 0);
    replicas[1].terminate();
    assert_eq!(replicas[1].wait().await.code(), Some(0), "{}", replicas[1].log());
    consumer.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_away_is_told_and_nothing_is_lost_over_it() {
    let world = World::new().await;
    world.load(&[sms_only(1)]).await;
    let broker = BrokerProxy::start().await;
    let database = Proxy::start(world.addresses.postgres_address()).await;
    let url =
        world.config.postgres.url.expose().replace(world.addresses.postgres_address(), &database.address);
    let proxied = [
        ("PATIENT_NOTIFY_POSTGRES__URL", url.as_str()),
        ("PATIENT_NOTIFY_KAFKA__BOOTSTRAP_SERVERS", world.addresses.proxied_brokers.as_str()),
    ];
    let (_process, channel) = front_with(&world, &proxied).await;
    let mut client = AppointmentServiceClient::new(channel.clone());
    let cron = world.role("cron", |config| {
        config.kafka.bootstrap_servers.clone_from(&world.addresses.proxied_brokers);
        config.kafka.produce_timeout_ms = 1000;
    });
    cron.ready().await;

    broker.proxy.cut().await;
    let wish = proto::AppointmentServicePutRequest {
        reminder_offsets: vec![hours(2)],
        notify: true,
        ..wish("apt-1", 1, 3)
    };
    let status = refused_in_time(async || client.clone().put(within(CALL, wish.clone())).await).await;
    assert_away(&status, "BROKER_UNAVAILABLE");
    what_is_planned_falls_due(&world).await;
    eventually("a reminder met the missing broker", SOON, async || {
        world.count("appointment_reminder WHERE owner IS NOT NULL").await == 1
    })
    .await;
    assert!(cron.is_running() && cron.health.live().is_ok());
    assert_eq!(get(&mut client, "apt-1").await.version, 1, "the appointment is stored");
    broker.proxy.restore().await;
    eventually("the reminder is published", SOON, async || {
        world.count("appointment_reminder WHERE state = 'fired'").await == 1
    })
    .await;
    {
        let client = tokio::sync::Mutex::new(&mut client);
        eventually("the notice is published", SOON, async || {
            let answer = client.lock().await.put(within(CALL, wish.clone())).await.ok()?.into_inner();
            assert_eq!(answer.outcome(), proto::PutOutcome::Unchanged);
            answer.notice
        })
        .await;
    }

    database.cut().await;
    let ask = proto::AppointmentServiceGetRequest { appointment_id: "apt-1".to_owned() };
    let status = refused_in_time(async || client.clone().get(within(CALL, ask.clone())).await).await;
    assert_away(&status, "DATABASE_UNAVAILABLE");
    let status = refused_in_time(async || client.clone().put(within(CALL, wish.clone())).await).await;
    assert_away(&status, "DATABASE_UNAVAILABLE");
    let mut batches = BatchServiceClient::new(channel);
    let list = proto::BatchServiceListRequest::default;
    let status = refused_in_time(async || batches.list(within(CALL, list())).await).await;
    assert_away(&status, "DATABASE_UNAVAILABLE");
    database.restore().await;
    assert_eq!(get(&mut client, "apt-1").await.version, 1);
    cron.stop().await.unwrap();

    let consumer = world.role("consumer-notification", |_| {});
    world.until_sent(2, SOON).await;
    assert_eq!(world.sandbox.log.stats().duplicates, 0);
    consumer.stop().await.unwrap();
    broker.stop().await;
}

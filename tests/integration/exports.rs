//! An export has everything that is kept of a patient and nothing of anybody else, can be
//! fetched by who asked for it for a day, and goes with an erasure.

use std::collections::BTreeMap;
use std::time::Duration;

use patient_notify::api::proto;
use patient_notify::api::proto::recipient_service_client::RecipientServiceClient;
use patient_notify::domain::job::JobState;
use patient_notify::domain::{Channel, NotificationRequested, Redacted};
use patient_notify::record::exports::Section;
use patient_notify::record::recipients::RecipientUpsert;
use patient_notify::topic::names::NOTIFICATIONS;
use serde_json::Value;
use tonic::transport::Channel as Connection;
use tonic::{Code, Request, Status};
use uuid::Uuid;

use crate::front::{front, reason};
use crate::harness::{World, contact, eventually, patient, ready, recipient, request, stop};
use crate::jobs::{execute, until};
use crate::recipients_changes::{consent, grant, id, register};

const SOON: Duration = Duration::from_secs(60);

type Client = RecipientServiceClient<Connection>;

/// A person whose every word can be told from others'.
fn person(number: u64, word: &str) -> RecipientUpsert {
    let mut person = recipient(number);
    person.display_name = Some(Redacted::new(format!("Name-{word}")));
    person.contact_points = vec![
        contact(Channel::Sms, format!("+1999773194{number}")),
        contact(Channel::Email, format!("mail-{word}@example.org")),
    ];
    person
}

fn message(number: u64, word: &str) -> NotificationRequested {
    let variables = Redacted::new(vec![("name".to_owned(), format!("Variable-{word}"))]);
    NotificationRequested { variables, ..request(number, &format!("key-{word}")) }
}

async fn appointment(world: &World, number: u64, word: &str) {
    execute(
        world,
        &format!(
            "INSERT INTO appointment (appointment_id, patient_id, recipients, starts_at, time_zone, location, status,
                    offsets_s, notice, notice_version, created_by)
             VALUES ('apt-{word}', '{patient}', '{{}}', now(), 'UTC', 'Clinic-{word}', 'booked', '{{}}', 'made', 1, 'test');
             INSERT INTO appointment_reminder (appointment_id, schedule, offset_s, starts_at, due_at, state, reason)
             VALUES ('apt-{word}', 1, 60, now(), now(), 'skipped', 'too_late')",
            patient = patient(number).as_str()
        ),
    )
    .await;
}

/// Two people, of whom the second is the first one's proxy, each with a bit of everything.
async fn two_people(world: &World, client: &mut Client) {
    world.load(&[person(1, "own"), person(2, "other")]).await;
    for (number, word) in [(1, "own"), (2, "other")] {
        appointment(world, number, word).await;
        client.register_device(register(number, &format!("device-{word}"))).await.unwrap();
        client.record_consent(consent(number, true, 60)).await.unwrap();
    }
    client.grant_proxy(grant(1, 2)).await.unwrap();
    let of_age = patient_notify::api::convert::timestamp_to(
        jiff::Timestamp::now() + jiff::SignedDuration::from_hours(9),
    );
    let of_age = proto::RecipientServiceSetComingOfAgeRequest { patient_id: id(1), of_age_at: Some(of_age) };
    client.set_coming_of_age(of_age).await.unwrap();
    let to_proxy = NotificationRequested { recipient: Some(id(2)), ..message(1, "to-proxy") };
    world.publish_requests(&[message(1, "own"), to_proxy, message(2, "other")], &NOTIFICATIONS).await;
    world.until_sent(3, SOON).await;
}

async fn ask(client: &mut Client, number: u64) -> (Uuid, bool) {
    let asked = client.export(proto::RecipientServiceExportRequest { patient_id: id(number) }).await;
    let asked = asked.unwrap().into_inner();
    (asked.job_id.parse().unwrap(), asked.created)
}

async fn fetch_as(
    client: &mut Client,
    job_id: Uuid,
    from_piece: i32,
    caller: &'static str,
) -> Result<Vec<proto::RecipientServiceDownloadExportResponse>, Status> {
    let message = proto::RecipientServiceDownloadExportRequest { job_id: job_id.to_string(), from_piece };
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-caller", caller.parse().unwrap());
    let mut stream = client.download_export(request).await?.into_inner();
    let mut pieces = Vec::new();
    while let Some(piece) = stream.message().await? {
        pieces.push(piece);
    }
    Ok(pieces)
}

async fn refused(client: &mut Client, job_id: Uuid) -> String {
    reason(&fetch_as(client, job_id, 0, "local").await.err().unwrap())
}

/// The lines by what they are about.
fn lines(pieces: &[proto::RecipientServiceDownloadExportResponse]) -> BTreeMap<String, Vec<Value>> {
    let mut lines: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for piece in pieces {
        for line in std::str::from_utf8(&piece.content).unwrap().lines() {
            let line: Value = serde_json::from_str(line).expect("a piece has whole lines");
            lines.entry(line["record"].as_str().unwrap().to_owned()).or_default().push(line);
        }
    }
    lines
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_has_all_of_a_patient_and_nothing_of_another_for_a_day() {
    const MANY: usize = 4_000;
    let world = World::new().await;
    let (front, channel) = front(&world).await;
    let mut client = RecipientServiceClient::new(channel);
    let roles = ready(&world, ["consumer-notification"]).await;
    two_people(&world, &mut client).await;
    // More than one fetch and one piece.
    execute(
        &world,
        &format!(
            "INSERT INTO why (notification_id, step, state, reason, detail)
             SELECT notification_id, 'deliver', 'sent', 'accepted', repeat('x', 200)
               FROM notification, generate_series(1, {MANY}) WHERE patient_id = '{}' LIMIT {MANY}",
            id(1)
        ),
    )
    .await;
    let nobody = proto::RecipientServiceExportRequest { patient_id: "pat-nobody".to_owned() };
    assert_eq!(client.export(nobody).await.unwrap_err().code(), Code::NotFound);
    let (job_id, created) = ask(&mut client, 1).await;
    assert!(created);
    assert_eq!(ask(&mut client, 1).await, (job_id, false));
    assert_eq!(refused(&mut client, job_id).await, "EXPORT_NOT_READY");
    let mut worker = world.process("wrk-default", &[]);
    let done = until(&world, job_id, JobState::Done).await;

    let pieces = fetch_as(&mut client, job_id, 0, "local").await.unwrap();
    let count = i32::try_from(pieces.len()).unwrap();
    assert!(
        count > 3 && pieces.iter().zip(1..).all(|(one, no)| (one.piece, one.pieces) == (no, count)),
        "{count}"
    );
    let lines = lines(&pieces);
    let kinds: Vec<&str> = lines.keys().map(String::as_str).collect();
    let mut sections: Vec<&str> = Section::ALL.iter().map(|section| section.as_str()).collect();
    sections.sort_unstable();
    assert_eq!(kinds, sections, "every section has something");
    assert_eq!(done.progress["lines"].as_u64().unwrap(), lines.values().map(Vec::len).sum::<usize>() as u64);
    assert_eq!((lines["notification"].len(), lines["delivery"].len()), (2, 2));
    assert!(lines["why"].len() > MANY && lines["contact_point"].len() == 3 && lines["access"].len() == 2);
    let text: String = pieces.iter().map(|one| std::str::from_utf8(&one.content).unwrap()).collect();
    for own in [
        "Name-own",
        "+19997731941",
        "mail-own",
        "device-own",
        "Variable-own",
        "Variable-to-proxy",
        "Clinic-own",
    ] {
        assert!(text.contains(own), "{own} is missing");
    }
    for other in ["Name-other", "+19997731942", "mail-other", "device-other", "Variable-other", "apt-other"] {
        assert!(!text.contains(other), "{other} is somebody else's");
    }
    let rest = fetch_as(&mut client, job_id, count, "local").await.unwrap();
    assert!(rest.len() == 1 && rest[0].content == pieces[pieces.len() - 1].content);
    assert_eq!(fetch_as(&mut client, job_id, 0, "another").await.err().unwrap().code(), Code::NotFound);
    assert_eq!(world.count("audit WHERE subject_kind = 'patient' AND action LIKE '%Export'").await, 4);

    its_time_is_over(&world, &mut client, job_id).await;
    it_goes_with_an_erasure(&world, &mut client).await;
    worker.terminate();
    assert_eq!(worker.wait().await.code(), Some(0));
    for word in ["-own", "-other", "9997731", id(1).as_str()] {
        assert!(!worker.log().contains(word), "{word} is in the worker's log");
        assert!(!front.log().contains(word), "{word} is in the front's log");
    }
    stop(roles).await;
}

async fn its_time_is_over(world: &World, client: &mut Client, job_id: Uuid) {
    let day = "export WHERE expires_at - now() BETWEEN '23 h' AND '24 h'";
    assert_eq!(world.count(day).await, 1);
    execute(world, "UPDATE export SET expires_at = now() - interval '1 second'").await;
    assert_eq!(refused(client, job_id).await, "EXPORT_GONE", "at once");
    eventually("it is removed", SOON, async || {
        execute(world, "UPDATE job SET look_at = now() WHERE kind = 'job_prune' AND state = 'queued'").await;
        world.count("export").await == 0
    })
    .await;
    assert_eq!(world.count("export_chunk").await, 0);
    assert_eq!(refused(client, job_id).await, "EXPORT_GONE");
}

async fn it_goes_with_an_erasure(world: &World, client: &mut Client) {
    let (job_id, created) = ask(client, 1).await;
    assert!(created, "the last one has ended");
    until(world, job_id, JobState::Done).await;
    assert!(world.count("export_chunk").await > 0);
    client.erase(proto::RecipientServiceEraseRequest { recipient_id: id(1) }).await.unwrap();
    assert_eq!(world.count("export_chunk").await, 0);
    assert_eq!(refused(client, job_id).await, "EXPORT_GONE");
    // What stays of the patient has no content, also while the erasure goes on.
    let (job_id, _) = ask(client, 1).await;
    until(world, job_id, JobState::Done).await;
    let left = lines(&fetch_as(client, job_id, 0, "local").await.unwrap());
    let own = |line: &&Value| line["recipient_id"] != left["access"][0]["recipient_id"];
    assert!(left["notification"].iter().filter(own).all(|line| line["variables"].is_null()), "it is erased");
    assert!(!left.contains_key("recipient") && !left.contains_key("contact_point"), "{:?}", left.keys());
}

//! A batch has exactly the recipients that were uploaded, however often the upload was
//! interrupted; it is steered by its states, and what cannot be used is named.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use patient_notify::api::convert::timestamp_to;
use patient_notify::api::proto;
use patient_notify::api::proto::batch_service_client::BatchServiceClient;
use patient_notify::api::proto::batch_service_upload_recipients_request::Chunk;
use patient_notify::domain::{
    BatchId, NotificationRequested, PatientId, Purpose, Redacted, Strategy, Urgency,
};
use patient_notify::topic::names::NOTIFICATIONS_BULK;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::front::{front, reason};
use crate::harness::{World, eventually};

type Client = BatchServiceClient<Channel>;
type Message = proto::BatchServiceUploadRecipientsRequest;

const SOON: Duration = Duration::from_secs(60);

fn wish(key: &str) -> proto::BatchServiceCreateRequest {
    proto::BatchServiceCreateRequest {
        idempotency_key: key.to_owned(),
        name: "Flu shots".to_owned(),
        purpose: proto::Purpose::Campaign.into(),
        variables: [("topic".to_owned(), "flu_shots".to_owned())].into(),
        expires_at: Some(proto_time(86_400)),
        ..Default::default()
    }
}

fn proto_time(in_s: i64) -> prost_types::Timestamp {
    // A whole day: the same wish again is the same.
    let day = Timestamp::now().as_second() / 86_400 * 86_400 + 86_400;
    timestamp_to(Timestamp::from_second(day).unwrap() + SignedDuration::from_secs(in_s))
}

fn row(patient: &str) -> proto::BatchRow {
    proto::BatchRow { patient_id: patient.to_owned(), ..Default::default() }
}

fn rows(batch_id: &str, first_row: i64, patients: &[&str], last: bool) -> Message {
    let rows = patients.iter().map(|patient| row(patient)).collect();
    Message {
        batch_id: batch_id.to_owned(),
        chunk: Some(Chunk::Rows(proto::BatchRows { first_row, rows })),
        last,
    }
}

fn piece(batch_id: &str, offset: usize, content: &[u8], last: bool) -> Message {
    let (offset, content) = (i64::try_from(offset).unwrap(), content.to_vec());
    Message {
        batch_id: batch_id.to_owned(),
        chunk: Some(Chunk::Csv(proto::BatchCsv { offset, content })),
        last,
    }
}

async fn upload(
    client: &mut Client,
    messages: Vec<Message>,
) -> Result<proto::BatchServiceUploadRecipientsResponse, Status> {
    Ok(client.upload_recipients(stream::iter(messages)).await?.into_inner())
}

async fn create(client: &mut Client, key: &str) -> proto::Batch {
    client.create(wish(key)).await.unwrap().into_inner().batch.unwrap()
}

async fn get(client: &mut Client, batch_id: &str) -> proto::BatchServiceGetResponse {
    let ask = proto::BatchServiceGetRequest { batch_id: batch_id.to_owned() };
    client.get(ask).await.unwrap().into_inner()
}

fn refused(status: &Status, code: Code, word: &str) {
    assert_eq!((status.code(), reason(status).as_str()), (code, word), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_made_filled_and_steered() {
    let world = World::new().await;
    let (_process, channel) = front(&world).await;
    let mut client = BatchServiceClient::new(channel);
    let batch = create(&mut client, "flu-1").await;
    let id = batch.batch_id.clone();
    assert_eq!(create(&mut client, "flu-1").await, batch, "the same call again");
    let other = proto::BatchServiceCreateRequest { rate_per_second: 7, ..wish("flu-1") };
    refused(&client.create(other).await.unwrap_err(), Code::AlreadyExists, "BATCH_KEY_TAKEN");
    let faulty = proto::BatchServiceCreateRequest { rate_per_second: -1, name: String::new(), ..wish("x") };
    let status = client.create(faulty).await.unwrap_err();
    assert_eq!(status.get_details_bad_request().unwrap().field_violations.len(), 2, "{status}");

    let start = |recipients| proto::BatchServiceStartRequest { batch_id: id.clone(), recipients };
    refused(&client.start(start(0)).await.unwrap_err(), Code::FailedPrecondition, "BATCH_STATE");
    // Rows: a repeated part is passed over, a gap is refused, what is bad is named.
    let answer = upload(&mut client, vec![rows(&id, 1, &["pat-1", "pat-2"], false)]).await.unwrap();
    assert_eq!(answer.batch.unwrap().state(), proto::BatchState::Uploading);
    let status = upload(&mut client, vec![rows(&id, 4, &["pat-4"], false)]).await.unwrap_err();
    refused(&status, Code::FailedPrecondition, "UPLOAD_GAP");
    let form = upload(&mut client, vec![piece(&id, 0, b"patient_id\npat-9\n", false)]).await.unwrap_err();
    refused(&form, Code::FailedPrecondition, "UPLOAD_FORM");
    let more = vec![rows(&id, 2, &["pat-2", "pat-3"], false), rows("", 4, &["CANARY x", "pat-1"], true)];
    let answer = upload(&mut client, more).await.unwrap();
    let faults: Vec<(i64, bool)> = answer.faults.iter().map(|fault| (fault.row, fault.doubled)).collect();
    assert_eq!(faults, [(4, false), (5, true)]);
    assert!(!format!("{answer:?}").contains("CANARY"));
    let batch = answer.batch.unwrap();
    let counts = (batch.rows_received, batch.rows_stored, batch.rows_doubled, batch.rows_rejected);
    assert_eq!((batch.state(), counts), (proto::BatchState::Ready, (5, 3, 1, 1)));
    let late = upload(&mut client, vec![rows(&id, 6, &["pat-6"], false)]).await.unwrap_err();
    refused(&late, Code::FailedPrecondition, "BATCH_STATE");

    let status = client.start(start(5)).await.unwrap_err();
    refused(&status, Code::FailedPrecondition, "BATCH_SIZE_DIFFERS");
    client.start(start(3)).await.unwrap();
    let running = client.start(start(3)).await.unwrap().into_inner().batch.unwrap();
    assert_eq!(running.state(), proto::BatchState::Running);
    let shown = get(&mut client, &id).await;
    assert!(shown.eta.is_some() && shown.faults == answer.faults && shown.ended.is_empty());
    published(&world, &mut client, &id).await;

    let pause = || proto::BatchServicePauseRequest { batch_id: id.clone() };
    let resume = || proto::BatchServiceResumeRequest { batch_id: id.clone() };
    let cancel = || proto::BatchServiceCancelRequest { batch_id: id.clone() };
    client.pause(pause()).await.unwrap();
    assert_eq!(get(&mut client, &id).await.eta, None);
    refused(&client.start(start(3)).await.unwrap_err(), Code::FailedPrecondition, "BATCH_STATE");
    client.resume(resume()).await.unwrap();
    client.pause(pause()).await.unwrap();
    let database = world.pool.get().await.unwrap();
    database.execute("UPDATE batch SET expires_at = now()", &[]).await.unwrap();
    refused(&client.resume(resume()).await.unwrap_err(), Code::FailedPrecondition, "BATCH_EXPIRED");
    let ended = client.cancel(cancel()).await.unwrap().into_inner().batch.unwrap();
    assert!(ended.ended_at.is_some() && ended.state() == proto::BatchState::Cancelled);
    assert_eq!(client.cancel(cancel()).await.unwrap().into_inner().batch.unwrap(), ended);
    refused(&client.pause(pause()).await.unwrap_err(), Code::FailedPrecondition, "BATCH_STATE");
    assert_eq!(
        world.count("audit WHERE subject_kind = 'batch'").await,
        9,
        "a line for each change and upload"
    );
    empty_and_listed(&mut client).await;
}

/// As a publisher would: two recipients are on the topic, and the batch says so.
async fn published(world: &World, client: &mut Client, batch_id: &str) {
    let id = BatchId(batch_id.parse().unwrap());
    let request = |patient: &str| NotificationRequested {
        caller: "local".to_owned(),
        idempotency_key: id.key(patient, None),
        patient_id: PatientId::parse(patient).unwrap(),
        recipient: None,
        purpose: Purpose::Campaign,
        urgency: Urgency::Bulk,
        channels: Vec::new(),
        strategy: Strategy::InOrder,
        send_at: None,
        expires_at: None,
        variables: Redacted::new(Vec::new()),
        requested_at: Timestamp::now(),
    };
    world.publish_requests(&[request("pat-1"), request("pat-2")], &NOTIFICATIONS_BULK).await;
    let consumer = world.role("consumer-notification", |_| {});
    eventually("both became notifications", SOON, async || world.count("notification").await == 2).await;
    let database = world.pool.get().await.unwrap();
    database.execute("UPDATE batch SET published_to = 2, rows_published = 2", &[]).await.unwrap();
    let shown = get(client, batch_id).await;
    assert_eq!(shown.batch.unwrap().published, 2);
    assert_eq!((shown.ended.len(), shown.estimated), (1, false));
    assert_eq!((shown.ended[0].state(), shown.ended[0].count), (proto::State::Suppressed, 2));
    consumer.stop().await.unwrap();
}

async fn empty_and_listed(client: &mut Client) {
    let empty = create(client, "flu-2").await.batch_id;
    let last = Message { batch_id: empty.clone(), chunk: None, last: true };
    upload(client, vec![last]).await.unwrap();
    let start = proto::BatchServiceStartRequest { batch_id: empty.clone(), recipients: 0 };
    refused(&client.start(start).await.unwrap_err(), Code::FailedPrecondition, "BATCH_EMPTY");
    let newest = create(client, "flu-3").await.batch_id;
    let mut ask = proto::BatchServiceListRequest { page_size: 2, ..Default::default() };
    let page = client.list(ask.clone()).await.unwrap().into_inner();
    let seen: Vec<&str> = page.batches.iter().map(|batch| batch.batch_id.as_str()).collect();
    assert_eq!(seen, [&newest, &empty]);
    ask.page_token = page.next_page_token;
    let page = client.list(ask.clone()).await.unwrap().into_inner();
    assert_eq!((page.batches.len(), page.next_page_token.as_str()), (1, ""));
    ask.state = proto::BatchState::Draft.into();
    refused(&client.list(ask.clone()).await.unwrap_err(), Code::InvalidArgument, "INVALID_REQUEST");
    ask.page_token.clear();
    assert_eq!(client.list(ask).await.unwrap().into_inner().batches.len(), 1);
    let nobodys = proto::BatchServiceGetRequest { batch_id: uuid::Uuid::nil().to_string() };
    refused(&client.get(nobodys).await.unwrap_err(), Code::NotFound, "NOT_FOUND");
    let no_id = proto::BatchServiceGetRequest { batch_id: "x".to_owned() };
    refused(&client.get(no_id).await.unwrap_err(), Code::InvalidArgument, "INVALID_REQUEST");
}

/// A file of so many patients; the tenth line of each hundred is bad, the next one names
/// the first patient again.
fn file(patients: usize) -> Vec<u8> {
    let mut text = "topic,patient_id\r\n".to_owned();
    for n in 1..=patients {
        text.push_str(&match n % 100 {
            10 => format!("CANARY,pat-{n}\r\n"),
            11 => "survey,pat-1\r\n".to_owned(),
            _ => format!("\"survey\",pat-{n}\r\n"),
        });
    }
    text.into_bytes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_csv_file_is_uploaded_exactly_once_although_the_front_dies() {
    const PATIENTS: usize = 30_000;
    const PIECE: usize = 10_007;
    let world = World::new().await;
    let file = file(PATIENTS);
    let (mut process, channel) = front(&world).await;
    let mut client = BatchServiceClient::new(channel);
    let id = create(&mut client, "flu-csv").await.batch_id;

    // The stream stays open after a third; the front dies with it.
    let pieces: Vec<Message> = file[..file.len() / 3]
        .chunks(PIECE)
        .enumerate()
        .map(|(n, content)| piece(&id, n * PIECE, content, false))
        .collect();
    let open = stream::iter(pieces).chain(stream::pending());
    let cut = tokio::spawn({
        let mut client = client.clone();
        async move { client.upload_recipients(open).await }
    });
    eventually("much of it is stored", SOON, async || {
        world.count("batch_recipient").await > i64::try_from(PATIENTS / 5).unwrap()
    })
    .await;
    process.kill9();
    assert!(cut.await.unwrap().is_err());

    let (process, channel) = front(&world).await;
    let mut client = BatchServiceClient::new(channel);
    let batch = get(&mut client, &id).await.batch.unwrap();
    let offset = usize::try_from(batch.bytes_received).unwrap();
    assert!(offset > 0 && offset < file.len() / 3 && file[..offset].ends_with(b"\r"), "{offset}");
    let beyond = upload(&mut client, vec![piece(&id, offset + 1, b"x", false)]).await.unwrap_err();
    refused(&beyond, Code::FailedPrecondition, "UPLOAD_GAP");
    // It goes on a little before that place, in pieces of another size.
    let from = offset - 100;
    let size = 3 * PIECE;
    let mut pieces: Vec<Message> = file[from..]
        .chunks(size)
        .enumerate()
        .map(|(n, content)| piece(&id, from + n * size, content, false))
        .collect();
    pieces.last_mut().unwrap().last = true;
    let answer = upload(&mut client, pieces).await.unwrap();
    let batch = answer.batch.unwrap();
    let (all, bad) = (i64::try_from(PATIENTS).unwrap(), i64::try_from(PATIENTS / 100).unwrap());
    let counts = (batch.rows_received, batch.rows_stored, batch.rows_doubled, batch.rows_rejected);
    assert_eq!(counts, (all, all - 2 * bad, bad, bad));
    assert_eq!(batch.bytes_received, i64::try_from(file.len()).unwrap() - 1, "to the end of the last row");
    let named = "batch_recipient WHERE patient_id = 'pat-' || row_no AND recipient IS NULL \
                 AND variables = '{\"topic\": \"survey\"}'";
    assert_eq!(world.count(named).await, all - 2 * bad, "each in its place, with its variables");
    let shown = get(&mut client, &id).await;
    assert_eq!(shown.faults.len(), 2 * PATIENTS / 100);
    assert_eq!((shown.faults[0].row, shown.faults[0].doubled), (10, false));
    assert_eq!((shown.faults[1].row, shown.faults[1].doubled), (11, true));
    assert!(shown.faults[0].reason.starts_with("topic: must be one of"), "{}", shown.faults[0].reason);
    assert!(!format!("{shown:?}").contains("CANARY") && !process.log().contains("CANARY"));

    let other = create(&mut client, "flu-csv-2").await.batch_id;
    let header = upload(&mut client, vec![piece(&other, 0, b"patient_id,CANARY\n", true)]).await.unwrap_err();
    refused(&header, Code::InvalidArgument, "INVALID_REQUEST");
    assert!(!format!("{header:?}").contains("CANARY"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_publishers_one_may_die_and_each_recipient_is_one_notification() {
    const RECIPIENTS: i64 = 5000;
    let world = World::new().await;
    let (_process, channel) = front(&world).await;
    let mut client = BatchServiceClient::new(channel);
    let fast = proto::BatchServiceCreateRequest { rate_per_second: 1000, ..wish("flu-run") };
    let id = client.create(fast).await.unwrap().into_inner().batch.unwrap().batch_id;
    let patients: Vec<String> = (1..=RECIPIENTS).map(|n| format!("pat-{n}")).collect();
    let patients: Vec<&str> = patients.iter().map(String::as_str).collect();
    upload(&mut client, vec![rows(&id, 1, &patients, true)]).await.unwrap();
    let short = [("PATIENT_NOTIFY_KAFKA__PRODUCE_TIMEOUT_MS", "2000")];
    let mut publishers = ["wrk-batch-publisher"; 2].map(|role| world.process(role, &short));
    let start = proto::BatchServiceStartRequest { batch_id: id.clone(), recipients: RECIPIENTS };
    client.start(start).await.unwrap();
    let begun = std::time::Instant::now();

    // Paused in the middle: it stops where it is.
    let some = async |client: &mut Client| get(client, &id).await.batch.unwrap().published;
    while some(&mut client).await < 500 {
        assert!(begun.elapsed() < SOON, "nothing is published");
    }
    // Measured, not configured: the first turns are counted from the start.
    let rate = async |client: &mut Client| get(client, &id).await.published_per_second;
    while rate(&mut client).await.is_none() {
        assert!(begun.elapsed() < SOON, "the rate is not measured");
    }
    let (rate, eta) = (rate(&mut client).await.unwrap(), get(&mut client, &id).await.eta);
    assert!(rate > 0.0 && rate < 1500.0 && eta.is_some(), "{rate}");
    client.pause(proto::BatchServicePauseRequest { batch_id: id.clone() }).await.unwrap();
    publishers[0].kill9();
    // A turn that was begun is finished; after that it stands, for longer than a turn.
    let published = async || world.count("generate_series(1, (SELECT rows_published FROM batch))").await;
    let mut looks: Vec<i64> = Vec::new();
    eventually("it stands", SOON, async || {
        looks.push(published().await);
        looks.len() > 12 && looks[looks.len() - 12..].windows(2).all(|two| two[0] == two[1])
    })
    .await;
    let stood = published().await;
    assert!((500..RECIPIENTS).contains(&stood), "{stood} are published");
    client.resume(proto::BatchServiceResumeRequest { batch_id: id.clone() }).await.unwrap();
    eventually("it is done", SOON, async || world.count("batch WHERE state = 'done'").await == 1).await;
    assert!(begun.elapsed() > Duration::from_secs(4), "1,000 a second, not more");

    let shown = get(&mut client, &id).await;
    let batch = shown.batch.unwrap();
    assert_eq!((batch.published, batch.ended_at.is_some(), shown.eta), (RECIPIENTS, true, None));
    assert_eq!((shown.progress, shown.published_per_second, shown.check), (1.0, None, None));
    let consumer = world.role("consumer-notification", |_| {});
    consumer.ready().await;
    world.until_no_lag(SOON).await;
    assert_eq!(world.count("notification WHERE urgency = 'bulk'").await, RECIPIENTS);
    let ours = "notification JOIN batch_recipient USING (notification_id)";
    assert_eq!(world.count(ours).await, RECIPIENTS, "each of them");
    assert_eq!(world.count("why WHERE reason = 'conflicting_duplicate'").await, 0);
    let client = tokio::sync::Mutex::new(client);
    eventually("what was uploaded, published and ended adds up", SOON, async || {
        let shown = get(&mut *client.lock().await, &id).await;
        shown.ended.iter().map(|end| end.count).sum::<i64>() == RECIPIENTS
    })
    .await;
    publishers[1].terminate();
    assert_eq!(publishers[1].wait().await.code(), Some(0), "{}", publishers[1].log());
    consumer.stop().await.unwrap();
}

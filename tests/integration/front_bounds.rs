//! What a stream may be: so many bytes, so much silence, so far behind. And refusals that
//! need something to have gone wrong first.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use patient_notify::api::proto;
use patient_notify::api::proto::batch_service_client::BatchServiceClient;
use patient_notify::api::proto::batch_service_upload_recipients_request::Chunk;
use patient_notify::api::proto::notification_service_client::NotificationServiceClient;
use patient_notify::api::proto::operations_service_client::OperationsServiceClient;
use patient_notify::api::proto::recipient_service_client::RecipientServiceClient;
use patient_notify::domain::{NotificationId, Purpose, Reason, RecipientId, State, StatusChanged};
use patient_notify::record::batch_rows::ROWS_MAX;
use patient_notify::topic::names::{NOTIFICATION_STATUS, NOTIFICATIONS};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::front::{assert_away, front, front_with, reason, wish, within};
use crate::harness::{Proxy, World, free_address, patient, sms_only};
use crate::jobs::execute;
use crate::recipients_changes::{ago, id};

const DEADLINE: Duration = Duration::from_secs(60);
/// Changes: what a stream may be behind, and what buffers on the way hold.
const CHANGES: usize = 21_000;
/// Changes until the quick reader is waited for: far fewer than it may be behind.
const PART: usize = 1_000;

type Watching = Streaming<proto::NotificationServiceWatchResponse>;

#[track_caller]
fn assert_refused(status: &Status, code: Code, why: &str) {
    assert_eq!((status.code(), reason(status).as_str()), (code, why), "{status}");
}

fn upload(batch_id: &str, last: bool) -> proto::BatchServiceUploadRecipientsRequest {
    let row = proto::BatchRow { patient_id: id(1), ..Default::default() };
    let chunk = Some(Chunk::Rows(proto::BatchRows { first_row: 1, rows: vec![row] }));
    proto::BatchServiceUploadRecipientsRequest { batch_id: batch_id.to_owned(), chunk, last }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_stream_is_bounded_in_bytes_rows_and_silence() {
    let world = World::new().await;
    let (_process, channel) = front(&world).await;
    let mut client = NotificationServiceClient::new(channel.clone());
    // Each item is refused for its size, which is no reason not to read on.
    let large = (0..70_u32).map(|number| {
        let mut item = wish(&format!("key-{number}"), 1);
        item.variables.insert("v".to_owned(), "x".repeat(1_000_000));
        proto::NotificationServiceSendManyRequest { item: Some(item) }
    });
    let answer = client.send_many(stream::iter(large)).await.unwrap().into_inner();
    let end = answer.end.expect("it was not read to its end");
    assert_eq!((end.code, end.reason.as_str()), (Code::OutOfRange.into(), "STREAM_TOO_LARGE"));
    assert_eq!((answer.accepted, answer.refused), (0, 67), "64 MiB are 67.1 such items");

    let quiet =
        [("PATIENT_NOTIFY_APP__STREAM_IDLE_MS", "1500"), ("PATIENT_NOTIFY_APP__LISTEN", &free_address())];
    let (_impatient, channel) = front_with(&world, &quiet).await;
    let mut client = NotificationServiceClient::new(channel.clone());
    let one = proto::NotificationServiceSendManyRequest { item: Some(wish("key-1", 1)) };
    let silent = stream::iter([one]).chain(stream::pending());
    let answer = client.send_many(within(DEADLINE, silent)).await.unwrap().into_inner();
    let end = answer.end.unwrap();
    assert_eq!((end.code, end.reason.as_str()), (Code::DeadlineExceeded.into(), "STREAM_IDLE"));
    assert_eq!(answer.accepted, 1, "what came before counts");

    let mut batches = BatchServiceClient::new(channel);
    let create = proto::BatchServiceCreateRequest {
        idempotency_key: "batch-1".to_owned(),
        name: "Batch".to_owned(),
        purpose: proto::Purpose::General.into(),
        expires_at: ago(-86_400),
        ..Default::default()
    };
    let batch_id = batches.create(create).await.unwrap().into_inner().batch.unwrap().batch_id;
    let nothing = batches.upload_recipients(within(DEADLINE, stream::pending())).await.unwrap_err();
    assert_refused(&nothing, Code::DeadlineExceeded, "STREAM_IDLE");
    let silent = stream::iter([upload(&batch_id, false)]).chain(stream::pending());
    let idle = batches.upload_recipients(within(DEADLINE, silent)).await.unwrap_err();
    assert_refused(&idle, Code::DeadlineExceeded, "STREAM_IDLE");
    assert_eq!(world.count("batch_recipient").await, 1, "what came before is stored");
    execute(&world, &format!("UPDATE batch SET rows_received = {ROWS_MAX}")).await;
    let mut beyond = upload(&batch_id, false);
    if let Some(Chunk::Rows(rows)) = &mut beyond.chunk {
        rows.first_row = ROWS_MAX + 1;
    }
    let beyond = batches.upload_recipients(stream::iter([beyond])).await.unwrap_err();
    assert_refused(&beyond, Code::FailedPrecondition, "UPLOAD_TOO_LARGE");
}

/// A change of the n-th notification of caller `local`.
fn change(number: usize, of_patient: u64) -> StatusChanged {
    StatusChanged {
        notification_id: NotificationId::for_request("local", &format!("key-{number}")),
        patient_id: patient(of_patient),
        recipient_id: RecipientId::from_external(patient(of_patient).as_str()),
        purpose: Purpose::General,
        sequence: 1,
        state: State::Sent,
        reason: Reason::ProviderAccepted,
        channel: None,
        caller: Some("local".to_owned()),
        changed_at: Timestamp::now(),
    }
}

/// The next change, or how the stream ends; and the token behind it.
async fn next(stream: &mut Watching, token: &mut String) -> Result<proto::StatusChange, Status> {
    loop {
        let message = tokio::time::timeout(DEADLINE, stream.message()).await.expect("a sign of life")?;
        let message = message.expect("a stream ends with a status");
        *token = message.resume_token;
        if let Some(change) = message.change {
            return Ok(change);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_is_too_slow_resumes_and_one_that_is_too_late_is_told() {
    let world = World::new().await;
    let (_process, channel) = front(&world).await;
    let mut client = NotificationServiceClient::new(channel);
    let address = format!("http://{}", world.config.app.listen);
    // As little on its way as HTTP/2 allows by itself.
    let narrow = Endpoint::from_shared(address).unwrap().initial_stream_window_size(65_535);
    let mut slow = NotificationServiceClient::new(narrow.connect().await.unwrap());
    let resumed = |token: &str| proto::NotificationServiceWatchRequest {
        resume_token: Some(token.to_owned()),
        ..Default::default()
    };
    let mut lagging =
        slow.watch(proto::NotificationServiceWatchRequest::default()).await.unwrap().into_inner();
    let first = lagging.message().await.unwrap().unwrap();
    assert!(first.change.is_none());
    let mut token = first.resume_token;
    let begin = token.clone();

    // Both read the same tail: once the quick one has the last change, the slow one is behind.
    // The quick one is waited for, so that no machine is too slow for it.
    let target = Some(proto::notification_service_watch_request::Target::PatientId(id(2)));
    let quick = proto::NotificationServiceWatchRequest { target, ..Default::default() };
    let mut quick = client.watch(quick).await.unwrap().into_inner();
    quick.message().await.unwrap();
    let numbers: Vec<usize> = (0..CHANGES).collect();
    for part in numbers.chunks(PART) {
        let (last, others) = part.split_last().expect("no part is empty");
        let others = others.iter().map(|number| change(*number, 1));
        let changes: Vec<_> = others.chain([change(*last, 2)]).collect();
        world.publish_changes("one key, one partition", &changes).await;
        next(&mut quick, &mut String::new()).await.unwrap();
    }

    let mut seen = std::collections::HashSet::new();
    let told = loop {
        match next(&mut lagging, &mut token).await {
            Ok(change) => assert!(seen.insert(change.notification_id), "each comes once"),
            Err(status) => break status,
        }
    };
    assert_refused(&told, Code::Aborted, "WATCH_LAGGED");
    assert!(told.get_details_retry_info().unwrap().retry_delay.is_some());
    assert!(seen.len() < CHANGES, "it was behind");
    let mut again = client.watch(resumed(&token)).await.unwrap().into_inner();
    while seen.len() < CHANGES {
        let change = next(&mut again, &mut token).await.unwrap();
        assert!(seen.insert(change.notification_id), "and none twice");
    }

    world.empty_topic(&NOTIFICATION_STATUS).await;
    let late = client.watch(resumed(&begin)).await.unwrap_err();
    assert_refused(&late, Code::FailedPrecondition, "RESUME_TOKEN_TOO_OLD");
    client.watch(resumed(&token)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_replaced_given_up_or_never_registered_is_told() {
    let world = World::new().await;
    world.load(&[sms_only(1)]).await;
    let registry = Proxy::start(world.addresses.registry_address()).await;
    let url = world.config.registry.url.replace(world.addresses.registry_address(), &registry.address);
    registry.cut().await;
    let variables = [("PATIENT_NOTIFY_REGISTRY__URL", url.as_str()), ("PATIENT_NOTIFY_LOG__FORMAT", "json")];
    let (_process, channel) = front_with(&world, &variables).await;
    let mut notifications: NotificationServiceClient<Channel> =
        NotificationServiceClient::new(channel.clone());
    let sent = notifications.send(within(Duration::from_secs(8), wish("key-1", 1))).await;
    assert_away(&sent.unwrap_err(), "REGISTRY_UNAVAILABLE");
    let mut watch =
        notifications.watch(proto::NotificationServiceWatchRequest::default()).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().unwrap().change.is_none());
    world.publish_changes("a change that cannot be read yet", &[change(1, 1)]).await;
    let told = next(&mut watch, &mut String::new()).await.unwrap_err();
    assert_away(&told, "REGISTRY_UNAVAILABLE");
    registry.restore().await;
    notifications.send(wish("key-1", 1)).await.unwrap();

    let mut operations = OperationsServiceClient::new(channel.clone());
    let replay = || proto::OperationsServiceStartReplayRequest {
        topic: NOTIFICATIONS.name.to_owned(),
        ..Default::default()
    };
    let first = operations.start_replay(replay()).await.unwrap().into_inner();
    assert!(first.created);
    let parked = "UPDATE job SET state = 'parked', look_at = NULL, fault = 'test', ended_at = now()";
    execute(&world, parked).await;
    assert!(operations.start_replay(replay()).await.unwrap().into_inner().created, "the first one has ended");
    let retry = proto::OperationsServiceRetryJobRequest { job_id: first.job.unwrap().job_id };
    let refused = operations.retry_job(retry.clone()).await.unwrap_err();
    assert_refused(&refused, Code::FailedPrecondition, "JOB_REPLACED");
    for job_id in [uuid::Uuid::nil().to_string(), "one".to_owned()] {
        let known = uuid::Uuid::try_parse(&job_id).is_ok();
        let code = if known { Code::NotFound } else { Code::InvalidArgument };
        let get = proto::OperationsServiceGetJobRequest { job_id: job_id.clone() };
        let cancel = proto::OperationsServiceCancelJobRequest { job_id: job_id.clone() };
        let retry = proto::OperationsServiceRetryJobRequest { job_id };
        assert_eq!(operations.get_job(get).await.unwrap_err().code(), code);
        assert_eq!(operations.cancel_job(cancel).await.unwrap_err().code(), code);
        assert_eq!(operations.retry_job(retry).await.unwrap_err().code(), code);
    }

    let mut recipients = RecipientServiceClient::new(channel.clone());
    let export = proto::RecipientServiceExportRequest { patient_id: id(1) };
    let job_id = recipients.export(export).await.unwrap().into_inner().job_id;
    let download = || proto::RecipientServiceDownloadExportRequest { job_id: job_id.clone(), from_piece: 0 };
    let early = recipients.download_export(download()).await.unwrap_err();
    assert_refused(&early, Code::FailedPrecondition, "EXPORT_NOT_READY");
    execute(&world, &format!("{parked} WHERE kind = 'export'")).await;
    let failed = recipients.download_export(download()).await.unwrap_err();
    assert_refused(&failed, Code::FailedPrecondition, "EXPORT_FAILED");
    let bad = proto::RecipientServiceDownloadExportRequest { from_piece: -1, ..download() };
    let bad = recipients.download_export(bad).await.unwrap_err();
    assert_refused(&bad, Code::InvalidArgument, "INVALID_REQUEST");

    let mut batches = BatchServiceClient::new(channel);
    let check = proto::BatchServiceCheckRequest { batch_id: uuid::Uuid::nil().to_string(), repair: false };
    assert_refused(&batches.check(check).await.unwrap_err(), Code::NotFound, "NOT_FOUND");
    let check = proto::BatchServiceCheckRequest { batch_id: "one".to_owned(), repair: false };
    assert_refused(&batches.check(check).await.unwrap_err(), Code::InvalidArgument, "INVALID_REQUEST");
    let replay = proto::OperationsServiceReplayCallbacksRequest { limit: -1, ..Default::default() };
    let status = operations.replay_callbacks(replay).await.unwrap_err();
    assert_eq!(status.get_details_bad_request().unwrap().field_violations.len(), 2, "{status}");
}

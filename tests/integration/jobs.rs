//! The general queue: a job is done once, whatever dies; what a stop interrupts is no
//! failed attempt; what fails waits for a person; what comes back by itself does, once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use patient_notify::api::proto;
use patient_notify::api::proto::operations_service_client::OperationsServiceClient;
use patient_notify::domain::Reason;
use patient_notify::domain::job::{JobKind, JobState};
use patient_notify::record::job_turns::{Claimed, ClaimedJob, JobEnd};
use patient_notify::record::jobs::{self, Enqueued, JobView, NewJob, Steered};
use patient_notify::record::replays::{self, ReplayOrder};
use patient_notify::record::{Owner, Store};
use patient_notify::topic::names::{NOTIFICATIONS, dlq_of};
use patient_notify::topic::producer::Producer;
use patient_notify::topic::{DeadLetters, Origin};
use tonic::Code;
use tonic::transport::Channel;
use uuid::Uuid;

use crate::front::{front, reason};
use crate::harness::{Process, World, eventually, patient, ready, recipient, request, sms_only, stays, stop};
use crate::tools::{printed, read_topic, tool};

const DEADLINE: Duration = Duration::from_secs(60);
/// Letters that a replay has on their way at a time.
const HAND: usize = 16;
/// Of a job that a test claims itself.
const LEASE: Duration = Duration::from_secs(60);

type Client = OperationsServiceClient<Channel>;

/// Buries good requests to the first patient, each a different one, as a consumer would.
async fn bury(world: &World, keys: std::ops::Range<usize>) {
    let topic = world.topic(&NOTIFICATIONS);
    let producer = Arc::new(Producer::new(&world.config.kafka).unwrap());
    let letters = DeadLetters::new(producer, "a-group".to_owned());
    let key = patient(1);
    for number in keys {
        let payload = world.encode_request(&request(1, &format!("buried-{number}")), &NOTIFICATIONS).await;
        let origin = Origin {
            topic: &topic,
            partition: 0,
            offset: 0,
            timestamp_ms: 1_795_600_000_000,
            key: Some(key.as_str().as_bytes()),
            payload: Some(&payload),
            headers: &[],
        };
        letters.send(&origin, Reason::UnknownSchema, "for a test").await.unwrap();
    }
}

pub(crate) async fn job(world: &World, id: Uuid) -> JobView {
    jobs::get(&world.pool, id).await.unwrap().unwrap()
}

pub(crate) async fn until(world: &World, id: Uuid, state: JobState) -> JobView {
    eventually(&format!("the job is {state}"), DEADLINE, async || {
        Some(job(world, id).await).filter(|job| job.state == state)
    })
    .await
}

pub(crate) async fn execute(world: &World, statement: &str) {
    world.pool.get().await.unwrap().batch_execute(statement).await.unwrap();
}

async fn replayed(world: &World, id: Uuid) -> u64 {
    job(world, id).await.progress["replayed"].as_u64().unwrap_or(0)
}

/// How often each letter lies on its topic again.
async fn copies(world: &World) -> HashMap<String, usize> {
    let mut copies = HashMap::new();
    for record in read_topic(&world.config.kafka, &world.topic(&NOTIFICATIONS)).await {
        let from = record.header("dlq.replayed_from");
        if !from.is_empty() {
            *copies.entry(from).or_default() += 1;
        }
    }
    copies
}

/// The process that has begun an attempt of the job, and the other one.
async fn by_who_has_it(id: Uuid, [one, other]: [Process; 2]) -> [Process; 2] {
    let begun = |process: &Process| {
        let is_it = |event: &serde_json::Value| {
            event["message"] == "an attempt of a job begins" && event["job_id"] == id.to_string().as_str()
        };
        process.events().iter().any(is_it)
    };
    let first = eventually("one of them works on it", DEADLINE, async || {
        let found = [begun(&one), begun(&other)];
        (found != [false, false]).then_some(found)
    })
    .await;
    if first[0] { [one, other] } else { [other, one] }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_is_killed_and_stopped_replays_each_letter() {
    const COUNT: usize = 80;
    let world = World::new().await;
    world.load(&[sms_only(1)]).await;
    bury(&world, 0..COUNT).await;
    let roles = ready(&world, ["consumer-notification"]).await;
    let topic = dlq_of(&world.topic(&NOTIFICATIONS));
    let order = ReplayOrder { topic, reason: None, partition: None, limit: None, rate_per_s: 10 };
    let id = replays::ask(&world.pool, &order, "test").await.unwrap().job_id;
    let processes = [world.process("wrk-default", &[]), world.process("wrk-default", &[])];
    let [mut first, mut second] = by_who_has_it(id, processes).await;
    eventually("some are replayed", DEADLINE, async || replayed(&world, id).await >= 8).await;
    first.kill9();
    let dead = job(&world, id).await;
    assert_eq!((dead.state, dead.attempts.0), (JobState::Running, 1), "its lease holds");
    let before = replayed(&world, id).await;
    execute(&world, "UPDATE job SET look_at = now() WHERE state = 'running'").await;
    eventually("the other one goes on", DEADLINE, async || replayed(&world, id).await > before).await;
    let resumed = job(&world, id).await;
    assert_eq!((resumed.attempts.0, resumed.fault.as_deref()), (2, Some("owner_died")), "the crash counts");

    second.terminate();
    assert_eq!(second.wait().await.code(), Some(0));
    let released = job(&world, id).await;
    assert_eq!((released.state, released.attempts.0), (JobState::Queued, 1), "the stop does not");
    assert!(released.owner.is_none(), "any other may go on at once");
    execute(&world, "UPDATE job SET arguments = jsonb_set(arguments, '{rate_per_s}', '1000')").await;
    let mut third = world.process("wrk-default", &[]);
    let done = until(&world, id, JobState::Done).await;
    assert_eq!((done.attempts.0, done.fault), (2, None));

    world.until_sent(i64::try_from(COUNT).unwrap(), DEADLINE).await;
    let copies = copies(&world).await;
    assert_eq!(copies.len(), COUNT, "each of them");
    // What was on its way when its process was killed had no marker.
    let twice = copies.values().filter(|&&count| count > 1).count();
    assert!(copies.values().all(|&count| count <= 2) && twice <= HAND, "{twice} twice");
    assert_eq!(world.sandbox.log.stats().duplicates, 0, "nothing is sent twice");
    world.assert_each_once().await;
    third.terminate();
    assert_eq!(third.wait().await.code(), Some(0));
    stop(roles).await;
}

async fn put(world: &World, kind: JobKind, key: &str) -> Enqueued {
    let mut client = world.pool.get().await.unwrap();
    let tx = client.transaction().await.unwrap();
    let arguments = serde_json::json!({});
    let job = NewJob { kind, key, arguments: &arguments, requested_by: "test" };
    let put = jobs::enqueue(&tx, job).await.unwrap();
    tx.commit().await.unwrap();
    put
}

async fn claim(store: &Store, kinds: &[JobKind]) -> Option<ClaimedJob> {
    match store.claim_job(kinds, LEASE).await.unwrap() {
        Some(Claimed::Ours(job)) => Some(*job),
        Some(Claimed::Parked(..)) | None => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_has_a_job_and_who_lost_it_writes_nothing() {
    let world = World::new().await;
    let (ours, theirs) = (&world.store, Store::new(world.pool.clone(), Owner::new()));
    let asked = join_all((0..12).map(|_| put(&world, JobKind::DeadLetterReplay, "one"))).await;
    let replay = asked[0].job_id;
    assert_eq!(asked.iter().filter(|one| one.is_new).count(), 1, "one key, one job");
    assert!(asked.iter().all(|one| one.job_id == replay));
    let export = put(&world, JobKind::Export, "one").await.job_id;
    execute(&world, "UPDATE job SET look_at = now() - interval '1 minute'").await;
    let mut depth = ours.depths().await.unwrap();
    depth.sort_by(|one, other| one.urgency.cmp(&other.urgency));
    let kinds: Vec<&str> = depth.iter().map(|of| of.urgency.as_str()).collect();
    assert_eq!(kinds, ["dead_letter_replay", "export"], "told by kind");
    assert!(
        depth.iter().all(|of| of.queue == "jobs" && of.due == 1 && of.oldest.as_secs() >= 59),
        "{depth:?}"
    );

    let both = join_all([ours, &theirs].map(|store| claim(store, JobKind::ALL))).await;
    let mut both: Vec<_> = both.into_iter().flatten().map(|job| job.job_id).collect();
    both.sort_unstable();
    assert_eq!(both, [replay, export], "each has one");
    assert_eq!((claim(ours, JobKind::ALL).await, ours.depths().await.unwrap()), (None, vec![]));
    execute(&world, "UPDATE job SET look_at = now(), attempts_max = 3").await;
    let first = claim(ours, JobKind::ALL).await.unwrap();
    assert_eq!((first.job_id, first.attempt), (export, 2), "what is urgent goes first");
    let progress = serde_json::json!({ "at": 1 });
    assert!(ours.hold_job(&first, LEASE, Some(&progress)).await.unwrap());

    // Another one has it by now, and goes on where the first one was.
    execute(&world, "UPDATE job SET look_at = now()").await;
    assert!(!ours.hold_job(&first, LEASE, None).await.unwrap(), "the lease has run out");
    let second = claim(&theirs, &[JobKind::Export]).await.unwrap();
    assert_eq!((second.attempt, &second.progress), (3, &progress));
    assert_eq!(ours.end_job(&first, JobEnd::Done, None).await.unwrap(), None, "it is not theirs to end");
    assert_eq!(job(&world, export).await.state, JobState::Running);
    execute(&world, "UPDATE job SET look_at = now()").await;
    let last = ours.claim_job(&[JobKind::Export], LEASE).await.unwrap();
    assert_eq!(last, Some(Claimed::Parked(export, JobKind::Export)), "the last attempt's process died");
    assert_eq!(theirs.end_job(&second, JobEnd::Done, None).await.unwrap(), None);
    assert!(put(&world, JobKind::Export, "one").await.is_new, "it has ended");
    let retry = jobs::retry(&world.pool, export, "test").await.unwrap();
    assert!(matches!(retry, Steered::Replaced(_)), "{retry:?}");

    let third = claim(ours, &[JobKind::DeadLetterReplay]).await.unwrap();
    let away = JobEnd::Postponed("brokers_away", Duration::from_secs(60));
    assert_eq!(ours.end_job(&third, away, None).await.unwrap(), Some(JobState::Queued));
    let postponed = job(&world, replay).await;
    assert_eq!((postponed.attempts.0, postponed.fault.as_deref()), (1, Some("brokers_away")), "no attempt");
    assert_eq!(claim(ours, &[JobKind::DeadLetterReplay]).await, None, "not yet");
    execute(&world, "UPDATE job SET ended_at = now() - interval '31 days' WHERE state = 'parked'").await;
    assert_eq!((ours.forget_jobs().await.unwrap(), world.count("job").await), (1, 2));
}

fn replay(rate_per_second: i32) -> proto::OperationsServiceStartReplayRequest {
    let topic = NOTIFICATIONS.name.to_owned();
    proto::OperationsServiceStartReplayRequest { topic, rate_per_second, ..Default::default() }
}

async fn start(client: &mut Client, rate_per_second: i32) -> (Uuid, bool) {
    let answer = client.start_replay(replay(rate_per_second)).await.unwrap().into_inner();
    (answer.job.unwrap().job_id.parse().unwrap(), answer.created)
}

async fn cli(world: &World, arguments: &[&str]) -> (Option<i32>, String) {
    let output = tool(&world.config, &[&["jobs"], arguments].concat()).await;
    (output.status.code(), printed(&output))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_fails_is_parked_and_goes_on_when_somebody_says_so() {
    const COUNT: usize = 12;
    let world = World::new().await;
    let (_process, connection) = front(&world).await;
    let mut client = OperationsServiceClient::new(connection);
    bury(&world, 0..COUNT).await;
    let (id, created) = start(&mut client, 1).await;
    assert!(created);
    assert_eq!(start(&mut client, 1).await, (id, false), "the same request is the same job");
    let other = client.start_replay(replay(3)).await.unwrap_err();
    assert_eq!((other.code(), reason(&other).as_str()), (Code::FailedPrecondition, "REPLAY_UNDER_WAY"));

    execute(&world, "UPDATE job SET timeout_ms = 3000, attempts_max = 2").await;
    let worker = world.role("wrk-default", |_| {});
    eventually("it takes too long", DEADLINE, async || {
        job(&world, id).await.fault.as_deref() == Some("timed_out")
    })
    .await;
    let failed = job(&world, id).await;
    assert_eq!((failed.state, failed.attempts), (JobState::Queued, (1, 2)), "it is tried again, later");
    let due = failed.look_at.unwrap().duration_since(failed.updated_at);
    assert!(due.as_secs() >= 4, "{due:#}");
    execute(&world, &format!("UPDATE job SET look_at = now() WHERE job_id = '{id}'")).await;
    let parked = until(&world, id, JobState::Parked).await;
    assert_eq!((parked.attempts, parked.look_at, parked.owner), ((2, 2), None, None));
    let so_far = replayed(&world, id).await;
    assert!(so_far < COUNT as u64, "{so_far}");

    // What comes to lie there later is not meant.
    bury(&world, 50..53).await;

    let text = id.to_string();
    let (code, listed) = cli(&world, &["list", "--state", "parked"]).await;
    assert!(code == Some(0) && listed.contains(&text) && listed.contains("timed_out"), "{listed}");
    let (_, shown) = cli(&world, &["show", &text]).await;
    assert!(
        shown.contains("dead_letter_replay") && shown.contains("2/2") && shown.contains("replayed"),
        "{shown}"
    );
    execute(
        &world,
        "UPDATE job SET timeout_ms = 60000, arguments = jsonb_set(arguments, '{rate_per_s}', '1000')",
    )
    .await;
    assert_eq!(cli(&world, &["retry", &text, "--by", "ann"]).await, (Some(0), format!("{text} is queued\n")));
    until(&world, id, JobState::Done).await;
    assert_eq!(
        copies(&world).await.into_values().collect::<Vec<_>>(),
        [1; COUNT],
        "each once, in both attempts"
    );
    let letters = read_topic(&world.config.kafka, &dlq_of(&world.topic(&NOTIFICATIONS))).await;
    assert_eq!(letters.iter().filter(|one| one.payload.is_some()).count(), 3, "what is handled is removed");
    assert_eq!(world.count("audit WHERE subject_kind = 'job' AND caller = 'ann'").await, 1);
    assert_eq!(cli(&world, &["retry", &text]).await.0, Some(1), "it is not parked");

    called_off(&world, &mut client).await;
    listed_and_refused(&mut client, id).await;
    worker.stop().await.unwrap();
}

/// A job that is called off is left alone by the process that works on it.
async fn called_off(world: &World, client: &mut Client) {
    bury(world, 100..130).await;
    let (id, _) = start(client, 2).await;
    eventually("it is under way", DEADLINE, async || replayed(world, id).await > 0).await;
    let cancel = proto::OperationsServiceCancelJobRequest { job_id: id.to_string() };
    let cancelled = client.cancel_job(cancel.clone()).await.unwrap().into_inner().job.unwrap();
    assert_eq!(cancelled.state(), proto::JobState::Cancelled);
    let before = copies(world).await.len();
    stays("it is left alone", Duration::from_secs(3), async || copies(world).await.len() <= before + 2).await;
    assert_eq!(job(world, id).await.state, JobState::Cancelled);
    let again = client.cancel_job(cancel).await.unwrap_err();
    assert_eq!((again.code(), reason(&again).as_str()), (Code::FailedPrecondition, "JOB_STATE"));
    let retry = proto::OperationsServiceRetryJobRequest { job_id: id.to_string() };
    assert_eq!(reason(&client.retry_job(retry).await.unwrap_err()), "JOB_STATE");
}

async fn listed_and_refused(client: &mut Client, done: Uuid) {
    let kind = JobKind::DeadLetterReplay.as_str().to_owned();
    let list =
        proto::OperationsServiceListJobsRequest { kind: kind.clone(), page_size: 1, ..Default::default() };
    let first = client.list_jobs(list.clone()).await.unwrap().into_inner();
    let next = proto::OperationsServiceListJobsRequest { page_token: first.next_page_token, ..list.clone() };
    let second = client.list_jobs(next).await.unwrap().into_inner();
    assert_eq!((first.jobs.len(), second.next_page_token.as_str()), (1, ""));
    assert_eq!((second.jobs[0].job_id.parse(), second.jobs[0].state()), (Ok(done), proto::JobState::Done));
    let get = proto::OperationsServiceGetJobRequest { job_id: done.to_string() };
    let shown = client.get_job(get).await.unwrap().into_inner().job.unwrap();
    assert!(shown.fault.is_empty() && shown.ended_at.is_some() && shown.run_at.is_none(), "{shown:?}");
    assert!(shown.requested_by == "local" && shown.kind == kind, "{shown:?}");
    let nobody = proto::OperationsServiceGetJobRequest { job_id: Uuid::nil().to_string() };
    assert_eq!(client.get_job(nobody).await.unwrap_err().code(), Code::NotFound);
    let none = proto::OperationsServiceListJobsRequest { kind: "nonsense".to_owned(), ..list };
    assert_eq!(client.list_jobs(none).await.unwrap_err().code(), Code::InvalidArgument);
    let wild = proto::OperationsServiceStartReplayRequest { topic: "nonsense".to_owned(), ..replay(5000) };
    let status = client.start_replay(wild).await.unwrap_err();
    assert!(status.message().contains("topic") && status.message().contains("rate_per_second"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn devices_that_nobody_confirms_go_and_their_job_comes_back_once() {
    let world = World::new().await;
    let people: Vec<_> = (1..=5).map(recipient).collect();
    world.load(&people).await;
    let days = |number: u32, column: &str, days: u32| {
        format!(
            "UPDATE contact_point SET {column} = now() - interval '{days} days'
              WHERE channel = 'push' AND address = 'device-00000{number}';"
        )
    };
    let changes = [
        days(1, "verified_at", 271),
        days(2, "verified_at", 400),
        days(2, "seen_at", 269),
        days(3, "retired_at", 91),
        days(4, "retired_at", 89),
    ];
    execute(&world, &changes.concat()).await;
    let of_kind = "job WHERE kind = 'push_token_prune'";
    let ended = async |count: i64| {
        eventually("the job is done, and is planned again", DEADLINE, async || {
            world.count(&format!("{of_kind} AND state = 'done'")).await == count
                && world.count(&format!("{of_kind} AND state = 'queued'")).await == 1
        })
        .await;
    };
    let workers = [world.role("wrk-default", |_| {}), world.role("wrk-default", |_| {})];
    ended(1).await;
    let client = world.pool.get().await.unwrap();
    let rows = "SELECT address, retired_why FROM contact_point WHERE channel = 'push' ORDER BY address";
    let left: Vec<(String, Option<String>)> =
        client.query(rows, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
    let device = |number: u32, why: Option<&str>| (format!("device-00000{number}"), why.map(str::to_owned));
    assert_eq!(left, [device(1, Some("stale")), device(2, None), device(4, None), device(5, None)]);
    let addresses = "contact_point WHERE channel <> 'push' AND retired_at IS NULL";
    assert_eq!(world.count(addresses).await, 10, "other channels are left alone");

    let next = format!("{of_kind} AND state = 'queued' AND look_at - now() BETWEEN '23 h' AND '24 h'");
    assert_eq!(world.count(&next).await, 1, "a day later");
    for round in 2..=3 {
        execute(
            &world,
            "UPDATE job SET look_at = now() WHERE kind = 'push_token_prune' AND state = 'queued'",
        )
        .await;
        ended(round).await;
    }
    assert_eq!(world.count(of_kind).await, 4, "each time once, whoever looks");
    stop(workers).await;
}

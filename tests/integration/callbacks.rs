//! Other backends are called back about what they asked for: signed, each notification's
//! changes in order, at least once under the same id, for a day; then parked until
//! somebody replays them. One that is down holds up no other.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use patient_notify::api::proto;
use patient_notify::api::proto::operations_service_client::OperationsServiceClient;
use patient_notify::config::Config;
use patient_notify::domain::NotificationRequested;
use patient_notify::topic::names::NOTIFICATIONS;
use uuid::Uuid;

use crate::front::front;
use crate::harness::{
    Behaviour, Receiver, RunningRole, World, eventually, new_secret, patient, ready, request, sms_only,
    stays, stop,
};
use crate::requests::variables;
use crate::tools::{printed, tool};

const SOON: Duration = Duration::from_secs(60);
const STATES: [&str; 4] = ["accepted", "queued", "dispatching", "sent"];
const PENDING: &str = "callback_event WHERE state = 'pending'";

/// A caller who is called back, and the files that say so.
struct Caller {
    name: &'static str,
    url: String,
    secrets: Vec<String>,
}

impl Caller {
    async fn new(name: &'static str) -> (Self, Receiver) {
        let secret = new_secret();
        let receiver = Receiver::start(&secret).await;
        (Self { name, url: receiver.url.clone(), secrets: vec![secret] }, receiver)
    }
}

/// Writes the callers file; the one before is replaced at once.
fn write(world: &World, callers: &[&Caller]) -> PathBuf {
    let mut table = String::new();
    for Caller { name, url, secrets } in callers {
        let mut files = Vec::new();
        for secret in secrets {
            let file = world.dir().join(format!("{}.whsec", Uuid::new_v4()));
            std::fs::write(&file, format!("{secret}\n")).unwrap();
            files.push(file.to_str().unwrap().to_owned());
        }
        table.push_str(&format!("[{name}.callback]\nurl = {url:?}\nsecret_files = {files:?}\n"));
    }
    let (path, next) = (world.dir().join("callers.toml"), world.dir().join("callers.next"));
    std::fs::write(&next, table).unwrap();
    std::fs::rename(&next, &path).unwrap();
    path
}

/// Short pauses, and a callers file; it goes with some authentication only.
fn configure(config: &mut Config, callers: PathBuf) {
    let keys = callers.with_file_name("jwks.json");
    std::fs::write(&keys, r#"{"keys": []}"#).unwrap();
    crate::who_may_call::takes_tokens(config, &keys);
    config.auth.callers_file = callers.to_str().unwrap().to_owned();
    config.callbacks.retry_initial_ms = 100;
    config.callbacks.retry_max_ms = 1_000;
}

fn worker(world: &World, callers: &[&Caller], change: impl FnOnce(&mut Config)) -> RunningRole {
    let path = write(world, callers);
    world.role("wrk-default", |config| {
        configure(config, path);
        change(config);
    })
}

/// Puts all changes of so many notifications of a caller into the outbox, those of
/// different ones mixed.
async fn change(world: &World, caller: &str, notifications: usize) -> Vec<Uuid> {
    let ids: Vec<Uuid> = (0..notifications).map(|_| Uuid::new_v4()).collect();
    let insert = "INSERT INTO outbox (notification_id, patient_id, recipient_id, purpose, sequence, state, reason, caller)
                  SELECT n.id, $3, n.id, 'general', s.sequence, s.state, 'provider_accepted', $2
                    FROM unnest($4::text[]) WITH ORDINALITY AS s (state, sequence), unnest($1::uuid[]) AS n (id)
                   ORDER BY s.sequence, n.id";
    let states: Vec<&str> = STATES.to_vec();
    let client = world.pool.get().await.unwrap();
    client.execute(insert, &[&ids, &caller, &patient(1).as_str(), &states]).await.unwrap();
    ids
}

async fn sql(world: &World, statement: &str) -> u64 {
    world.pool.get().await.unwrap().execute(statement, &[]).await.unwrap()
}

/// Ends a pause between tries, as time would.
async fn pass_the_pause(world: &World) {
    sql(world, "UPDATE callback_endpoint SET probe_at = now()").await;
    sql(world, "UPDATE callback_event SET due_at = now() WHERE state = 'pending' AND owner IS NULL").await;
}

async fn until_all_ended(world: &World) {
    eventually("no event is pending", SOON, async || world.count(PENDING).await == 0).await;
}

/// Each change of each notification, by sequence.
fn in_order(ids: &[Uuid]) -> BTreeMap<String, Vec<i64>> {
    ids.iter().map(|id| (id.to_string(), (1..=4).collect())).collect()
}

fn assert_in_order(receiver: &Receiver, ids: &[Uuid]) {
    assert_eq!(receiver.sequences(), in_order(ids));
    assert_eq!(receiver.forged(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_is_told_of_each_change_and_of_nothing_else() {
    const CANARY: &str = "CANARY-41c7";
    let world = World::new().await;
    world.load(&[sms_only(1), sms_only(2)]).await;
    let (portal, receiver) = Caller::new("portal").await;
    let mut config = world.config.clone();
    configure(&mut config, write(&world, &[&portal]));
    let variables_of_process = [
        ("PATIENT_NOTIFY_AUTH__CALLERS_FILE", config.auth.callers_file.as_str()),
        ("PATIENT_NOTIFY_AUTH__JWKS_FILE", config.auth.jwks_file.as_str()),
        ("PATIENT_NOTIFY_AUTH__TOKEN_ISSUER", config.auth.token_issuer.as_str()),
        ("PATIENT_NOTIFY_AUTH__TOKEN_AUDIENCE", config.auth.token_audience.as_str()),
        ("PATIENT_NOTIFY_LOG__FILTER", "trace"),
    ];
    let mut process = world.process("wrk-default", &variables_of_process);
    let roles = ready(&world, ["consumer-notification", "wrk-notifications"]).await;
    let of = |caller: &str, number, key: &str| NotificationRequested {
        caller: caller.to_owned(),
        variables: variables(&[("title", CANARY), ("first_name", CANARY)]),
        ..request(number, key)
    };
    let requests = [of("portal", 1, "one"), of("portal", 2, "two"), of("laboratory", 1, "not-called-back")];
    world.publish_requests(&requests, &NOTIFICATIONS).await;
    world.until_sent(3, SOON).await;
    eventually("all changes are relayed", SOON, async || world.count("outbox").await == 0).await;
    until_all_ended(&world).await;

    let client = world.pool.get().await.unwrap();
    let rows =
        client.query("SELECT notification_id, sequence FROM notification WHERE caller = 'portal'", &[]);
    let expected: BTreeMap<String, Vec<i64>> = rows
        .await
        .unwrap()
        .iter()
        .map(|row| (row.get::<_, Uuid>(0).to_string(), (1..=i64::from(row.get::<_, i32>(1))).collect()))
        .collect();
    assert_eq!(expected.len(), 2);
    assert_eq!(receiver.sequences(), expected, "each change once, in order");
    let fields: BTreeSet<&str> =
        "notification_id patient_id recipient_id purpose sequence state reason channel \
                                  caller changed_at"
            .split_whitespace()
            .collect();
    for call in receiver.taken() {
        let data = call.body["data"].as_object().unwrap();
        assert_eq!(data.keys().map(String::as_str).collect::<BTreeSet<_>>(), fields);
        assert_eq!((&call.body["type"], call.signatures), (&"notification.status_changed".into(), 1));
        assert_eq!(data["caller"], "portal");
        assert!(!call.body.to_string().contains(CANARY) && !call.body.to_string().contains("+1555"));
    }
    assert_eq!(receiver.taken().last().unwrap().body["data"]["state"], "sent");
    let delivered = "patient_notify_callbacks_total{caller=\"portal\",result=\"delivered\"}";
    assert!(process.metric(delivered).await >= 4.0, "{delivered}");
    process.terminate();
    assert_eq!(process.wait().await.code(), Some(0));
    let log = process.log();
    for hidden in [
        CANARY,
        "+1555",
        &portal.secrets[0],
        receiver.taken()[0].body["data"]["patient_id"].as_str().unwrap(),
    ] {
        assert!(!log.contains(hidden), "{hidden} is in the log");
    }
    stop(roles).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_is_down_for_an_hour_gets_everything_in_order_and_holds_up_no_other() {
    let world = World::new().await;
    let ((down, receiver), (other, other_receiver)) =
        (Caller::new("portal").await, Caller::new("board").await);
    receiver.answers(500);
    let role = worker(&world, &[&down, &other], |_| {});
    let ids = change(&world, "portal", 25).await;
    let others = change(&world, "board", 25).await;
    eventually("the other end has everything", SOON, async || other_receiver.taken().len() == 100).await;
    assert_in_order(&other_receiver, &others);
    eventually("it is known to be down", SOON, async || {
        world.count("callback_endpoint WHERE caller = 'portal' AND failures >= 3").await == 1
    })
    .await;
    assert_eq!(world.count(PENDING).await, 100);

    // An hour later: it was asked once a pause, with one event at a time.
    sql(
        &world,
        "UPDATE callback_event SET first_due_at = first_due_at - interval '1 hour', due_at = due_at - interval '1 hour'
          WHERE state = 'pending' AND owner IS NULL",
    )
    .await;
    for _ in 0..5 {
        let before = receiver.calls().len();
        sql(&world, "UPDATE callback_endpoint SET probe_at = now()").await;
        eventually("one more try", SOON, async || receiver.calls().len() > before).await;
        assert!(receiver.calls().len() <= before + 3, "one event at a time");
    }
    assert_eq!(receiver.taken().len(), 0);
    receiver.answers(204);
    pass_the_pause(&world).await;
    until_all_ended(&world).await;
    assert_in_order(&receiver, &ids);
    assert_eq!(world.count("callback_endpoint WHERE failures = 0 AND failing_since IS NULL").await, 2);
    role.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_killed_in_a_call_is_followed_without_a_gap() {
    let world = World::new().await;
    let (portal, receiver) = Caller::new("portal").await;
    let mut config = world.config.clone();
    configure(&mut config, write(&world, &[&portal]));
    let variables_of_process = [
        ("PATIENT_NOTIFY_AUTH__CALLERS_FILE", config.auth.callers_file.as_str()),
        ("PATIENT_NOTIFY_AUTH__JWKS_FILE", config.auth.jwks_file.as_str()),
        ("PATIENT_NOTIFY_AUTH__TOKEN_ISSUER", config.auth.token_issuer.as_str()),
        ("PATIENT_NOTIFY_AUTH__TOKEN_AUDIENCE", config.auth.token_audience.as_str()),
        ("PATIENT_NOTIFY_CALLBACKS__TIMEOUT_MS", "60000"),
    ];
    receiver.does(Behaviour { hangs: true, ..Behaviour::default() });
    let ids = change(&world, "portal", 30).await;
    let mut first = world.process("wrk-default", &variables_of_process);
    eventually("it has all of its places in calls", SOON, async || receiver.calls().len() == 8).await;
    let client = world.pool.get().await.unwrap();
    let owner = "SELECT DISTINCT owner FROM callback_event WHERE owner IS NOT NULL";
    let killed: Uuid = client.query_one(owner, &[]).await.unwrap().get(0);
    let mut second = world.process("wrk-default", &variables_of_process);
    eventually("so has the other one", SOON, async || receiver.calls().len() == 16).await;
    first.kill9();
    let heads: BTreeSet<i64> = receiver.calls().iter().map(|call| call.of().1).collect();
    assert_eq!(heads, BTreeSet::from([1]), "nothing goes before what is before it");

    receiver.answers(204);
    // Its claims run out, as time would have it.
    let lapse = "UPDATE callback_event SET due_at = now() WHERE owner = $1";
    assert_eq!(client.execute(lapse, &[&killed]).await.unwrap(), 8);
    until_all_ended(&world).await;
    // What the killed one had in hand may have been taken twice, by the same id.
    let mut sequences = receiver.sequences();
    sequences.values_mut().for_each(Vec::dedup);
    assert_eq!(sequences, in_order(&ids));
    let mut calls_by_id: BTreeMap<String, usize> = BTreeMap::new();
    for call in receiver.calls() {
        *calls_by_id.entry(call.id).or_default() += 1;
    }
    assert_eq!(calls_by_id.len(), 120, "an id an event");
    second.terminate();
    assert_eq!(second.wait().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_day_an_event_is_parked_and_what_follows_goes_on_until_a_replay() {
    let world = World::new().await;
    let (portal, receiver) = Caller::new("portal").await;
    receiver.answers(500);
    let role = worker(&world, &[&portal], |_| {});
    let ids = change(&world, "portal", 1).await;
    eventually("it is tried", SOON, async || !receiver.calls().is_empty()).await;
    assert_eq!(world.count("callback_event WHERE state = 'parked'").await, 0);
    sql(&world, "UPDATE callback_event SET first_due_at = first_due_at - interval '24 hours'").await;
    eventually("it is parked", SOON, async || {
        world.count("callback_event WHERE state = 'parked' AND sequence = 1").await == 1
    })
    .await;
    assert_eq!(world.count(PENDING).await, 3, "what follows has a day of its own");
    receiver.answers(204);
    pass_the_pause(&world).await;
    until_all_ended(&world).await;
    let told = |receiver: &Receiver| receiver.sequences().remove(&ids[0].to_string()).unwrap_or_default();
    assert_eq!(told(&receiver), [2, 3, 4], "the gap can be seen");

    let (_process, connection) = front(&world).await;
    let mut client = OperationsServiceClient::new(connection);
    let list = proto::OperationsServiceListCallbacksRequest::default();
    let shown = client.list_callbacks(list.clone()).await.unwrap().into_inner().endpoints;
    assert_eq!(
        (shown.len(), shown[0].caller.as_str(), shown[0].pending, shown[0].parked),
        (1, "portal", 0, 1)
    );
    assert_eq!(shown[0].state, i32::from(proto::CallbackEndpointState::Open));
    let nobody =
        proto::OperationsServiceReplayCallbacksRequest { caller: "nobody".into(), ..Default::default() };
    assert_eq!(client.replay_callbacks(nobody).await.unwrap_err().code(), tonic::Code::NotFound);
    let replay =
        proto::OperationsServiceReplayCallbacksRequest { caller: "portal".into(), ..Default::default() };
    assert_eq!(client.replay_callbacks(replay).await.unwrap().into_inner().replayed, 1);
    until_all_ended(&world).await;
    assert_eq!(told(&receiver), [2, 3, 4, 1]);
    let ids_of_first: BTreeSet<String> =
        receiver.calls().into_iter().filter(|call| call.of().1 == 1).map(|call| call.id).collect();
    assert_eq!(ids_of_first.len(), 1, "the same event, the same id");
    assert_eq!(world.count("audit WHERE subject_kind = 'callback' AND subject = 'portal'").await, 1);
    role.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_that_is_gone_is_left_alone_until_a_replay() {
    let world = World::new().await;
    let (portal, receiver) = Caller::new("portal").await;
    receiver.answers(410);
    let role = worker(&world, &[&portal], |_| {});
    let before = change(&world, "portal", 2).await;
    eventually("everything is parked", SOON, async || {
        world.count("callback_event WHERE state = 'parked'").await == 8
    })
    .await;
    let calls = receiver.calls().len();
    let after = change(&world, "portal", 2).await;
    eventually("what comes later is parked too", SOON, async || {
        world.count("callback_event WHERE state = 'parked'").await == 16
    })
    .await;
    assert_eq!(receiver.calls().len(), calls, "it is not called any more");

    receiver.answers(204);
    let shown = printed(&tool(&world.config, &["callbacks", "list"]).await);
    assert!(shown.contains("portal") && shown.contains("disabled") && shown.contains("16"), "{shown}");
    let replayed = printed(&tool(&world.config, &["callbacks", "replay", "portal", "--by", "ann"]).await);
    assert!(replayed.contains("16"), "{replayed}");
    until_all_ended(&world).await;
    assert_in_order(&receiver, &[before, after].concat());
    assert_eq!(world.count("audit WHERE subject_kind = 'callback' AND caller = 'ann'").await, 1);
    role.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_exchanged_without_a_call_that_is_refused() {
    let world = World::new().await;
    let (mut portal, receiver) = Caller::new("portal").await;
    let role = worker(&world, &[&portal], |_| {});
    let mut ids = change(&world, "portal", 1).await;
    until_called(&receiver, 4).await;
    let (old, new) = (portal.secrets[0].clone(), new_secret());
    for (secrets, taken, signatures) in [
        (vec![old.clone(), new.clone()], &old, 2),
        (vec![old.clone(), new.clone()], &new, 2),
        (vec![new.clone()], &new, 1),
    ] {
        portal.secrets = secrets;
        write(&world, &[&portal]);
        receiver.takes(taken);
        eventually("it signs with these secrets", SOON, async || {
            ids.extend(change(&world, "portal", 1).await);
            until_called(&receiver, ids.len() * 4).await;
            receiver.taken().last().unwrap().signatures == signatures
        })
        .await;
    }
    assert_in_order(&receiver, &ids);
    role.stop().await.unwrap();
}

async fn until_called(receiver: &Receiver, count: usize) {
    eventually("all of it was taken", SOON, async || receiver.taken().len() == count).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_can_ask_for_a_pause_and_a_stop_gives_back_what_it_cuts_short() {
    let world = World::new().await;
    let (portal, receiver) = Caller::new("portal").await;
    receiver.does(Behaviour { status: 503, retry_after: Some("1800"), hangs: false });
    let role = worker(&world, &[&portal], |config| config.processor.drain_timeout_ms = 200);
    let ids = change(&world, "portal", 1).await;
    eventually("the pause is heeded", SOON, async || {
        world
            .count(
                "callback_endpoint WHERE probe_at > now() + interval '25 minutes' AND last_failure = '503'",
            )
            .await
            == 1
    })
    .await;
    let paused = "callback_event WHERE due_at > now() + interval '25 minutes' AND owner IS NULL";
    assert_eq!(world.count(paused).await, 4, "what follows waits with it");
    stays("nothing is tried", Duration::from_secs(1), async || receiver.calls().len() == 1).await;

    receiver.does(Behaviour { hangs: true, ..Behaviour::default() });
    pass_the_pause(&world).await;
    eventually("a call hangs", SOON, async || receiver.calls().len() == 2).await;
    role.stop().await.unwrap();
    let free = "callback_event WHERE sequence = 1 AND owner IS NULL AND due_at <= now() AND attempts = 1";
    assert_eq!(world.count(free).await, 1, "the try that was cut short is none");
    receiver.answers(204);
    let role = worker(&world, &[&portal], |_| {});
    until_all_ended(&world).await;
    assert_in_order(&receiver, &ids);
    role.stop().await.unwrap();
}

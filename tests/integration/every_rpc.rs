//! What holds for every method of the contract, by the contract's own list of them: who has
//! no credentials or lacks the scope is refused, who comes too late is not served, what is
//! away is named in time. A method that is not in the table below fails these tests.

mod table;

use std::time::{Duration, Instant};

use futures::future::join_all;
use patient_notify::api::auth::Scope;
use patient_notify::api::auth::methods::METHODS;
use patient_notify::topic::dlq_of;
use patient_notify::topic::names::NOTIFICATIONS;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::front::{front_with, reason};
use crate::harness::{BrokerProxy, Process, Proxy, World};
use crate::who_may_call::{Signer, takes_tokens};
use table::Needs::{self, Database, Nothing};
use table::table;

/// Longer than any call lasts.
const PATIENCE: Duration = Duration::from_secs(30);
/// Every table of ours: who has them locked makes every statement wait.
const LOCK_ALL: &str = "DO $$ DECLARE t text; BEGIN
    FOR t IN SELECT quote_ident(table_name) FROM information_schema.tables WHERE table_schema = 'public' LOOP
        EXECUTE 'LOCK TABLE ' || t || ' IN ACCESS EXCLUSIVE MODE';
    END LOOP; END $$";

/// A front, and calls of any method by gRPC-Web: a client that leaves the deadline to the
/// server, and knows no message.
struct Bench {
    world: World,
    http: reqwest::Client,
    front: Process,
}

impl Bench {
    async fn start(world: World, variables: &[(&str, &str)]) -> Self {
        let (front, _connection) = front_with(&world, variables).await;
        let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Self { world, http, front }
    }

    /// How a call of one message is answered.
    async fn call(&self, name: &str, message: &[u8], headers: &[(&str, &str)]) -> Status {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let body = [&[0][..], &length, message].concat();
        let url = format!("http://{}/patientnotify.v1.{name}", self.world.config.app.listen);
        let call = self.http.post(url).header("content-type", "application/grpc-web+proto").body(body);
        let call = headers.iter().fold(call, |call, (name, value)| call.header(*name, *value));
        let answer = call.send().await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(answer.status().as_u16(), 200, "{name}");
        // An answer with messages has its status behind them: it went well until then.
        Status::from_header_map(answer.headers()).unwrap_or_else(|| Status::ok("it was served"))
    }
}

/// Every method with its valid request; none is forgotten, and none is made up.
fn every() -> Vec<(&'static str, Needs, Vec<u8>)> {
    let mut table = table();
    let all = METHODS.iter().map(|method| {
        let name = method.path.strip_prefix("/patientnotify.v1.").unwrap();
        let (needs, message) = table.remove(name).unwrap_or_else(|| panic!("{name} is in no table here"));
        (name, needs, message)
    });
    let all = all.collect();
    assert!(table.is_empty(), "there are no such methods: {:?}", table.keys());
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_method_serves_who_may_not_call_it() {
    let mut world = World::new().await;
    let keys = world.dir().join("jwks.json");
    let signer = Signer::new("key-1");
    signer.publish(&keys);
    takes_tokens(&mut world.config, &keys);
    let bench = Bench::start(world, &[]).await;
    for (method, (name, _, message)) in METHODS.iter().zip(every()) {
        let status = bench.call(name, &message, &[]).await;
        assert_eq!((status.code(), &*reason(&status)), (Code::Unauthenticated, "UNAUTHENTICATED"), "{name}");
        let others = Scope::ALL.iter().filter(|scope| **scope != method.scope).map(|scope| scope.as_str());
        let others = signer.token("others", &others.collect::<Vec<_>>().join(" "), 300);
        for token in [signer.token("none", "openid", 300), others] {
            let status = bench.call(name, &message, &[("authorization", &format!("Bearer {token}"))]).await;
            assert_eq!(
                (status.code(), &*reason(&status)),
                (Code::PermissionDenied, "SCOPE_MISSING"),
                "{name}"
            );
            let asked = &status.get_details_error_info().unwrap().metadata["scope"];
            assert_eq!(asked, method.scope.as_str(), "{name}");
        }
        // With its scope, and nothing to say, the service itself answers.
        let token = signer.token("one", method.scope.as_str(), 300);
        let status = bench.call(name, &[], &[("authorization", &format!("Bearer {token}"))]).await;
        let refused = [Code::Unauthenticated, Code::PermissionDenied, Code::Unimplemented, Code::Internal];
        assert!(!refused.contains(&status.code()), "{name}: {status}");
    }
    assert_eq!(
        bench.world.count("recipient").await + bench.world.count("batch").await,
        0,
        "nothing was done"
    );
}

fn assert_away(status: &Status, why: &str, name: &str) {
    assert_eq!((status.code(), &*reason(status)), (Code::Unavailable, why), "{name}: {status}");
    assert!(status.get_details_retry_info().is_some(), "{name} says when to come back");
}

/// What each method answers that needs what is away, all of them at once.
async fn swept(bench: &Bench, timeout: &str, needs: fn(Needs) -> bool) -> Vec<(&'static str, Status)> {
    let concerned = every().into_iter().filter(|(_, of_method, _)| needs(*of_method));
    let calls = concerned.map(async |(name, _, message)| {
        (name, bench.call(name, &message, &[("grpc-timeout", timeout)]).await)
    });
    join_all(calls).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_names_what_is_away_and_ends_with_its_deadline() {
    let world = World::new().await;
    // Whoever reads it or replays it leaves an audit line before.
    let dead_letters = dlq_of(&world.topic(&NOTIFICATIONS));
    world.publish_raw(&dead_letters, Some(b"patient-1"), Some(b"nonsense"), &[]).await;
    let database = Proxy::start(world.addresses.postgres_address()).await;
    let direct = world.config.postgres.url.expose().clone();
    let url = direct.replace(world.addresses.postgres_address(), &database.address);
    let broker = BrokerProxy::start().await;
    let brokers = world.addresses.proxied_brokers.clone();
    let mut bench = Bench::start(
        world,
        &[
            ("PATIENT_NOTIFY_POSTGRES__URL", &url),
            ("PATIENT_NOTIFY_KAFKA__BOOTSTRAP_SERVERS", &brokers),
            ("PATIENT_NOTIFY_APP__CODE_KEY", "a key of at least thirty-two characters"),
        ],
    )
    .await;

    // A deadline that has passed when the call comes.
    for (name, status) in swept(&bench, "1n", |_| true).await {
        assert_eq!(
            (status.code(), &*reason(&status)),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            "{name}"
        );
    }
    for table in ["recipient", "appointment", "batch", "job", "channel_pause"] {
        assert_eq!(bench.world.count(table).await, 0, "{table}: what comes too late is not begun");
    }

    // A database that does not answer.
    let mut client = bench.world.pool.get().await.unwrap();
    let lock = client.transaction().await.unwrap();
    lock.batch_execute(LOCK_ALL).await.unwrap();
    let begun = Instant::now();
    for (name, status) in swept(&bench, "1500m", |needs| needs == Database).await {
        assert_eq!(
            (status.code(), &*reason(&status)),
            (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
            "{name}"
        );
    }
    assert!(begun.elapsed() < PATIENCE / 2, "in time: {:?}", begun.elapsed());
    lock.rollback().await.unwrap();
    drop(client);

    database.cut().await;
    for (name, status) in swept(&bench, "9S", Needs::database).await {
        assert_away(&status, "DATABASE_UNAVAILABLE", name);
    }
    for (name, status) in swept(&bench, "9S", |needs| needs == Nothing).await {
        assert_eq!(status.code(), Code::Ok, "{name} needs none: {status}");
    }
    database.restore().await;
    broker.proxy.cut().await;
    for (name, status) in swept(&bench, "6S", Needs::broker).await {
        assert_away(&status, "BROKER_UNAVAILABLE", name);
    }
    assert!(bench.front.is_running(), "none of it ends the process");
    broker.proxy.restore().await;
    broker.stop().await;
}

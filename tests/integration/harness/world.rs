//! A world of one test: topics, database and providers that nobody else sees.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use deadpool_postgres::Pool;
use futures::{StreamExt as _, stream};
use patient_notify::config::Config;
use patient_notify::dev::Reporting;
use patient_notify::domain::{
    NotificationRequested, NotificationUpdate, State, StatusChanged, TestResultPublished,
};
use patient_notify::record::recipients::{RecipientUpsert, upsert_many};
use patient_notify::record::{Owner, Store, migrate, pool};
use patient_notify::sandbox::{ReceiptPlan, Sandbox, SandboxOptions};
use patient_notify::topic::encoder::Encoder;
use patient_notify::topic::lag::PartitionLag;
use patient_notify::topic::names::{NOTIFICATION_STATUS, NOTIFICATION_UPDATES, TEST_RESULTS, Topic};
use patient_notify::topic::producer::Producer;
use patient_notify::topic::{admin, schemas};
use tempfile::TempDir;
use tokio_postgres::NoTls;
use uuid::Uuid;

use super::eventually;
use super::kafka::{self, DeadLetter};
use super::last_words;
use super::ports::{free_address, free_port};
use super::process::Process;
use super::role::RunningRole;
use super::stack::Addresses;

/// Records on their way to the broker at once.
const PUBLISH_IN_FLIGHT: usize = 512;

/// Topics, database and providers of one test.
pub struct World {
    /// What a role of this world runs with; time-outs are short.
    pub config: Config,
    /// The providers.
    pub sandbox: Sandbox,
    /// The database, as an owner that claims nothing.
    pub store: Store,
    /// For queries of a test's own.
    pub pool: Pool,
    /// Where the servers are.
    pub addresses: Addresses,
    encoder: Encoder,
    producer: Producer,
    database: String,
    processes: AtomicU32,
    files: AtomicU32,
    dir: TempDir,
}

/// How many partitions the topics have.
#[derive(Debug, Clone, Copy)]
enum Size {
    Small,
    Production,
}

/// What the database and the providers say together; see [`World::seen`].
#[derive(Debug, Clone)]
pub struct Seen {
    /// Notifications by state.
    pub states: HashMap<State, i64>,
    /// Deliveries that the providers took at least once.
    pub delivered: usize,
    /// Messages beyond the first of their delivery.
    pub doubled: u64,
}

impl World {
    /// Makes topics, subjects and a database, and starts providers. The topics have
    /// few partitions ([`kafka::small_partitions`]): they are made in a moment.
    pub async fn new() -> Self {
        Self::of_size(Size::Small, true).await
    }

    /// The same with topics as `topics apply` makes them in production: 60
    /// partitions of test results.
    pub async fn full_size() -> Self {
        Self::of_size(Size::Production, true).await
    }

    /// The same, with topics and groups under the names that the manifests have. One at a
    /// time on a stack.
    pub async fn as_deployed() -> Self {
        Self::of_size(Size::Production, false).await
    }

    async fn of_size(size: Size, prefixed: bool) -> Self {
        last_words::keep();
        let addresses = Addresses::from_environment();
        let dir = TempDir::new().expect("a folder for a test's files");
        let id = &Uuid::new_v4().simple().to_string()[..8];
        let database = format!("t{id}");
        let options = SandboxOptions {
            sms_port: free_port(),
            smtp_port: free_port(),
            fcm_port: free_port(),
            ..SandboxOptions::in_dir(dir.path())
        };
        let sandbox = Sandbox::start(options).await.expect("the providers' stand-ins");
        let mut config = short_times(Config::from_defaults());
        sandbox.apply_to(&mut config);
        config.kafka.bootstrap_servers.clone_from(&addresses.brokers);
        config.kafka.topic_prefix = if prefixed { format!("t{id}.") } else { String::new() };
        config.registry.url.clone_from(&addresses.registry_url);
        config.postgres.url = addresses.database_url(&database).into();
        config.app.listen = free_address();
        config.metrics.listen = "127.0.0.1:0".to_owned();

        execute(&addresses.postgres_url, &format!("CREATE DATABASE {database}"))
            .await
            .expect("a new database");
        migrate::run(&config.postgres).await.expect("migrations");
        let topics = async {
            match size {
                Size::Small => kafka::create_small_topics(&config.kafka).await,
                Size::Production => drop(admin::apply(&config).await.expect("topics")),
            }
            kafka::until_served(&config.kafka).await;
        };
        // Setting up is not what a test is about: it has time.
        let mut patient = config.clone();
        patient.registry.timeout_ms = 15_000;
        let (subjects, ()) = tokio::join!(schemas::apply(&patient), topics);
        subjects.expect("subjects");

        let pool = pool::pool(&config.postgres).expect("a pool");
        let encoder = Encoder::new(&config.registry, &config.kafka.topic_prefix).expect("an encoder");
        let producer = Producer::new(&config.kafka).expect("a producer");
        Self {
            store: Store::new(pool.clone(), Owner::new()),
            pool,
            sandbox,
            addresses,
            encoder,
            producer,
            database,
            processes: AtomicU32::new(0),
            files: AtomicU32::new(0),
            dir,
            config,
        }
    }

    /// Runs a role inside this process, with this world's configuration as
    /// `change` leaves it.
    pub fn role(&self, name: &'static str, change: impl FnOnce(&mut Config)) -> RunningRole {
        let mut config = self.config.clone();
        change(&mut config);
        RunningRole::start(name, config)
    }

    /// A folder that goes with the world.
    pub fn dir(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    /// Starts a role as a process, with this world's configuration and variables
    /// (`PATIENT_NOTIFY_<SECTION>__<KEY>`) over it. It logs JSON.
    pub fn process(&self, role: &'static str, variables: &[(&str, &str)]) -> Process {
        let number = self.processes.fetch_add(1, Ordering::Relaxed);
        let log = self.dir.path().join(format!("{role}-{number}.log"));
        Process::start(role, &self.file_of(&self.config), log, variables)
    }

    /// A configuration file with all that differs from the defaults.
    pub fn file_of(&self, config: &Config) -> PathBuf {
        let number = self.files.fetch_add(1, Ordering::Relaxed);
        let file = self.dir.path().join(format!("config-{number}.toml"));
        std::fs::write(&file, as_toml(config)).expect("a configuration file");
        file
    }

    /// Brings recipients to these states.
    pub async fn load(&self, recipients: &[RecipientUpsert]) {
        upsert_many(&self.pool, recipients).await.expect("recipients are written");
    }

    /// Publishes results as a laboratory does, those of one patient in this order,
    /// and gives each one's partition and offset.
    pub async fn publish(&self, results: &[TestResultPublished]) -> Vec<(i32, i64)> {
        // Asked for once, so that the first results do not overtake each other.
        self.encoder.schema_id(&TEST_RESULTS).await.expect("our schema in the registry");
        let topic = self.topic(&TEST_RESULTS);
        stream::iter(results)
            .map(async |result| {
                let payload = self.encoder.test_result(result).await.expect("a result that fits its schema");
                let key = result.patient_id.as_str().as_bytes();
                self.producer.send(&topic, Some(key), Some(&payload), &[]).await.expect("an acknowledgement")
            })
            .buffered(PUBLISH_IN_FLIGHT)
            .collect()
            .await
    }

    /// Publishes requests on a topic, those of one patient in this order, and gives
    /// each one's partition and offset.
    pub async fn publish_requests(
        &self,
        requests: &[NotificationRequested],
        topic: &Topic,
    ) -> Vec<(i32, i64)> {
        self.encoder.schema_id(topic).await.expect("our schema in the registry");
        let name = self.topic(topic);
        stream::iter(requests)
            .map(async |request| {
                let payload = self.encode_request(request, topic).await;
                let key = request.patient_id.as_str().as_bytes();
                self.producer.send(&name, Some(key), Some(&payload), &[]).await.expect("an acknowledgement")
            })
            .buffered(PUBLISH_IN_FLIGHT)
            .collect()
            .await
    }

    /// Publishes updates in this order, those of one patient one after the other.
    pub async fn publish_updates(&self, updates: &[NotificationUpdate]) {
        self.encoder.schema_id(&NOTIFICATION_UPDATES).await.expect("our schema in the registry");
        let name = self.topic(&NOTIFICATION_UPDATES);
        let sent = stream::iter(updates)
            .map(async |update| {
                let payload = self.encoder.update(update).await.expect("an update that fits its schema");
                let key = update.patient_id.as_ref().map_or(update.update_id.as_str(), |id| id.as_str());
                let sent = self.producer.send(&name, Some(key.as_bytes()), Some(&payload), &[]).await;
                sent.expect("an acknowledgement");
            })
            .buffered(PUBLISH_IN_FLIGHT);
        sent.collect::<Vec<()>>().await;
    }

    /// Publishes status changes under one key, in this order.
    pub async fn publish_changes(&self, key: &str, changes: &[StatusChanged]) {
        self.encoder.schema_id(&NOTIFICATION_STATUS).await.expect("our schema in the registry");
        let topic = self.topic(&NOTIFICATION_STATUS);
        let sent = stream::iter(changes)
            .map(async |change| {
                let payload = self.encoder.status(change).await.expect("a change that fits its schema");
                let sent = self.producer.send(&topic, Some(key.as_bytes()), Some(&payload), &[]).await;
                sent.expect("an acknowledgement");
            })
            .buffered(PUBLISH_IN_FLIGHT);
        sent.collect::<Vec<()>>().await;
    }

    /// Removes all records of a topic, as its retention does it.
    pub async fn empty_topic(&self, topic: &Topic) {
        kafka::empty_topic(&self.config.kafka, &self.topic(topic)).await;
    }

    /// An update's value in the registry's wire format.
    pub async fn encode_update(&self, update: &NotificationUpdate) -> Vec<u8> {
        self.encoder.update(update).await.expect("an update that fits its schema")
    }

    /// A request's value in the registry's wire format.
    pub async fn encode_request(&self, request: &NotificationRequested, topic: &Topic) -> Vec<u8> {
        let encoded = self.encoder.notification(topic, request).await;
        encoded.expect("a request that fits its schema")
    }

    /// A result's value in the registry's wire format.
    pub async fn encode(&self, result: &TestResultPublished) -> Vec<u8> {
        self.encoder.test_result(result).await.expect("a result that fits its schema")
    }

    /// Publishes any bytes on a topic (full name).
    pub async fn publish_raw(
        &self,
        topic: &str,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
        headers: &[(&str, &[u8])],
    ) -> (i32, i64) {
        self.producer.send(topic, key, payload, headers).await.expect("an acknowledgement")
    }

    /// The full name of a topic in this world.
    pub fn topic(&self, topic: &Topic) -> String {
        topic.full_name(&self.config.kafka.topic_prefix)
    }

    /// Records that our groups have not committed.
    pub async fn lag(&self) -> i64 {
        let kafka = self.config.kafka.clone();
        blocking(move || kafka::partitions(&kafka)).await.iter().map(PartitionLag::lag).sum()
    }

    /// The partitions of a topic, as its group sees them.
    pub async fn committed(&self, topic: &Topic) -> Vec<PartitionLag> {
        let (kafka, topic) = (self.config.kafka.clone(), *topic);
        blocking(move || kafka::committed(&kafka, &topic)).await
    }

    /// Everything on the dead-letter topics of what our consumers read.
    pub async fn dead_letters(&self) -> Vec<DeadLetter> {
        let kafka = self.config.kafka.clone();
        blocking(move || kafka::dead_letters(&kafka)).await
    }

    /// Partition and offset of each test result that became a notification.
    pub async fn noted(&self) -> HashSet<(i32, i64)> {
        self.noted_of(&TEST_RESULTS).await
    }

    /// Partition and offset of each record of a topic that became a notification.
    pub async fn noted_of(&self, topic: &Topic) -> HashSet<(i32, i64)> {
        let sources = self.store.sources(&self.topic(topic)).await;
        sources.expect("sources of notifications").into_iter().collect()
    }

    /// Speaks for providers, portal and patients from now on.
    pub fn reporting(&self, plan: ReceiptPlan) -> Reporting {
        let log = Arc::clone(&self.sandbox.log);
        Reporting::start(&self.config, self.store.clone(), log, plan).expect("a teller of receipts")
    }

    /// Notifications by state.
    pub async fn states(&self) -> HashMap<State, i64> {
        let mut states = HashMap::new();
        for one in self.store.count_states().await.expect("counts of notifications") {
            *states.entry(one.state).or_default() += one.count;
        }
        states
    }

    /// Notifications that are sent.
    pub async fn sent(&self) -> i64 {
        self.states().await.get(&State::Sent).copied().unwrap_or(0)
    }

    /// Counts rows: `SELECT count(*) FROM {from_where}`.
    pub async fn count(&self, from_where: &str) -> i64 {
        let client = self.pool.get().await.expect("a connection");
        let row = client.query_one(&format!("SELECT count(*) FROM {from_where}"), &[]).await;
        row.expect("a count").get(0)
    }

    /// Panics unless every delivery that is recorded as sent reached its provider
    /// once, nothing reached one twice, and nothing is a dead letter.
    pub async fn assert_each_once(&self) {
        let received = self.sandbox.log.by_delivery();
        let twice = received.values().filter(|&&count| count > 1).count();
        assert_eq!(twice, 0, "deliveries that a provider took twice");
        for delivery in self.store.all_deliveries().await.expect("all deliveries") {
            let came = received.contains_key(&delivery.delivery_id.short_code());
            assert!(
                came || delivery.state != State::Sent,
                "recorded as sent, and no provider has it: {delivery:?}"
            );
        }
        assert_eq!(self.dead_letters().await.len(), 0, "dead letters");
    }

    /// What database and providers say.
    pub async fn seen(&self) -> Seen {
        let stats = self.sandbox.log.stats();
        Seen { states: self.states().await, delivered: stats.deliveries, doubled: stats.duplicates }
    }

    /// Waits until this many notifications are sent, and the lag is 0.
    pub async fn until_sent(&self, count: i64, deadline: Duration) {
        let what = format!("{count} notifications are sent");
        let mut last = HashMap::new();
        eventually(&what, deadline, async || {
            let states = self.states().await;
            if states != last {
                println!("{}: {states:?}", self.database);
                last.clone_from(&states);
            }
            states.get(&State::Sent).copied().unwrap_or(0) == count
        })
        .await;
        self.until_no_lag(deadline).await;
    }

    /// Waits until everything that was published is committed.
    pub async fn until_no_lag(&self, deadline: Duration) {
        eventually("no lag", deadline, async || self.lag().await == 0).await;
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let (kafka, url) = (self.config.kafka.clone(), self.addresses.postgres_url.clone());
        let drop_database = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.database);
        // A runtime of its own: this one may be ending.
        let cleaner = std::thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(async {
                // What is left behind goes with the stack.
                let _ = execute(&url, &drop_database).await;
                kafka::delete_topics(&kafka).await;
            });
        });
        let _ = cleaner.join();
        last_words::repeat();
    }
}

/// Time-outs that let a test see what otherwise takes minutes.
fn short_times(mut config: Config) -> Config {
    config.kafka.produce_timeout_ms = 10_000;
    config.registry.timeout_ms = 2_000;
    config.postgres.pool_size = 6;
    config.postgres.pool_wait_timeout_ms = 3_000;
    config.postgres.statement_timeout_ms = 8_000;
    config.processor.lease_ms = 20_000;
    config.processor.slot_deadline_ms = 60_000;
    config.processor.drain_timeout_ms = 10_000;
    config.processor.close_timeout_ms = 5_000;
    config.processor.session_timeout_ms = 6_000;
    config.processor.heartbeat_interval_ms = 500;
    config.processor.max_poll_interval_ms = 30_000;
    config.processor.unavailable_backoff_max_ms = 500;
    config.sms.timeout_ms = 4_000;
    config.email.timeout_ms = 4_000;
    config.push.timeout_ms = 4_000;
    config.retry.initial_ms = 200;
    config.retry.max_ms = 1_000;
    config.retry.outcome_unknown_deadline_ms = 3_000;
    config.retry.outcome_unknown_deadline_appointment_reminder_ms = 0;
    config.retry.outcome_unknown_deadline_campaign_ms = 0;
    config.workers.poll_interval_ms = 50;
    config.shutdown.timeout_ms = 20_000;
    config.log.format = "json".to_owned();
    config.log.filter = "info".to_owned();
    config
}

/// A configuration file with all that differs from the defaults.
fn as_toml(config: &Config) -> String {
    let table = |config: &Config| toml::Table::try_from(config).expect("a configuration is a table");
    let (mut changed, defaults) = (table(config), table(&Config::from_defaults()));
    // Written out as themselves: the file is this test's, and so are the servers.
    for (section, key, secret) in [
        ("postgres", "url", &config.postgres.url),
        ("sms", "auth_token", &config.sms.auth_token),
        ("email", "password", &config.email.password),
        ("registry", "password", &config.registry.password),
        ("kafka", "sasl_password", &config.kafka.sasl_password),
    ] {
        if let Some(section) = changed.get_mut(section).and_then(toml::Value::as_table_mut) {
            section.insert(key.to_owned(), secret.expose().as_str().into());
        }
    }
    for (name, section) in &mut changed {
        let (Some(section), Some(of_default)) = (section.as_table_mut(), defaults[name].as_table()) else {
            continue;
        };
        section.retain(|key, value| of_default.get(key) != Some(value));
    }
    changed.to_string()
}

async fn execute(url: &str, statement: &str) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    let serve = tokio::spawn(connection);
    let done = client.batch_execute(statement).await;
    drop(client);
    // Its error, if any, came back with the statement.
    let _ = serve.await;
    done
}

async fn blocking<T: Send + 'static>(look: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(look).await.expect("a look that does not panic")
}

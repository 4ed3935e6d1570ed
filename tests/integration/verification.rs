//! A code proves an address: it goes out by that address's channel at once, works once and
//! not for long, cannot be guessed, and stands nowhere but in its message.

use std::time::Duration;

use patient_notify::api::proto;
use patient_notify::api::proto::operations_service_client::OperationsServiceClient;
use patient_notify::api::proto::recipient_service_client::RecipientServiceClient;
use patient_notify::domain::Channel as Way;
use patient_notify::sandbox::ChannelFaults;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::front::{assert_away, front_with, reason, within};
use crate::harness::{Process, Proxy, World};
use crate::recipients::state;
use crate::recipients_changes::id;

const KEY: (&str, &str) = ("PATIENT_NOTIFY_APP__CODE_KEY", "a key of at least thirty-two characters");

type Client = RecipientServiceClient<Channel>;

struct Bench {
    world: World,
    database: Proxy,
    process: Process,
    connection: Channel,
    client: Client,
}

impl Bench {
    /// A front that logs all it can, and people whose addresses nobody has verified.
    async fn start(people: u64, variables: &[(&str, &str)]) -> Self {
        let world = World::new().await;
        let database = Proxy::start(world.addresses.postgres_address()).await;
        let direct = world.config.postgres.url.expose().clone();
        let url = direct.replace(world.addresses.postgres_address(), &database.address);
        let more = [("PATIENT_NOTIFY_POSTGRES__URL", url.as_str()), ("PATIENT_NOTIFY_LOG__FILTER", "trace")];
        let all: Vec<_> = more.into_iter().chain(variables.iter().copied()).collect();
        let (process, connection) = front_with(&world, &all).await;
        let mut client = RecipientServiceClient::new(connection.clone());
        for number in 1..=people {
            let mut person = state(number);
            person.contact_points.iter_mut().for_each(|point| point.verified_at = None);
            client.upsert(person).await.unwrap();
        }
        Self { world, database, process, connection, client }
    }

    /// The code of the last message to an address.
    fn sent(&self, address: &str) -> String {
        let all = self.world.sandbox.log.all();
        let last = all.iter().rev().find(|message| message.to.expose() == address).expect("a message");
        let mut words = last.body.expose().split(|c: char| !c.is_ascii_digit());
        words.find(|word| word.len() == 6).expect("a code").to_owned()
    }

    async fn begin(&mut self, channel: proto::Channel, number: u64) -> Result<String, Status> {
        self.client.start_verification(start(channel, number)).await?;
        Ok(self.sent(&address(channel, number)))
    }

    async fn confirm(
        &mut self,
        channel: proto::Channel,
        number: u64,
        code: &str,
    ) -> Result<proto::MaskedContactPoint, Status> {
        let answer = self.client.confirm_verification(confirmation(channel, number, code)).await?;
        Ok(answer.into_inner().contact_point.unwrap())
    }

    async fn execute(&self, statement: &str) {
        self.world.pool.get().await.unwrap().batch_execute(statement).await.unwrap();
    }
}

fn address(channel: proto::Channel, number: u64) -> String {
    match channel {
        proto::Channel::Sms => format!("+1555{number:07}"),
        _ => format!("jane-{number}@example.org"),
    }
}

fn start(channel: proto::Channel, number: u64) -> proto::RecipientServiceStartVerificationRequest {
    proto::RecipientServiceStartVerificationRequest {
        recipient_id: id(number),
        channel: channel.into(),
        address: address(channel, number),
    }
}

fn confirmation(
    channel: proto::Channel,
    number: u64,
    code: &str,
) -> proto::RecipientServiceConfirmVerificationRequest {
    proto::RecipientServiceConfirmVerificationRequest {
        recipient_id: id(number),
        channel: channel.into(),
        address: address(channel, number),
        code: code.to_owned(),
    }
}

/// Another code than this.
fn not(code: &str) -> String {
    format!("{:06}", (code.parse::<u32>().unwrap() + 1) % 1_000_000)
}

#[track_caller]
fn assert_told(status: Status, code: Code, why: &str) {
    assert_eq!((status.code(), reason(&status).as_str()), (code, why), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_the_code_has_the_address() {
    let mut bench = Bench::start(2, &[KEY]).await;
    let (sms, email) = (proto::Channel::Sms, proto::Channel::Email);
    let mut codes = Vec::new();
    for (channel, how) in [(sms, "code by text message"), (email, "code by e-mail")] {
        let begun = jiff::Timestamp::now().as_second();
        let answer = bench.client.start_verification(start(channel, 1)).await.unwrap().into_inner();
        let left = answer.expires_at.unwrap().seconds - begun;
        assert!((590..=660).contains(&left), "{left} s");
        let code = bench.sent(&address(channel, 1));
        let point = bench.confirm(channel, 1, &code).await.unwrap();
        assert!(point.verified_at.is_some() && point.retired_at.is_none());
        assert_eq!((point.verified_by.as_str(), point.verified_how.as_str()), ("local", how));
        let again = bench.confirm(channel, 1, &code).await.unwrap_err();
        assert_told(again, Code::FailedPrecondition, "CODE_USED");
        codes.push(code);
    }
    assert_eq!(
        bench.world.count("contact_point WHERE verified_at IS NOT NULL").await,
        2,
        "and nobody else's"
    );

    // A further start ends the one before; a wrong code says how many more there may be.
    let first = bench.begin(sms, 2).await.unwrap();
    let second = bench.begin(sms, 2).await.unwrap();
    if first != second {
        let status = bench.confirm(sms, 2, &first).await.unwrap_err();
        assert_eq!(status.get_details_error_info().unwrap().metadata["tries_left"], "4");
        assert_told(status, Code::FailedPrecondition, "WRONG_CODE");
    }
    bench.confirm(sms, 2, &second).await.unwrap();
    codes.extend([first, second]);

    // Codes stand in no table and in no log, however much is logged; addresses in no new one.
    let client = bench.world.pool.get().await.unwrap();
    let rows = client.query("SELECT row_to_json(v)::text FROM contact_verification v", &[]).await.unwrap();
    assert_eq!(rows.len(), 4);
    let rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    let clear = |row: &String| !row.contains(&address(sms, 1)[1..11]) && !row.contains("example.org");
    assert!(rows.iter().all(clear), "{rows:?}");
    assert_eq!(bench.world.count("contact_verification WHERE code_mac IS NOT NULL").await, 0, "all are over");
    for code in &codes {
        let quoted =
            format!("contact_verification v WHERE row_to_json(v)::text ~ '[^0-9a-f.]{code}[^0-9a-f]'");
        assert_eq!(bench.world.count(&quoted).await, 0, "a code is in the table");
        let log = bench.process.log();
        let told = log.match_indices(code.as_str()).any(|(at, _)| {
            let digit = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '.');
            !digit(log[..at].chars().next_back()) && !digit(log[at + 6..].chars().next())
        });
        assert!(!told, "a code is in the log");
    }
    for (action, lines) in [("StartVerification", 4), ("ConfirmVerification", 3)] {
        let rows = format!("audit WHERE caller = 'local' AND action = 'RecipientService/{action}'");
        assert!(bench.world.count(&rows).await >= lines, "{action}");
    }
    let counted =
        bench.process.metric("patient_notify_verifications_total{channel=\"sms\",result=\"sent\"}").await;
    assert!((counted - 3.0).abs() < f64::EPSILON, "{counted}");
    bench.execute("UPDATE contact_verification SET started_at = now() - interval '25 hours'").await;
    bench.begin(email, 2).await.unwrap();
    assert_eq!(bench.world.count("contact_verification").await, 1, "what is a day old goes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_code_that_is_wrong_late_or_for_an_address_that_is_gone_proves_nothing() {
    let mut bench = Bench::start(4, &[KEY]).await;
    let (sms, email) = (proto::Channel::Sms, proto::Channel::Email);
    let precondition = Code::FailedPrecondition;
    assert_told(bench.confirm(sms, 1, "123456").await.unwrap_err(), Code::NotFound, "NOT_FOUND");

    let code = bench.begin(sms, 1).await.unwrap();
    for left in ["4", "3", "2", "1", "0"] {
        let status = bench.confirm(sms, 1, &not(&code)).await.unwrap_err();
        assert_eq!(status.get_details_error_info().unwrap().metadata["tries_left"], left);
        assert_told(status, precondition, "WRONG_CODE");
    }
    assert_told(bench.confirm(sms, 1, &code).await.unwrap_err(), precondition, "CODE_VOID");
    assert_eq!(bench.world.count("audit WHERE detail = 'sms, wrong code'").await, 5);

    let code = bench.begin(email, 2).await.unwrap();
    bench.execute("UPDATE contact_verification SET expires_at = now() WHERE ended_why IS NULL").await;
    assert_told(bench.confirm(email, 2, &code).await.unwrap_err(), precondition, "CODE_EXPIRED");

    // Somebody else's code, and a code for another of one's addresses.
    let (third, fourth) = (bench.begin(sms, 3).await.unwrap(), bench.begin(email, 3).await.unwrap());
    if third != fourth {
        assert_told(bench.confirm(email, 3, &third).await.unwrap_err(), precondition, "WRONG_CODE");
    }
    // An address that was changed meanwhile: the old one is out of use, the new one has no code.
    let mut moved = state(3);
    moved.contact_points[0].address = "+15559990003".to_owned();
    bench.client.upsert(moved).await.unwrap();
    assert_told(bench.confirm(sms, 3, &third).await.unwrap_err(), precondition, "CONTACT_POINT_REMOVED");
    bench.client.upsert(state(3)).await.unwrap();
    assert_told(bench.confirm(sms, 3, &third).await.unwrap_err(), precondition, "CODE_VOID");
    let mut unknown = confirmation(sms, 3, &third);
    unknown.address = "+15559990003".to_owned();
    let status = bench.client.confirm_verification(unknown).await.unwrap_err();
    assert_told(status, Code::NotFound, "NOT_FOUND");
    assert_eq!(bench.world.count("contact_point WHERE verified_how LIKE 'code%'").await, 0);

    for (bad, field) in [
        (start(proto::Channel::Push, 1), "channel"),
        (
            proto::RecipientServiceStartVerificationRequest { address: "CANARY".into(), ..start(sms, 1) },
            "address",
        ),
        (
            proto::RecipientServiceStartVerificationRequest { recipient_id: String::new(), ..start(sms, 1) },
            "recipient_id",
        ),
    ] {
        let status = bench.client.start_verification(bad).await.unwrap_err();
        let violations = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!((status.code(), violations[0].field.as_str()), (Code::InvalidArgument, field));
    }
    let status = bench.confirm(sms, 1, "12345").await.unwrap_err();
    assert_told(status, Code::InvalidArgument, "INVALID_REQUEST");
    let nobody = proto::RecipientServiceStartVerificationRequest { recipient_id: id(99), ..start(sms, 1) };
    assert_told(bench.client.start_verification(nobody).await.unwrap_err(), Code::NotFound, "NOT_FOUND");
    bench.begin(sms, 4).await.unwrap();
    let before = bench.world.count("contact_verification").await;
    let erase = proto::RecipientServiceEraseRequest { recipient_id: id(4) };
    bench.client.erase(erase).await.unwrap();
    assert_eq!(bench.world.count("contact_verification").await, before - 1, "codes go with their recipient");
    assert_told(bench.begin(sms, 4).await.unwrap_err(), precondition, "RECIPIENT_ERASED");
    assert_told(bench.confirm(sms, 4, "123456").await.unwrap_err(), precondition, "RECIPIENT_ERASED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn codes_are_few_and_nothing_counts_that_never_left() {
    let limits = [KEY, ("PATIENT_NOTIFY_APP__CODES_PER_CALLER_PER_HOUR", "7")];
    let mut bench = Bench::start(4, &limits).await;
    let (sms, email) = (proto::Channel::Sms, proto::Channel::Email);

    // What operators or the provider keep back is told, and does not count.
    let mut operations = OperationsServiceClient::new(bench.connection.clone());
    let pause = proto::OperationsServicePauseChannelRequest {
        channel: sms.into(),
        why: "maintenance".to_owned(),
        except_critical: false,
    };
    operations.pause_channel(pause).await.unwrap();
    assert_told(bench.begin(sms, 1).await.unwrap_err(), Code::FailedPrecondition, "CHANNEL_PAUSED");
    let resume = proto::OperationsServiceResumeChannelRequest { channel: sms.into() };
    operations.resume_channel(resume).await.unwrap();
    let faults = &bench.world.sandbox.faults;
    faults.set(Way::Sms, ChannelFaults { fail_percent: 100, fail_status: 503, ..Default::default() });
    assert_away(&bench.client.start_verification(start(sms, 1)).await.unwrap_err(), "PROVIDER_UNAVAILABLE");
    faults.set(Way::Sms, ChannelFaults { fail_percent: 100, fail_status: 404, ..Default::default() });
    let refused = bench.client.start_verification(start(sms, 1)).await.unwrap_err();
    assert_told(refused, Code::FailedPrecondition, "ADDRESS_REFUSED");
    faults.clear();
    assert!(bench.world.sandbox.log.is_empty());
    assert_eq!(bench.world.count("contact_verification WHERE ended_why = 'not_sent'").await, 2);

    for _ in 0..5 {
        bench.begin(sms, 1).await.unwrap();
    }
    let status = bench.begin(sms, 1).await.unwrap_err();
    let violation = &status.get_details_quota_failure().unwrap().violations[0];
    assert_eq!(
        (violation.subject.as_str(), violation.description.as_str()),
        ("contact point", "5 codes an hour")
    );
    let pause = status.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!((3_000..=3_600).contains(&pause.as_secs()), "{pause:?}");
    assert_told(status, Code::ResourceExhausted, "QUOTA_EXCEEDED");
    // The number counts, whoever has it.
    let mut shared = state(2);
    shared.contact_points[0].address = address(sms, 1);
    bench.client.upsert(shared).await.unwrap();
    let of_another = proto::RecipientServiceStartVerificationRequest { recipient_id: id(2), ..start(sms, 1) };
    assert_told(
        bench.client.start_verification(of_another).await.unwrap_err(),
        Code::ResourceExhausted,
        "QUOTA_EXCEEDED",
    );
    bench.begin(email, 1).await.unwrap();
    bench.begin(email, 2).await.unwrap();
    let status = bench.begin(email, 3).await.unwrap_err();
    assert_eq!(status.get_details_quota_failure().unwrap().violations[0].subject, "local");
    let mut named = Request::new(start(email, 3));
    named.metadata_mut().insert("x-caller", "another-backend".parse().unwrap());
    bench.client.start_verification(named).await.unwrap();
    bench.execute("UPDATE contact_verification SET started_at = started_at - interval '1 hour'").await;
    bench.begin(sms, 1).await.unwrap();

    // A provider that hangs is not waited for beyond the deadline, and the code stays valid.
    let faults = &bench.world.sandbox.faults;
    faults.set(Way::Sms, ChannelFaults { latency_ms: 20_000, ..Default::default() });
    let call = within(Duration::from_secs(3), start(sms, 4));
    let status = bench.client.start_verification(call).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
    assert_eq!(bench.world.count("contact_verification WHERE ended_why IS NULL").await, 5);
    faults_cleared_and_away(&mut bench).await;
}

async fn faults_cleared_and_away(bench: &mut Bench) {
    bench.world.sandbox.faults.clear();
    bench.database.cut().await;
    let timeout = Duration::from_secs(8);
    let begun = bench.client.start_verification(within(timeout, start(proto::Channel::Sms, 3))).await;
    assert_away(&begun.unwrap_err(), "DATABASE_UNAVAILABLE");
    let given = within(timeout, confirmation(proto::Channel::Sms, 3, "123456"));
    let tried = bench.client.confirm_verification(given).await;
    assert_away(&tried.unwrap_err(), "DATABASE_UNAVAILABLE");
    bench.database.restore().await;
    bench.begin(proto::Channel::Sms, 3).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_key_or_a_channel_there_are_no_codes() {
    let mut bench = Bench::start(1, &[]).await;
    let none = bench.begin(proto::Channel::Sms, 1).await.unwrap_err();
    assert_told(none, Code::FailedPrecondition, "CODES_DISABLED");
    let none = bench.confirm(proto::Channel::Sms, 1, "123456").await.unwrap_err();
    assert_told(none, Code::FailedPrecondition, "CODES_DISABLED");
    let listen = crate::harness::free_address();
    let variables =
        [KEY, ("PATIENT_NOTIFY_SMS__ENABLED", "false"), ("PATIENT_NOTIFY_APP__LISTEN", listen.as_str())];
    let (_front, channel) = front_with(&bench.world, &variables).await;
    let status = RecipientServiceClient::new(channel)
        .start_verification(start(proto::Channel::Sms, 1))
        .await
        .unwrap_err();
    assert_told(status, Code::FailedPrecondition, "CHANNEL_DISABLED");
}

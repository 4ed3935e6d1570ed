//! A valid request of every method, and what it cannot be answered without.

use std::collections::BTreeMap;

use patient_notify::api::proto::batch_service_upload_recipients_request::Chunk;
use patient_notify::api::proto::recipient_service_unregister_device_request::Device;
use patient_notify::api::proto::{self, Channel, Engagement, Purpose};
use prost::Message;

use crate::front::wish;
use crate::recipients::state;
use crate::recipients_changes::{ago, consent, grant, id, register};

/// What a call cannot be answered without.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Needs {
    Nothing,
    Database,
    Broker,
    Both,
}
use Needs::{Both, Broker, Database, Nothing};

impl Needs {
    pub(super) const fn database(self) -> bool {
        matches!(self, Database | Both)
    }

    pub(super) const fn broker(self) -> bool {
        matches!(self, Broker | Both)
    }
}

pub(super) type Table = BTreeMap<&'static str, (Needs, Vec<u8>)>;

/// A valid request of every method, by its name, and what it needs.
pub(super) fn table() -> Table {
    let mut table = Table::new();
    notifications(&mut table);
    recipients(&mut table);
    people(&mut table);
    appointments_and_templates(&mut table);
    batches(&mut table);
    operations(&mut table);
    table
}

fn uuid() -> String {
    "00000000-0000-4000-8000-000000000007".to_owned()
}

fn notifications(table: &mut Table) {
    use proto::{
        NotificationServiceCancelRequest as Cancel, NotificationServiceExplainRequest as Explain,
        NotificationServiceGetRequest as Get, NotificationServiceListRequest as List,
        NotificationServiceMarkReadRequest as MarkRead, NotificationServiceSendManyRequest as SendMany,
        NotificationServiceWatchRequest as Watch,
    };
    let mut add = |name, needs, message: &dyn Encoded| {
        table.insert(name, (needs, message.encoded()));
    };
    add("NotificationService/Send", Broker, &wish("one", 1));
    // It answers with what became of each: see `front_notifications`.
    add("NotificationService/SendMany", Nothing, &SendMany { item: Some(wish("two", 1)) });
    let notification_id = uuid();
    add("NotificationService/Get", Database, &Get { notification_id: uuid(), ..Default::default() });
    add("NotificationService/List", Database, &List::default());
    add("NotificationService/Watch", Broker, &Watch::default());
    add("NotificationService/Explain", Database, &Explain { notification_id: uuid(), ..Default::default() });
    add("NotificationService/Cancel", Broker, &Cancel { notification_id: uuid() });
    let engagement = Engagement::Read.into();
    add("NotificationService/MarkRead", Broker, &MarkRead { notification_id, engagement, occurred_at: None });
}

fn recipients(table: &mut Table) {
    use proto::{
        RecipientServiceConfirmVerificationRequest as Confirm, RecipientServiceEraseRequest as Erase,
        RecipientServiceGetRequest as Get, RecipientServiceListByPatientRequest as ByPatient,
        RecipientServiceListConsentsRequest as Consents, RecipientServiceListDevicesRequest as Devices,
        RecipientServicePutContactPointRequest as Put, RecipientServiceRemoveContactPointRequest as Remove,
        RecipientServiceStartVerificationRequest as Start,
        RecipientServiceUnregisterDeviceRequest as Unregister,
        RecipientServiceUpdatePreferencesRequest as Update,
        RecipientServiceVerifyContactPointRequest as Verify,
    };
    let (recipient_id, channel, address) = (id(1), Channel::Sms.into(), "+15550000001".to_owned());
    let point = proto::ContactPoint { channel, address: address.clone(), verified_at: None };
    let mask = prost_types::FieldMask { paths: vec!["locale".to_owned()] };
    let verify = Verify {
        recipient_id: id(1),
        channel,
        address: address.clone(),
        verified_at: ago(1),
        verified_by: "portal".to_owned(),
        how: "letter".to_owned(),
    };
    let code = "123456".to_owned();
    let all: [(&'static str, &dyn Encoded); 15] = [
        ("Upsert", &state(1)),
        ("Get", &Get { recipient_id: id(1) }),
        ("ListByPatient", &ByPatient { patient_id: id(1), ..Default::default() }),
        ("Erase", &Erase { recipient_id: id(1) }),
        ("PutContactPoint", &Put { recipient_id: id(1), contact_point: Some(point), position: None }),
        ("RemoveContactPoint", &Remove { recipient_id: id(1), channel, address: address.clone() }),
        ("VerifyContactPoint", &verify),
        ("StartVerification", &Start { recipient_id: id(1), channel, address: address.clone() }),
        ("ConfirmVerification", &Confirm { recipient_id: id(1), channel, address, code }),
        (
            "UpdatePreferences",
            &Update { recipient_id: id(1), preferences: Some(Default::default()), update_mask: Some(mask) },
        ),
        ("RecordConsent", &consent(1, true, 1)),
        ("ListConsents", &Consents { recipient_id: id(1), ..Default::default() }),
        ("RegisterDevice", &register(1, "a-token")),
        (
            "UnregisterDevice",
            &Unregister { recipient_id: id(1), device: Some(Device::Token("a-token".to_owned())) },
        ),
        ("ListDevices", &Devices { recipient_id }),
    ];
    insert(table, "RecipientService", Database, &all);
}

fn people(table: &mut Table) {
    use proto::{
        RecipientServiceDownloadExportRequest as Download, RecipientServiceExportRequest as Export,
        RecipientServiceRevokeProxyRequest as Revoke, RecipientServiceSetComingOfAgeRequest as OfAge,
    };
    let all: [(&'static str, &dyn Encoded); 5] = [
        ("GrantProxy", &grant(1, 2)),
        ("RevokeProxy", &Revoke { patient_id: id(1), recipient_id: id(2) }),
        ("SetComingOfAge", &OfAge { patient_id: id(1), of_age_at: None }),
        ("Export", &Export { patient_id: id(1) }),
        ("DownloadExport", &Download { job_id: uuid(), from_piece: 0 }),
    ];
    insert(table, "RecipientService", Database, &all);
}

fn appointments_and_templates(table: &mut Table) {
    use proto::{
        AppointmentServiceCancelRequest as Cancel, AppointmentServiceConfirmRequest as Confirm,
        AppointmentServiceGetRequest as Get, AppointmentServiceListRequest as List,
        AppointmentServicePutRequest as Put, TemplateServiceGetRequest as GetTemplate,
        TemplateServiceListRequest as ListTemplates, TemplateServicePreviewRequest as Preview,
    };
    let appointment_id = "apt-1".to_owned();
    let put = Put {
        appointment_id: appointment_id.clone(),
        patient_id: id(1),
        starts_at: ago(-86_400),
        time_zone: "Europe/Vienna".to_owned(),
        ..Default::default()
    };
    let all: [(&'static str, &dyn Encoded); 5] = [
        ("Put", &put),
        ("Get", &Get { appointment_id: appointment_id.clone() }),
        ("List", &List { patient_id: id(1), ..Default::default() }),
        ("Cancel", &Cancel { appointment_id: appointment_id.clone(), ..Default::default() }),
        ("Confirm", &Confirm { appointment_id, expected_version: None }),
    ];
    insert(table, "AppointmentService", Database, &all);
    let (purpose, channel) = (Purpose::TestResult.into(), Channel::Sms.into());
    let all: [(&'static str, &dyn Encoded); 3] = [
        ("List", &ListTemplates::default()),
        ("Get", &GetTemplate { purpose, channel, ..Default::default() }),
        ("Preview", &Preview { purpose, channel, ..Default::default() }),
    ];
    insert(table, "TemplateService", Nothing, &all);
}

fn batches(table: &mut Table) {
    use proto::{
        BatchServiceCancelRequest as Cancel, BatchServiceCheckRequest as Check,
        BatchServiceCreateRequest as Create, BatchServiceGetRequest as Get, BatchServiceListRequest as List,
        BatchServicePauseRequest as Pause, BatchServiceResumeRequest as Resume,
        BatchServiceStartRequest as Start, BatchServiceUploadRecipientsRequest as Upload,
    };
    let create = Create {
        idempotency_key: "batch-1".to_owned(),
        name: "Flu shots".to_owned(),
        purpose: Purpose::General.into(),
        expires_at: ago(-86_400),
        ..Default::default()
    };
    let rows = proto::BatchRows { first_row: 1, rows: Vec::new() };
    let upload = Upload { batch_id: uuid(), chunk: Some(Chunk::Rows(rows)), last: true };
    let all: [(&'static str, &dyn Encoded); 9] = [
        ("Create", &create),
        ("UploadRecipients", &upload),
        ("Start", &Start { batch_id: uuid(), recipients: 1 }),
        ("Pause", &Pause { batch_id: uuid() }),
        ("Resume", &Resume { batch_id: uuid() }),
        ("Cancel", &Cancel { batch_id: uuid() }),
        ("Check", &Check { batch_id: uuid(), repair: false }),
        ("Get", &Get { batch_id: uuid() }),
        ("List", &List::default()),
    ];
    insert(table, "BatchService", Database, &all);
}

fn operations(table: &mut Table) {
    use proto::{
        OperationsServiceCancelJobRequest as CancelJob, OperationsServiceGetJobRequest as GetJob,
        OperationsServiceGetLagRequest as GetLag, OperationsServiceGetProcessorStateRequest as Processors,
        OperationsServiceListCallbacksRequest as Callbacks,
        OperationsServiceListDeadLettersRequest as DeadLetters, OperationsServiceListJobsRequest as Jobs,
        OperationsServiceListProvidersRequest as Providers, OperationsServicePauseChannelRequest as Pause,
        OperationsServiceReplayCallbacksRequest as ReplayCallbacks,
        OperationsServiceReplayDeadLettersRequest as Replay, OperationsServiceResumeChannelRequest as Resume,
        OperationsServiceRetryJobRequest as Retry, OperationsServiceStartReplayRequest as StartReplay,
    };
    let (channel, topic) = (Channel::Sms.into(), "pat.notifications.v1".to_owned());
    let pause = Pause { channel, why: "maintenance".to_owned(), except_critical: false };
    let letters = DeadLetters { topic: topic.clone(), include_contents: true, ..Default::default() };
    let all: [(&'static str, &dyn Encoded); 10] = [
        ("StartReplay", &StartReplay { topic: topic.clone(), ..Default::default() }),
        ("ListJobs", &Jobs::default()),
        ("GetJob", &GetJob { job_id: uuid() }),
        ("CancelJob", &CancelJob { job_id: uuid() }),
        ("RetryJob", &Retry { job_id: uuid() }),
        ("ListProviders", &Providers::default()),
        ("PauseChannel", &pause),
        ("ResumeChannel", &Resume { channel }),
        ("ListCallbacks", &Callbacks::default()),
        ("ReplayCallbacks", &ReplayCallbacks { caller: "portal".to_owned(), ..Default::default() }),
    ];
    insert(table, "OperationsService", Database, &all);
    insert(table, "OperationsService", Broker, &[("GetLag", &GetLag::default())]);
    insert(
        table,
        "OperationsService",
        Both,
        &[
            ("ListDeadLetters", &letters),
            ("ReplayDeadLetters", &Replay { topic, ..Default::default() }),
            ("GetProcessorState", &Processors::default()),
        ],
    );
}

/// Any message.
trait Encoded {
    fn encoded(&self) -> Vec<u8>;
}

impl<M: Message> Encoded for M {
    fn encoded(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

fn insert(table: &mut Table, service: &str, needs: Needs, all: &[(&'static str, &dyn Encoded)]) {
    for (name, message) in all {
        // A table of a few dozen names that lives as long as the test.
        let name: &'static str = Box::leak(format!("{service}/{name}").into_boxed_str());
        assert!(table.insert(name, (needs, message.encoded())).is_none(), "{name} is there twice");
    }
}

//! Templates can be looked at and tried with neither database nor broker, and a preview
//! shows what was given or says why it cannot.

use patient_notify::api::proto;
use patient_notify::api::proto::template_service_client::TemplateServiceClient;
use patient_notify::api::proto::template_service_preview_response::Content;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::front::front_with;
use crate::harness::World;

const AWAY: [(&str, &str); 2] = [
    ("PATIENT_NOTIFY_POSTGRES__URL", "postgres://nobody@127.0.0.1:1/none"),
    ("PATIENT_NOTIFY_KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1"),
];

pub(crate) fn preview(
    channel: proto::Channel,
    variables: &[(&str, &str)],
) -> proto::TemplateServicePreviewRequest {
    proto::TemplateServicePreviewRequest {
        purpose: proto::Purpose::AppointmentReminder.into(),
        channel: channel.into(),
        locale: "en".to_owned(),
        variables: variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn templates_need_neither_database_nor_broker() {
    let world = World::new().await;
    let (process, channel) = front_with(&world, &AWAY).await;
    let mut client = TemplateServiceClient::new(channel);

    let all = client.list(proto::TemplateServiceListRequest::default()).await.unwrap().into_inner().templates;
    assert_eq!(all.len(), 30, "five purposes, three channels, two locales");
    let some = proto::TemplateServiceListRequest {
        purpose: proto::Purpose::Campaign.into(),
        channel: proto::Channel::Sms.into(),
        locale: "ES".to_owned(),
    };
    let some = client.list(some).await.unwrap().into_inner().templates;
    assert_eq!((some.len(), some[0].locale.as_str()), (1, "es"));
    let topic = &some[0].variables[0];
    assert_eq!((topic.name.as_str(), topic.kind()), ("topic", proto::TemplateVariableKind::Choice));
    assert!(topic.optional && topic.choices.contains(&"flu_shots".to_owned()));

    let get = proto::TemplateServiceGetRequest {
        purpose: proto::Purpose::General.into(),
        channel: proto::Channel::Email.into(),
        locale: "es-MX".to_owned(),
    };
    let shown = client.get(get.clone()).await.unwrap().into_inner();
    assert_eq!(shown.template.unwrap().locale, "es", "it falls back as for a recipient");
    let names: Vec<&str> = shown.sections.iter().map(|section| section.name.as_str()).collect();
    assert_eq!(names, ["subject", "text", "html"]);
    assert!(shown.sections[1].source.contains("{{ link }}"));
    let unsaid = proto::TemplateServiceGetRequest { channel: 0, locale: "x".repeat(36), ..get };
    let status = client.get(unsaid).await.unwrap_err();
    assert_eq!(status.get_details_bad_request().unwrap().field_violations.len(), 2, "{status}");

    let place = [("appointment_date", "2026-12-01"), ("location", "<Clinic> & Son")];
    let mail = client.preview(preview(proto::Channel::Email, &place)).await.unwrap().into_inner();
    let Some(Content::Email(mail)) = mail.content else { panic!("not an e-mail") };
    assert!(mail.text.contains("on Tue, Dec 1, <Clinic> & Son"), "{}", mail.text);
    assert!(mail.html.contains("&lt;Clinic&gt; &amp; Son"), "{}", mail.html);
    let push = client.preview(preview(proto::Channel::Push, &[])).await.unwrap().into_inner();
    let Some(Content::Push(push)) = push.content else { panic!("not a push message") };
    assert_eq!(push.body, "You have an appointment coming up. Sign in to see it.");

    let bad = [("CANARY", "x"), ("appointment_time", "CANARY"), ("location", "CANARY is too long for SMS")];
    let status = client.preview(preview(proto::Channel::Sms, &bad)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let faults = status.get_details_bad_request().unwrap().field_violations;
    let fields: Vec<&str> = faults.iter().map(|fault| fault.field.as_str()).collect();
    assert_eq!(fields, ["variables", "variables[appointment_time]", "variables[location]"]);
    assert!(!format!("{status:?}").contains("CANARY") && !process.log().contains("CANARY"));
}

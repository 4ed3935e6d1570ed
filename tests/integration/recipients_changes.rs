//! Single changes of a recipient over gRPC: each does its own thing and no other, says
//! what stands against it, and leaves a line in the audit log.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use patient_notify::api::convert;
use patient_notify::api::proto::recipient_service_client::RecipientServiceClient;
use patient_notify::api::proto::{self, recipient_service_unregister_device_request::Device};
use prost_types::FieldMask;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::front::{assert_away, front_with, reason, within};
use crate::harness::{Proxy, World, patient};
use crate::recipients::state;

type Client = RecipientServiceClient<Channel>;

pub(crate) fn ago(seconds: i64) -> Option<prost_types::Timestamp> {
    Some(convert::timestamp_to(Timestamp::now() - SignedDuration::from_secs(seconds)))
}

pub(crate) fn id(number: u64) -> String {
    patient(number).as_str().to_owned()
}

pub(crate) fn register(number: u64, token: &str) -> proto::RecipientServiceRegisterDeviceRequest {
    proto::RecipientServiceRegisterDeviceRequest {
        recipient_id: id(number),
        token: token.to_owned(),
        platform: proto::Platform::Android.into(),
        app_version: "4.1".to_owned(),
    }
}

pub(crate) fn consent(number: u64, granted: bool, ago_s: i64) -> proto::RecipientServiceRecordConsentRequest {
    proto::RecipientServiceRecordConsentRequest {
        recipient_id: id(number),
        consent: Some(proto::Consent {
            channel: proto::Channel::Sms.into(),
            purpose: proto::Purpose::General.into(),
            granted,
            given_at: ago(ago_s),
            recorded_by: "portal".to_owned(),
            how: "settings page".to_owned(),
        }),
    }
}

pub(crate) fn grant(patient: u64, recipient: u64) -> proto::RecipientServiceGrantProxyRequest {
    proto::RecipientServiceGrantProxyRequest {
        patient_id: id(patient),
        recipient_id: id(recipient),
        grantor: proto::Grantor::Representative.into(),
        granted_by: "portal".to_owned(),
        ..Default::default()
    }
}

fn put(number: u64, address: &str, position: Option<i32>) -> proto::RecipientServicePutContactPointRequest {
    proto::RecipientServicePutContactPointRequest {
        recipient_id: id(number),
        contact_point: Some(proto::ContactPoint {
            channel: proto::Channel::Email.into(),
            address: address.to_owned(),
            verified_at: None,
        }),
        position,
    }
}

fn remove(number: u64, address: &str) -> proto::RecipientServiceRemoveContactPointRequest {
    proto::RecipientServiceRemoveContactPointRequest {
        recipient_id: id(number),
        channel: proto::Channel::Email.into(),
        address: address.to_owned(),
    }
}

fn verify(number: u64, address: &str) -> proto::RecipientServiceVerifyContactPointRequest {
    proto::RecipientServiceVerifyContactPointRequest {
        recipient_id: id(number),
        channel: proto::Channel::Email.into(),
        address: address.to_owned(),
        verified_at: ago(1),
        verified_by: "portal".to_owned(),
        how: "link by e-mail".to_owned(),
    }
}

fn zone(number: u64, name: &str) -> proto::RecipientServiceUpdatePreferencesRequest {
    proto::RecipientServiceUpdatePreferencesRequest {
        recipient_id: id(number),
        preferences: Some(proto::Preferences { time_zone: name.to_owned(), ..Default::default() }),
        update_mask: Some(FieldMask { paths: vec!["time_zone".to_owned()] }),
    }
}

async fn shown(client: &mut Client, number: u64) -> proto::Recipient {
    let ask = proto::RecipientServiceGetRequest { recipient_id: id(number) };
    client.get(ask).await.unwrap().into_inner().recipient.unwrap()
}

/// What is in use of a channel, best first.
fn in_use(recipient: &proto::Recipient, channel: proto::Channel) -> Vec<String> {
    let points = recipient.contact_points.iter();
    points
        .filter(|point| point.channel == i32::from(channel) && point.retired_at.is_none())
        .map(|point| point.masked_address.clone())
        .collect()
}

/// Every change of a recipient, as it is answered for this one.
pub(crate) async fn every_change(client: &mut Client, number: u64) -> Vec<(&'static str, Status)> {
    let erase = proto::RecipientServiceUnregisterDeviceRequest {
        recipient_id: id(number),
        device: Some(Device::Token("some-token".to_owned())),
    };
    let revoke = proto::RecipientServiceRevokeProxyRequest { patient_id: id(77), recipient_id: id(number) };
    let timeout = Duration::from_secs(5);
    vec![
        ("put", client.put_contact_point(within(timeout, put(number, "a@example.org", None))).await.err()),
        ("remove", client.remove_contact_point(within(timeout, remove(number, "a@example.org"))).await.err()),
        ("verify", client.verify_contact_point(within(timeout, verify(number, "a@example.org"))).await.err()),
        ("update", client.update_preferences(within(timeout, zone(number, "Asia/Tokyo"))).await.err()),
        ("consent", client.record_consent(within(timeout, consent(number, true, 1))).await.err()),
        ("register", client.register_device(within(timeout, register(number, "some-token"))).await.err()),
        ("unregister", client.unregister_device(within(timeout, erase)).await.err()),
        ("grant", client.grant_proxy(within(timeout, grant(77, number))).await.err()),
        ("revoke", client.revoke_proxy(within(timeout, revoke)).await.err()),
    ]
    .into_iter()
    .map(|(name, status)| (name, status.unwrap_or_else(|| Status::ok("it was done"))))
    .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_changes_do_what_they_say_and_nothing_else() {
    let world = World::new().await;
    let database = Proxy::start(world.addresses.postgres_address()).await;
    let direct = world.config.postgres.url.expose().clone();
    let url = direct.replace(world.addresses.postgres_address(), &database.address);
    let (_process, channel) = front_with(&world, &[("PATIENT_NOTIFY_POSTGRES__URL", &url)]).await;
    let mut client = RecipientServiceClient::new(channel);
    for (name, status) in every_change(&mut client, 1).await {
        assert_eq!(status.code(), Code::NotFound, "{name} of nobody: {status}");
    }
    client.upsert(state(1)).await.unwrap();
    client.upsert(state(2)).await.unwrap();

    addresses(&mut client).await;
    preferences(&mut client).await;
    ledger(&mut client).await;
    devices(&world, &mut client).await;
    proxies(&mut client).await;

    // Who did what to whom, and nothing of health.
    let lines = "audit WHERE subject = '".to_owned() + &id(1) + "' AND caller = 'local' AND action = ";
    for (action, least) in [
        ("Upsert", 1),
        ("Get", 3),
        ("PutContactPoint", 3),
        ("VerifyContactPoint", 1),
        ("RemoveContactPoint", 2),
        ("UpdatePreferences", 2),
        ("RecordConsent", 3),
        ("RegisterDevice", 12),
        ("UnregisterDevice", 2),
        ("ListDevices", 2),
    ] {
        let count = world.count(&format!("{lines}'RecipientService/{action}'")).await;
        assert!(count >= least, "{action}: {count}");
    }
    assert_eq!(world.count("audit WHERE detail LIKE '%@%' OR detail LIKE '%token%'").await, 0);

    database.cut().await;
    let begun = Instant::now();
    for (name, status) in every_change(&mut client, 1).await {
        assert_away(&status, "DATABASE_UNAVAILABLE");
        assert!(begun.elapsed() < Duration::from_secs(30), "{name} answers in time");
    }
    let erase = proto::RecipientServiceEraseRequest { recipient_id: id(1) };
    assert_away(&client.erase(erase.clone()).await.unwrap_err(), "DATABASE_UNAVAILABLE");
    let short = client.erase(within(Duration::from_millis(1), erase)).await.unwrap_err();
    assert!(matches!(short.code(), Code::DeadlineExceeded | Code::Cancelled | Code::Unavailable), "{short}");
    database.restore().await;
    assert_eq!(shown(&mut client, 1).await.recipient_id, id(1), "serving again, and not erased");
}

async fn addresses(client: &mut Client) {
    let added = client.put_contact_point(put(1, "kate@example.org", Some(0))).await.unwrap().into_inner();
    assert!(added.contact_point.unwrap().verified_at.is_none(), "nobody vouched for it");
    let recipient = shown(client, 1).await;
    assert_eq!(in_use(&recipient, proto::Channel::Email), ["k***@example.org", "j***@example.org"]);
    assert_eq!(in_use(&recipient, proto::Channel::Sms).len(), 1, "other channels stay");

    let verified = client.verify_contact_point(verify(1, "kate@example.org")).await.unwrap().into_inner();
    let point = verified.contact_point.unwrap();
    assert_eq!((point.verified_by.as_str(), point.verified_how.as_str()), ("portal", "link by e-mail"));
    assert!(point.verified_at.is_some());
    let nobody = client.verify_contact_point(verify(1, "other@example.org")).await.unwrap_err();
    assert_eq!((nobody.code(), nobody.message()), (Code::NotFound, "contact point was not found"));

    client.put_contact_point(put(1, "kate@example.org", Some(9))).await.unwrap();
    let recipient = shown(client, 1).await;
    assert_eq!(in_use(&recipient, proto::Channel::Email), ["j***@example.org", "k***@example.org"]);

    for removed in [true, false] {
        let answer = client.remove_contact_point(remove(1, "kate@example.org")).await.unwrap().into_inner();
        assert_eq!(answer.removed, removed, "the second time there is nothing to do");
    }
    let gone = client.verify_contact_point(verify(1, "kate@example.org")).await.unwrap_err();
    assert_eq!((gone.code(), reason(&gone).as_str()), (Code::FailedPrecondition, "CONTACT_POINT_REMOVED"));
    let back = client.put_contact_point(put(1, "kate@example.org", None)).await.unwrap().into_inner();
    let point = back.contact_point.unwrap();
    assert!(point.retired_at.is_none() && point.verified_at.is_some(), "it comes back as it was");

    let mut bad = put(1, "CANARY", Some(40));
    bad.recipient_id = "Jane Doe".to_owned();
    let status = client.put_contact_point(bad).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(!format!("{status:?}").contains("CANARY"));
    let mut last = Ok(());
    for number in 0..=32 {
        let address = format!("more-{number}@example.org");
        last = client.put_contact_point(put(2, &address, None)).await.map(drop);
        if last.is_err() {
            break;
        }
    }
    assert_eq!(reason(&last.unwrap_err()), "TOO_MANY_CONTACT_POINTS");
}

async fn preferences(client: &mut Client) {
    let before = shown(client, 1).await;
    let after = client.update_preferences(zone(1, "asia/tokyo")).await.unwrap().into_inner().preferences;
    assert_eq!(after.unwrap().time_zone, "Asia/Tokyo");
    let now = shown(client, 1).await;
    let expected =
        proto::Recipient { time_zone: "Asia/Tokyo".to_owned(), updated_at: now.updated_at, ..before };
    assert_eq!(now, expected, "nothing else is touched");
    let default = client.update_preferences(zone(1, "")).await.unwrap().into_inner().preferences;
    assert_eq!(default.unwrap().time_zone, "", "named and empty: the default");
    let status = client.update_preferences(zone(1, "Mars/Olympus")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

async fn ledger(client: &mut Client) {
    let first = consent(1, true, 60);
    for recorded in [true, false] {
        let answer = client.record_consent(first.clone()).await.unwrap().into_inner();
        assert_eq!(answer.recorded, recorded, "the same word again is known");
    }
    assert!(!client.record_consent(consent(1, false, 120)).await.unwrap().into_inner().recorded, "older");
    assert!(client.record_consent(consent(1, false, 30)).await.unwrap().into_inner().recorded);
    let mut entries = Vec::new();
    let mut page_token = String::new();
    loop {
        let ask =
            proto::RecipientServiceListConsentsRequest { recipient_id: id(1), page_size: 1, page_token };
        let page = client.list_consents(ask).await.unwrap().into_inner();
        assert!(page.entries.len() <= 1);
        entries.extend(page.entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let told: Vec<(bool, bool)> =
        entries.iter().map(|entry| (entry.consent.as_ref().unwrap().granted, entry.in_force)).collect();
    assert_eq!(told, [(false, true), (true, false), (true, true)], "newest first; the last is for campaigns");
    let ask = |recipient_id: &str, page_token: &str| proto::RecipientServiceListConsentsRequest {
        recipient_id: recipient_id.to_owned(),
        page_size: 0,
        page_token: page_token.to_owned(),
    };
    let status = client.list_consents(ask(&id(1), "not a token")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(client.list_consents(ask("nobody", "")).await.unwrap_err().code(), Code::NotFound);
}

async fn devices(world: &World, client: &mut Client) {
    let list = |number| proto::RecipientServiceListDevicesRequest { recipient_id: id(number) };
    for number in 0..10 {
        let answer = client.register_device(register(1, &format!("token-{number}"))).await.unwrap();
        assert_eq!(answer.into_inner().retired, 0);
    }
    // The first one is seen again, so the second one has to make room.
    client.register_device(register(1, "token-0")).await.unwrap();
    let last =
        client.register_device(register(1, "token-of-the-eleventh-device")).await.unwrap().into_inner();
    assert_eq!((last.retired, last.moved), (1, false));
    let devices = client.list_devices(list(1)).await.unwrap().into_inner().devices;
    assert_eq!((devices.len(), &devices[0].device_id), (10, &last.device_id), "seen last comes first");
    assert!(devices[0].masked_token.ends_with("vice") && !format!("{devices:?}").contains("eleventh"));
    assert_eq!(world.count("contact_point WHERE address = 'token-1' AND retired_why = 'unused'").await, 1);

    // A phone that changes hands is the new owner's alone.
    let moved = client.register_device(register(2, "token-0")).await.unwrap().into_inner();
    assert!(moved.moved);
    assert_eq!(client.list_devices(list(1)).await.unwrap().into_inner().devices.len(), 9);
    assert_eq!(world.count("contact_point WHERE address = 'token-0' AND retired_at IS NULL").await, 1);
    // A portal that repeats what it knew before does not take it back; one that
    // verified it since does.
    let mut repeated = state(1);
    let device = |verified_at| proto::ContactPoint {
        channel: proto::Channel::Push.into(),
        address: "token-0".to_owned(),
        verified_at,
    };
    repeated.contact_points.push(device(ago(7200)));
    client.upsert(repeated.clone()).await.unwrap();
    assert_eq!(client.list_devices(list(2)).await.unwrap().into_inner().devices.len(), 1);
    repeated.contact_points.pop();
    repeated.contact_points.push(device(ago(0)));
    client.upsert(repeated).await.unwrap();
    assert_eq!(client.list_devices(list(2)).await.unwrap().into_inner().devices.len(), 0);
    assert_eq!(client.list_devices(list(1)).await.unwrap().into_inner().devices.len(), 1, "Upsert says all");

    let mut unregister = proto::RecipientServiceUnregisterDeviceRequest { recipient_id: id(1), device: None };
    assert_eq!(client.unregister_device(unregister.clone()).await.unwrap_err().code(), Code::InvalidArgument);
    unregister.device = Some(Device::Token("token-0".to_owned()));
    for removed in [true, false] {
        let answer = client.unregister_device(unregister.clone()).await.unwrap().into_inner();
        assert_eq!(answer.removed, removed);
    }
    let status = client.register_device(register(1, "two words")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert_eq!(client.list_devices(list(9)).await.unwrap_err().code(), Code::NotFound);
}

async fn proxies(client: &mut Client) {
    let in_an_hour = Timestamp::from_second(Timestamp::now().as_second() + 3600).unwrap();
    let soon = Some(convert::timestamp_to(in_an_hour));
    let mut limited = grant(1, 2);
    limited.valid_until = soon;
    limited.purposes = vec![proto::Purpose::TestResult.into()];
    let access = client.grant_proxy(limited).await.unwrap().into_inner().access.unwrap();
    assert_eq!((access.ends_at, access.in_force), (soon, true));
    assert_eq!(access.grantor, i32::from(proto::Grantor::Representative));
    // Upsert names the link again: its limits stay.
    let mut whole = state(2);
    whole.patients.push(proto::PatientLink { patient_id: id(1), relation: proto::Relation::Proxy.into() });
    client.upsert(whole).await.unwrap();

    let list = |page_size, page_token: &str| proto::RecipientServiceListByPatientRequest {
        patient_id: id(1),
        page_size,
        page_token: page_token.to_owned(),
    };
    let first = client.list_by_patient(list(1, "")).await.unwrap().into_inner();
    let second = client.list_by_patient(list(1, &first.next_page_token)).await.unwrap().into_inner();
    assert_eq!((first.accesses.len(), second.accesses.len(), second.next_page_token.as_str()), (1, 1, ""));
    let mut all = [first.accesses, second.accesses].concat();
    all.sort_by_key(|access| access.relation);
    assert_eq!((all[0].recipient_id.clone(), all[0].in_force, all[0].ends_at), (id(1), true, None));
    assert_eq!((all[1].recipient_id.clone(), all[1].ends_at), (id(2), soon));
    let status = client.list_by_patient(list(201, "")).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);

    // A minor comes of age: what a guardian granted ends, and only the patient grants.
    let of_age = proto::RecipientServiceSetComingOfAgeRequest { patient_id: id(1), of_age_at: ago(60) };
    client.set_coming_of_age(of_age).await.unwrap();
    let listed = client.list_by_patient(list(0, "")).await.unwrap().into_inner();
    assert!(listed.of_age_at.is_some());
    assert!(!listed.accesses.iter().find(|access| access.recipient_id == id(2)).unwrap().in_force);
    assert_eq!(reason(&client.grant_proxy(grant(1, 2)).await.unwrap_err()), "PATIENT_OF_AGE");
    let mut own = grant(1, 2);
    own.grantor = proto::Grantor::Patient.into();
    assert!(client.grant_proxy(own).await.unwrap().into_inner().access.unwrap().in_force);

    assert_eq!(reason(&client.grant_proxy(grant(2, 2)).await.unwrap_err()), "LINK_IS_PATIENT");
    let revoke =
        |patient| proto::RecipientServiceRevokeProxyRequest { patient_id: id(patient), recipient_id: id(2) };
    assert_eq!(reason(&client.revoke_proxy(revoke(2)).await.unwrap_err()), "LINK_IS_PATIENT");
    for revoked in [true, false] {
        assert_eq!(client.revoke_proxy(revoke(1)).await.unwrap().into_inner().revoked, revoked);
    }
    for number in 100..163 {
        client.grant_proxy(grant(number, 2)).await.unwrap();
    }
    assert_eq!(reason(&client.grant_proxy(grant(163, 2)).await.unwrap_err()), "TOO_MANY_LINKS");
}

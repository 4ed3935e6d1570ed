//! A recipient, over gRPC, is what was last given: nothing is written twice, nothing
//! that was refused comes back, and no address is shown.

use jiff::Timestamp;
use patient_notify::api::proto::recipient_service_client::RecipientServiceClient;
use patient_notify::api::{convert, proto};
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

use crate::front::front;
use crate::harness::{World, patient};

fn time(ago_s: i64) -> Option<prost_types::Timestamp> {
    Some(convert::timestamp_to(Timestamp::now() - jiff::SignedDuration::from_secs(ago_s)))
}

/// A recipient's whole state as the portal would send it.
pub(crate) fn state(number: u64) -> proto::RecipientServiceUpsertRequest {
    let point = |channel: proto::Channel, address: String| proto::ContactPoint {
        channel: channel.into(),
        address,
        verified_at: time(7200),
    };
    proto::RecipientServiceUpsertRequest {
        recipient_id: patient(number).as_str().to_owned(),
        patients: vec![proto::PatientLink {
            patient_id: patient(number).as_str().to_owned(),
            relation: proto::Relation::Patient.into(),
        }],
        display_name: "Jane".to_owned(),
        locale: "en".to_owned(),
        quiet_hours: Some(proto::QuietHours { start: "00:00".to_owned(), end: "00:00".to_owned() }),
        contact_points: vec![
            point(proto::Channel::Sms, format!("+1555{number:07}")),
            point(proto::Channel::Email, format!("jane-{number}@example.org")),
        ],
        consents: vec![consent(true, 3600)],
        ..Default::default()
    }
}

fn consent(granted: bool, ago_s: i64) -> proto::Consent {
    proto::Consent {
        channel: proto::Channel::Sms.into(),
        purpose: proto::Purpose::Campaign.into(),
        granted,
        given_at: time(ago_s),
        recorded_by: "portal".to_owned(),
        how: "portal settings".to_owned(),
    }
}

/// Every row of a recipient with its version: what was not written keeps it.
async fn rows(world: &World) -> Vec<String> {
    let client = world.pool.get().await.unwrap();
    let mut rows = Vec::new();
    for table in ["recipient", "visibility", "contact_point", "consent"] {
        let select = format!("SELECT t.xmin::text || ' ' || row_to_json(t)::text FROM {table} t ORDER BY 1");
        rows.extend(client.query(&select, &[]).await.unwrap().iter().map(|row| row.get::<_, String>(0)));
    }
    rows
}

async fn consents(world: &World) -> i64 {
    let client = world.pool.get().await.unwrap();
    client.query_one("SELECT count(*) FROM consent", &[]).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recipient_has_the_state_that_was_last_given() {
    let world = World::new().await;
    let (_process, channel) = front(&world).await;
    let mut client = RecipientServiceClient::new(channel);
    let whole = state(1);
    assert!(client.upsert(whole.clone()).await.unwrap().into_inner().created);
    let before = rows(&world).await;
    assert!(!client.upsert(whole.clone()).await.unwrap().into_inner().created);
    assert_eq!(rows(&world).await, before, "the same state again writes nothing");

    // What is not named ends or is retired; what is named again comes back.
    let mut less = whole.clone();
    less.patients.clear();
    less.consents.clear();
    less.contact_points.remove(0);
    client.upsert(less).await.unwrap();
    let shown = shown(&mut client).await;
    assert!(shown.patients.is_empty());
    assert_eq!(shown.consents.len(), 1, "a consent that is not named stays as it is");
    let retired: Vec<_> = shown.contact_points.iter().filter(|point| point.retired_at.is_some()).collect();
    assert_eq!((retired.len(), retired[0].retired_reason.as_str()), (1, "not_named"));
    assert!(
        !format!("{shown:?}").contains("+15550000001") && !format!("{shown:?}").contains("jane-1@"),
        "{shown:?}"
    );
    client.upsert(whole.clone()).await.unwrap();
    let shown = self::shown(&mut client).await;
    assert!(shown.patients.len() == 1 && shown.contact_points.iter().all(|point| point.retired_at.is_none()));

    // The ledger grows with changes alone, and an old consent undoes no refusal.
    assert_eq!(consents(&world).await, 1);
    let with = |consent| proto::RecipientServiceUpsertRequest { consents: vec![consent], ..whole.clone() };
    client.upsert(with(consent(false, 60))).await.unwrap();
    assert_eq!(consents(&world).await, 2);
    client.upsert(with(consent(true, 3600))).await.unwrap();
    client.upsert(with(consent(false, 30))).await.unwrap();
    assert_eq!(consents(&world).await, 2, "neither an older entry nor the same answer is a change");
    assert!(!self::shown(&mut client).await.consents[0].granted);
    client.upsert(with(consent(true, 0))).await.unwrap();
    assert_eq!(consents(&world).await, 3);

    let mut faulty = whole.clone();
    faulty.contact_points[0].address = "CANARY".to_owned();
    faulty.locale = "klingon-ish_".to_owned();
    let status = client.upsert(faulty).await.unwrap_err();
    assert_eq!(status.get_details_bad_request().unwrap().field_violations.len(), 2, "{status}");
    assert!(!format!("{status:?}").contains("CANARY"));

    let database = world.pool.get().await.unwrap();
    database.execute("UPDATE recipient SET erased_at = now(), display_name = NULL", &[]).await.unwrap();
    let status = client.upsert(whole).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "who was erased is not written again: {status}");
}

async fn shown(client: &mut RecipientServiceClient<Channel>) -> proto::Recipient {
    let ask = proto::RecipientServiceGetRequest { recipient_id: patient(1).as_str().to_owned() };
    client.get(ask).await.unwrap().into_inner().recipient.unwrap()
}

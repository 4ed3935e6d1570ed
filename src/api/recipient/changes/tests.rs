use jiff::SignedDuration;
use prost_types::FieldMask;

use super::*;

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn fields<T>(result: Result<T, ApiError>) -> Vec<String> {
    match result {
        Err(ApiError::Invalid(faults)) => faults.into_iter().map(|fault| fault.field).collect(),
        Err(other) => panic!("{other}"),
        Ok(_) => vec![],
    }
}

fn point(channel: proto::Channel, address: &str) -> proto::RecipientServicePutContactPointRequest {
    proto::RecipientServicePutContactPointRequest {
        recipient_id: "rcp-1".into(),
        contact_point: Some(proto::ContactPoint {
            channel: channel.into(),
            address: address.into(),
            verified_at: None,
        }),
        position: None,
    }
}

#[test]
fn an_address_is_put_at_a_place_that_there_is() {
    let mut good = point(proto::Channel::Email, "jane@example.org");
    good.position = Some(31);
    let put = contact_point(good, now()).unwrap();
    assert_eq!((put.channel, put.position, put.verified_at), (Channel::Email, Some(31), None));

    let mut bad = point(proto::Channel::Sms, "0150");
    bad.recipient_id = String::new();
    bad.position = Some(32);
    let later = now() + SignedDuration::from_hours(1);
    bad.contact_point.as_mut().unwrap().verified_at = Some(timestamp_to(later));
    let expected = ["recipient_id", "position", "contact_point.verified_at", "contact_point.address"];
    assert_eq!(fields(contact_point(bad, now())), expected);

    let mut negative = point(proto::Channel::Sms, "+15550100001");
    negative.position = Some(-1);
    negative.contact_point = None;
    assert_eq!(fields(contact_point(negative, now())), ["position", "contact_point"]);
}

#[test]
fn devices_are_registered_and_not_put() {
    let put = point(proto::Channel::Push, "token");
    assert_eq!(fields(contact_point(put, now())), ["contact_point.channel"]);
    let good = proto::RecipientServiceRegisterDeviceRequest {
        recipient_id: "rcp-1".into(),
        token: "fGh7:APA91b-_x".into(),
        platform: proto::Platform::Ios.into(),
        app_version: "4.12.0-beta+7".into(),
    };
    assert!(device(good).is_ok());
    let bad = proto::RecipientServiceRegisterDeviceRequest {
        recipient_id: "rcp 1".into(),
        token: "two words".into(),
        platform: 0,
        app_version: "4.12 (Jane's phone)".into(),
    };
    assert_eq!(fields(device(bad)), ["recipient_id", "token", "platform", "app_version"]);
}

fn update(paths: &[&str]) -> proto::RecipientServiceUpdatePreferencesRequest {
    proto::RecipientServiceUpdatePreferencesRequest {
        recipient_id: "rcp-1".into(),
        preferences: Some(proto::Preferences {
            locale: "PT-br".into(),
            time_zone: "Mars/Olympus".into(),
            quiet_hours: None,
            channel_order: vec![proto::Channel::Email.into()],
        }),
        update_mask: Some(FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() }),
    }
}

#[test]
fn only_what_the_mask_names_is_looked_at() {
    let patch = patch(update(&["locale", "quiet_hours"])).unwrap();
    let expected = PreferencesPatch {
        locale: Some(Some("pt-BR".to_owned())),
        quiet_hours: Some(None),
        ..PreferencesPatch::default()
    };
    assert_eq!(patch, expected, "the faulty zone is not named");
}

#[test]
fn a_mask_names_fields_that_there_are_and_each_once() {
    assert_eq!(fields(patch(update(&[]))), ["update_mask"]);
    assert_eq!(fields(patch(update(&["time_zone"]))), ["preferences.time_zone"]);
    let odd = update(&["locale", "locale", "quiet_hours.start", "display_name", "*"]);
    let expected = [1, 2, 3, 4].map(|index| format!("update_mask.paths[{index}]"));
    assert_eq!(fields(patch(odd)), expected);
    assert_eq!(fields(patch(update(&["x"; 1000]))).len(), 1 + MASK_PATHS_MAX, "the answer is bounded");
}

//! Recipients and their parts as they may be shown.

use jiff::Timestamp;

use crate::api::convert::{channel_to, platform_to, purpose_to, quiet_hours_to, relation_to, timestamp_to};
use crate::api::mask::masked;
use crate::api::proto;
use crate::domain::{Channel, Relation};
use crate::record::recipients::{
    AccessView, ConsentView, ContactPointView, DeviceView, PreferencesView, RecipientView,
};

pub(super) fn recipient(view: RecipientView, now: Timestamp) -> proto::Recipient {
    let preferences = preferences(view.preferences);
    let link = |link: &AccessView| proto::PatientLink {
        patient_id: link.patient_id.as_str().to_owned(),
        relation: relation_to(link.relation).into(),
    };
    proto::Recipient {
        recipient_id: view.external_id,
        patients: view.links.iter().map(link).collect(),
        locale: preferences.locale,
        time_zone: preferences.time_zone,
        quiet_hours: preferences.quiet_hours,
        channel_order: preferences.channel_order,
        contact_points: view.contact_points.into_iter().map(contact_point).collect(),
        consents: view.consents.into_iter().map(consent).collect(),
        erased: view.erased,
        created_at: Some(timestamp_to(view.created_at)),
        updated_at: Some(timestamp_to(view.updated_at)),
        accesses: view.links.into_iter().map(|link| access(link, now)).collect(),
    }
}

pub(super) fn access(view: AccessView, now: Timestamp) -> proto::PatientAccess {
    let is_patient = view.relation == Relation::Patient;
    let limits = if is_patient { Default::default() } else { view.access };
    let ends_at = if is_patient { None } else { limits.ends_at() };
    let grantor = match (limits.granted_at, limits.granted_by_patient) {
        (None, _) => proto::Grantor::Unspecified,
        (Some(_), true) => proto::Grantor::Patient,
        (Some(_), false) => proto::Grantor::Representative,
    };
    proto::PatientAccess {
        patient_id: view.patient_id.as_str().to_owned(),
        recipient_id: view.recipient,
        relation: relation_to(view.relation).into(),
        valid_from: limits.valid_from.map(timestamp_to),
        valid_until: limits.valid_until.map(timestamp_to),
        ends_at: ends_at.map(timestamp_to),
        purposes: limits.purposes.iter().map(|&purpose| purpose_to(purpose).into()).collect(),
        grantor: grantor.into(),
        granted_by: view.granted_by.filter(|_| !is_patient).unwrap_or_default(),
        granted_at: limits.granted_at.map(timestamp_to),
        in_force: limits.valid_from.is_none_or(|from| from <= now) && ends_at.is_none_or(|end| end > now),
    }
}

pub(super) fn contact_point(point: ContactPointView) -> proto::MaskedContactPoint {
    let (verified_by, verified_how) = point.attested.unwrap_or_default();
    proto::MaskedContactPoint {
        channel: channel_to(point.channel).into(),
        masked_address: masked(point.channel, &point.address),
        verified_at: point.verified_at.map(timestamp_to),
        retired_at: point.retired_at.map(timestamp_to),
        retired_reason: point.retired_why.unwrap_or_default(),
        verified_by,
        verified_how,
    }
}

pub(super) fn consent(view: ConsentView) -> proto::Consent {
    proto::Consent {
        channel: channel_to(view.channel).into(),
        purpose: purpose_to(view.purpose).into(),
        granted: view.granted,
        given_at: Some(timestamp_to(view.given_at)),
        recorded_by: view.recorded_by,
        how: view.how,
    }
}

pub(super) fn preferences(view: PreferencesView) -> proto::Preferences {
    proto::Preferences {
        locale: view.locale.unwrap_or_default(),
        time_zone: view.time_zone.unwrap_or_default(),
        quiet_hours: view.quiet_hours.map(quiet_hours_to),
        channel_order: view.channel_order.into_iter().map(|channel| channel_to(channel).into()).collect(),
    }
}

pub(super) fn device(view: DeviceView) -> proto::Device {
    proto::Device {
        device_id: view.device_id.to_string(),
        masked_token: masked(Channel::Push, &view.token),
        platform: view.platform.map_or(proto::Platform::Unspecified, platform_to).into(),
        app_version: view.app_version.unwrap_or_default(),
        seen_at: view.seen_at.map(timestamp_to),
    }
}

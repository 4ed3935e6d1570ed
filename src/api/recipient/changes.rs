//! Erasure and single changes: addresses, preferences, consents, devices.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use uuid::Uuid;

use super::fields::{address, consent, how, locale, page_size, quiet_hours, required_past, time_zone};
use super::{Recipients, recipient_id, show};
use crate::api::convert::{platform_from, timestamp_to};
use crate::api::error::ApiError;
use crate::api::guard::Deadline;
use crate::api::proto;
use crate::api::proto::recipient_service_unregister_device_request::Device;
use crate::api::validate::Violations;
use crate::domain::{Channel, RecipientId};
use crate::record::recipients::{
    self, Attestation, CONTACT_POINTS_MAX, ContactPointPut, DeviceRegistration, PreferencesPatch, Touch,
};

/// What an erasure leaves of its call's time, for a last step under load.
const ERASE_MARGIN: Duration = Duration::from_secs(1);
/// More fields than there are to name.
const MASK_PATHS_MAX: usize = 8;
const APP_VERSION_MAX_CHARS: usize = 32;

impl Recipients {
    pub(super) async fn erase_recipient(
        &self,
        caller: &str,
        deadline: Deadline,
        message: proto::RecipientServiceEraseRequest,
    ) -> Result<proto::RecipientServiceEraseResponse, ApiError> {
        recipient_id(&message.recipient_id).finish()?;
        let touch = Touch { recipient: &message.recipient_id, caller };
        let until = deadline.for_work().into_std();
        let until = until.checked_sub(ERASE_MARGIN).unwrap_or_else(Instant::now);
        let erased = recipients::erase(&self.pool, touch, until).await?;
        Ok(proto::RecipientServiceEraseResponse {
            erased_at: Some(timestamp_to(erased.at)),
            complete: erased.complete,
            under_way: erased.under_way,
        })
    }

    pub(super) async fn put_point(
        &self,
        caller: &str,
        message: proto::RecipientServicePutContactPointRequest,
    ) -> Result<proto::RecipientServicePutContactPointResponse, ApiError> {
        let recipient = message.recipient_id.clone();
        let put = contact_point(message, Timestamp::now())?;
        let touch = Touch { recipient: &recipient, caller };
        let view = recipients::put_contact_point(&self.pool, touch, &put).await?;
        let contact_point = Some(show::contact_point(view));
        Ok(proto::RecipientServicePutContactPointResponse { contact_point })
    }

    pub(super) async fn remove_point(
        &self,
        caller: &str,
        message: proto::RecipientServiceRemoveContactPointRequest,
    ) -> Result<proto::RecipientServiceRemoveContactPointResponse, ApiError> {
        let mut faults = recipient_id(&message.recipient_id);
        let point = address("", message.channel, message.address, &mut faults);
        faults.finish()?;
        let (channel, address) = point.ok_or_else(|| ApiError::invalid("channel", "is required"))?;
        let touch = Touch { recipient: &message.recipient_id, caller };
        let removed = recipients::remove_contact_point(&self.pool, touch, channel, &address).await?;
        Ok(proto::RecipientServiceRemoveContactPointResponse { removed })
    }

    pub(super) async fn verify_point(
        &self,
        caller: &str,
        message: proto::RecipientServiceVerifyContactPointRequest,
    ) -> Result<proto::RecipientServiceVerifyContactPointResponse, ApiError> {
        let mut faults = recipient_id(&message.recipient_id);
        let point = address("", message.channel, message.address, &mut faults);
        let at = required_past("verified_at", message.verified_at, Timestamp::now(), &mut faults);
        faults.opaque("verified_by", &message.verified_by);
        how("how", &message.how, &mut faults);
        faults.finish()?;
        let ((channel, address), at) =
            point.zip(at).ok_or_else(|| ApiError::invalid("verified_at", "is required"))?;
        let attestation = Attestation { by: message.verified_by, how: message.how, at: Some(at) };
        let touch = Touch { recipient: &message.recipient_id, caller };
        let view =
            recipients::verify_contact_point(&self.pool, touch, channel, &address, &attestation).await?;
        let contact_point = Some(show::contact_point(view));
        Ok(proto::RecipientServiceVerifyContactPointResponse { contact_point })
    }

    pub(super) async fn update(
        &self,
        caller: &str,
        message: proto::RecipientServiceUpdatePreferencesRequest,
    ) -> Result<proto::RecipientServiceUpdatePreferencesResponse, ApiError> {
        let recipient = message.recipient_id.clone();
        let patch = patch(message)?;
        let touch = Touch { recipient: &recipient, caller };
        let view = recipients::update_preferences(&self.pool, touch, &patch).await?;
        let preferences = Some(show::preferences(view));
        Ok(proto::RecipientServiceUpdatePreferencesResponse { preferences })
    }

    pub(super) async fn record(
        &self,
        caller: &str,
        message: proto::RecipientServiceRecordConsentRequest,
    ) -> Result<proto::RecipientServiceRecordConsentResponse, ApiError> {
        let mut faults = recipient_id(&message.recipient_id);
        faults.require(message.consent.is_some(), "consent", "is required");
        let said = message.consent.and_then(|said| consent("consent", said, Timestamp::now(), &mut faults));
        faults.finish()?;
        let said = said.ok_or_else(|| ApiError::invalid("consent", "is required"))?;
        let touch = Touch { recipient: &message.recipient_id, caller };
        let recorded = recipients::record_consent(&self.pool, touch, &said).await?;
        Ok(proto::RecipientServiceRecordConsentResponse { recorded })
    }

    pub(super) async fn ledger(
        &self,
        caller: &str,
        message: proto::RecipientServiceListConsentsRequest,
    ) -> Result<proto::RecipientServiceListConsentsResponse, ApiError> {
        let mut faults = recipient_id(&message.recipient_id);
        let size = page_size(message.page_size, &mut faults);
        let before: Option<i64> = message.page_token.parse().ok();
        let known = message.page_token.is_empty() || before.is_some();
        faults.require(known, "page_token", "is not one that ListConsents answered");
        faults.finish()?;
        let touch = Touch { recipient: &message.recipient_id, caller };
        let page = recipients::list_consents(&self.pool, touch, before, size).await?;
        let entry = |line: recipients::ConsentLine| proto::ConsentEntry {
            consent: Some(show::consent(line.consent)),
            in_force: line.in_force,
        };
        Ok(proto::RecipientServiceListConsentsResponse {
            entries: page.entries.into_iter().map(entry).collect(),
            next_page_token: page.next_before.map(|id| id.to_string()).unwrap_or_default(),
        })
    }

    pub(super) async fn register(
        &self,
        caller: &str,
        message: proto::RecipientServiceRegisterDeviceRequest,
    ) -> Result<proto::RecipientServiceRegisterDeviceResponse, ApiError> {
        let recipient = message.recipient_id.clone();
        let device = device(message)?;
        let touch = Touch { recipient: &recipient, caller };
        let registered = recipients::register_device(&self.pool, touch, &device).await?;
        Ok(proto::RecipientServiceRegisterDeviceResponse {
            device_id: registered.device_id.to_string(),
            moved: registered.moved,
            retired: i32::try_from(registered.retired).unwrap_or(i32::MAX),
        })
    }

    pub(super) async fn unregister(
        &self,
        caller: &str,
        message: proto::RecipientServiceUnregisterDeviceRequest,
    ) -> Result<proto::RecipientServiceUnregisterDeviceResponse, ApiError> {
        let mut faults = recipient_id(&message.recipient_id);
        let id = RecipientId::from_external(&message.recipient_id);
        let device_id = match message.device {
            None => {
                faults.add("device_id", "is required, or token is");
                None
            }
            Some(Device::DeviceId(text)) => {
                let parsed = Uuid::try_parse(&text).ok();
                faults.require(
                    parsed.is_some(),
                    "device_id",
                    "must be a UUID, as RegisterDevice answered it",
                );
                parsed
            }
            Some(Device::Token(token)) => {
                faults.address("token", Channel::Push, &token);
                Some(id.device(&token))
            }
        };
        faults.finish()?;
        let device_id = device_id.ok_or_else(|| ApiError::invalid("device_id", "is required"))?;
        let touch = Touch { recipient: &message.recipient_id, caller };
        let removed = recipients::unregister_device(&self.pool, touch, device_id).await?;
        Ok(proto::RecipientServiceUnregisterDeviceResponse { removed })
    }

    pub(super) async fn devices(
        &self,
        caller: &str,
        message: proto::RecipientServiceListDevicesRequest,
    ) -> Result<proto::RecipientServiceListDevicesResponse, ApiError> {
        recipient_id(&message.recipient_id).finish()?;
        let touch = Touch { recipient: &message.recipient_id, caller };
        let devices = recipients::list_devices(&self.pool, touch).await?;
        let devices = devices.into_iter().map(show::device).collect();
        Ok(proto::RecipientServiceListDevicesResponse { devices })
    }
}

fn contact_point(
    message: proto::RecipientServicePutContactPointRequest,
    now: Timestamp,
) -> Result<ContactPointPut, ApiError> {
    let mut faults = recipient_id(&message.recipient_id);
    let place = message.position.map(usize::try_from);
    let fits = place.is_none_or(|place| place.is_ok_and(|place| place < CONTACT_POINTS_MAX));
    faults.require(fits, "position", "must be 0 to 31");
    let Some(point) = message.contact_point else {
        faults.add("contact_point", "is required");
        return Err(faults
            .finish()
            .err()
            .unwrap_or_else(|| ApiError::invalid("contact_point", "is required")));
    };
    let verified_at = faults.timestamp("contact_point.verified_at", point.verified_at);
    faults.past("contact_point.verified_at", verified_at, now);
    let checked = address("contact_point.", point.channel, point.address, &mut faults);
    faults.finish()?;
    let (channel, address) =
        checked.ok_or_else(|| ApiError::invalid("contact_point.channel", "is required"))?;
    Ok(ContactPointPut { channel, address, verified_at, position: place.and_then(Result::ok) })
}

/// What the mask names; the rest of the message is not looked at.
fn patch(message: proto::RecipientServiceUpdatePreferencesRequest) -> Result<PreferencesPatch, ApiError> {
    let mut faults = recipient_id(&message.recipient_id);
    let given = message.preferences.unwrap_or_default();
    let paths = message.update_mask.unwrap_or_default().paths;
    faults.require(!paths.is_empty(), "update_mask", "is required and names at least one field");
    faults.require(paths.len() <= MASK_PATHS_MAX, "update_mask", "names more fields than there are");
    let mut patch = PreferencesPatch::default();
    for (index, path) in paths.iter().enumerate().take(MASK_PATHS_MAX) {
        let again = paths[..index].contains(path);
        match path.as_str() {
            _ if again => faults.add(format!("update_mask.paths[{index}]"), "names a field a second time"),
            "locale" => patch.locale = Some(locale("preferences.locale", &given.locale, &mut faults)),
            "time_zone" => {
                patch.time_zone = Some(time_zone("preferences.time_zone", &given.time_zone, &mut faults));
            }
            "quiet_hours" => {
                let quiet = quiet_hours("preferences.quiet_hours", given.quiet_hours.as_ref(), &mut faults);
                patch.quiet_hours = Some(quiet);
            }
            "channel_order" => {
                patch.channel_order =
                    Some(faults.channels("preferences.channel_order", &given.channel_order));
            }
            _ => faults.add(
                format!("update_mask.paths[{index}]"),
                "must be locale, time_zone, quiet_hours or channel_order",
            ),
        }
    }
    faults.finish()?;
    Ok(patch)
}

fn device(message: proto::RecipientServiceRegisterDeviceRequest) -> Result<DeviceRegistration, ApiError> {
    let mut faults: Violations = recipient_id(&message.recipient_id);
    faults.address("token", Channel::Push, &message.token);
    let platform = faults.required_word("platform", message.platform, platform_from);
    let version = &message.app_version;
    let plain = version.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b));
    faults.require(
        plain && version.len() <= APP_VERSION_MAX_CHARS,
        "app_version",
        "must be at most 32 characters of A-Z a-z 0-9 . _ + -",
    );
    faults.finish()?;
    let platform = platform.ok_or_else(|| ApiError::invalid("platform", "is required"))?;
    Ok(DeviceRegistration { token: message.token.into(), platform, app_version: message.app_version })
}

#[cfg(test)]
mod tests;

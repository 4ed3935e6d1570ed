//! Devices with the portal's app: the contact points of the push channel. A device
//! belongs to one recipient at a time.

use deadpool_postgres::{Pool, Transaction};
use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::contact_points::{in_use, put_in_order, retire};
use super::upsert_points::MOVED;
use super::{ChangeError, Touch, commit, word};
use crate::domain::{Channel, Platform, RecipientId, Redacted};
use crate::record::cases::query;
use crate::record::error::RecordError;

/// Devices in use of one recipient: with one more, the one that was seen longest ago
/// is retired.
pub const DEVICES_MAX: usize = 10;
/// Retired devices that are kept of one recipient: tokens change, and are many.
const RETIRED_MAX: i64 = 20;
/// `contact_point.retired_why` of a device that had to make room.
const UNUSED: &str = "unused";
/// Of a device that was signed out. Naming it again does not bring it back: a portal
/// that repeats an old state must not.
const UNREGISTERED: &str = "unregistered";

/// A device whose user is signed in as the recipient. Checked by the caller (`api`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRegistration {
    /// What the provider knows it by.
    pub token: Redacted<String>,
    /// What it runs.
    pub platform: Platform,
    /// Version of the portal's app.
    pub app_version: String,
}

/// A device in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceView {
    /// Follows from recipient and token, and does not lead back.
    pub device_id: Uuid,
    /// What the provider knows it by; show it masked only.
    pub token: Redacted<String>,
    /// `None`: not registered by the app itself.
    pub platform: Option<Platform>,
    /// Version of the portal's app.
    pub app_version: Option<String>,
    /// When the app said that it is there.
    pub seen_at: Option<Timestamp>,
}

/// What came of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    /// Its identifier.
    pub device_id: Uuid,
    /// Another recipient had it.
    pub moved: bool,
    /// Devices that had to make room.
    pub retired: usize,
}

/// Two registrations of one token, for two recipients, follow one another.
pub(super) const LOCK_TOKENS: &str = "
SELECT pg_advisory_xact_lock(hashtextextended(token, 6)) FROM (SELECT unnest($1::text[]) AS token ORDER BY 1) AS t";

const TAKE: &str = "
UPDATE contact_point SET retired_at = now(), retired_why = $3
 WHERE channel = 'push' AND address = $2 AND retired_at IS NULL AND recipient_id <> $1
RETURNING recipient_id";

const REGISTER: &str = "
INSERT INTO contact_point AS old (recipient_id, channel, address, verified_at, platform, app_version, seen_at)
VALUES ($1, 'push', $2, now(), $3, $4, now())
ON CONFLICT (recipient_id, channel, address) DO UPDATE
   SET verified_at = now(), platform = excluded.platform, app_version = excluded.app_version, seen_at = now(),
       retired_at = NULL, retired_why = NULL";

const FORGET_RETIRED: &str = "
DELETE FROM contact_point
 WHERE recipient_id = $1 AND channel = 'push' AND address IN (
       SELECT address FROM contact_point
        WHERE recipient_id = $1 AND channel = 'push' AND retired_at IS NOT NULL
        ORDER BY retired_at DESC OFFSET $2)";

/// Registers a device, or sees it again: it is verified now, comes first, and is
/// nobody else's any more.
///
/// # Errors
/// As [`ChangeError`] tells; then nothing is written.
pub async fn register_device(
    pool: &Pool,
    touch: Touch<'_>,
    device: &DeviceRegistration,
) -> Result<Registered, ChangeError> {
    let mut client = pool.get().await.map_err(RecordError::from)?;
    let tx = touch.begin(&mut client).await?;
    let (id, token) = (touch.id().0, device.token.expose());
    query(&tx, "device_lock", LOCK_TOKENS, &[&[token.as_str()].as_slice()]).await?;
    let taken = query(&tx, "device_take", TAKE, &[&id, token, &MOVED]).await?;
    query(&tx, "device_register", REGISTER, &[&id, token, &device.platform.as_str(), &device.app_version])
        .await?;
    let retired = make_room(&tx, touch, device).await?;
    query(&tx, "device_forget", FORGET_RETIRED, &[&id, &RETIRED_MAX]).await?;
    let moved = !taken.is_empty();
    let detail = if moved { "moved from another recipient" } else { "registered" };
    touch.audit(&tx, "RecipientService/RegisterDevice", Some(detail)).await?;
    commit(tx).await?;
    Ok(Registered { device_id: touch.id().device(token), moved, retired })
}

/// The device comes first; of the others, as many stay as there is room for, those
/// that were seen last.
async fn make_room(
    tx: &Transaction<'_>,
    touch: Touch<'_>,
    device: &DeviceRegistration,
) -> Result<usize, RecordError> {
    let (mut order, _) = in_use(tx, touch, Channel::Push).await?;
    order.retain(|token| *token != device.token);
    order.insert(0, device.token.clone());
    let mut retired = 0;
    if order.len() > DEVICES_MAX {
        for one in devices(tx, touch.id()).await?.split_off(DEVICES_MAX) {
            retire(tx, touch, Channel::Push, &one.token, UNUSED).await?;
            order.retain(|token| *token != one.token);
            retired += 1;
        }
    }
    put_in_order(tx, touch, Channel::Push, &order).await?;
    Ok(retired)
}

/// Takes a device out of use. False when the recipient has no such device in use.
///
/// # Errors
/// As [`ChangeError`] tells; then nothing is written.
pub async fn unregister_device(pool: &Pool, touch: Touch<'_>, device_id: Uuid) -> Result<bool, ChangeError> {
    let mut client = pool.get().await.map_err(RecordError::from)?;
    let tx = touch.begin(&mut client).await?;
    let known = devices(&tx, touch.id()).await?;
    let removed = match known.iter().find(|one| one.device_id == device_id) {
        Some(one) => retire(&tx, touch, Channel::Push, &one.token, UNREGISTERED).await?,
        None => false,
    };
    touch.audit(&tx, "RecipientService/UnregisterDevice", None).await?;
    commit(tx).await?;
    Ok(removed)
}

/// The devices in use, those that were seen last first. That somebody looked is
/// written down.
///
/// # Errors
/// [`ChangeError::Unknown`], or as [`RecordError`] tells.
pub async fn list_devices(pool: &Pool, touch: Touch<'_>) -> Result<Vec<DeviceView>, ChangeError> {
    let mut client = pool.get().await.map_err(RecordError::from)?;
    let tx = touch.look(&mut client).await?;
    let devices = devices(&tx, touch.id()).await?;
    touch.audit(&tx, "RecipientService/ListDevices", None).await?;
    commit(tx).await?;
    Ok(devices)
}

/// More than that Upsert does not take.
const DEVICES: &str = "
SELECT address, platform, app_version, seen_at FROM contact_point
 WHERE recipient_id = $1 AND channel = 'push' AND retired_at IS NULL
 ORDER BY coalesce(seen_at, verified_at) DESC NULLS LAST, position, address LIMIT 1000";

async fn devices(tx: &Transaction<'_>, id: RecipientId) -> Result<Vec<DeviceView>, RecordError> {
    query(tx, "devices", DEVICES, &[&id.0]).await?.iter().map(|row| device(row, id)).collect()
}

fn device(row: &Row, id: RecipientId) -> Result<DeviceView, RecordError> {
    let token: Redacted<String> = Redacted::new(row.try_get("address")?);
    let platform: Option<&str> = row.try_get("platform")?;
    Ok(DeviceView {
        device_id: id.device(token.expose()),
        token,
        platform: platform.map(|_| word(row, "platform", Platform::parse)).transpose()?,
        app_version: row.try_get("app_version")?,
        seen_at: row.try_get("seen_at")?,
    })
}

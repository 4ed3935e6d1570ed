//! Single addresses: put, taken away, attested.

use deadpool_postgres::{Pool, Transaction};
use jiff::Timestamp;

use super::upsert_points::COMES_BACK;
use super::view::{ContactPointView, contact_point_view};
use super::{CONTACT_POINTS_MAX, ChangeError, REMOVED, Touch, commit};
use crate::domain::{Channel, Redacted};
use crate::record::cases::query;
use crate::record::error::RecordError;

/// An address that is to be in use. Checked by the caller (`api`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactPointPut {
    /// Its channel; not push, whose addresses are devices.
    pub channel: Channel,
    /// Phone number (E.164) or mailbox.
    pub address: Redacted<String>,
    /// `None`: as it was, and not verified when it is new.
    pub verified_at: Option<Timestamp>,
    /// Place among those of its channel that are in use, from 0; `None`: where it is,
    /// and last when it was not in use.
    pub position: Option<usize>,
}

/// Somebody's word that an address is the recipient's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    /// Whose word, opaque.
    pub by: String,
    /// How they know.
    pub how: String,
    /// Since when; `None`: now.
    pub at: Option<Timestamp>,
}

const IN_USE: &str = "
SELECT address, channel FROM contact_point
 WHERE recipient_id = $1 AND retired_at IS NULL ORDER BY position, address";

/// What a provider reported as dead comes back only with a later verification. Of two
/// times, LEAST passes over one that is null: an address that nobody verified would
/// count as verified now.
const PUT: &str = "
INSERT INTO contact_point AS old (recipient_id, channel, address, verified_at)
VALUES ($1, $2, $3, CASE WHEN $4::timestamptz IS NOT NULL THEN LEAST($4::timestamptz, now()) END)
ON CONFLICT (recipient_id, channel, address) DO UPDATE
   SET verified_at = GREATEST(old.verified_at, excluded.verified_at),
       retired_at = CASE WHEN old.retired_why = ANY ($5) OR excluded.verified_at > old.retired_at
                         THEN NULL ELSE old.retired_at END,
       retired_why = CASE WHEN old.retired_why = ANY ($5) OR excluded.verified_at > old.retired_at
                          THEN NULL ELSE old.retired_why END
RETURNING channel, address, verified_at, retired_at, retired_why, verified_by, verified_how";

const ORDER: &str = "
UPDATE contact_point c SET position = i.place - 1
  FROM unnest($3::text[]) WITH ORDINALITY AS i (address, place)
 WHERE c.recipient_id = $1 AND c.channel = $2 AND c.address = i.address AND c.position <> i.place - 1";

/// The addresses of a channel that are in use, in order, and how many all channels have.
pub(super) async fn in_use(
    tx: &Transaction<'_>,
    touch: Touch<'_>,
    channel: Channel,
) -> Result<(Vec<Redacted<String>>, usize), RecordError> {
    let rows = query(tx, "contact_points_in_use", IN_USE, &[&touch.id().0]).await?;
    let mut of_channel = Vec::new();
    for row in &rows {
        if row.try_get::<_, &str>("channel")? == channel.as_str() {
            of_channel.push(Redacted::new(row.try_get("address")?));
        }
    }
    Ok((of_channel, rows.len()))
}

/// Numbers the addresses of a channel in this order.
pub(super) async fn put_in_order(
    tx: &Transaction<'_>,
    touch: Touch<'_>,
    channel: Channel,
    order: &[Redacted<String>],
) -> Result<(), RecordError> {
    let order: Vec<&str> = order.iter().map(|address| address.expose().as_str()).collect();
    query(tx, "contact_points_order", ORDER, &[&touch.id().0, &channel.as_str(), &order]).await?;
    Ok(())
}

/// Adds an address, brings it back, or moves it to another place.
///
/// # Errors
/// As [`ChangeError`] tells; then nothing is written.
pub async fn put_contact_point(
    pool: &Pool,
    touch: Touch<'_>,
    put: &ContactPointPut,
) -> Result<ContactPointView, ChangeError> {
    let mut client = pool.get().await.map_err(RecordError::from)?;
    let tx = touch.begin(&mut client).await?;
    let (mut order, count) = in_use(&tx, touch, put.channel).await?;
    let was_at = order.iter().position(|address| *address == put.address);
    let rows = query(
        &tx,
        "contact_point_put",
        PUT,
        &[
            &touch.id().0,
            &put.channel.as_str(),
            put.address.expose(),
            &put.verified_at,
            &COMES_BACK.as_slice(),
        ],
    )
    .await?;
    let view =
        rows.first().ok_or(ChangeError::UnknownContactPoint).and_then(|row| Ok(contact_point_view(row)?))?;
    if view.retired_at.is_none() {
        if was_at.is_none() && count >= CONTACT_POINTS_MAX {
            return Err(ChangeError::TooManyContactPoints);
        }
        if let Some(at) = was_at {
            order.remove(at);
        }
        let place = put.position.or(was_at).unwrap_or(order.len()).min(order.len());
        order.insert(place, put.address.clone());
        put_in_order(&tx, touch, put.channel, &order).await?;
    }
    touch.audit(&tx, "RecipientService/PutContactPoint", Some(put.channel.as_str())).await?;
    commit(tx).await?;
    Ok(view)
}

const REMOVE: &str = "
UPDATE contact_point SET retired_at = now(), retired_why = $4
 WHERE recipient_id = $1 AND channel = $2 AND address = $3 AND retired_at IS NULL
RETURNING channel";

/// Takes an address out of use. False when it was not in use.
///
/// # Errors
/// As [`ChangeError`] tells; then nothing is written.
pub async fn remove_contact_point(
    pool: &Pool,
    touch: Touch<'_>,
    channel: Channel,
    address: &Redacted<String>,
) -> Result<bool, ChangeError> {
    let mut client = pool.get().await.map_err(RecordError::from)?;
    let tx = touch.begin(&mut client).await?;
    let removed = retire(&tx, touch, channel, address, REMOVED).await?;
    touch.audit(&tx, "RecipientService/RemoveContactPoint", Some(channel.as_str())).await?;
    commit(tx).await?;
    Ok(removed)
}

/// Takes an address out of use, for a reason. False when it was not in use.
pub(super) async fn retire(
    tx: &Transaction<'_>,
    touch: Touch<'_>,
    channel: Channel,
    address: &Redacted<String>,
    why: &str,
) -> Result<bool, RecordError> {
    let parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&touch.id().0, &channel.as_str(), address.expose(), &why];
    Ok(!query(tx, "contact_point_remove", REMOVE, parameters).await?.is_empty())
}

const STANDING: &str = "
SELECT retired_at IS NOT NULL AND retired_why = ANY ($4) AS removed
  FROM contact_point WHERE recipient_id = $1 AND channel = $2 AND address = $3";

const ATTEST: &str = "
UPDATE contact_point
   SET verified_at = GREATEST(verified_at, LEAST($4::timestamptz, now())), verified_by = $5, verified_how = $6,
       retired_at = CASE WHEN LEAST($4::timestamptz, now()) > retired_at THEN NULL ELSE retired_at END,
       retired_why = CASE WHEN LEAST($4::timestamptz, now()) > retired_at THEN NULL ELSE retired_why END
 WHERE recipient_id = $1 AND channel = $2 AND address = $3
RETURNING channel, address, verified_at, retired_at, retired_why, verified_by, verified_how";

/// Looks whether the recipient has an address, and nobody took it away.
///
/// # Errors
/// [`ChangeError::UnknownContactPoint`], [`ChangeError::ContactPointRemoved`], or as
/// [`RecordError`] tells.
pub(super) async fn standing(
    tx: &Transaction<'_>,
    touch: Touch<'_>,
    channel: Channel,
    address: &Redacted<String>,
) -> Result<(), ChangeError> {
    let parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&touch.id().0, &channel.as_str(), address.expose(), &COMES_BACK.as_slice()];
    let standing = query(tx, "contact_point_look", STANDING, parameters).await?;
    let standing = standing.first().ok_or(ChangeError::UnknownContactPoint)?;
    if standing.try_get("removed").map_err(RecordError::from)? {
        return Err(ChangeError::ContactPointRemoved);
    }
    Ok(())
}

/// Enters somebody's word for an address.
pub(super) async fn attest(
    tx: &Transaction<'_>,
    touch: Touch<'_>,
    channel: Channel,
    address: &Redacted<String>,
    attestation: &Attestation,
) -> Result<ContactPointView, ChangeError> {
    let Attestation { by, how, at } = attestation;
    let parameters: &[&(dyn tokio_postgres::types::ToSql + Sync)] =
        &[&touch.id().0, &channel.as_str(), address.expose(), at, by, how];
    let rows = query(tx, "contact_point_verify", ATTEST, parameters).await?;
    rows.first().ok_or(ChangeError::UnknownContactPoint).and_then(|row| Ok(contact_point_view(row)?))
}

/// Writes down that somebody vouches for an address.
///
/// # Errors
/// As [`ChangeError`] tells; then nothing is written.
pub async fn verify_contact_point(
    pool: &Pool,
    touch: Touch<'_>,
    channel: Channel,
    address: &Redacted<String>,
    attestation: &Attestation,
) -> Result<ContactPointView, ChangeError> {
    let mut client = pool.get().await.map_err(RecordError::from)?;
    let tx = touch.begin(&mut client).await?;
    standing(&tx, touch, channel, address).await?;
    let view = attest(&tx, touch, channel, address, attestation).await?;
    touch.audit(&tx, "RecipientService/VerifyContactPoint", Some(channel.as_str())).await?;
    commit(tx).await?;
    Ok(view)
}

//! The contact points of whole states: named ones are in use, others are retired, a
//! device has one owner.

use std::collections::HashMap;

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use uuid::Uuid;

use super::REMOVED;
use super::devices::LOCK_TOKENS;
use super::upsert::{ContactPointUpsert, RecipientUpsert, flatten};
use crate::domain::Channel;
use crate::record::cases::query;
use crate::record::error::RecordError;

/// `contact_point.retired_why` of a point that an upsert did not name.
const NOT_NAMED: &str = "not_named";
/// Points that come back when they are named or put again: nobody said that they are dead.
pub(super) const COMES_BACK: [&str; 2] = [NOT_NAMED, REMOVED];
/// Of a device that somebody else has now.
pub(super) const MOVED: &str = "moved";

const RETIRE_POINTS: &str = "
UPDATE contact_point
SET retired_at = now(), retired_why = $5
WHERE recipient_id = ANY ($1) AND retired_at IS NULL
  AND (recipient_id, channel, address) NOT IN (SELECT * FROM UNNEST($2::uuid[], $3::text[], $4::text[]))";

// A device belongs to one recipient at a time: whoever was verified last has it.
const TAKE_DEVICES: &str = "
UPDATE contact_point held
SET retired_at = now(), retired_why = $4
FROM UNNEST($1::uuid[], $2::text[], $3::timestamptz[]) AS new (recipient_id, address, verified_at)
WHERE held.channel = 'push' AND held.retired_at IS NULL AND held.address = new.address
  AND held.recipient_id <> new.recipient_id
  AND (held.verified_at IS NULL OR new.verified_at > held.verified_at)";

// A point that was retired because it was not named, or was removed, is back when it
// is named. One that a provider reported dead is back only when it was verified after
// that, so that a portal which repeats an old state does not revive dead addresses.
// A device that somebody else has is passed over.
const UPSERT_POINTS: &str = "
INSERT INTO contact_point AS old (recipient_id, channel, address, position, verified_at)
SELECT new.*
FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::smallint[], $5::timestamptz[])
     AS new (recipient_id, channel, address, position, verified_at)
WHERE NOT (new.channel = 'push' AND EXISTS (
    SELECT FROM contact_point held
    WHERE held.channel = 'push' AND held.retired_at IS NULL AND held.address = new.address
      AND held.recipient_id <> new.recipient_id))
ON CONFLICT (recipient_id, channel, address) DO UPDATE
SET position = excluded.position, verified_at = excluded.verified_at,
    retired_at = CASE WHEN old.retired_why = ANY ($6) OR excluded.verified_at > old.retired_at
                      THEN NULL ELSE old.retired_at END,
    retired_why = CASE WHEN old.retired_why = ANY ($6) OR excluded.verified_at > old.retired_at
                       THEN NULL ELSE old.retired_why END
WHERE (old.position, old.verified_at) IS DISTINCT FROM (excluded.position, excluded.verified_at)
   OR old.retired_why = ANY ($6)";

pub(super) async fn write_contact_points(
    transaction: &Transaction<'_>,
    entries: &[(Uuid, &RecipientUpsert)],
) -> Result<(), RecordError> {
    let at = RecordError::at("recipient_contact_points");
    let all: Vec<Uuid> = entries.iter().map(|(id, _)| *id).collect();
    let points =
        flatten(entries, |entry| &entry.contact_points, |point| (point.channel, point.address.expose()));
    let points = one_owner_each(points);
    let ids: Vec<Uuid> = points.iter().map(|(id, _, _)| *id).collect();
    let channels: Vec<&str> = points.iter().map(|(_, _, point)| point.channel.as_str()).collect();
    let addresses: Vec<&str> = points.iter().map(|(_, _, point)| point.address.expose().as_str()).collect();
    let positions: Vec<i16> = points.iter().map(|(_, position, _)| *position).collect();
    let verified: Vec<Option<Timestamp>> = points.iter().map(|(_, _, point)| point.verified_at).collect();

    let retire = transaction.prepare_cached(RETIRE_POINTS).await.map_err(&at)?;
    transaction.execute(&retire, &[&all, &ids, &channels, &addresses, &NOT_NAMED]).await.map_err(&at)?;
    take_devices(transaction, &points).await?;
    let upsert = transaction.prepare_cached(UPSERT_POINTS).await.map_err(&at)?;
    transaction
        .execute(&upsert, &[&ids, &channels, &addresses, &positions, &verified, &COMES_BACK.as_slice()])
        .await
        .map_err(&at)?;
    Ok(())
}

/// Of one recipient: a registration of the same device, for another one, follows. A
/// bulk load has more devices than there are locks; two that meet fail, and are
/// repeated.
pub(super) async fn lock_devices(
    transaction: &Transaction<'_>,
    entries: &[(Uuid, &RecipientUpsert)],
) -> Result<(), RecordError> {
    let points = entries.iter().flat_map(|(_, entry)| &entry.contact_points);
    let tokens: Vec<&str> = points
        .filter(|point| point.channel == Channel::Push)
        .map(|point| point.address.expose().as_str())
        .collect();
    if !tokens.is_empty() {
        query(transaction, "device_lock", LOCK_TOKENS, &[&tokens]).await?;
    }
    Ok(())
}

type Point<'a> = (Uuid, i16, &'a ContactPointUpsert);

async fn take_devices(transaction: &Transaction<'_>, points: &[Point<'_>]) -> Result<(), RecordError> {
    let at = RecordError::at("recipient_devices");
    let devices = || points.iter().filter(|(_, _, point)| point.channel == Channel::Push);
    if devices().next().is_none() {
        return Ok(());
    }
    let ids: Vec<Uuid> = devices().map(|(id, _, _)| *id).collect();
    let tokens: Vec<&str> = devices().map(|(_, _, point)| point.address.expose().as_str()).collect();
    let verified: Vec<Option<Timestamp>> = devices().map(|(_, _, point)| point.verified_at).collect();
    let take = transaction.prepare_cached(TAKE_DEVICES).await.map_err(&at)?;
    transaction.execute(&take, &[&ids, &tokens, &verified, &MOVED]).await.map_err(&at)?;
    Ok(())
}

/// A device that several recipients of a batch name is that one's who was verified
/// last, and of equals the first one's.
fn one_owner_each(points: Vec<Point<'_>>) -> Vec<Point<'_>> {
    let mut owners: HashMap<&str, (Option<Timestamp>, Uuid)> = HashMap::new();
    for (id, _, point) in points.iter().filter(|(_, _, point)| point.channel == Channel::Push) {
        let owner = owners.entry(point.address.expose()).or_insert((point.verified_at, *id));
        if point.verified_at > owner.0 {
            *owner = (point.verified_at, *id);
        }
    }
    points
        .into_iter()
        .filter(|(id, _, point)| {
            point.channel != Channel::Push || owners[point.address.expose().as_str()].1 == *id
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;

    use super::*;

    #[test]
    fn a_device_that_several_name_is_the_one_that_was_verified_last() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let point = |channel, verified_at| ContactPointUpsert {
            channel,
            address: "same".to_owned().into(),
            verified_at,
        };
        let older = point(Channel::Push, Some(now - SignedDuration::from_secs(1)));
        let (newer, never) = (point(Channel::Push, Some(now)), point(Channel::Push, None));
        let mailbox = point(Channel::Email, None);
        let ids: Vec<Uuid> = (1..=4).map(Uuid::from_u128).collect();
        let all = vec![(ids[0], 0, &never), (ids[1], 0, &newer), (ids[2], 0, &older), (ids[3], 0, &mailbox)];
        let kept: Vec<Uuid> = one_owner_each(all).iter().map(|(id, _, _)| *id).collect();
        assert_eq!(kept, [ids[1], ids[3]]);
    }
}

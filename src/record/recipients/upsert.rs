//! Writing recipients: whole states, in batches.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::time::Instant;

use deadpool_postgres::{Pool, Transaction};
use jiff::Timestamp;
use jiff::civil::Time;
use uuid::Uuid;

use super::devices::LOCK_TOKENS;
use super::{REMOVED, Touch};
use crate::domain::{Channel, PatientId, Purpose, QuietHours, RecipientId, Redacted, Relation};
use crate::metrics;
use crate::record::cases::query;
use crate::record::error::RecordError;

/// Recipients of one transaction, at most: it keeps a statement well below its
/// time-out and the locks short.
const CHUNK_MAX_RECIPIENTS: usize = 1000;

/// `contact_point.retired_why` of a point that an upsert did not name.
const NOT_NAMED: &str = "not_named";
/// Points that come back when they are named again: nobody said that they are dead.
const COMES_BACK: [&str; 2] = [NOT_NAMED, REMOVED];
/// Of a device that somebody else has now.
pub(super) const MOVED: &str = "moved";

/// A recipient's whole state, as the portal knows it. Checked by the caller
/// (`api`): identifiers opaque, addresses well-formed, zone and locale valid.
#[derive(Debug, Clone, PartialEq)]
pub struct RecipientUpsert {
    /// The portal's identifier, opaque.
    pub external_id: String,
    /// Patients of whom the recipient hears; links that are not named end.
    pub patients: Vec<(PatientId, Relation)>,
    /// How the recipient is addressed.
    pub display_name: Option<Redacted<String>>,
    /// BCP 47 tag; `None`: the default.
    pub locale: Option<String>,
    /// IANA zone; `None`: the default.
    pub time_zone: Option<String>,
    /// `None`: the default.
    pub quiet_hours: Option<QuietHours>,
    /// Empty: the default.
    pub channel_order: Vec<Channel>,
    /// The best of a channel first; points that are not named are retired.
    pub contact_points: Vec<ContactPointUpsert>,
    /// Appended to the ledger when they differ from what is in force and are newer.
    pub consents: Vec<ConsentUpsert>,
}

/// An address on a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContactPointUpsert {
    /// The channel.
    pub channel: Channel,
    /// Phone number (E.164), mailbox, or device token.
    pub address: Redacted<String>,
    /// Last verification; `None`: not verified, never written to. A point that a
    /// provider reported dead comes back only with a verification after that.
    pub verified_at: Option<Timestamp>,
}

/// A consent or a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsentUpsert {
    /// By which channel.
    pub channel: Channel,
    /// To what.
    pub purpose: Purpose,
    /// Agreed, or refused.
    pub granted: bool,
    /// When the recipient said so.
    pub given_at: Timestamp,
    /// Who recorded it, opaque.
    pub recorded_by: String,
    /// How it was given.
    pub how: String,
}

/// What an upsert did to one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upserted {
    /// The recipient was not known before.
    Created,
    /// The recipient was known and now has the given state.
    Updated,
    /// The recipient was erased; nothing was written.
    Erased,
}

/// Brings recipients to the given states; the answer is in the order of the input.
/// Up to 1,000 recipients are one transaction, more are several; repeating the call
/// changes nothing more. Of two entries with the same `external_id` the later wins.
///
/// # Errors
/// `Unavailable` when the database is away: the transaction of the failing chunk and
/// those after it are not written.
pub async fn upsert_many(pool: &Pool, recipients: &[RecipientUpsert]) -> Result<Vec<Upserted>, RecordError> {
    let mut results = Vec::with_capacity(recipients.len());
    for chunk in recipients.chunks(CHUNK_MAX_RECIPIENTS) {
        // By id: every writer locks in the same order, so none waits in a circle.
        let by_id: BTreeMap<Uuid, &RecipientUpsert> =
            chunk.iter().map(|entry| (RecipientId::from_external(&entry.external_id).0, entry)).collect();
        let begun = Instant::now();
        let outcomes = upsert_chunk(pool, &by_id, None).await?;
        metrics::statement("recipient_upsert", by_id.len(), begun.elapsed());
        results.extend(chunk.iter().map(|entry| outcomes[&RecipientId::from_external(&entry.external_id).0]));
    }
    Ok(results)
}

/// As [`upsert_many`], of one recipient, with a line in the audit log.
///
/// # Errors
/// As [`RecordError`] tells; then nothing is written.
pub async fn upsert(pool: &Pool, entry: &RecipientUpsert, caller: &str) -> Result<Upserted, RecordError> {
    let touch = Touch { recipient: &entry.external_id, caller };
    let begun = Instant::now();
    let entries = BTreeMap::from([(touch.id().0, entry)]);
    let outcomes = upsert_chunk(pool, &entries, Some(touch)).await?;
    metrics::statement("recipient_upsert", 1, begun.elapsed());
    Ok(outcomes[&touch.id().0])
}

async fn upsert_chunk(
    pool: &Pool,
    entries: &BTreeMap<Uuid, &RecipientUpsert>,
    touch: Option<Touch<'_>>,
) -> Result<HashMap<Uuid, Upserted>, RecordError> {
    let mut client = pool.get().await?;
    let transaction = client.transaction().await.map_err(RecordError::at("recipient_upsert"))?;
    // The rows stay locked from here on, so the steps below see what others committed
    // and nobody writes between them.
    let outcomes = write_recipients(&transaction, entries).await?;
    let written: Vec<(Uuid, &RecipientUpsert)> = entries
        .iter()
        .filter(|(id, _)| outcomes[id] != Upserted::Erased)
        .map(|(id, entry)| (*id, *entry))
        .collect();
    write_links(&transaction, &written).await?;
    if touch.is_some() {
        lock_devices(&transaction, &written).await?;
    }
    write_contact_points(&transaction, &written).await?;
    append_consents(&transaction, &written).await?;
    if let Some(touch) = touch.filter(|_| !written.is_empty()) {
        touch.audit(&transaction, "RecipientService/Upsert", None).await?;
    }
    transaction.commit().await.map_err(RecordError::at("recipient_upsert"))?;
    Ok(outcomes)
}

const UPSERT_RECIPIENT: &str = "
INSERT INTO recipient AS old (recipient_id, external_id, display_name, locale, time_zone,
                              quiet_hours_start, quiet_hours_end, channel_order)
SELECT id, external_id, display_name, locale, time_zone, quiet_start, quiet_end,
       string_to_array(channel_order, ',')
FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::time[], $7::time[], $8::text[])
     AS new (id, external_id, display_name, locale, time_zone, quiet_start, quiet_end, channel_order)
ON CONFLICT (recipient_id) DO UPDATE
SET display_name = excluded.display_name, locale = excluded.locale, time_zone = excluded.time_zone,
    quiet_hours_start = excluded.quiet_hours_start, quiet_hours_end = excluded.quiet_hours_end,
    channel_order = excluded.channel_order, updated_at = now()
WHERE old.erased_at IS NULL
  AND (old.display_name, old.locale, old.time_zone, old.quiet_hours_start, old.quiet_hours_end, old.channel_order)
      IS DISTINCT FROM (excluded.display_name, excluded.locale, excluded.time_zone,
                        excluded.quiet_hours_start, excluded.quiet_hours_end, excluded.channel_order)
RETURNING recipient_id, xmax = 0 AS created";

// Only a statement of its own sees an erasure that was committed while the upsert
// waited for the row.
const ERASED: &str =
    "SELECT recipient_id FROM recipient WHERE recipient_id = ANY ($1) AND erased_at IS NOT NULL";

async fn write_recipients(
    transaction: &Transaction<'_>,
    entries: &BTreeMap<Uuid, &RecipientUpsert>,
) -> Result<HashMap<Uuid, Upserted>, RecordError> {
    let at = RecordError::at("recipient_upsert");
    let ids: Vec<Uuid> = entries.keys().copied().collect();
    let all = || entries.values();
    let external_ids: Vec<&str> = all().map(|e| e.external_id.as_str()).collect();
    let names: Vec<Option<&str>> =
        all().map(|e| e.display_name.as_ref().map(|name| name.expose().as_str())).collect();
    let locales: Vec<Option<&str>> = all().map(|e| e.locale.as_deref()).collect();
    let zones: Vec<Option<&str>> = all().map(|e| e.time_zone.as_deref()).collect();
    let starts: Vec<Option<Time>> = all().map(|e| e.quiet_hours.map(|quiet| quiet.start)).collect();
    let ends: Vec<Option<Time>> = all().map(|e| e.quiet_hours.map(|quiet| quiet.end)).collect();
    let orders: Vec<String> = all()
        .map(|e| e.channel_order.iter().map(|channel| channel.as_str()).collect::<Vec<_>>().join(","))
        .collect();

    let upsert = transaction.prepare_cached(UPSERT_RECIPIENT).await.map_err(&at)?;
    let written = transaction
        .query(&upsert, &[&ids, &external_ids, &names, &locales, &zones, &starts, &ends, &orders])
        .await
        .map_err(&at)?;
    let erased = transaction.prepare_cached(ERASED).await.map_err(&at)?;
    let erased = transaction.query(&erased, &[&ids]).await.map_err(&at)?;

    let mut outcomes: HashMap<Uuid, Upserted> = ids.iter().map(|id| (*id, Upserted::Updated)).collect();
    for row in written.iter().filter(|row| row.get("created")) {
        outcomes.insert(row.get("recipient_id"), Upserted::Created);
    }
    for row in &erased {
        outcomes.insert(row.get("recipient_id"), Upserted::Erased);
    }
    Ok(outcomes)
}

// NOT IN, because PostgreSQL always hashes it; NOT EXISTS over arrays, whose length
// the planner cannot know, became a loop within a loop. None of the columns is null.
const END_LINKS: &str = "
DELETE FROM visibility
WHERE recipient_id = ANY ($1)
  AND (recipient_id, patient_id) NOT IN (SELECT * FROM UNNEST($2::uuid[], $3::text[]))";

const UPSERT_LINKS: &str = "
INSERT INTO visibility AS old (recipient_id, patient_id, relation)
SELECT * FROM UNNEST($1::uuid[], $2::text[], $3::text[])
ON CONFLICT (patient_id, recipient_id) DO UPDATE SET relation = excluded.relation
WHERE old.relation <> excluded.relation";

async fn write_links(
    transaction: &Transaction<'_>,
    entries: &[(Uuid, &RecipientUpsert)],
) -> Result<(), RecordError> {
    let at = RecordError::at("recipient_links");
    let all: Vec<Uuid> = entries.iter().map(|(id, _)| *id).collect();
    let links = flatten(entries, |entry| &entry.patients, |(patient, _)| patient);
    let ids: Vec<Uuid> = links.iter().map(|(id, _, _)| *id).collect();
    let patients: Vec<&str> = links.iter().map(|(_, _, (patient, _))| patient.as_str()).collect();
    let relations: Vec<&str> = links.iter().map(|(_, _, (_, relation))| relation.as_str()).collect();

    let end = transaction.prepare_cached(END_LINKS).await.map_err(&at)?;
    transaction.execute(&end, &[&all, &ids, &patients]).await.map_err(&at)?;
    let upsert = transaction.prepare_cached(UPSERT_LINKS).await.map_err(&at)?;
    transaction.execute(&upsert, &[&ids, &patients, &relations]).await.map_err(&at)?;
    Ok(())
}

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

async fn write_contact_points(
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
async fn lock_devices(
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

// `recorded_at` is the time at which the recipient said so: an opt-out that came in
// another way is not undone by a portal which repeats the consent of last year.
const APPEND_CONSENTS: &str = "
INSERT INTO consent (recipient_id, channel, purpose, granted, recorded_at, recorded_by, how)
SELECT new.recipient_id, new.channel, new.purpose, new.granted, LEAST(new.given_at, now()), new.recorded_by, new.how
FROM UNNEST($1::uuid[], $2::text[], $3::text[], $4::boolean[], $5::timestamptz[], $6::text[], $7::text[])
     AS new (recipient_id, channel, purpose, granted, given_at, recorded_by, how)
LEFT JOIN LATERAL (
    SELECT granted, recorded_at FROM consent
    WHERE consent.recipient_id = new.recipient_id AND consent.channel = new.channel
      AND consent.purpose = new.purpose
    ORDER BY consent_id DESC LIMIT 1
) in_force ON true
WHERE in_force.granted IS NULL
   OR (in_force.granted <> new.granted AND new.given_at > in_force.recorded_at)";

async fn append_consents(
    transaction: &Transaction<'_>,
    entries: &[(Uuid, &RecipientUpsert)],
) -> Result<(), RecordError> {
    let at = RecordError::at("recipient_consents");
    let consents = flatten(entries, |entry| &entry.consents, |consent| (consent.channel, consent.purpose));
    if consents.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = consents.iter().map(|(id, _, _)| *id).collect();
    let all = || consents.iter().map(|(_, _, consent)| *consent);
    let channels: Vec<&str> = all().map(|c| c.channel.as_str()).collect();
    let purposes: Vec<&str> = all().map(|c| c.purpose.as_str()).collect();
    let granted: Vec<bool> = all().map(|c| c.granted).collect();
    let given: Vec<Timestamp> = all().map(|c| c.given_at).collect();
    let by: Vec<&str> = all().map(|c| c.recorded_by.as_str()).collect();
    let how: Vec<&str> = all().map(|c| c.how.as_str()).collect();

    let append = transaction.prepare_cached(APPEND_CONSENTS).await.map_err(&at)?;
    transaction
        .execute(&append, &[&ids, &channels, &purposes, &granted, &given, &by, &how])
        .await
        .map_err(&at)?;
    Ok(())
}

/// The parts of all entries in one list, each with its recipient and its position
/// there; of parts with the same key within a recipient the first counts, because a
/// statement cannot write a row twice.
fn flatten<'a, T, K: Hash + Eq>(
    entries: &[(Uuid, &'a RecipientUpsert)],
    parts: impl Fn(&'a RecipientUpsert) -> &'a [T],
    key: impl Fn(&'a T) -> K,
) -> Vec<(Uuid, i16, &'a T)> {
    let mut flat = Vec::new();
    for (id, entry) in entries {
        let mut seen = HashSet::new();
        let named = parts(entry).iter().filter(|part| seen.insert(key(part)));
        flat.extend((0_i16..).zip(named).map(|(position, part)| (*id, position, part)));
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_named_twice_count_once_and_keep_their_order() {
        let entry = RecipientUpsert {
            external_id: "rcp-1".to_owned(),
            patients: vec![],
            display_name: None,
            locale: None,
            time_zone: None,
            quiet_hours: None,
            channel_order: vec![],
            contact_points: ["+15550100001", "+15550100002", "+15550100001"]
                .map(|number| ContactPointUpsert {
                    channel: Channel::Sms,
                    address: number.to_owned().into(),
                    verified_at: None,
                })
                .to_vec(),
            consents: vec![],
        };
        let id = Uuid::nil();
        let entries = [(id, &entry)];
        let flat = flatten(&entries, |e| &e.contact_points, |point| point.address.expose());
        let seen: Vec<(i16, &str)> =
            flat.iter().map(|(_, position, point)| (*position, point.address.expose().as_str())).collect();
        assert_eq!(seen, [(0, "+15550100001"), (1, "+15550100002")]);
    }
}

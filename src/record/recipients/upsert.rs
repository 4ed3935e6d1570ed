//! Writing recipients: whole states, in batches.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;
use std::time::Instant;

use deadpool_postgres::{Pool, Transaction};
use jiff::Timestamp;
use jiff::civil::Time;
use uuid::Uuid;

use super::Touch;
use super::upsert_points::{lock_devices, write_contact_points};
use crate::domain::{Channel, PatientId, Purpose, QuietHours, RecipientId, Redacted, Relation};
use crate::metrics;
use crate::record::error::RecordError;

/// Recipients of one transaction, at most: it keeps a statement well below its
/// time-out and the locks short.
const CHUNK_MAX_RECIPIENTS: usize = 1000;

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
pub(super) fn flatten<'a, T, K: Hash + Eq>(
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

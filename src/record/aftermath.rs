//! What news does beyond its notification: entries of the consent ledger, and
//! addresses that are retired.

use std::collections::HashSet;

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use uuid::Uuid;

use super::cases::query;
use super::error::RecordError;
use crate::domain::{Channel, DeliveryId, Purpose, Reason, RecipientId};

/// The newest word is in force, by the time at which it was said: an older one that
/// comes late is not entered. Rows are entered in the order of those times. The
/// same update adds nothing when it comes again.
///
/// A word that lifts (an opt-in for every purpose, as START is) takes back nothing
/// but a refusal of every purpose, and grants nothing that was not in force before
/// that: what was refused by itself stays refused, and a campaign needs a yes of its own.
const CONSENT: &str = "
INSERT INTO consent (recipient_id, channel, purpose, granted, recorded_at, recorded_by, how, update_id)
SELECT i.recipient_id, i.channel, i.purpose, i.granted, LEAST(i.at, now()), i.recorded_by, i.how, i.update_id
  FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bool[], $5::timestamptz[], $6::text[], $7::text[],
              $8::text[], $9::bool[])
       WITH ORDINALITY
       AS i (recipient_id, channel, purpose, granted, at, recorded_by, how, update_id, lifts, place)
 WHERE NOT EXISTS (
       SELECT FROM consent k
        WHERE k.recipient_id = i.recipient_id AND k.channel = i.channel AND k.purpose = i.purpose
          AND k.recorded_at > i.at)
   AND (NOT i.lifts OR (
        EXISTS (
            SELECT FROM (SELECT k.granted, k.how FROM consent k
                          WHERE k.recipient_id = i.recipient_id AND k.channel = i.channel
                            AND k.purpose = i.purpose
                          ORDER BY k.consent_id DESC LIMIT 1) newest
             WHERE NOT newest.granted AND newest.how IN ('opt_out_of_all', 'refused_by_provider'))
        AND COALESCE(
            (SELECT k.granted FROM consent k
              WHERE k.recipient_id = i.recipient_id AND k.channel = i.channel AND k.purpose = i.purpose
                AND k.how NOT IN ('opt_out_of_all', 'refused_by_provider')
              ORDER BY k.consent_id DESC LIMIT 1),
            i.purpose <> 'campaign')))
 ORDER BY i.at, i.place
ON CONFLICT (recorded_by, update_id, recipient_id, channel, purpose) WHERE update_id IS NOT NULL DO NOTHING
RETURNING recorded_by, update_id";

/// Those that exist, locked until the transaction ends.
pub(super) const LOCK_RECIPIENTS: &str =
    "SELECT recipient_id FROM recipient WHERE recipient_id = ANY($1) ORDER BY recipient_id FOR UPDATE";

/// An address that was verified again since stays.
const RETIRE: &str = "
UPDATE contact_point c
   SET retired_at = now(), retired_why = i.reason
  FROM unnest($1::uuid[], $2::text[], $3::timestamptz[]) AS i (delivery_id, reason, at)
  JOIN delivery d USING (delivery_id)
 WHERE c.recipient_id = d.recipient_id AND c.channel = d.channel AND c.address = d.address
   AND c.retired_at IS NULL AND (c.verified_at IS NULL OR c.verified_at <= i.at)";

/// Somebody's word about what they want.
pub(super) struct Word<'a> {
    /// Whose.
    pub recipient_id: RecipientId,
    /// On which channel; `None`: on all.
    pub channel: Option<Channel>,
    /// For which purpose; `None`: for all.
    pub purpose: Option<Purpose>,
    /// Yes or no.
    pub granted: bool,
    /// When it was said.
    pub at: Timestamp,
    /// Who told us.
    pub recorded_by: &'a str,
    /// In which way it was said.
    pub how: &'static str,
    /// The same word again has the same one.
    pub update_id: &'a str,
}

impl Word<'_> {
    /// A yes to everything only takes back a no to everything.
    const fn lifts(&self) -> bool {
        self.granted && self.purpose.is_none()
    }
}

/// Gathered while news is folded, written with it.
#[derive(Default)]
pub(super) struct Aftermath<'a> {
    words: Vec<Word<'a>>,
    retired: Vec<(DeliveryId, Reason, Timestamp)>,
}

impl<'a> Aftermath<'a> {
    /// For the consent ledger.
    pub(super) fn consent(&mut self, word: Word<'a>) {
        self.words.push(word);
    }

    /// The address of a delivery is gone since this time.
    pub(super) fn retire(&mut self, delivery_id: DeliveryId, why: Reason, at: Timestamp) {
        self.retired.push((delivery_id, why, at));
    }

    /// Writes it. Gives source and update id of the words that changed the ledger.
    pub(super) async fn write(&self, tx: &Transaction<'_>) -> Result<HashSet<(String, String)>, RecordError> {
        if !self.retired.is_empty() {
            let ids: Vec<Uuid> = self.retired.iter().map(|(id, _, _)| id.0).collect();
            let reasons: Vec<&str> = self.retired.iter().map(|(_, why, _)| why.as_str()).collect();
            let at: Vec<Timestamp> = self.retired.iter().map(|(_, _, at)| *at).collect();
            query(tx, "retire_addresses", RETIRE, &[&ids, &reasons, &at]).await?;
        }
        if self.words.is_empty() {
            return Ok(HashSet::new());
        }
        // Two words of one recipient must see each other.
        let mut whose: Vec<Uuid> = self.words.iter().map(|word| word.recipient_id.0).collect();
        whose.sort_unstable();
        query(tx, "consent_locks", LOCK_RECIPIENTS, &[&whose]).await?;
        let mut words: Vec<&Word<'a>> = self.words.iter().collect();
        words.sort_by_key(|word| word.at);
        // A statement does not see its own rows: what lifts must see what it lifts.
        let mut entered = HashSet::new();
        for run in words.chunk_by(|one, other| one.lifts() == other.lifts()) {
            entered.extend(enter(tx, run).await?);
        }
        Ok(entered)
    }
}

/// Enters words that see what is entered already, and not each other.
async fn enter(tx: &Transaction<'_>, words: &[&Word<'_>]) -> Result<HashSet<(String, String)>, RecordError> {
    let entries: Vec<(&Word<'_>, Channel, Purpose)> = words.iter().flat_map(|word| entries(word)).collect();
    let recipients: Vec<Uuid> = entries.iter().map(|(word, _, _)| word.recipient_id.0).collect();
    let channels: Vec<&str> = entries.iter().map(|(_, channel, _)| channel.as_str()).collect();
    let purposes: Vec<&str> = entries.iter().map(|(_, _, purpose)| purpose.as_str()).collect();
    let granted: Vec<bool> = entries.iter().map(|(word, _, _)| word.granted).collect();
    let at: Vec<Timestamp> = entries.iter().map(|(word, _, _)| word.at).collect();
    let by: Vec<&str> = entries.iter().map(|(word, _, _)| word.recorded_by).collect();
    let how: Vec<&str> = entries.iter().map(|(word, _, _)| word.how).collect();
    let ids: Vec<&str> = entries.iter().map(|(word, _, _)| word.update_id).collect();
    let lifts: Vec<bool> = entries.iter().map(|(word, _, _)| word.lifts()).collect();
    let rows = query(
        tx,
        "enter_consent",
        CONSENT,
        &[&recipients, &channels, &purposes, &granted, &at, &by, &how, &ids, &lifts],
    )
    .await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// A ledger's line is about one channel and one purpose.
fn entries<'w, 'a>(word: &'w Word<'a>) -> Vec<(&'w Word<'a>, Channel, Purpose)> {
    let channels = word.channel.map_or_else(|| Channel::ALL.to_vec(), |channel| vec![channel]);
    let purposes = word.purpose.map_or_else(|| Purpose::ALL.to_vec(), |purpose| vec![purpose]);
    channels
        .into_iter()
        .flat_map(|channel| purposes.iter().map(move |&purpose| (word, channel, purpose)).collect::<Vec<_>>())
        .collect()
}

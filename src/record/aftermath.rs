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
const CONSENT: &str = "
INSERT INTO consent (recipient_id, channel, purpose, granted, recorded_at, recorded_by, how, update_id)
SELECT i.recipient_id, i.channel, i.purpose, i.granted, LEAST(i.at, now()), i.recorded_by, i.how, i.update_id
  FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bool[], $5::timestamptz[], $6::text[], $7::text[],
              $8::text[])
       WITH ORDINALITY
       AS i (recipient_id, channel, purpose, granted, at, recorded_by, how, update_id, place)
 WHERE NOT EXISTS (
       SELECT FROM consent k
        WHERE k.recipient_id = i.recipient_id AND k.channel = i.channel AND k.purpose = i.purpose
          AND k.recorded_at > i.at)
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
        let entries: Vec<(&Word<'_>, Channel, Purpose)> = self.words.iter().flat_map(entries).collect();
        let recipients: Vec<Uuid> = entries.iter().map(|(word, _, _)| word.recipient_id.0).collect();
        let channels: Vec<&str> = entries.iter().map(|(_, channel, _)| channel.as_str()).collect();
        let purposes: Vec<&str> = entries.iter().map(|(_, _, purpose)| purpose.as_str()).collect();
        let granted: Vec<bool> = entries.iter().map(|(word, _, _)| word.granted).collect();
        let at: Vec<Timestamp> = entries.iter().map(|(word, _, _)| word.at).collect();
        let by: Vec<&str> = entries.iter().map(|(word, _, _)| word.recorded_by).collect();
        let how: Vec<&str> = entries.iter().map(|(word, _, _)| word.how).collect();
        let ids: Vec<&str> = entries.iter().map(|(word, _, _)| word.update_id).collect();
        let rows = query(
            tx,
            "enter_consent",
            CONSENT,
            &[&recipients, &channels, &purposes, &granted, &at, &by, &how, &ids],
        )
        .await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }
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

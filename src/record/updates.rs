//! What became known later, a batch at a time: found, folded and written in one
//! transaction; what it is about may not be known yet.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use deadpool_postgres::Transaction;
use jiff::Timestamp;
use uuid::Uuid;

use super::aftermath::{Aftermath, LOCK_RECIPIENTS, Word};
use super::cases::{self, query};
use super::error::RecordError;
use super::refusal::{self, Refusal};
use super::store::Store;
use super::unmatched;
use crate::domain::{
    Case, Channel, DeliveryId, DeliveryRef, Fact, NotificationId, NotificationUpdate, Reason, Receipt,
    ReceiptStatus, RecipientId, Redacted, State,
};
use crate::metrics;

/// An update and the value that it came as, which is kept when it has to wait.
pub struct Update<'a> {
    /// What became known.
    pub update: &'a NotificationUpdate,
    /// The record's value in the registry's wire format.
    pub payload: Redacted<&'a [u8]>,
}

/// What came of an update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It changed something.
    Changed,
    /// It was known, or says less than what is known.
    Nothing,
    /// What it is about is not known; it is kept, and looked at again.
    Unmatched,
    /// As `Unmatched`, and it has waited for as long as it may.
    Expired,
    /// It is a cancellation by somebody who did not ask for the notification.
    Refused,
    /// This version does not know what it says.
    Unknown,
}

impl Applied {
    /// The metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Nothing => "nothing",
            Self::Unmatched => "unmatched",
            Self::Expired => "expired",
            Self::Refused => "refused",
            Self::Unknown => "unknown",
        }
    }
}

/// By our id, or by the provider's.
const RESOLVE: &str = "
SELECT delivery_id, notification_id, NULL AS provider_message_id
  FROM delivery WHERE delivery_id = ANY($1)
UNION ALL
SELECT delivery_id, notification_id, provider_message_id
  FROM delivery WHERE provider_message_id = ANY($2)";

type Found = HashMap<DeliveryRef, (DeliveryId, NotificationId)>;

/// What the updates of a batch are about, locked.
struct Known {
    deliveries: Found,
    cases: HashMap<NotificationId, Case>,
    recipients: HashSet<RecipientId>,
}

impl Store {
    /// Folds updates, in this order, into what is recorded: deliveries,
    /// notifications, why-log, status changes, consent and contact points change
    /// together. An update that comes again changes nothing.
    ///
    /// What an update is about may not be known: it is kept for at most
    /// `unmatched_expiry` and given by [`Store::unmatched_due`] in between.
    ///
    /// # Errors
    /// As [`RecordError`] tells; then nothing has changed.
    pub async fn apply(
        &self,
        updates: &[Update<'_>],
        unmatched_expiry: Duration,
    ) -> Result<Vec<Applied>, RecordError> {
        let begun = Instant::now();
        let mut client = self.client().await?;
        let tx = client.transaction().await.map_err(RecordError::at("updates_begin"))?;
        let mut known = known(&tx, updates).await?;
        let mut aftermath = Aftermath::default();
        let now = Timestamp::now();
        let mut refusals = Vec::new();
        let mut applied: Vec<Applied> = updates
            .iter()
            .map(|one| apply_one(one.update, &mut known, &mut aftermath, &mut refusals, now))
            .collect();
        cases::write(&tx, "update", &known.cases, &HashMap::new()).await?;
        refusal::note(&tx, &refusals).await?;
        let consented = aftermath.write(&tx).await?;
        for (one, result) in updates.iter().zip(&mut applied) {
            let word = (one.update.source.clone(), one.update.update_id.clone());
            if *result == Applied::Nothing && consented.contains(&word) {
                *result = Applied::Changed;
            }
        }
        unmatched::keep(&tx, updates, &mut applied, unmatched_expiry).await?;
        tx.commit().await.map_err(RecordError::at("updates_commit"))?;
        metrics::statement("updates", updates.len(), begun.elapsed());
        count_ends(updates, &applied, &known);
        Ok(applied)
    }
}

/// Counts the deliveries of which a receipt has told, as the first or against what was
/// known, how they ended.
fn count_ends(updates: &[Update<'_>], applied: &[Applied], known: &Known) {
    for (one, applied) in updates.iter().zip(applied) {
        let (Fact::Receipt { delivery, status, .. }, Applied::Changed) = (&one.update.fact, applied) else {
            continue;
        };
        let receipt = Receipt { status: *status, at: one.update.occurred_at };
        let leg = known.deliveries.get(delivery).and_then(|(delivery_id, notification_id)| {
            known.cases.get(notification_id)?.channel_of(*delivery_id)
        });
        if let (Some(channel), Some((state, reason))) = (leg, receipt.meaning()) {
            let arrived = state == State::Delivered;
            metrics::delivery_end(channel, if arrived { state.as_str() } else { reason.as_str() });
        }
    }
}

async fn known(tx: &Transaction<'_>, updates: &[Update<'_>]) -> Result<Known, RecordError> {
    let mut ids: Vec<Uuid> = Vec::new();
    let mut messages: Vec<&str> = Vec::new();
    let mut notifications: Vec<NotificationId> = Vec::new();
    let mut recipients: Vec<Uuid> = Vec::new();
    for one in updates {
        match &one.update.fact {
            Fact::Receipt { delivery: DeliveryRef::Id(id), .. } => ids.push(id.0),
            Fact::Receipt { delivery: DeliveryRef::ProviderMessage(message), .. } => messages.push(message),
            Fact::Engaged { notification_id, .. } | Fact::Cancelled { notification_id, .. } => {
                notifications.push(*notification_id);
            }
            Fact::Consent { recipient, .. } => recipients.push(RecipientId::from_external(recipient).0),
            Fact::Unknown => {}
        }
    }
    let mut deliveries = Found::new();
    if !(ids.is_empty() && messages.is_empty()) {
        for row in query(tx, "updates_resolve", RESOLVE, &[&ids, &messages]).await? {
            let delivery_id = DeliveryId(row.try_get("delivery_id")?);
            let notification_id = NotificationId(row.try_get("notification_id")?);
            let message: Option<String> = row.try_get("provider_message_id")?;
            let named = message.map_or(DeliveryRef::Id(delivery_id), DeliveryRef::ProviderMessage);
            deliveries.insert(named, (delivery_id, notification_id));
            notifications.push(notification_id);
        }
    }
    notifications.sort_unstable();
    notifications.dedup();
    let cases =
        if notifications.is_empty() { HashMap::new() } else { cases::load(tx, &notifications).await? };
    let recipients = if recipients.is_empty() {
        HashSet::new()
    } else {
        let rows = query(tx, "updates_recipients", LOCK_RECIPIENTS, &[&recipients]).await?;
        rows.iter().map(|row| Ok(RecipientId(row.try_get(0)?))).collect::<Result<_, RecordError>>()?
    };
    Ok(Known { deliveries, cases, recipients })
}

fn apply_one<'a>(
    update: &'a NotificationUpdate,
    known: &mut Known,
    aftermath: &mut Aftermath<'a>,
    refusals: &mut Vec<Refusal<'a>>,
    now: Timestamp,
) -> Applied {
    // A clock that runs ahead must not outrank what is said later.
    let at = update.occurred_at.min(now);
    let changed = match &update.fact {
        Fact::Receipt { delivery, status, code } => {
            let found = known.deliveries.get(delivery).copied();
            let Some((delivery_id, id)) = found else { return Applied::Unmatched };
            let Some(case) = known.cases.get_mut(&id) else { return Applied::Unmatched };
            if *status == ReceiptStatus::Complained {
                let channel = case.channel_of(delivery_id);
                aftermath.consent(refusal(update, case.recipient_id, channel, "complaint"));
            }
            if let Some(why) = retires(*status, code.as_deref()) {
                aftermath.retire(delivery_id, why, at);
            }
            case.receive(delivery_id, Receipt { status: *status, at })
        }
        Fact::Engaged { notification_id, engagement } => {
            let Some(case) = known.cases.get_mut(notification_id) else { return Applied::Unmatched };
            case.engage(*engagement, at, &update.source)
        }
        Fact::Cancelled { notification_id, caller } => {
            let Some(case) = known.cases.get_mut(notification_id) else { return Applied::Unmatched };
            if caller.is_some() && *caller != case.caller {
                refusals.push(Refusal { notification_id: *notification_id, by: &update.source });
                return Applied::Refused;
            }
            case.cancel(&update.source)
        }
        Fact::Consent { recipient, channel, purpose, granted } => {
            let recipient_id = RecipientId::from_external(recipient);
            if !known.recipients.contains(&recipient_id) {
                return Applied::Unmatched;
            }
            let how = match (granted, purpose) {
                (true, _) => "opt_in",
                (false, Some(_)) => "opt_out",
                (false, None) => "opt_out_of_all",
            };
            let word = refusal(update, recipient_id, *channel, how);
            aftermath.consent(Word { purpose: *purpose, granted: *granted, ..word });
            // Whether it changes anything, the ledger tells.
            false
        }
        Fact::Unknown => return Applied::Unknown,
    };
    if changed { Applied::Changed } else { Applied::Nothing }
}

/// No to every purpose.
fn refusal<'a>(
    update: &'a NotificationUpdate,
    recipient_id: RecipientId,
    channel: Option<Channel>,
    how: &'static str,
) -> Word<'a> {
    Word {
        recipient_id,
        channel,
        purpose: None,
        granted: false,
        at: update.occurred_at,
        recorded_by: &update.source,
        how,
        update_id: &update.update_id,
    }
}

/// Enhanced status codes that say that the recipient's address is no good (RFC 3463,
/// section 3.2, and RFC 7505). Others of the same class tell of the sender's address.
const ADDRESS_IS_GONE: [&str; 5] = ["5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10"];

/// Does this word say that the address itself is gone?
fn retires(status: ReceiptStatus, code: Option<&str>) -> Option<Reason> {
    match status {
        ReceiptStatus::TokenInvalid => Some(Reason::TokenInvalid),
        ReceiptStatus::Bounced if code.is_some_and(|code| ADDRESS_IS_GONE.contains(&code)) => {
            Some(Reason::InvalidAddress)
        }
        _ => None,
    }
}
